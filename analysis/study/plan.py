"""Running a plan: units in worker processes, resumed where a run was killed, and packed into one small file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import cssp
from analysis.study.arms import ARMS, KEEPS, Arm
from analysis.study.encoding import Checkpoint
from analysis.study.predictors import NAMES
from analysis.study.units import Unit, study_image

#: First scene of the study, and first scene of the confirmation set. Below are those of the model card and of the first edition.
EXPLORE, CONFIRM = 300_000, 1_000_000
PER_SKILL = 2  # a skill and scene; one where a scene has no two


def model_name(folder: str) -> str:
    """Return the name of a checkpoint's folder; the shipped one is called reference."""
    return Path(folder).name if folder else "reference"


@dataclass(frozen=True)
class Plan:
    """What a study covers.

    Attributes
    ----------
    models : tuple of str
        Folders of checkpoints; empty: the shipped one. Their names must differ.
    families : tuple of str
    scenes, inside_scenes : int
        Scenes of each family, and how many of them get the systems inside the language model, which see the whole image first and take
        a third of the time.
    keeps, arms : tuple
    first : int
        Number of the first scene.
    """

    models: tuple[str, ...] = ("",)
    families: tuple[str, ...] = ("objects", "digits")
    scenes: int = 6
    inside_scenes: int = 8
    keeps: tuple[float, ...] = KEEPS
    arms: tuple[str, ...] = tuple(ARMS)
    first: int = EXPLORE

    def __post_init__(self) -> None:
        names = [model_name(folder) for folder in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"models {names}: folders of different names are needed.")
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise ValueError(f"unknown arms {unknown}; choose from {list(ARMS)}.")

    def units(self) -> list[tuple[str, str, int]]:
        """Return (model folder, family, scene)."""
        scenes = range(self.first, self.first + self.scenes)
        return [(model, family, i) for i in scenes for model in self.models for family in self.families]


#: Fewer scenes and budgets, the systems inside the language model on one scene of each family, and relevance with spare alone.
QUICK = Plan(
    scenes=8,
    inside_scenes=1,
    keeps=(0.33, 0.11, 0.06, 0.03),
    arms=tuple(n for n, a in ARMS.items() if a.group != "relevance" or a.method == "spare"),
)
COMPLETE = Plan(scenes=40, inside_scenes=12)


BAR = "{l_bar}{bar}| {n:.2f} of {total} scenes [{elapsed} so far, {remaining} to go]"


def unit_path(out: Path, unit: tuple[str, str, int]) -> Path:
    """Return the file of a unit of work."""
    model, family, scene = unit
    return out / "rows" / model_name(model) / f"{family}-{scene}.npz"


def run(plan: Plan, out: Path, workers: int = 2) -> Path:
    """Run what is missing of a plan; returns the folder. A killed run goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [unit for unit in plan.units() if not _whole(plan, out, unit)]
    total = len(plan.units())
    first = total - len(todo)
    with tqdm(total=total, initial=first, desc="study", bar_format=BAR) as bar:
        if not todo:
            return out
        if workers <= 1:
            for unit in todo:
                _study(plan, unit, bar.update).save(unit_path(out, unit))
            return out
        spawn = get_context("spawn")  # a fork would inherit threads of the linear algebra that are not there
        done = spawn.Value("d", 0.0)
        with ProcessPoolExecutor(min(workers, len(todo)), spawn, _start, (done,)) as pool:
            jobs = {pool.submit(_study, plan, unit, _add): unit for unit in todo}
            left = set(jobs)
            try:
                while left:
                    over, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                    for job in over:
                        job.result().save(unit_path(out, jobs[job]))
                    bar.update(first + done.value - bar.n)
                    bar.refresh()  # the clock goes on where nothing is done yet
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return out


def _whole(plan: Plan, out: Path, unit: tuple[str, str, int]) -> bool:
    """Return whether the unit's file is of this model and has been run with these arms and budgets (or those that the model can run)."""
    path, model = unit_path(out, unit), load(unit[0])
    if not path.exists():
        return False
    with np.load(path) as file:
        if "made_from" not in file or str(file["made_from"]) != _made_from(model):
            return False
        found = set(zip(file["arms"].tolist(), file["keeps"].tolist(), strict=True))
    return {(a.name, k) for a in arms_of(plan, unit, model) if not a.inside for k in plan.keeps} <= found


