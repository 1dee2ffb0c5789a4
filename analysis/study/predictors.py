"""Numbers of a set of kept tokens that might predict the answers; none of them needs the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from analysis.study.encoding import EncodedImage
from vlm_bridge import Relevance
from vlm_bridge.pruners.relevance import unit_rows, weights

JITTER = 1e-13  # of a Gram matrix's trace: duplicates among the kept tokens leave it singular
#: Predictors by name, in words. Higher is meant to be better for the last five, worse for the others.
NAMES = {
    "error": "‖X − P_S X‖ / ‖X‖ of the projected tokens",
    "error, cosine": "the same of tokens of norm 1",
    "error, weighted": "the same, every token times its relevance (LLM space, largest cosine with a word)",
    "error, tower": "the same of the vision tower's rows",
    "error, layer 1": "the same after the first decoder layer of the unpruned model",
    "error, layer 2": "the same after the second",
    "error / optimum": "error over that of the best subspace of as many dimensions (SVD)",
    "least distance": "the smallest cosine distance of two kept tokens",
    "mean distance": "the mean cosine distance of two kept tokens",
    "coverage": "the largest cosine with a kept token, mean over all tokens",
    "attention": "share of the vision tower's CLS attention that falls on kept tokens",
    "norm share": "‖X_S‖² / ‖X‖²",
}
SIGN = dict.fromkeys(NAMES, -1) | dict.fromkeys(list(NAMES)[-5:], 1)


def squared_heights(gram: Tensor, sets: Tensor) -> Tensor:
    """Return the squared residual norms (B, n) of all tokens on the span of each set (B, k), from the Gram matrix (n, n) in float64."""
    k = sets.shape[1]
    own = gram[sets[:, :, None], sets[:, None]]
    own = own + JITTER * gram.trace() * torch.eye(k, dtype=gram.dtype)
    factor = torch.linalg.cholesky(own)
    explained = torch.linalg.solve_triangular(factor, gram[sets], upper=False)
    return (gram.diagonal() - explained.square().sum(1)).clamp(min=0)


class Measure:
    """The predictors of one image; what does not depend on the kept set is formed once.

    Parameters
    ----------
    spaces : mapping of str to Tensor (n, d)
        Rows whose reconstruction is measured; ``"tokens"`` among them.
    attention : Tensor (heads, n), optional
    relevance : list of Tensor (n,), optional
        Weights of the tokens for every question.
    """

    def __init__(
        self, spaces: Mapping[str, Tensor], attention: Tensor | None = None, relevance: Sequence[Tensor] = ()
    ) -> None:
        wide = {name: rows.double() for name, rows in spaces.items()}
        self.grams = {name: rows @ rows.mT for name, rows in wide.items()}
        self.energy = {name: gram.trace() for name, gram in self.grams.items()}
        self.cosine = unit_rows(wide["tokens"]) @ unit_rows(wide["tokens"]).mT
        values = torch.linalg.eigvalsh(self.grams["tokens"]).clamp(min=0).flip(0)
        self.tails = torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])
        self.attention = (
            None if attention is None else attention.double().mean(0) / attention.double().mean(0).sum()
        )
        self.relevance = [w.double().square() for w in relevance]

    @classmethod
    def of(cls, encoded: EncodedImage) -> Measure:
        """Return the measure of an encoded image."""
        rule = Relevance(space="llm", reduction="max", sign="normal")
        relevance = [weights(rule, encoded.tokens, {"llm_text": one["llm_text"]}) for one in encoded.asked]
        return cls(encoded.spaces(), encoded.signals["cls_attention"], relevance)

    def __call__(self, sets: Sequence[Tensor], asked: Sequence[Sequence[int]]) -> Tensor:
        """Return the predictors (len(sets), len(NAMES)); the weighted error is the mean over the questions asked."""
        found = torch.full((len(sets), len(NAMES)), float("nan"), dtype=torch.float64)
        by_size: dict[int, list[int]] = {}
        for i, one in enumerate(sets):
            by_size.setdefault(len(one), []).append(i)
        for k, at in by_size.items():
            if k:
                found[at] = self._of_size(torch.stack([sets[i] for i in at]), [asked[i] for i in at])
        return found

    def _of_size(self, sets: Tensor, asked: Sequence[Sequence[int]]) -> Tensor:
        k, n = sets.shape[1], len(self.cosine)
        gram = self.grams["tokens"]
        diagonal = gram.diagonal()
        columns: dict[str, Tensor] = {}
        if k == n:
            heights = {name: torch.zeros(len(sets), n, dtype=torch.float64) for name in self.grams}
        else:
            heights = {name: squared_heights(g, sets) for name, g in self.grams.items()}
        raw = heights["tokens"]
        columns["error"] = (raw.sum(1) / self.energy["tokens"]).sqrt()
        columns["error, cosine"] = (raw / diagonal.clamp(min=1e-300)).mean(1).sqrt()
        if self.relevance:
            ratio = [
                torch.stack(
                    [(h @ self.relevance[q] / (diagonal @ self.relevance[q])).sqrt() for q in qs]
                ).mean()
                for h, qs in zip(raw, asked, strict=True)
            ]
            columns["error, weighted"] = torch.stack(ratio)
        for name in self.grams:
            if name != "tokens":
                columns[f"error, {name}"] = (heights[name].sum(1) / self.energy[name]).sqrt()
        best = self.tails[k]
        columns["error / optimum"] = (
            (raw.sum(1) / best).sqrt()
            if best > 1e-10 * self.energy["tokens"]
            else raw.new_full((len(sets),), float("nan"))
        )
        if k > 1:
            pairs = 1 - self.cosine[sets[:, :, None], sets[:, None]]
            upper = torch.ones(k, k, dtype=torch.bool).triu(1)
            columns["least distance"] = pairs[:, upper].amin(1)
            columns["mean distance"] = pairs[:, upper].mean(1)
        columns["coverage"] = self.cosine[sets].amax(1).mean(1)
        if self.attention is not None:
            columns["attention"] = self.attention[sets].sum(1)
        columns["norm share"] = diagonal[sets].sum(1) / self.energy["tokens"]
        nan = raw.new_full((len(sets),), float("nan"))
        return torch.stack([columns.get(name, nan) for name in NAMES], 1)
