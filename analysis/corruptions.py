"""Ways to damage a file of kept state: bytes, fields under the old digest, and fields crafted under a digest that is right."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cssp
from cssp.checkpoints import digest_of


@dataclass(frozen=True)
class Kept:
    """A file of kept state, the key of its digest, and how a run goes on from it; ``right`` is what that must give."""

    kind: str
    content: bytes
    key: bytes
    resume: Callable[[Path], Any]
    right: Any

    def outcome(self, content: bytes, path: Path) -> tuple[str, str]:
        """Return the outcome of a run on this content, and the reason given."""
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", cssp.RankDeficientWarning)
                return "harmless" if self.resume(path) == self.right else "wrong", ""
        except cssp.CsspError as reason:
            return "refused", str(reason)
        except Exception as reason:
            return "escaped", repr(reason)


Damage = Callable[[Kept, Kept, np.random.Generator], bytes]
Arrays = dict[str, np.ndarray]

#: Fields that say what a file is, not what the state is.
ABOUT = ("kind", "digest")


def unpacked(content: bytes) -> Arrays:
    """Return the fields of an npz file by name."""
    with np.load(io.BytesIO(content)) as file:
        return dict(file)


def packed(arrays: Arrays, **options: Any) -> bytes:
    """Return an npz file of these fields."""
    out = io.BytesIO()
    np.savez(out, **options, **arrays)
    return out.getvalue()


def sealed(arrays: Arrays, kind: str, key: bytes) -> bytes:
    """Return the fields with a digest that is right for this kind and key."""
    state = {name: x for name, x in arrays.items() if name not in ABOUT}
    return packed({"kind": np.array(kind), "digest": digest_of(kind, state, key), **state})


# --- bytes ----------------------------------------------------------------------------------------------


def truncation(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file cut off at a random place."""
    return one.content[: rng.integers(len(one.content))]