def arms_of(plan: Plan, unit: tuple[str, str, int], checkpoint: Checkpoint) -> list[Arm]:
    """Return the arms for a unit, of those that its model can run: without a joint space none that reads it."""

    def possible(arm: Arm) -> bool:
        if arm.inside and unit[2] - plan.first >= plan.inside_scenes:
            return False
        return checkpoint.clip is not None or not {"clip_text", "clip_patches"} & set(arm.signals)

    return [ARMS[name] for name in plan.arms if possible(ARMS[name])]


_LOADED: dict[str, Checkpoint] = {}


_DONE: list[Any] = []


def _start(done: Any) -> None:
    torch.set_num_threads(1)
    _DONE.append(done)


def _add(share: float) -> None:
    """Send the share of a scene that has been done to the process that shows the progress."""
    with _DONE[0].get_lock():
        _DONE[0].value += share


def load(folder: str) -> Checkpoint:
    """Return a checkpoint and, where its folder has ``clip/``, the joint space of its vision tower."""
    if folder in _LOADED:
        return _LOADED[folder]
    from analysis import reference

    model, processor = reference.load(folder)
    clip = reference.clip(folder) if reference.clip_folder(folder).is_dir() else None
    _LOADED[folder] = Checkpoint(model, processor, clip, _learnt(reference.folder_of(folder)))
    return _LOADED[folder]


def _study(plan: Plan, unit: tuple[str, str, int], done: Callable[[float], Any]) -> Unit:
    model, family, number = unit
    checkpoint = load(model)
    scene = scene_of(family, number, checkpoint)
    found = study_image(
        checkpoint, scene.image, scene.questions, arms_of(plan, unit, checkpoint), plan.keeps, [number], covered(scene), done
    )  # fmt: skip
    return replace(found, made_from=_made_from(checkpoint))


def _made_from(model: Checkpoint) -> str:
    return f"{model.digest} cssp {cssp.__version__}"


def scene_of(family: str, number: int, checkpoint: Checkpoint | None = None) -> Any:
    """Return a scene of the study: of the test split, which no training saw. What every patch shows is asked of models that know how."""
    from analysis import scenes

    also = () if checkpoint is None else checkpoint.learnt
    skills = [name for name in scenes.FAMILIES[family] if name in scenes.SKILLS or name in also]
    return scenes.make(number, "test", dict.fromkeys(skills, PER_SKILL), family)


def _learnt(folder: Path) -> frozenset[str]:
    """Return the skills that ask what every patch shows which a checkpoint has learnt, by the measurements on its card.

    A skill counts as learnt where it lies ten points or more above its level without seeing: one of four sides, or the word that
    mostly follows the word before.
    """
    card = folder / "measured.json"
    patches = json.loads(card.read_text()).get("patches", {}) if card.exists() else {}
    level = {
        skill: found[measure] - (0.25 if measure == "side" else found["blind"])
        for family, found in patches.items()
        for measure, skill in _EVERY_PATCH[family].items()
    }
    return frozenset(skill for skill, above in level.items() if above >= 0.1)


_EVERY_PATCH = {
    "objects": {"side": "shading", "words": "transcription"},
    "digits": {"side": "light", "words": "transcript"},
}


def covered(scene: Any) -> Tensor:
    """Return which patches, row by row, a thing or a digit covers, (n,) of bool."""
    mask = scene.owner >= 0
    for mark in scene.marks:
        mask[mark.patch] = True
    return torch.from_numpy(mask.ravel())


def confirm(plan: Plan, out: Path, workers: int = 2) -> Path:
    """Run a plan on the confirmation set, which refuses a second plan there, but not another model.

    Raises
    ------
    ValueError
        The folder holds a confirmation of another plan.
    """
    plan = replace(plan, first=CONFIRM)
    note = out / "confirmed.json"
    fields = {k: v for k, v in json.loads(json.dumps(asdict(plan))).items() if k != "models"}
    if note.exists() and json.loads(note.read_text()) != fields:
        raise ValueError(
            f"{note}: these scenes have been used with another plan; what they say counts only the first time."
        )
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(fields, indent=1) + "\n")
    return run(plan, out, workers)


