"""A user's own checkpoint and questions: the same arms, on the live model through `vlm_bridge.prune` and `generate`."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import vlm_bridge
from analysis.study import answer_files, digest
from analysis.study import plan as plans
from analysis.study.answer_files import Answer
from analysis.study.arms import ARMS as ALL
from analysis.study.arms import FULL, Arm
from analysis.study.predictors import Measure
from analysis.study.question_files import Asked, read
from analysis.study.units import Unit
from vlm_bridge import cli
from vlm_bridge.chat import prepare, question
from vlm_bridge.model.encoding import encode

#: Arms that any model can run; others by ``--arms``.
ARMS = ("spare", "residual, cosine", "divprune", "greedy", "osinsky", "uniform grid", "random", "spare + fold", "divprune + fold", "greedy + fold", "random + fold")  # fmt: skip
WORDS = 16  # of an answer, at the most
SCORING = ("contains", "exact")


def plain(text: str) -> str:
    """Return the text in lower case, without punctuation and double spaces."""
    return " ".join(re.sub(r"[^\w\s.%/-]|\.(?!\d)", " ", text.lower()).split())


def right(said: str, answers: Sequence[str], scoring: str = "contains") -> bool:
    """Return whether an answer is one of those given, or has one of them among its words; articles do not count, unless they are all."""
    if scoring not in SCORING:
        raise ValueError(f"scoring = {scoring!r}: expected one of {', '.join(SCORING)}.")
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
    """Ask what has not been asked, and pack all into ``rows.npz`` of the folder `out`; returns that file.

    The file has one array more than that of a study of scenes: ``saved`` (cells,), the median seconds that a
    question takes less than with all tokens.

    The checkpoint may be any that `prune` takes. Answers are stored in ``answers``, a file a question, and is used again where model,
    processor, code, image, question, arm and budget are the same. Which answers are right, skills and scoring are looked at afterwards.

    Raises
    ------
    ValueError
        An arm that cannot run, a file that holds no questions, or a folder with rows that do not say what they were made from.
    """
    asked = read(questions)[:limit]
    cells = [(None, 1.0), *((ALL[name], keep) for name in arms for keep in keeps)]
    for arm, keep in cells[1:]:
        _arguments(arm, keep)
    if (out / "rows").exists():
        raise ValueError(
            f"{out / 'rows'} holds rows of scenes or of an earlier version, which do not say what questions and model they were made "
            "from: remove that folder, or choose another with --out."
        )
    total = len(cells) * sum(len(one.questions) for one in asked)
    units, every = [], []
    with tqdm(total=total, desc="loading the model", unit="answer") as bar:
        model, processor = _loaded(folder)
        bar.set_description("comparing with answers on disk")
        made_from = {
            "model": digest.of_model(model),
            "processor": digest.of_processor(processor),
            "code": digest.of_code(),
        }
        for i, one in enumerate(asked):
            bar.set_description(f"image {i + 1} of {len(asked)}")
            answered = []
            for each in one.questions:
                same = made_from | {"image": one.image, "question": each.text}
                found = answer_files.load(out / "answers", same)
                missing = [cell for cell in cells if answer_files.key(*cell) not in found]
                bar.update(len(cells) - len(missing))
                if missing:
                    found |= ask(model, processor, one, each.text, missing, bar.update)
                    answer_files.save(out / "answers", same, found)
                answered.append(found)
            units.append(
                (plans.model_name(folder), questions.stem, str(i), _unit(one, answered, cells, scoring))
            )
            every += answered
    path = plans.pack_units(units, out / "rows.npz")
    _add_saved(path, every)
    return path


def _add_saved(rows: Path, answered: Sequence[Mapping[str, Answer]]) -> None:
    """Add to the rows, for each cell, the median over questions of the seconds that its whole answer takes less than that with all tokens."""
    with np.load(rows) as file:
        cells = list(zip(file["arms"].tolist(), file["keeps"].tolist(), strict=True))
    full = answer_files.key(None, 1.0)
    saved = []
    for arm, keep in cells:
        key = answer_files.key(ALL.get(arm), keep)
        saved.append(np.median([one[full].elapsed - one[key].elapsed for one in answered if one[key].tokens]))
    text = io.BytesIO()
    np.save(text, np.array(saved, np.float32))
    with zipfile.ZipFile(rows, "a") as file:
        file.writestr("saved.npy", text.getvalue())


def _loaded(folder: str) -> tuple[Any, Any]:
    if folder:
        return cli.load(folder, "cpu")
    shipped = plans.load(folder)
    return shipped.model, shipped.processor


@torch.no_grad()
def ask(
    model: Any,
    processor: Any,
    asked: Asked,
    text: str,
    cells: Sequence[tuple[Arm | None, float]],
    done: Callable[[int], Any] = lambda count: None,
) -> dict[str, Answer]:
    """Return the answers to one question in each cell, by the keys of the cells; draws depend on the image alone.

    ``done`` is called with each answer as it comes.
    """
    inputs = dict(prepare(processor, [question([asked.open()], text)]))
    inputs.pop("token_type_ids", None)
    features = torch.cat(encode(model, inputs).entries)
    layers = model.config.get_text_config().num_hidden_layers
    measure = Measure({"tokens": features.float()})

    def generate() -> str:
        out = model.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        return processor.tokenizer.decode(new, skip_special_tokens=True).strip()

    found = {}
    for arm, keep in cells:
        said, places, seconds, start = "", torch.arange(0), 0.0, perf_counter()
        if arm is None:
            said, places = generate(), torch.arange(len(features))
        elif arm.can_keep(keep, len(features), layers):
            seed = int(asked.image[:8], 16)
            with vlm_bridge.prune(model, **_arguments(arm, keep, processor, seed)) as report:
                said = generate()
            places, seconds = report.kept[0].cpu(), report.seconds[0]
        elapsed = perf_counter() - start
        (predictors,) = measure([places], [[0]]).numpy()
        found[answer_files.key(arm, keep)] = Answer(said, len(places), seconds, elapsed, predictors)
        done(1)
    return found


def _unit(
    asked: Asked,
    answered: Sequence[Mapping[str, Answer]],
    cells: Sequence[tuple[Arm | None, float]],
    scoring: str,
) -> Unit:
    """Return the answers about one image, judged; cells that cannot be run for one of its questions are left out."""
    table = {
        (FULL if arm is None else arm.name, keep): [one[answer_files.key(arm, keep)] for one in answered]
        for arm, keep in cells
    }
    table = {cell: row for cell, row in table.items() if all(answer.tokens for answer in row)}
    rows = list(table.values())

    def means(name: str) -> np.ndarray:
        return np.array([np.mean([getattr(answer, name) for answer in row], 0) for row in rows])

    return Unit(
        tuple(table),
        np.array([[answer.said for answer in row] for row in rows]),
        np.array(
            [
                [
                    float(right(answer.said, q.answers, scoring))
                    for answer, q in zip(row, asked.questions, strict=True)
                ]
                for row in rows
            ]
        ),
        means("tokens"),
        means("seconds"),
        means("predictors").astype(np.float32),
        np.array([q.skill for q in asked.questions]),
        np.array([q.text for q in asked.questions]),
        np.array([q.answer for q in asked.questions]),
    )


def _arguments(arm: Arm, keep: float, processor: Any = None, seed: int = 0) -> dict[str, Any]:
    """Return the arguments of `prune` for one arm; what is filled in has none, and joint spaces are not known here."""
    if arm.fill or arm.columns or arm.smaller or {"clip_text", "clip_patches"} & set(arm.signals):
        raise ValueError(
            f"arm {arm.name!r} cannot run on a checkpoint of your own; choose from {', '.join(ARMS)}."
        )
    chosen: dict[str, Any] = {"keep": keep, "method": arm.method, **arm.options}
    if not arm.inside:
        chosen |= {
            "relevance": arm.relevance,
            "fold": arm.fold or False,
            "processor": processor,
            "rng": [seed],
        }
    return chosen
