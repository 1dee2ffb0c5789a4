"""What is compared on the pretrained models: rules that see the tokens alone, and two that know the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from torch import Tensor

from vlm_bridge import select_tokens

#: Tokens (n, d), how many to keep, seed, and what each token means to the answer by name, (n,); indices in the order of choice.
Rule = Callable[[Tensor, int, int, Mapping[str, Tensor]], Tensor]

ALL = "all tokens"


def _pruner(
    tokens: Tensor, k: int, seed: int, _: Mapping[str, Tensor], *, method: str, **options: Any
) -> Tensor:
    return select_tokens(tokens, k, method, rng=seed, order="chosen", **options)


def _most(_: Tensor, k: int, __: int, signals: Mapping[str, Tensor], *, signal: str) -> Tensor:
    return signals[signal].topk(k).indices


#: Sets that swaps move towards one error or another, by the names that they have in the study.
SWAPS: dict[str, Rule] = {
    f"{start}, swaps to p = {'∞' if p == inf else p}": partial(
        _pruner, method="local_search", start=method, p=p
    )
    for start, method in {"spare": "residual", "greedy": "greedy", "random": "uniform"}.items()
    for p in (2, inf)
}
#: Rules that see the tokens alone.
BLIND: dict[str, Rule] = {
    "residual": partial(_pruner, method="spare"),
    "greedy": partial(_pruner, method="greedy"),
    "greedy, p = 4": partial(_pruner, method="greedy", p=4.0),
    "greedy, p = 8": partial(_pruner, method="greedy", p=8.0),
    "greedy, p = 16": partial(_pruner, method="greedy", p=16.0),
    "residual, cosine": partial(_pruner, method="family", beta=0.0),
    "osinsky": partial(_pruner, method="osinsky"),
    "volume": partial(_pruner, method="volume"),
    "qdeim": partial(_pruner, method="qdeim"),
    "divprune": partial(_pruner, method="divprune"),
    "leverage top": partial(_pruner, method="leverage_top"),
    "norm top": partial(_pruner, method="norm_top"),
    "uniform grid": partial(_pruner, method="uniform_grid"),
    "random": partial(_pruner, method="random"),
    **SWAPS,
}
#: Rules that know what the model makes of all tokens: what a predictor of the answer could reach.
ORACLES: dict[str, Rule] = {
    "attention (oracle)": partial(_most, signal="attention"),
    "gradient (oracle)": partial(_most, signal="gradient"),
}
ARMS = BLIND | ORACLES
#: Rules whose picks for a smaller number are the first of those for a larger one.
NESTED = {
    "residual",
    "greedy",
    "greedy, p = 4",
    "greedy, p = 8",
    "greedy, p = 16",
    "residual, cosine",
    "divprune",
    "norm top",
    *ORACLES,
}


def kept(
    name: str, rule: Rule, tokens: Tensor, budgets: Sequence[int], seed: int, signals: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """Return the ascending indices of the tokens that a rule keeps, for every number of them; nested rules run once."""
    if name in NESTED:
        order = rule(tokens, max(budgets), seed, signals)
        return {k: order[:k].sort().values for k in budgets}
    return {k: rule(tokens, k, seed, signals).sort().values for k in budgets}
