"""Numbers of a set of kept tokens that might predict the answers; only the oracles need the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from analysis.study.arms import exponent
from analysis.study.encoding import EncodedImage
from vlm_bridge import Relevance
from vlm_bridge.pruners.relevance import unit_rows, weights

JITTER = 1e-13  # of a Gram matrix's trace: duplicates among the kept tokens leave it singular
PS = (1, 2, 4, 8, 16, inf)


def error_name(p: float, of: str = "") -> str:
    """Return the name of the predictor error_p, of the tokens or of something else."""
    return f"error, p = {exponent(p)}" + (f", {of}" if of else "")


#: What else than the tokens errors are measured of, in words.
OTHER = {
    "centred tokens": "of the tokens minus their mean",
    "weighted by relevance": "every token times its relevance (LLM space, largest cosine with a word)",
    "weighted by attention": "every token times the attention that it receives from the text in the unpruned model",
    "weighted by gradient": "every token times the gradient of the answer's loss: an oracle, it needs the answer",
    "things only": "of the tokens that things cover: an oracle, it needs the truth",
    "layer 1": "after the first decoder layer of the unpruned model",
    "layer 2": "after the second",
    "attention outputs": "of what attention adds to the tokens in the first decoder layer",
}
ENDS = (2, inf)
#: Predictors by name, in words. Higher is meant to be better for the last five, worse for the others.
NAMES = {
    **{error_name(p): f"residual norms of all tokens, summed up with exponent {exponent(p)}, relative to the tokens" for p in PS},
    **{error_name(p, "unit tokens"): "the same of tokens of norm 1" for p in PS},
    **{error_name(p, of): words for of, words in OTHER.items() for p in ENDS},
    "error / optimum": "error, p = 2, over that of the best subspace of as many dimensions (SVD)",
    "least distance": "the smallest cosine distance of two kept tokens",
    "mean distance": "the mean cosine distance of two kept tokens",
    "coverage": "the largest cosine with a kept token, mean over all tokens",
    "share of CLS attention": "share of the vision tower's CLS attention that falls on kept tokens",
    "share of squared norm": "‖X_S‖² / ‖X‖²",
}  # fmt: skip
#: Predictors that nobody has who prunes: they need the answers, or the truth about the picture.
ORACLES = [error_name(p, of) for of in ("weighted by gradient", "things only") for p in ENDS]
SIGN = dict.fromkeys(NAMES, -1) | dict.fromkeys(list(NAMES)[-5:], 1)


def relative_error(heights: Tensor, norms: Tensor, p: float) -> Tensor:
    """Return error_p (B,) from squared residual norms (B, n) and squared norms (n,) of the tokens."""
    if p == inf:
        return (heights.amax(-1) / norms.max()).sqrt()
    return (heights.pow(p / 2).sum(-1) / norms.pow(p / 2).sum()).pow(1 / p)


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
        Rows whose reconstruction is measured; ``"tokens"`` among them, the others as in `OTHER`.
    attention : Tensor (heads, n), optional
        From the CLS token of the vision tower.
    relevance : list of Tensor (n,), optional
        Weights of the tokens for every question.
    weights : mapping of str to Tensor (n,), optional
        Weights of the tokens for all questions, by names of `OTHER`.
    """

    def __init__(
        self,
        spaces: Mapping[str, Tensor],
        attention: Tensor | None = None,
        relevance: Sequence[Tensor] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        wide = {name: rows.double() for name, rows in spaces.items()}
        self.grams = {name: rows @ rows.mT for name, rows in wide.items()}
        self.cosine = unit_rows(wide["tokens"]) @ unit_rows(wide["tokens"]).mT
        values = torch.linalg.eigvalsh(self.grams["tokens"]).clamp(min=0).flip(0)
        self.tails = torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])
        mean = None if attention is None else attention.double().mean(0)
        self.attention = None if mean is None else mean / mean.sum()
        self.relevance = [w.double().square() for w in relevance]
        self.weights = {name: w.double().square() for name, w in (weights or {}).items()}

    @classmethod
    def of(cls, encoded: EncodedImage, attention: Tensor, gradient: Tensor) -> Measure:
        """Return the measure of an encoded image; attention received (n,) and gradient (n,) are as `influence` returns them."""
        rule = Relevance(space="llm", reduction="max", sign="normal")
        relevance = [weights(rule, encoded.tokens, {"llm_text": one["llm_text"]}) for one in encoded.asked]
        chosen = {"weighted by attention": attention, "weighted by gradient": gradient}
        if encoded.things is not None:
            chosen["things only"] = encoded.things
        return cls(encoded.spaces(), encoded.signals["cls_attention"], relevance, chosen)

    def __call__(self, sets: Sequence[Tensor], asked: Sequence[Sequence[int]]) -> Tensor:
        """Return the predictors (len(sets), len(NAMES)); errors weighted by relevance are means over the questions asked."""
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
        norms = self.grams["tokens"].diagonal()
        heights = {
            name: squared_heights(gram, sets) if k < n else gram.new_zeros(len(sets), n)
            for name, gram in self.grams.items()
        }
        raw = heights["tokens"]
        unit = raw / norms.clamp(min=1e-300)
        columns = {error_name(p): relative_error(raw, norms, p) for p in PS}
        columns |= {error_name(p, "unit tokens"): relative_error(unit, torch.ones_like(norms), p) for p in PS}
        for p in ENDS:
            for name, gram in self.grams.items():
                if name != "tokens":
                    columns[error_name(p, name)] = relative_error(heights[name], gram.diagonal(), p)
            for name, w in self.weights.items():
                columns[error_name(p, name)] = relative_error(raw * w, norms * w, p)
            if self.relevance:
                errors = torch.stack([relative_error(raw * w, norms * w, p) for w in self.relevance])
                means = [errors[list(qs), i].mean() for i, qs in enumerate(asked)]
                columns[error_name(p, "weighted by relevance")] = torch.stack(means)
        best = self.tails[k]
        if best > 1e-10 * norms.sum():
            columns["error / optimum"] = (raw.sum(1) / best).sqrt()
        if k > 1:
            pairs = 1 - self.cosine[sets[:, :, None], sets[:, None]]
            upper = torch.ones(k, k, dtype=torch.bool).triu(1)
            columns["least distance"] = pairs[:, upper].amin(1)
            columns["mean distance"] = pairs[:, upper].mean(1)
        columns["coverage"] = self.cosine[sets].amax(1).mean(1)
        if self.attention is not None:
            columns["share of CLS attention"] = self.attention[sets].sum(1)
        columns["share of squared norm"] = norms[sets].sum(1) / norms.sum()
        nan = raw.new_full((len(sets),), float("nan"))
        return torch.stack([columns.get(name, nan) for name in NAMES], 1)