def pack(out: Path, path: Path) -> Path:
    """Write all units of a folder into one file, see `pack_units`.

    Raises
    ------
    ValueError
        There is none, or units of one name were made from different models or releases.
    """
    files = sorted((out / "rows").glob("*/*.npz"))
    if not files:
        raise ValueError(f"{out} has no rows; run `python -m analysis study` first.")
    units = [(f.parent.name, *f.stem.rsplit("-", 1), Unit.load(f)) for f in files]
    made: dict[str, tuple[Path, str]] = {}
    for file, (name, *_, unit) in zip(files, units, strict=True):
        first, other = made.setdefault(name, (file, unit.made_from))
        if other != unit.made_from:
            raise ValueError(
                f"{first} and {file.name} were made from different models named {name!r}, or by different releases: "
                "remove the rows that are out of date and run the study again."
            )
    return pack_units(units, path)


def pack_units(units: Sequence[tuple[str, str, str, Unit]], path: Path) -> Path:
    """Write (model, family, scene, unit) into one file that needs no model: scores to 1/254 and predictors to 2.5 %, without the words said."""
    cells = list(dict.fromkeys(cell for *_, unit in units for cell in unit.cells))
    at = {cell: i for i, cell in enumerate(cells)}
    skills = sorted({str(s) for *_, unit in units for s in unit.skills})
    questions = sum(len(unit.skills) for *_, unit in units)
    score = np.full((len(cells), questions), np.nan, np.float32)
    tokens, seconds = np.full((2, len(cells), len(units)), np.nan, np.float32)
    numbers = np.full((len(NAMES), len(cells), len(units)), np.nan, np.float32)
    owner, skill = np.zeros((2, questions), np.int32)
    start = 0
    for u, (_, _, _, unit) in enumerate(units):
        rows, stop = [at[cell] for cell in unit.cells], start + len(unit.skills)
        score[rows, start:stop] = unit.score
        tokens[rows, u], seconds[rows, u] = unit.tokens, unit.seconds
        numbers[:, rows, u] = unit.predictors.T
        owner[start:stop], skill[start:stop] = u, [skills.index(s) for s in unit.skills]
        start = stop
    _smooth(numbers, cells, [(m, f) for m, f, *_ in units])
    arrays = {
        "arms": np.array([a for a, _ in cells]),
        "keeps": np.array([k for _, k in cells]),
        "models": np.array([m for m, *_ in units]),
        "families": np.array([f for _, f, *_ in units]),
        "scenes": np.array([s for _, _, s, _ in units]),
        "skills": np.array(skills),
        "owner": owner,
        "skill": skill.astype(np.uint8),
        "score": np.where(np.isnan(score), NOT_ASKED, np.round(254 * np.nan_to_num(score))).astype(np.uint8),
        "tokens": np.round(tokens, 2).astype(np.float16),
        "seconds": np.nanmean(seconds, 1),
        "norm_and_thing": np.array([unit.norm_and_thing for *_, unit in units], np.float32),
        "predictors": quantised(numbers),
        "names": np.array(list(NAMES)),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            text = io.BytesIO()
            np.save(text, array)
            file.writestr(f"{name}.npy", text.getvalue())
    return path


def _smooth(numbers: np.ndarray, cells: list[tuple[str, float]], strata: list[tuple[str, str]]) -> None:
    """Replace predictors by the mean of their stratum, except of arms whose correlations are formed."""
    other = [i for i, (a, _) in enumerate(cells) if a not in ARMS or not ARMS[a].drops or ARMS[a].asks]
    for stratum in dict.fromkeys(strata):
        members = [u for u, s in enumerate(strata) if s == stratum]
        part = numbers[np.ix_(range(len(numbers)), other, members)]
        good = np.isfinite(part)
        mean = np.where(good, part, 0).sum(2, keepdims=True) / np.maximum(good.sum(2, keepdims=True), 1)
        numbers[np.ix_(range(len(numbers)), other, members)] = np.where(good, mean, np.nan)


NOT_ASKED = 255
LEAST, MOST = 1e-3, 100.0


def quantised(values: np.ndarray) -> np.ndarray:
    """Return the numbers up to 100 as bytes on a logarithmic scale, to 2.5 %; 0 is zero or less than 1e-3, 255 is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.round(1 + 253 * np.log(values / LEAST) / np.log(MOST / LEAST))
    steps = np.where(np.isnan(values), 255, np.where(values < LEAST, 0, np.clip(steps, 1, 254)))
    return steps.astype(np.uint8)


def restored(steps: np.ndarray) -> np.ndarray:
    """Return the numbers that `quantised` wrote."""
    values = LEAST * (MOST / LEAST) ** ((steps.astype(np.float32) - 1) / 253)
    return np.where(steps == 255, np.nan, np.where(steps == 0, 0, values)).astype(np.float32)
