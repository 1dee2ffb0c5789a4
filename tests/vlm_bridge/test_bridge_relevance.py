"""Relevance against its definition, written out."""

import pytest
import torch

from vlm_bridge import Relevance
from vlm_bridge.pruners.relevance import scores, unit_rows, weights

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 10, 6, generator=G)
SIGNALS = {
    "clip_patches": torch.randn(3, 10, 4, generator=G),
    "clip_text": torch.randn(2, 4, generator=G),
    "llm_text": torch.randn(5, 6, generator=G),
}


def naive(visual, text, reduction):
    if reduction == "pooled":
        text = sum(t / t.norm() for t in text)[None] / len(text)
    table = [[float(v @ t / v.norm() / t.norm()) for t in text] for v in visual]
    return torch.tensor([max(row) if reduction == "max" else sum(row) / len(row) for row in table])


@pytest.mark.parametrize("space", ["clip", "llm"])
@pytest.mark.parametrize("reduction", ["mean", "max", "pooled"])
@pytest.mark.parametrize("sign", ["normal", "anti"])
def test_scores(space, reduction, sign):
    got = scores(Relevance(space, reduction, sign), X, SIGNALS)
    visual, text = (
        (SIGNALS["clip_patches"], SIGNALS["clip_text"]) if space == "clip" else (X, SIGNALS["llm_text"])
    )
    for b in range(3):
        want = naive(visual[b], text, reduction) * (-1 if sign == "anti" else 1)
        torch.testing.assert_close(got[b], want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_scales_and_scopes(exponent):
    score = scores(Relevance(), X, SIGNALS)
    image = weights(Relevance(exponent=exponent), X, SIGNALS)
    low, high = score.amin(-1, keepdim=True), score.amax(-1, keepdim=True)
    torch.testing.assert_close(image, ((score - low + 1e-6) / (high - low)) ** exponent)
    batch = weights(Relevance(exponent=exponent, scope="batch"), X, SIGNALS)
    torch.testing.assert_close(
        batch, ((score - score.min() + 1e-6) / (score.max() - score.min())) ** exponent
    )
    clipped = weights(Relevance(exponent=exponent, scale="clip"), X, SIGNALS)
    torch.testing.assert_close(clipped, score.clamp(min=1e-6) ** exponent)
    assert (torch.cat([image, batch, clipped]) > 0).all()


def test_a_row_without_patch_gets_the_mean():
    patches = SIGNALS["clip_patches"].clone()
    patches[:, 4] = 0
    got = scores(Relevance(), X, {**SIGNALS, "clip_patches": patches})
    full = scores(Relevance(), X, SIGNALS)
    others = [i for i in range(10) if i != 4]
    torch.testing.assert_close(got[:, others], full[:, others])
    torch.testing.assert_close(got[:, 4], full[:, others].mean(-1))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_rows_at_any_scale(scale):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * scale
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_half_precision_is_compared_in_single():
    half = {k: v.half() for k, v in SIGNALS.items()}
    got = scores(Relevance(), X.half(), half)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, scores(Relevance(), X, SIGNALS), atol=2e-3, rtol=0)
