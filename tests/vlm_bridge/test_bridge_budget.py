"""Budgets per image, per tile, shared and by spectral energy."""

import numpy as np
import pytest
import torch
from tiny_vlm import generated, masked_reference, tiny_inputs

import cssp
from vlm_bridge import BridgeError, PerTile, Shared, Spectral, merge_tokens, prune, select_tokens


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(3)
    return torch.randn(3, 20, 12, generator=g) * torch.tensor([1.0, 5.0, 0.1])[:, None, None]


def test_shared_budget_is_one_selection(batch):
    """Of the strong image most, of the weak one a single token, and together what cssp picks of all."""
    got = select_tokens(batch, Shared(12))
    counts = [int((row >= 0).sum()) for row in got]
    assert sum(counts) == 12
    assert min(counts) >= 1
    alone = cssp.select(batch.reshape(60, 12).mT, 12).indices.tolist()
    chosen = {i * 20 + int(j) for i, row in enumerate(got) for j in row if j >= 0}
    missing = {0, 1, 2} - {j // 20 for j in alone}
    assert len(chosen - set(alone)) == len(missing), "only images without a token get one of their own"


def test_every_image_keeps_a_token(batch):
    """The weak image's largest token replaces the last pick."""
    batch = batch.clone()
    batch[2] *= 1e-6
    got = select_tokens(batch, Shared(5), order="chosen")
    assert got[2].max() == batch[2].norm(dim=-1).argmax()
    assert (got[2] >= 0).sum() == 1
    assert (got >= 0).sum() == 5


def test_shared_weights_and_signals_follow_their_rows(batch):
    scores = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) + 0.1
    got = select_tokens(batch, Shared(9), "spare", scores)
    X = (batch * scores[..., None]).reshape(60, 12)
    want = set(cssp.select(X.mT, 9).indices.tolist())
    chosen = {i * 20 + int(j) for i, row in enumerate(got) for j in row if j >= 0}
    assert len(chosen - want) <= 2


def test_per_tile_is_per_item(batch):
    assert torch.equal(select_tokens(batch, PerTile(4)), select_tokens(batch, 4))


def test_spectral_counts_directions(batch):
    sigma = np.linalg.svd(batch.double().numpy(), compute_uv=False) ** 2
    for energy in (0.3, 0.9, 1.0):
        got = select_tokens(batch, Spectral(energy))
        for row, s in zip(got, sigma, strict=True):
            r = int((row >= 0).sum())
            assert s[:r].sum() >= energy * s.sum() * (1 - 1e-12)
            assert s[: r - 1].sum() < energy * s.sum()
    assert (select_tokens(torch.zeros(1, 4, 3), Spectral(0.5)) >= 0).sum() == 1


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda: PerTile(0), "at least one token"),
        (lambda: Shared(1.5), "a share must be in"),
        (lambda: Spectral(0), "must be in"),
        (lambda: Spectral("all"), "must be in"),
    ],
)
def test_bad_budgets(keep, message):
    with pytest.raises(BridgeError, match=message):
        keep()


def test_shared_needs_a_token_of_each(batch):
    with pytest.raises(BridgeError, match="3 images share"):
        select_tokens(batch, Shared(2))
    with pytest.raises(BridgeError, match="image 0 has 60 tokens"):
        select_tokens(batch, Shared(61))


@pytest.mark.parametrize("keep", [PerTile(5), PerTile(0.2), Shared(17), Spectral(0.8)])
def test_live_budgets(models, keep):
    """Tiles of LLaVA-NeXT, images of a prompt: the run is that of the masked model, counts are exact."""
    model = models["llava_next"]
    inputs = tiny_inputs(model, (2, 1), (3, 8))
    with prune(model, keep) as report:
        got = generated(model, inputs, steps=4)
    tokens, logits = masked_reference(model, inputs, report.kept, report.sizes, 4)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.logits, logits, atol=1e-5, rtol=0)
    counts = [len(k) for k in report.kept]
    if keep == Shared(17):
        assert counts[0] + counts[1] == 17
        assert counts[2] == 17
    if keep == PerTile(5):
        assert all(count % 5 == 0 and count >= 10 for count in counts)
        assert all((k < 36).sum() == 5 for k in report.kept), "the base view is the first tile"


def test_per_tile_of_one_tile_models(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, PerTile(6)) as tiles, torch.no_grad():
        llava(**inputs)
    with prune(llava, 6) as images, torch.no_grad():
        llava(**inputs)
    assert [k.tolist() for k in tiles.kept] == [k.tolist() for k in images.kept]


def test_every_selector_has_a_merged_twin(batch):
    for fold in (True, "interpolation"):
        for one, features in zip(merge_tokens(batch, 4, "greedy", fold=fold), batch, strict=True):
            assert float(one.sizes.sum()) == pytest.approx(20)
            torch.testing.assert_close(one.coefficients @ features, one.rows)
            torch.testing.assert_close(one.coefficients.sum(1), torch.ones(4))
    plain = merge_tokens(batch, 4, "greedy")[1]
    assert torch.equal(plain.rows, batch[1][plain.indices])
    assert torch.equal(plain.indices, select_tokens(batch, 4, "greedy")[1])
    with pytest.raises(BridgeError, match="fold = 'mean'"):
        merge_tokens(batch, 4, fold="mean")
