"""The arms of the study: everything that is compared, under a name for tables and figures.

`ARMS` holds every pruner of `vlm_bridge.PRUNERS` that chooses by a rule of its own, the methods of cssp that a verdict asks
about, relevance with both signs in both spaces, merged twins, and tokens filled in again. `PLANE` is the family that
contains SPARE, ResPrune and CDPruner, over its two exponents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_bridge import PRUNERS, BridgeError, Relevance

FULL, BLIND = "all tokens", "no tokens"
KEEPS = (0.5, 0.33, 0.22, 0.11, 0.06, 0.03, 0.02)
SPACES = {"llm": "LLM space", "clip": "CLIP space"}


@dataclass(frozen=True)
class Arm:
    """One thing to compare.

    Attributes
    ----------
    name : str
    method : str
        A name in `vlm_bridge.PRUNERS`.
    relevance : Relevance, optional
        Instead of the pruner's own.
    fold : str
        ``"cluster"`` or ``"interpolation"``: dropped tokens enter the mean of those that stand for them.
    fill : bool
        All positions stay; dropped tokens are replaced by their projection on the span of the kept ones.
    options : mapping
    nested : bool
        The picks for a smaller budget are the first of those for a larger one.
    group : str
        For tables and figures.
    """

    name: str
    method: str
    relevance: Relevance | None = None
    fold: str = ""
    fill: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = False
    group: str = "published"

    @property
    def inside(self) -> bool:
        """Whether tokens are dropped inside the language model."""
        return PRUNERS[self.method].inside is not None

    def can_keep(self, keep: float, tokens: int, layers: int) -> bool:
        """Return whether a decoder of so many layers can: those in front of the first cut see all tokens, and count."""
        row = PRUNERS[self.method]
        if row.inside is None:
            return True
        try:
            row.inside.schedule(layers, tokens, keep)
        except BridgeError:
            return False
        return True

    @property
    def signals(self) -> tuple[str, ...]:
        """What must be known besides the tokens."""
        row = PRUNERS[self.method]
        chosen = self.relevance or row.relevance
        return tuple(dict.fromkeys([*(chosen.signals if chosen else ()), *row.requires]))

    @property
    def asks(self) -> bool:
        """Whether the kept tokens depend on the question."""
        return self.inside or bool({"clip_text", "llm_text"} & set(self.signals))

    @property
    def drops(self) -> bool:
        """Whether what is left is the kept tokens as they were, and no others: only then is error measured on what was used."""
        return not (self.fold or self.fill or self.inside or PRUNERS[self.method].merges)

    @property
    def parent(self) -> str:
        """The arm that keeps the same tokens and drops the others."""
        return self.name.split(" + ")[0]


def relevance(space: str, sign: str) -> Relevance:
    """Return the relevance as published in that space: the largest cosine with a word of the prompt; the mean over CLIP's segments."""
    return Relevance(space=space, reduction="max" if space == "llm" else "mean", sign=sign)  # type: ignore[arg-type]


def _published() -> list[Arm]:
    nested = {"spare", "resprune", "cdpruner", "divprune", "mmtok", "zoo_prune", "norm_top", "relevance"}
    names = (
        "auto", "spare", "resprune", "cdpruner", "divprune", "svd_prune", "cen_prune", "lrcp", "mmtok", "zoo_prune", "vispruner",
        "visionzip", "prumerge", "trim", "holov", "litelvlm", "fastv", "sparsevlm", "pyramiddrop", "dart",
    )  # fmt: skip
    baselines = ("random", "uniform_grid", "average_pool", "norm_top", "relevance")
    arms = [Arm(name.replace("_", " "), name, nested=name in nested) for name in names]
    return arms + [
        Arm(name.replace("_", " "), name, nested=name in nested, group="baseline") for name in baselines
    ]


def _methods() -> list[Arm]:
    """Return the methods of cssp on raw tokens (``residual`` is spare), and the residual rule on cosines."""
    nested = {"greedy"}
    names = ("greedy", "strong_rrqr", "osinsky", "volume", "local_search", "leverage_top", "random_pivot")
    arms = [Arm(name.replace("_", " "), name, nested=name in nested, group="cssp") for name in names]
    return [*arms, Arm("residual, cosine", "family", options={"beta": 0.0}, nested=True, group="cssp")]


def _guided() -> list[Arm]:
    """Return relevance with both signs in both spaces; what a pruner already does by itself is not repeated."""
    arms = []
    for method, nested in (("spare", True), ("greedy", True), ("cdpruner", True), ("resprune", True)):
        for space, words in SPACES.items():
            for sign in ("anti", "normal"):
                chosen, own = relevance(space, sign), PRUNERS[method].relevance
                if own is not None and (own.space, own.sign) == (space, sign):
                    continue
                name = f"{method}, {sign}, {words}"
                arms.append(Arm(name, method, chosen, nested=nested, group="relevance"))
    return arms


def _twins() -> list[Arm]:
    found = []
    for parent in ("spare", "residual, cosine", "divprune", "greedy", "strong rrqr", "random"):
        base = next(arm for arm in [*_published(), *_methods()] if arm.name == parent)
        common = {"method": base.method, "options": base.options, "nested": base.nested, "group": "twin"}
        found.append(Arm(f"{parent} + fold", fold="cluster", **common))
        if parent in ("spare", "divprune", "greedy"):
            found.append(Arm(f"{parent} + interpolation fold", fold="interpolation", **common))
        if parent in ("spare", "divprune", "greedy", "random"):
            found.append(Arm(f"{parent} + fill", fill=True, **common))
    return found


ARMS: dict[str, Arm] = {arm.name: arm for arm in (*_published(), *_methods(), *_guided(), *_twins())}

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
ALPHAS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
PLANE_KEEPS = (0.11, 0.03)


def plane_arm(beta: float, alpha: float, space: str) -> Arm:
    """Return a point of the family: a negative α weighs against relevance, with the exponent \\|α\\|; α = 0 needs none."""
    if alpha == 0:
        return Arm(f"family β={beta:g} α=0", "family", options={"beta": beta}, nested=True, group="plane")
    name = f"family β={beta:g} α={alpha:g}, {SPACES[space]}"
    chosen = relevance(space, "anti" if alpha < 0 else "normal")
    options = {"beta": beta, "alpha": abs(alpha)}
    return Arm(name, "family", chosen, options=options, nested=True, group="plane")


#: The plane of the family over both spaces; with α = 0 there is no space.
PLANE: dict[str, Arm] = {
    arm.name: arm for s in SPACES for b in BETAS for a in ALPHAS for arm in [plane_arm(b, a, s)]
}

#: Pruners without an arm, and why.
EXCLUDED = {
    "pivoted_qr": "picks the columns of residual, by another route",
    "residual": "is spare without guidance",
    "farthest": "is divprune with Euclidean distances; the cosine rule is the published one",
    "norm": "draws by squared norm; norm_top and random stand on both sides of it",
    "uniform": "is random",
    "arp": "has the law of volume",
    "adaptive": "draws as random_pivot does, in rounds",
    "leverage": "is leverage_top with chance in it",
    "two_stage": "is leverage followed by residual",
    "sketched_qr": "is residual on a sketch, for matrices too large for a plain one",
    "volume_derandomized": "has the guarantee of osinsky at a multiple of its cost",
    "deim": "picks rows for interpolation of the leading singular vectors; osinsky is the rule with the sharp bound",
    "qdeim": "is pivoted QR of the leading singular vectors",
    "bss": "is made for an error of lower rank than the number of columns",
    "exact": "takes exponential time",
}