def flipped_bits(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with up to eight bits flipped."""
    content = np.frombuffer(one.content, dtype=np.uint8).copy()
    for place in rng.integers(content.size, size=rng.integers(1, 9)):
        content[place] ^= 1 << rng.integers(8)
    return content.tobytes()


def swapped_bytes(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with two runs of up to 64 bytes exchanged."""
    content = np.frombuffer(one.content, dtype=np.uint8).copy()
    size = int(rng.integers(1, 65))
    a, b = rng.integers(content.size - size, size=2)
    content[a : a + size], content[b : b + size] = content[b : b + size].copy(), content[a : a + size].copy()
    return content.tobytes()


def lost_sector(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with a sector of 512 bytes set to zero."""
    content = bytearray(one.content)
    a = int(rng.integers(len(content))) // 512 * 512
    content[a : a + 512] = bytes(len(content[a : a + 512]))
    return bytes(content)


def foreign_end(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the start of one file with the end of another."""
    a = int(rng.integers(len(one.content)))
    return one.content[:a] + other.content[a:]


def appended_bytes(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with random bytes appended."""
    return one.content + rng.bytes(int(rng.integers(1, 200)))


def noise(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return random bytes."""
    return rng.bytes(int(rng.integers(0, 400)))


# --- fields under the old digest ------------------------------------------------------------------------


def dropped_field(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file without one of its fields."""
    arrays = unpacked(one.content)
    del arrays[rng.choice(sorted(arrays))]
    return packed(arrays)


def field_of_another_file(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with a field of another one."""
    arrays, others = unpacked(one.content), unpacked(other.content)
    arrays[rng.choice(sorted(arrays))] = others[rng.choice(sorted(others))]
    return packed(arrays)


def changed_entry(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with a changed entry of a field."""
    arrays = unpacked(one.content)
    name = rng.choice([name for name, x in arrays.items() if x.size and x.dtype.kind != "U"])
    x = arrays[name].copy()
    x.flat[rng.integers(x.size)] += 1
    arrays[name] = x
    return packed(arrays)


def another_version(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file under the kind of another version."""
    kind = str(rng.choice(["residual 1", "residual 3", "StreamingSelector 1", "", one.kind + " "]))
    return sealed(unpacked(one.content), kind, one.key)


def another_file(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return another file: another stage of the same run does no harm, and no check can tell which of two streams is meant."""
    return other.content if one.key or other.key else b""


def sealed_without_the_key(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return crafted fields under a digest with a wrong key; a stream has no key, and gets fields of another file."""
    arrays, others = unpacked(one.content), unpacked(other.content)
    if one.key:
        return sealed(arrays, one.kind, b"guess")
    return sealed({**arrays, "extra": others["kind"]}, one.kind, b"")


def compressed(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the fields, and many zeros, in a compressed archive."""
    out = io.BytesIO()
    np.savez_compressed(out, zeros=np.zeros(1 << 20), **unpacked(one.content))
    return out.getvalue()


def pickled(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return the file with a field of objects, which only unpickling could read."""
    arrays = unpacked(one.content)
    arrays[rng.choice(sorted(arrays))] = np.array([{}], dtype=object)
    return packed(arrays)


def false_header(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return a file with a field whose header declares too many entries, or is no header."""
    header = rng.choice(
        [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,), }",
            f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**40},), }}",
            f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 8), }}",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }",
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
            "(" * 3000,
            "-" * 9000 + "1",
            "\xff",
            "{",
        ]
    )
    name, out = rng.choice(sorted(unpacked(one.content))), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(one.content)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            text = header.encode("latin1") + b"\n"
            false = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
            new.writestr(member, false if member == f"{name}.npy" else old.read(member))
    return out.getvalue()


def false_archive(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return an archive marked in one of its two directories as encrypted, of unknown compression or of a wrong length."""
    content = bytearray(one.content)
    place = content.find(b"PK\x01\x02", int(rng.integers(len(content) // 2)))
    offset = int(rng.choice([8, 10, 20, 24, 42]))  # flags, method, two sizes, place
    content[place + offset] ^= int(rng.choice([1, 9, 64]))
    return bytes(content)


# --- crafted fields under a right digest ----------------------------------------------------------------


def crafted(one: Kept, other: Kept, rng: np.random.Generator) -> bytes:
    """Return fields that no run writes, under a digest with the right key."""
    arrays = unpacked(one.content)
    crafts = RESIDUAL if one.key else STREAM
    names = [name for name in arrays if name.rstrip("0123456789") in crafts and arrays[name].size]
    name = str(rng.choice(names))
    craft = crafts[name.rstrip("0123456789")]
    made = craft[rng.integers(len(craft))](arrays[name])
    return sealed({**arrays, name: np.asarray(made)}, one.kind, one.key)


def _put(value: Any, place: int = -1) -> Callable[[np.ndarray], np.ndarray]:
    def craft(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        with np.errstate(over="ignore"):
            x.flat[place] = value
        return x

    return craft


def _is(*values: Any) -> list[Callable[[np.ndarray], Any]]:
    return [lambda x, value=value: value for value in values]


#: Right in no field.
WRONG_SHAPES: list[Callable[[np.ndarray], Any]] = [
    lambda x: x[..., None],
    lambda x: x.astype("U9"),
    lambda x: x.astype(">c16"),
    lambda x: np.resize(x, (x.size + 1, 3)),
    lambda x: np.zeros(0),
]
NUMBERS = [*WRONG_SHAPES, _put(np.nan), _put(np.inf), _put(1e300, 0)]
PLACES = [
    *WRONG_SHAPES,
    _put(-1, 0),
    _put(10**6),
    lambda x: np.append(x, x[:1]),
    lambda x: x.astype(np.int32),
]
COUNT = [*WRONG_SHAPES, *_is(-1, 2**62, 2.5, True, "1")]

#: For every field of a checkpoint what cannot be in it.
RESIDUAL: dict[str, list[Callable[[np.ndarray], Any]]] = {
    "indices": [
        *PLACES,
        lambda x: x[::-1][: max(1, x.size - 1)],
        _put(7),
    ],  # 7 is excluded; 5 and 3 come first
    "closed": [*PLACES, lambda x: np.setdiff1d(x, [7]), lambda x: np.setdiff1d(x, [5])],
    "Q": [
        *NUMBERS,
        lambda x: 1.01 * x,
        lambda x: 0 * x,
        lambda x: x[:, ::2],
        lambda x: x[::2],
        lambda x: x + 0.1,
    ],
    "N": [
        *NUMBERS,
        _put(-1.0, 0),
        lambda x: x + 1,
        lambda x: 2 * x + 1,
        lambda x: x[:-1],
        lambda x: x.astype(np.float32),
    ],
    "exact": [*NUMBERS, lambda x: -x, lambda x: 0 * x, lambda x: 10 * x, lambda x: x[1:]],
    "heights": [*NUMBERS, lambda x: -x, lambda x: 0 * x, lambda x: 100 * x, lambda x: x[1:]],
    "length": [*COUNT, *_is(0, 1000)],
    "passes": [*WRONG_SHAPES, *_is(-1.0, np.nan, np.inf, 3)],
}

#: For every field of a stream's state what cannot be in it.
STREAM: dict[str, list[Callable[[np.ndarray], Any]]] = {
    "k": [*COUNT, *_is(0)],
    "oversample": [*COUNT, *_is(0)],
    "buffer": [*COUNT, *_is(0, 8)],
    "seed": [*WRONG_SHAPES, *_is(-1, 2.5, True)],
    "n_seen": [*COUNT, lambda x: x + 1, lambda x: x - 1, lambda x: x + 17, lambda x: 2 * x + 1],
    "method": _is("volume", "", 3, ["greedy"], b"greedy"),
    "norm": [*WRONG_SHAPES, *_is(-1.0, np.nan, np.inf, 0.0, 1e-9, 5, 1j)],
    "block": [
        *NUMBERS,
        lambda x: x[:, 1:],
        lambda x: x[1:],
        lambda x: 1e6 * x + 1e6,
        lambda x: x.real.astype(int),
    ],
    "sketch": [
        *WRONG_SHAPES,
        _put(np.nan),
        lambda x: x[:, 1:],
        lambda x: x[:-1],
        lambda x: x.real.astype(np.float16),
    ],
    "C": [
        *NUMBERS,
        lambda x: x[:, 1:],
        lambda x: x[:-1],
        lambda x: 1e6 * x,
        lambda x: x.real.astype(np.float16),
    ],
    "W": [*NUMBERS, lambda x: x[:, :0], lambda x: x[:-1], lambda x: 1e6 * x, lambda x: np.tile(x, 9)],
    "place": [
        *PLACES,
        lambda x: x[::-1],
        lambda x: x + 136,
        lambda x: x * 0,
        lambda x: x - 136,
        lambda x: x[1:],
    ],
    "lost": [*WRONG_SHAPES, *_is(-1.0, np.nan, np.inf, 1, 1j)],
}

#: Kinds of damage, in turn; some come more often.
CORRUPTIONS: list[tuple[str, Damage]] = [
    (f.__name__.replace("_", " "), f)
    for f in (
        truncation, flipped_bits, flipped_bits, swapped_bytes, lost_sector, foreign_end, appended_bytes, noise,
        dropped_field, field_of_another_file, changed_entry, another_version, another_file, sealed_without_the_key,
        compressed, pickled, false_header, false_archive, crafted, crafted, crafted, crafted,
    )
]  # fmt: skip
