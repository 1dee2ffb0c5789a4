"""A file of a user's questions about images.

JSON lines with ``image`` (a path, relative to the file), ``question``, ``answer`` or ``answers`` (any of them counts), and ``skill`` where
there is one; or a parquet file as lmms-eval's data sets have it: ``image`` (bytes in a struct), ``question``, ``answer`` or ``answers``, and
a column ``category`` or ``question_type``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from analysis.study import digest

SKILLS = ("skill", "category", "question_type", "task", "type")


@dataclass(frozen=True)
class Question:
    """A question with the answers that count as right."""

    text: str
    answers: tuple[str, ...]
    skill: str = "all"

    @property
    def answer(self) -> str:
        """The first of the right answers."""
        return self.answers[0]


@dataclass(frozen=True)
class Asked:
    """An image, known by the digest of its file's bytes, and its questions. ``source``: a path, or the bytes of a file."""

    image: str
    source: Path | bytes
    questions: tuple[Question, ...]

    def open(self) -> Image.Image:
        """Return the image in RGB, read again; raise ValueError where its bytes have changed."""
        data = _bytes(self.source)
        if digest.of_bytes(data) != self.image:
            raise ValueError(f"{self.source} has changed since the questions were read; run the study again.")
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")


def read(path: Path) -> list[Asked]:
    """Return the questions of a file, image by image, in its order; files of the same bytes are one image.

    Raises
    ------
    ValueError
        A line that is no question: which, what is missing, and what there is.
    FileNotFoundError
        No such file, or an image that is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--questions {path}: no such file.")
    rows = _parquet(path) if path.suffix == ".parquet" else _lines(path)
    found: dict[str, tuple[Path | bytes, list[Question]]] = {}
    for where, row in rows:
        text, answers = row.get("question"), row.get("answers", row.get("answer"))
        image = row.get("image", row.get("images"))
        image = image[0] if isinstance(image, list) and image else image
        for name, value in (("image", image), ("question", text), ("answer", answers)):
            if value is None or value == [] or value == "":
                raise ValueError(
                    f"{path}, {where}: no {name!r}; there is {', '.join(row)}. Needed: image, question, answer."
                )
        source = _source(path, where, image)
        name = digest.of_bytes(_bytes(source))
        listed = answers if isinstance(answers, list) else [answers]
        skill = next((str(row[s]) for s in SKILLS if row.get(s) is not None), "all")
        found.setdefault(name, (source, []))[1].append(
            Question(str(text), tuple(str(a) for a in listed), skill)
        )
    if not found:
        raise ValueError(f"{path} holds no question.")
    return [Asked(name, source, tuple(questions)) for name, (source, questions) in found.items()]


def _bytes(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _source(path: Path, where: str, image: Any) -> Path | bytes:
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path") or ""
    if isinstance(image, bytes):
        return image
    file = path.parent / str(image)
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}, {where}: no image {file}. Paths are relative to the file of questions."
        )
    return file


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {i}: not JSON ({error.msg}); one object a line is expected."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {i}: {type(row).__name__} instead of an object with image, question, answer."
            )
        yield f"line {i}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"{path}: parquet needs pyarrow; pip install pyarrow, or give JSON lines."
        ) from error
    count = 0
    for batch in parquet.ParquetFile(path).iter_batches(64):
        for row in batch.to_pylist():
            count += 1
            yield f"row {count}", row
