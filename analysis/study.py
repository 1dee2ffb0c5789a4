"""The study: prune the live tokens of held-out scenes, and see whether reconstruction error predicts the answers.

One row a question: (seed, scene, method, keep) with the relative reconstruction error of the kept tokens and whether the
answer was right. Rows of a scene are appended in one piece; a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

COLUMNS = (
    "seed", "scene", "method", "keep", "tokens", "question", "skill", "answer", "said", "right", "error", "seconds", "unit"
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One thing to compare: a pruner with its options, under a name for tables and figures.

    ``sign`` gives relevance in the language model's embedding space (the largest cosine with a word of the prompt).
    """

    name: str
    method: str
    sign: str | None = None
    fold: bool = False
    options: dict = field(default_factory=dict)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("spare", "spare"),
        Arm("spare, anti", "spare", sign="anti"),
        Arm("spare, normal", "spare", sign="normal"),
        Arm("resprune", "resprune"),
        Arm("cdpruner (LLM space)", "cdpruner", sign="anti"),
        Arm("divprune", "divprune"),
        Arm("greedy gain", "greedy"),
        Arm("uniform grid", "uniform_grid"),
        Arm("random", "random"),
        Arm("spare + fold", "spare", fold=True),
        Arm("divprune + fold", "divprune", fold=True),
        Arm("random + fold", "random", fold=True),
    )
}
FULL = "full"
# Questions a scene: the skills that the shipped model has learnt (its card measures the others too).
QUESTIONS = {
    "existence": 3,
    "colour": 2,
    "shape": 2,
    "count": 3,
    "comparison": 2,
    "two hops": 3,
    "fine detail": 1,
    "background": 1,
}


@dataclass(frozen=True)
class Plan:
    """What a study covers. ``scenes`` a seed; scene numbers of different seeds do not overlap."""

    scenes: int = 24
    seeds: int = 1
    keeps: tuple[float, ...] = (0.5, 0.25, 0.125, 0.06)
    arms: tuple[str, ...] = tuple(ARMS)
    model: str | None = None

    def units(self) -> list[tuple[int, int]]:
        return [(seed, i) for seed in range(self.seeds) for i in range(self.scenes)]

    def cells(self) -> list[tuple[str, float]]:
        return [(FULL, 1.0)] + [(arm, keep) for keep in self.keeps for arm in self.arms]


REDUCED = Plan()
COMPLETE = Plan(scenes=150, seeds=3)


def run(plan: Plan, out: Path, workers: int = 2) -> Path:
    """Run what is missing of a plan; returns the CSV with all rows."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.csv"
    done = whole_units(path)
    todo = [unit for unit in plan.units() if unit not in done]
    with tqdm(
        total=len(plan.units()), initial=len(plan.units()) - len(todo), desc="study", unit="scene"
    ) as bar:
        if not todo:
            return path
        with ProcessPoolExecutor(min(workers, len(todo)), initializer=_start, initargs=(plan,)) as pool:
            jobs = [pool.submit(study_scene, seed, i) for seed, i in todo]
            try:
                for job in as_completed(jobs):
                    append(path, job.result())
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return path


def append(path: Path, rows: list[dict]) -> None:
    """Add the rows of one scene in a single write."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    with path.open("a") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())


def whole_units(path: Path) -> set[tuple[int, int]]:
    """(seed, scene) whose rows are all there; rows of a scene cut short by a kill are taken out of the file."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if None not in r.values() and None not in r]
    unit = lambda r: (int(r["seed"]), int(r["scene"]))  # noqa: E731
    found = Counter(unit(r) for r in rows)
    whole = {unit(r) for r in rows if r["unit"].isdigit() and found[unit(r)] == int(r["unit"])}
    kept = [r for r in rows if unit(r) in whole]
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    os.replace(part, path)
    return whole


_STATE: dict = {}


def _start(plan: Plan) -> None:
    """Every worker process loads the model once."""
    import torch

    from . import reference

    torch.set_num_threads(1)
    _STATE.update(plan=plan, reference=reference.load(plan.model))


def study_scene(seed: int, number: int) -> list[dict]:
    """All cells of the plan on one held-out scene: rows as in ``COLUMNS``."""
    plan, (model, processor) = _STATE["plan"], _STATE["reference"]
    scene = held_out(seed, number)
    rows = []
    for arm, keep in plan.cells():
        for q, answer in zip(scene.questions, answers(model, processor, scene, arm, keep, seed), strict=True):
            rows.append(
                {
                    "seed": seed,
                    "scene": number,
                    "method": arm,
                    "keep": keep,
                    "question": q.text,
                    "skill": q.skill,
                }
                | {"answer": q.answer, "right": int(answer["said"] == q.answer)}
                | answer
            )
    return [row | {"unit": len(rows)} for row in rows]


def held_out(seed: int, number: int):
    """The scene of one unit; none of them served training or the model card's choice of anything."""
    from . import scenes

    return scenes.make(seed * 100_000 + number, "test", QUESTIONS)


def answers(model, processor, scene, arm: str, keep: float, seed: int) -> Iterator[dict]:
    """What the model says to every question of a scene with one way of pruning.

    The image is encoded once and its tokens handed to every question; each question is one row of the batch.
    """
    import torch

    import vlm_bridge

    texts = [f"<image> {q.text}" for q in scene.questions]
    inputs = dict(processor(images=[scene.image], text=texts[:1], return_tensors="pt"))
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        tokens = features.pooler_output[0]
        inputs = dict(processor.tokenizer(expand(processor, texts), padding=True, return_tensors="pt"))
        inputs.pop("token_type_ids", None)
        inputs["mm_encoder_outputs"] = {"image": type(features)(pooler_output=[tokens] * len(texts))}
        if arm == FULL:
            out = model.generate(**inputs, max_new_tokens=1)
            report = None
        else:
            choice = arguments(ARMS[arm], keep, seed, scene, processor)
            with vlm_bridge.prune(model, **choice) as report:
                out = model.generate(**inputs, max_new_tokens=1)
    for i, word in enumerate(processor.tokenizer.convert_ids_to_tokens(out[:, -1])):
        yield {
            "said": word,
            "tokens": len(tokens) if report is None else len(report.kept[i]),
            "error": 0.0 if report is None else f"{report.errors[i]:.6g}",
            "seconds": 0.0 if report is None else f"{report.seconds[i]:.3g}",
        }


def expand(processor, texts: list[str]) -> list[str]:
    """Prompts with as many placeholders as the image has tokens, as the processor itself writes them."""
    count = (processor.image_processor.size["height"] // processor.patch_size) ** 2
    return [t.replace("<image>", " ".join(["<image>"] * count)) for t in texts]


def arguments(arm: Arm, keep: float, seed: int, scene, processor) -> dict:
    """The arguments of ``vlm_bridge.prune`` for one arm."""
    from vlm_bridge import Relevance

    relevance = arm.sign and Relevance(space="llm", reduction="max", sign=arm.sign)
    chosen = {"keep": keep, "method": arm.method, "relevance": relevance, "fold": arm.fold}
    return chosen | {"processor": processor, "rng": [seed, scene.seed]} | arm.options


def describe(plan: Plan) -> dict:
    return asdict(plan) | {"cells": len(plan.cells()), "units": len(plan.units())}
