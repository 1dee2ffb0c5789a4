"""Files that appear whole or not at all, where their name leads to, and never in place of an input."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cssp.errors import ArgumentError

__all__ = ["as_path", "check_writable", "refuse_overwrite", "written"]

StrPath = str | os.PathLike[str]


def as_path(argument: str, value: object) -> Path:
    """Return the path, anything else being refused by the name of the argument."""
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(
            f"{argument} = {value!r}: expected the path of a file, got {type(value).__name__}"
        ) from None


@contextlib.contextmanager
def written(path: StrPath) -> Iterator[Path]:
    """Yield a path to write to; when all is well, its content takes the place of the file.

    Links are followed. A file that is replaced leaves its owner and permissions to the new one; a named pipe or a character
    device is written into. When something goes wrong, nothing has changed and nothing is left behind.

    Raises
    ------
    ArgumentError
        The path leads to a folder, socket or block device, to a read-only file, or into a folder that is missing or
        read-only; or writing failed.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written(os.path.join(folder, "note.txt")) as partial:
    ...         _ = partial.write_text("done")
    ...     os.listdir(folder)
    ['note.txt']
    """
    end, old = _destination("path", path)
    replaces = old is None or _is_at(end, old)
    folder = end.parent if replaces else Path(tempfile.gettempdir())
    # Readers of arrays and tables infer the format from the ending, and NumPy appends its own to any other than ".npy".
    partial = folder / f".{secrets.token_hex(8)}{Path(path).suffix.lower()}"
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600))
        yield partial
        if replaces:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if old is not None:
                _resemble(partial, old)
            partial.replace(end)
        else:
            with partial.open("rb") as source, Path(path).open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except BrokenPipeError:  # the reader of a pipe has had enough
        raise
    except OSError as reason:
        raise ArgumentError(f"path = {str(path)!r} cannot be written: {reason}") from None
    finally:
        partial.unlink(missing_ok=True)


def check_writable(argument: str, path: StrPath) -> None:
    """Refuse now, by the name of the argument, what `written` would refuse later."""
    _destination(argument, path)


def refuse_overwrite(output: StrPath | None, *inputs: StrPath | None) -> None:
    """Refuse an output that cannot be written, or that is one of the inputs or lies in one of them.

    Links and hard links are seen through, and folders, such as zarr arrays, count with all that is in them. Outputs can be
    compared with each other in the same way. None stands for no file.

    Raises
    ------
    ArgumentError
        Another name is required.

    Examples
    --------
    >>> refuse_overwrite("columns.npy", "data.npy", None)
    >>> refuse_overwrite("data.npy", "data.npy")
    Traceback (most recent call last):
    cssp.errors.ArgumentError: output = 'data.npy': expected a file apart from 'data.npy', which it would overwrite; give another name
    """
    if output is None:
        return
    end, _ = _destination("output", output)
    for other in inputs:
        if other is not None and _overlap(end, other):
            raise ArgumentError(
                f"output = {str(output)!r}: expected a file apart from {str(other)!r}, which it would overwrite; "
                "give another name"
            )


def _destination(argument: str, path: StrPath) -> tuple[Path, os.stat_result | None]:
    """Return where the path leads, links followed, and what is there; refused where that cannot or must not be written."""
    path = as_path(argument, path)
    name, old = f"{argument} = {str(path)!r}", None
    try:
        with contextlib.suppress(FileNotFoundError):  # a link may lead to what is still to be created
            old = path.stat()
        end = Path(os.path.realpath(path))
        home = end.parent.stat()
    except (OSError, ValueError) as reason:
        raise ArgumentError(
            f"{name} cannot be written: {reason}; create the folder first, or give another name"
        ) from None
    if old is not None:
        if not (stat.S_ISREG(old.st_mode) or stat.S_ISFIFO(old.st_mode) or stat.S_ISCHR(old.st_mode)):
            what = "a folder" if stat.S_ISDIR(old.st_mode) else "a socket or block device"
            raise ArgumentError(f"{name}: expected a file, got {what}; give another name")
        _check_mode(name, path, old, "a file that may be written")
    if old is None or _is_at(end, old):
        _check_mode(name, end.parent, home, "a file in a folder that may be written")
    return end, old


def _check_mode(name: str, there: Path, status: os.stat_result, wanted: str) -> None:
    """Refuse a place that is marked read-only, for the superuser too."""
    if not status.st_mode & 0o222 or not os.access(there, os.W_OK):
        raise ArgumentError(
            f"{name}: expected {wanted}, got {str(there)!r}, which is read-only; "
            "give another name or change its permissions"
        )


def _is_at(end: Path, old: os.stat_result) -> bool:
    """Return whether the regular file ``old`` is at this place; what an open descriptor names need not be anywhere."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(old.st_mode) and os.path.samestat(end.stat(), old)
    return False


def _overlap(end: Path, other: StrPath) -> bool:
    """Return whether these are one file, or ``other`` is a folder with ``end`` in it."""
    for place in (end, *end.parents):
        with contextlib.suppress(OSError, ValueError):
            if place.samefile(other):
                return True
    return os.path.realpath(other) == str(end)


def _resemble(partial: Path, old: os.stat_result) -> None:
    """Give the new file the permissions of the old one, and its owner where that is allowed."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(partial, old.st_uid, old.st_gid)
    partial.chmod(stat.S_IMODE(old.st_mode))
