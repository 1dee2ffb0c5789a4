"""Files of saved state: arrays as ``.npz``, without pickle, under a digest; read as they were written, or refused."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cssp.errors import ArgumentError, MissingFileError
from cssp.files import written

__all__ = ["digest_of", "kind_of", "load", "reading", "require", "save"]


def save(path: Path, kind: str, arrays: Mapping[str, np.ndarray], key: bytes = b"") -> None:
    """Write arrays; the file is replaced in one step.

    Parameters
    ----------
    path : Path
    kind : str
        What the state is of, and the version of the format, as ``"residual 2"``.
    arrays : mapping of str to array
        Of numbers or text.
    key : bytes, at most 64
        Without it the file will not be read: a fingerprint of what the state belongs to.
    """
    about = {"kind": np.array(kind), "digest": digest_of(kind, arrays, key)}
    with written(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **about, **arrays)


def kind_of(path: Path) -> str | None:
    """Return the kind that a file was saved under; None where it says none, which `load` refuses. A pipe is not waited for."""
    if not path.is_file():
        return None
    with contextlib.suppress(Exception), warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("error")  # of headers that are to be guessed at
        with np.load(stream, allow_pickle=False) as file:
            return str(file["kind"])
    return None


def load(path: Path, kind: str, key: bytes = b"") -> dict[str, np.ndarray]:
    """Return the arrays that were written under this kind and key.

    Raises
    ------
    MissingFileError
        There is no such file.
    ArgumentError
        It is no such file, damaged, of another kind, or has another key.
    """
    if not path.exists():
        raise MissingFileError(f"checkpoint {str(path)!r}: no such file")
    with reading(path, kind):
        require(path.is_file() and zipfile.is_zipfile(path), "not an npz file")
        with (
            warnings.catch_warnings(),
            path.open("rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            warnings.simplefilter("error")  # of headers that are to be guessed at
            # What is written is not compressed: a small file must not unfold into a large one.
            unfolded = sum(member.file_size for member in file.zip.infolist())
            require(unfolded <= path.stat().st_size, "larger than the file that holds it")
            require(str(file["kind"]) == kind, f"its kind is {str(file['kind'])[:40]!r}")
            arrays = dict(file)
        del arrays["kind"]
        same = np.array_equal(arrays.pop("digest"), digest_of(kind, arrays, key))
    if not same:
        other = "belongs to another matrix or other arguments, or is damaged" if key else "is damaged"
        raise ArgumentError(
            f"checkpoint {str(path)!r} {other}; remove it to begin anew, or give another path"
        )
    return arrays


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn any failure inside the block into an error that names the file."""
    try:
        yield
    except Exception as reason:  # archives, headers and arrays have families of their own
        text = f"{type(reason).__name__}: {reason}".splitlines()[0]
        raise ArgumentError(
            f"checkpoint {str(path)!r} cannot be read: it is no checkpoint of kind {kind!r}, or a damaged one ({text}); "
            "remove it to begin anew, or give another path"
        ) from None


def require(condition: object, fault: str) -> None:
    """Refuse a state with this fault, inside `reading`."""
    if not condition:
        raise ValueError(fault)


def digest_of(kind: str, arrays: Mapping[str, np.ndarray], key: bytes) -> np.ndarray:
    """Return a digest of names, types, shapes and contents, keyed."""
    digest = hashlib.blake2b(kind.encode(), key=key, digest_size=32)
    for name in sorted(arrays):
        x = np.asarray(arrays[name])
        digest.update(f"\n{name} {x.dtype.str} {x.shape}\n".encode())
        digest.update(x.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
