"""A user's own checkpoint and questions: the same arms, on the live model through `vlm_bridge.prune` and `generate`.

Questions are JSON lines with ``image`` (a path, relative to the file), ``question``, ``answer`` or ``answers`` (any of them counts), and
``skill`` where there is one; or a parquet file as lmms-eval's data sets have it: ``image`` (bytes in a struct), ``question``, ``answer`` or
``answers``, and a column ``category`` or ``question_type``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import vlm_bridge
from vlm_bridge import cli
from vlm_bridge.chat import prepare, question
from vlm_bridge.inputs import encode

from .arms import ARMS as ALL
from .arms import FULL, Arm
from .predictors import Measure
from .units import Cell, Unit

ARMS = ("spare", "residual, cosine", "divprune", "greedy", "strong rrqr", "osinsky", "uniform grid", "random", "spare + fold", "divprune + fold", "greedy + fold", "random + fold")  # fmt: skip
"""Arms that any model can run; others by ``--arms``."""
WORDS = 16  # of an answer, at the most
SCORING = ("contains", "exact")
SKILLS = ("skill", "category", "question_type", "task", "type")


@dataclass(frozen=True)
class Question:
    """A question with the answers that count as right."""

    text: str
    answers: tuple[str, ...]
    skill: str = "all"

    @property
    def answer(self) -> str:
        return self.answers[0]


@dataclass(frozen=True)
class Asked:
    """An image, by a name, and its questions. ``source``: a path, or the bytes of a file."""

    name: str
    source: Path | bytes
    questions: tuple[Question, ...]

    def open(self) -> Image.Image:
        source = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        with Image.open(source) as image:
            return image.convert("RGB")


def read(path: Path) -> list[Asked]:
    """The questions of a file, image by image, in its order.

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
        name, source = _source(path, where, image)
        listed = answers if isinstance(answers, list) else [answers]
        skill = next((str(row[s]) for s in SKILLS if row.get(s) is not None), "all")
        found.setdefault(name, (source, []))[1].append(
            Question(str(text), tuple(str(a) for a in listed), skill)
        )
    if not found:
        raise ValueError(f"{path} holds no question.")
    return [Asked(name, source, tuple(questions)) for name, (source, questions) in found.items()]


def _source(path: Path, where: str, image: Any) -> tuple[str, Path | bytes]:
    if isinstance(image, dict):
        if image.get("bytes") is None:
            image = image.get("path") or ""
        else:
            return str(image.get("path") or hash(image["bytes"])), image["bytes"]
    if isinstance(image, bytes):
        return str(hash(image)), image
    file = path.parent / str(image)
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}, {where}: no image {file}. Paths are relative to the file of questions."
        )
    return str(image), file


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


def plain(text: str) -> str:
    """Lower case, without punctuation and double spaces."""
    return " ".join(re.sub(r"[^\w\s.%/-]|\.(?!\d)", " ", text.lower()).split())


def right(said: str, answers: Sequence[str], scoring: str = "contains") -> bool:
    """Whether an answer is one of those given, or has one of them among its words; articles do not count, unless they are all."""
    if scoring not in SCORING:
        raise ValueError(f"scoring = {scoring!r}: allowed are {', '.join(SCORING)}.")
    for answer in map(plain, answers):
        words = plain(said)
        if short := _without_articles(answer):
            answer, words = short, _without_articles(words)
        if words == answer or (scoring == "contains" and answer and f" {answer} " in f" {words} "):
            return True
    return False


