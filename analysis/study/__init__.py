"""The study: prune the visual tokens of held-out scenes in many ways, and see which reconstruction error predicts which answers.

- `arms`: what is compared; `tasks`: what questions are about; `encoding`, `kept_tokens`, `answering`: an image encoded once, the tokens
  each arm keeps, and the answers of many prunings in one forward pass; `predictors`, `influence`: numbers that might predict them;
- `units`, `plan`: the work of one image, plans, resumption, and the packed rows;
- `user_data`: a user's checkpoint and questions; `question_files`, `answer_files`: how both are stored, `digest`: what answers were made from;
- `results`: the packed rows as arrays; `decimer`: those of a published model; `bootstrap`, `correlations`: what is estimated from them;
- `rules`: the six questions, with decision rules fixed beforehand (docs/study/plan.md), `verdict`: the record and what the rules
  share, `verdict_text`: the verdicts without numbers;
- `figures`, `findings`, `pictures`, `drawing`: figures as SVG; `report`: text and tables; `recommend`: what to keep on a user's questions;
  `html`: the page; `page`: all of it from rows.
"""

from __future__ import annotations

from typing import Any

from analysis import scenes
from analysis.study.arms import ARMS, BLIND, FULL, KEEPS, Arm
from analysis.study.plan import COMPLETE, PER_SKILL, QUICK, Plan, confirm, load, pack, run, scene_of

__all__ = [
    "ARMS", "BLIND", "COMPLETE", "FULL", "KEEPS", "QUESTIONS", "QUICK", "Arm", "Plan", "arguments", "confirm",
    "load", "pack", "run", "scene_of",
]  # fmt: skip

#: Skills that the study asks about, and how many questions of each a scene gives at the most.
QUESTIONS = dict.fromkeys(scenes.SKILLS, PER_SKILL)


def arguments(
    arm: Arm, keep: float, seed: int, scene: Any, processor: Any, clip: Any = None
) -> dict[str, Any]:
    """Return the arguments of `vlm_bridge.prune` that do what an arm does; filling in has none."""
    if arm.fill or arm.smaller or arm.columns:
        raise ValueError(
            f"arm {arm.name!r} is no pruning: it fills dropped tokens in, reads the truth, or makes the image smaller."
        )
    chosen: dict[str, Any] = {"keep": keep, "method": arm.method, **arm.options}
    if arm.inside:
        return chosen
    chosen |= {"relevance": arm.relevance, "fold": arm.fold or False, "processor": processor, "clip": clip}
    return chosen | {"rng": [scene.seed]}
