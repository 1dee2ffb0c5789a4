"""The arms of the study: everything that is compared, under a name for tables and figures.

`ARMS` holds every pruner of `vlm_bridge.PRUNERS` that chooses by a rule of its own, baselines, the methods of cssp that a verdict asks
about, sets that swaps have moved towards another norm, the factorial of norms and rules, relevance with both signs in both spaces,
twins that do something with the dropped tokens, and pruners that came after the rules of the study, which no verdict looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from vlm_bridge import PRUNERS, BridgeError, Relevance

FULL, BLIND = "all tokens", "no tokens"
#: In the place of dropped tokens: their projections on the span of the kept ones, these permuted among the dropped positions, the mean
#: of all tokens, one Gaussian vector of median norm.
FILLS = ("fill", "shuffled fill", "mean fill", "dummy fill")
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
    columns : str
        What the rule looks at: ``""``, the tokens; ``"cosine"``, tokens of norm 1; ``"equal classes"``, tokens of things scaled so that
        their median norm is that of background.
    fold : str
        ``"cluster"``: dropped tokens enter the mean of those that stand for them.
    fill : str
        One of `FILLS`: all positions stay, and this takes the place of dropped tokens.
    smaller : bool
        The image is made smaller, so that the encoder itself gives fewer tokens; the method chooses nothing.
    options : mapping
    nested : bool
        The picks for a smaller budget are the first of those for a larger one.
    group : str
        For tables and figures.
    """

    name: str
    method: str
    relevance: Relevance | None = None
    columns: str = ""
    fold: str = ""
    fill: str = ""
    smaller: bool = False
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
        return not (self.fold or self.fill or self.smaller or self.inside or PRUNERS[self.method].merges)

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
    arms += [Arm(name.replace("_", " "), name, nested=name in nested, group="baseline") for name in baselines]
    return [*arms, Arm(SMALLER, "uniform_grid", smaller=True, group="baseline")]


def _recent() -> list[Arm]:
    """Return the pruners that came after the rules of the study; the verdicts are about the others."""
    nested = {"otprune", "todre", "script", "idpruner", "id_selection"}
    names = (
        "otprune", "hiprune", "anchorprune", "idpruner", "id_selection", "todre", "prunesid", "script",
    )  # fmt: skip
    return [Arm(name.replace("_", " "), name, nested=name in nested, group=RECENT) for name in names]


RECENT = "recent"
SMALLER = "image made smaller"


def exponent(p: float) -> str:
    """Return p as text."""
    return "∞" if p == inf else f"{p:g}"


def greedy(p: float) -> str:
    """Return the name of the arm whose every pick lowers Σ h^p most; p = 2 is Farahat's gain."""
    return "greedy" if p == 2 else f"greedy, p = {exponent(p)}"


def swapped(start: str, p: float) -> str:
    """Return the name of the arm that improves a start by swaps towards p."""
    return f"{start}, swaps to p = {exponent(p)}"


GREEDY_PS, SWAP_PS = (2, 4, 8, 16, inf), (2, 8, inf)
#: The arms that swaps start from, with their methods of cssp.
STARTS = {"spare": "residual", "greedy": "greedy", "random": "uniform"}


def _methods() -> list[Arm]:
    """Return the methods of cssp on raw tokens (``residual`` is spare)."""
    arms = [Arm(greedy(p), "greedy", options={} if p == 2 else {"p": p}, nested=True) for p in GREEDY_PS]
    arms += [Arm(n.replace("_", " "), n) for n in ("osinsky", "volume", "leverage_top", "random_pivot")]
    return [replace(arm, group="cssp") for arm in arms]


def _interventions() -> list[Arm]:
    """Return the starts improved by swaps; from spare towards p = 2 it is local search with its defaults."""
    return [
        Arm(swapped(start, p), "local_search", options={"start": method} | ({} if p == 2 else {"p": p}), group="swaps")
        for start, method in STARTS.items() for p in SWAP_PS
    ]  # fmt: skip


#: The factorial: what the rule looks at, and the rule.
FACTORIAL = {
    ("raw", "residual"): "spare", ("raw", "max–min"): "farthest", ("raw", "gain"): "greedy",
    ("cosine", "residual"): "residual, cosine", ("cosine", "max–min"): "divprune", ("cosine", "gain"): "greedy, cosine",
    ("equal classes", "residual"): "residual, equal classes", ("equal classes", "max–min"): "farthest, equal classes",
    ("equal classes", "gain"): "greedy, equal classes",
}  # fmt: skip


def _factorial() -> list[Arm]:
    """Return the cells of the factorial that are no arms already."""
    arms = [Arm("residual, cosine", "family", options={"beta": 0.0}), Arm("farthest", "farthest")]
    arms.append(Arm("greedy, cosine", "greedy", columns="cosine"))
    methods = ("residual", "farthest", "greedy")
    arms += [Arm(f"{method}, equal classes", method, columns="equal classes") for method in methods]
    return [replace(arm, nested=True, group="factorial") for arm in arms]


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
    """Return the twins that keep the same tokens and fold or fill in the others."""
    found = []
    bases = {arm.name: arm for arm in [*_published(), *_methods()]}
    for parent in TWINS:
        base = replace(bases[parent], group="twin")
        found.append(replace(base, name=f"{parent} + fold", fold="cluster"))
        found += [replace(base, name=f"{parent} + {fill}", fill=fill) for fill in FILLS]
    return found


TWINS = ("spare", "greedy", "divprune", "random")
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arms in (_published(), _methods(), _interventions(), _factorial(), _guided(), _twins(), _recent())
    for arm in arms
}

#: Pruners without an arm, and why.
EXCLUDED = {
    "pivoted_qr": "picks the columns of residual, by another route",
    "strong_rrqr": "chooses what spare does here",
    "norm": "draws by squared norm; norm_top and random stand on both sides of it",
    "uniform": "is random",
    "arp": "has the law of volume",
    "adaptive": "draws as random_pivot does, in rounds",
    "blockwise_pivot": "came after the rules of the study; draws as random_pivot does, in filtered blocks",
    "leverage": "is leverage_top with chance in it",
    "two_stage": "is leverage followed by residual",
    "sketched_qr": "is residual on a sketch, for matrices too large for a plain one",
    "volume_derandomized": "has the guarantee of osinsky at a multiple of its cost",
    "interlacing": "came after the rules of the study; for the spectral error, at many times the cost of osinsky",
    "deim": "picks rows for interpolation of the leading singular vectors; osinsky is the rule with the sharp bound",
    "qdeim": "is pivoted QR of the leading singular vectors",
    "gappypod_e": "is qdeim followed by columns that steady the fit of few modes",
    "barrier": "came after the rules of the study; is made for an error of lower rank than the number of columns",
    "bss": "is made for an error of lower rank than the number of columns",
    "exact": "takes exponential time",
    "fastervlm": "is vispruner without its pool",
    "evs": "compares frames of a video; the study shows images",
    "vidcom2": "compares frames of a video; the study shows images",
}
