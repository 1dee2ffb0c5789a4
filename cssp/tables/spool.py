"""A matrix that arrives in blocks: kept in memory while it is small, in a temporary file when it is not."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

__all__ = ["LIMIT", "Spool"]

#: Bytes of numbers up to which a matrix is kept in memory.
LIMIT = 1 << 27

#: Bytes that are worked on at a time.
BLOCK = 1 << 22


class Spool:
    """Lines of equal length, one after the other; use ``with``, so that an error leaves no file behind.

    Attributes
    ----------
    folder : tempfile.TemporaryDirectory or None
        Where the file is, if there is one: who takes the `matrix` cleans it up.
    """

    def __init__(self, length: int, dtype: Any = np.float64, large: bool = False) -> None:
        self.length, self.dtype = length, np.dtype(dtype)
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: IO[bytes] = io.BytesIO()
        self._bytes = 0
        if large:
            self._move()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        if self.folder is not None:
            self._file.close()
            if kind is not None:
                self.folder.cleanup()

    def __len__(self) -> int:
        return self._bytes // self._line if self._line else 0

    @property
    def _line(self) -> int:
        return self.length * self.dtype.itemsize

    def append(self, lines: np.ndarray) -> None:
        """Append some more lines, shape (any, length)."""
        lines = np.ascontiguousarray(lines, dtype=self.dtype)
        if self.folder is None and self._bytes + lines.nbytes > LIMIT:
            self._move()
        self._file.write(lines.data)
        self._bytes += lines.nbytes

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the lines again, some at a time, and where they stand."""
        step = max(1, BLOCK // max(1, self._line))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            self._file.seek(start * self._line)
            content = self._file.read((stop - start) * self._line)
            yield slice(start, stop), np.frombuffer(content, dtype=self.dtype).reshape(-1, self.length)

    def keep(self, lines: np.ndarray, entries: np.ndarray) -> None:
        """Forget all but these lines (a mask) and these entries of each (a mask or indices in order)."""
        written = 0
        for where, X in self.blocks():  # what is kept never overtakes what is read
            Y = np.ascontiguousarray(X[lines[where]][:, entries])
            self._file.seek(written)
            self._file.write(Y.data)
            written += Y.nbytes
        self.length = int(np.arange(self.length)[entries].size)
        self._file.truncate(written)
        self._file.seek(written)
        self._bytes = written

    def matrix(self) -> np.ndarray:
        """Return all lines, in memory or mapped; nothing can be appended afterwards."""
        self._file.flush()
        shape = (len(self), self.length)
        if self.folder is None or 0 in shape:
            return (
                np.empty(shape, self.dtype)
                if 0 in shape
                else np.frombuffer(self._memory(), dtype=self.dtype).reshape(shape)
            )
        name = self._file.name
        self._file.close()
        return np.memmap(name, dtype=self.dtype, mode="r", shape=shape)

    def _move(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="cssp-")
        file = (Path(self.folder.name) / "matrix").open("w+b")
        file.write(self._memory())
        self._file = file

    def _memory(self) -> memoryview:
        assert isinstance(self._file, io.BytesIO)
        return self._file.getbuffer()