def _without_articles(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def run(
    folder: str, questions: Path, out: Path, arms: Sequence[str], keeps: Sequence[float], limit: int | None = None, scoring: str = "contains",
) -> Path:  # fmt: skip
    """Ask everything that has not been asked; returns the folder. The checkpoint may be any that `prune` takes."""
    from . import plan as plans

    asked = read(questions)[:limit]
    name = plans.model_name(folder)
    paths = [out / "rows" / name / f"{questions.stem}-{i}.npz" for i in range(len(asked))]
    todo = [i for i, path in enumerate(paths) if not _whole(path, arms, keeps)]
    if not todo:
        return out
    if folder:
        model, processor = cli.load(folder, "cpu")
    else:
        shipped = plans.load(folder)
        model, processor = shipped.model, shipped.processor
    for i in tqdm(todo, desc="study", unit="image"):
        study(model, processor, asked[i], [ALL[a] for a in arms], keeps, i, scoring).save(paths[i])
    return out


def _whole(path: Path, arms: Sequence[str], keeps: Sequence[float]) -> bool:
    if not path.exists():
        return False
    found = set(Unit.load(path).cells)
    return {(a, k) for a in arms for k in keeps if not ALL[a].inside} <= found


@torch.no_grad()
def study(
    model: Any,
    processor: Any,
    asked: Asked,
    arms: Sequence[Arm],
    keeps: Sequence[float],
    number: int,
    scoring: str = "contains",
) -> Unit:
    """All cells on one image; the encoder runs once a question."""
    image = asked.open()
    wanted: list[tuple[Arm | None, float]] = [(None, 1.0), *((arm, keep) for arm in arms for keep in keeps)]
    said: list[list[str]] = [[] for _ in wanted]
    sets: list[list[Tensor]] = [[] for _ in wanted]
    seconds = np.zeros(len(wanted))
    failed: set[int] = set()
    for q in asked.questions:
        inputs = dict(prepare(processor, [question([image], q.text)]))
        inputs.pop("token_type_ids", None)
        encoded = encode(model, inputs)
        features = torch.cat(encoded.entries)
        for c, (arm, keep) in enumerate(wanted):
            if arm is None:
                out, kept = (
                    model.generate(**inputs, max_new_tokens=WORDS, do_sample=False),
                    torch.arange(len(features)),
                )
            else:
                if not arm.can_keep(keep, len(features), model.config.get_text_config().num_hidden_layers):
                    failed.add(c)
                    continue
                with vlm_bridge.prune(model, **_arguments(arm, keep, processor, number)) as report:
                    out = model.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
                kept = report.kept[0].cpu()
                seconds[c] += report.seconds[0] / len(asked.questions)
            new = out[0, inputs["input_ids"].shape[1] :]
            said[c].append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
            sets[c].append(kept)
    measure = Measure({"tokens": features.float()})
    cells: list[Cell] = [(FULL if arm is None else arm.name, keep) for arm, keep in wanted]
    use = [c for c in range(len(cells)) if c not in failed]
    every = range(len(asked.questions))
    return Unit(
        tuple(cells[c] for c in use),
        np.array([said[c] for c in use]),
        np.array(
            [[right(s, asked.questions[q].answers, scoring) for q, s in enumerate(said[c])] for c in use]
        ),
        np.array([np.mean([len(s) for s in sets[c]]) for c in use]),
        seconds[use],
        np.stack([measure(sets[c], [[q] for q in every]).mean(0).numpy() for c in use]).astype(np.float32),
        np.array([q.skill for q in asked.questions]),
        np.array([q.text for q in asked.questions]),
        np.array([q.answer for q in asked.questions]),
    )


def _arguments(arm: Arm, keep: float, processor: Any, number: int) -> dict[str, Any]:
    """Arguments of `prune` for one arm; what is filled in has none, and joint spaces are not known here."""
    if arm.fill or {"clip_text", "clip_patches"} & set(arm.signals):
        raise ValueError(
            f"arm {arm.name!r} cannot run on a checkpoint of your own; choose from {', '.join(ARMS)}."
        )
    chosen: dict[str, Any] = {"keep": keep, "method": arm.method, **arm.options}
    if not arm.inside:
        chosen |= {
            "relevance": arm.relevance,
            "fold": arm.fold or False,
            "processor": processor,
            "rng": [number],
        }
    return chosen
