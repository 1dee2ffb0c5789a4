"""Budgets per image, per tile, shared and by spectral energy."""

import numpy as np
import pytest
import torch
from tiny_qwen import deep_llava, qwen_inputs, tiny_qwen
from tiny_vlm import generated, masked_reference, tiny_inputs

import cssp
from vlm_bridge import (
    PRUNERS,
    AtMost,
    BridgeError,
    PerTile,
    Shared,
    Spectral,
    merge_tokens,
    prune,
    prune_inputs,
    select_tokens,
)
from vlm_bridge.budget import read_keep


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
        (lambda: Shared(1.5), "expected a share in"),
        (lambda: Spectral(0), r"in \(0, 1\]"),
        (lambda: Spectral("all"), r"in \(0, 1\]"),
        (lambda: AtMost(0), "at least one token"),
        (lambda: AtMost(0.5), "a share such as 0.25 never asks"),
        (lambda: AtMost(True), "expected a token count"),
        (lambda: AtMost(AtMost(3)), "expected a token count"),
        (lambda: AtMost(None), "expected a token count"),
        (lambda: PerTile(Shared(3)), "expected a token count"),
        (lambda: Shared("3"), "expected a token count"),
    ],
)
def test_bad_budgets(keep, message):
    with pytest.raises(BridgeError, match=message):
        keep()


def test_shared_needs_a_token_of_each(batch):
    with pytest.raises(BridgeError, match="3 images share"):
        select_tokens(batch, Shared(2))
    with pytest.raises(BridgeError, match="images 0, 1, 2 show together has 60 tokens"):
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


# AtMost -------------------------------------------------------------------------------------------


def signals_of(n):
    """All that any pruner reads, for an image of n tokens with a word in front and three behind."""
    g = torch.Generator().manual_seed(n)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    first = draw(12, 24)
    return {
        "clip_patches": draw(n, 16),
        "clip_text": draw(3, 16),
        "llm_text": draw(3, 24),
        "vision_clip": draw(n, 12),
        "vision_cls": draw(12),
        "vision_keys": draw(4, n, 3),
        "vision_values": draw(4, n, 3),
        "cls_attention": draw(4, n).softmax(-1),
        "received": draw(4, n).softmax(-1),
        "received_early": draw(4, n).softmax(-1),
        "projector": lambda rows: torch.tanh(rows @ first),
        "hidden": draw(n + 4, 24),
        "keys": draw(2, n + 4, 12),
        "attention": draw(2, 3, n).softmax(-1),
        "image_start": 1,
        "frames": 1,
    }


@pytest.mark.parametrize("method", sorted(PRUNERS))
def test_at_most_is_the_count_or_all_that_there_is(method):
    for n, count in ((40, 30), (30, 30), (24, 24), (1, 1)):
        features = torch.randn(n, 24, generator=torch.Generator().manual_seed(n))
        given = {k: v for k, v in signals_of(n).items() if k in PRUNERS[method].accepts}
        got = select_tokens(features, AtMost(30), method, rng=0, **given)
        assert torch.equal(got, select_tokens(features, count, method, rng=0, **given))
        assert len(got) == count


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen()


SIZES = [36, 32, 24]  # of the three images that `qwen_inputs` shows


@pytest.mark.parametrize(
    "method", sorted(name for name, row in PRUNERS.items() if "clip_text" not in row.needs)
)
@pytest.mark.parametrize(
    ("keep", "counts"), [(AtMost(34), [34, 32, 24]), ([AtMost(34), 20, AtMost(3)], [34, 20, 3])]
)
def test_at_most_on_images_of_many_sizes(qwen, llava, method, keep, counts):
    """Every pruner, live: with a vision tower that the pruner can read, or on a model of dynamic resolution."""
    row = PRUNERS[method]
    if {"vision_cls", "cls_attention", "received", "vision_clip"} & set(row.needs):
        inputs = tiny_inputs(llava, (1, 1), (4, 9))
        with prune(llava, AtMost(50), method, rng=0) as report, torch.no_grad():
            llava(**inputs)
        assert [len(k) for k in report.kept] == [36, 36]
        return
    average = method in ("pyramiddrop", "sparsevlm")
    keep, counts = (AtMost(34), counts) if average else (keep, counts)
    inputs = qwen_inputs(qwen, (2, 1))
    with prune(qwen, keep, method, rng=0) as report, torch.no_grad():
        qwen(**inputs)
    assert report.sizes == SIZES
    if average:
        assert [sum(layers) <= 4 * min(34, n) for layers, n in zip(report.layers, SIZES, strict=True)] == [
            True
        ] * 3
        assert report.layers[1:] == [(n,) * 4 for n in SIZES[1:]], "small images stay whole in every layer"
        return
    assert [len(k) for k in report.kept] == counts
    with prune(qwen, counts, method, rng=0) as plain, torch.no_grad():
        qwen(**inputs)
    assert [k.tolist() for k in report.kept] == [k.tolist() for k in plain.kept]
    assert report.cost == plain.cost


def test_at_most_of_tiles_and_of_images_together(models):
    """Tiles have 36 tokens or fewer, the three images 3 sizes; one that is shared is cut at what there is."""
    model = models["llava_next"]
    inputs = tiny_inputs(model, (2, 1), (3, 8))
    for keep, plain in ((PerTile(AtMost(5)), PerTile(5)), (Shared(AtMost(17)), Shared(17))):
        got, want = prune_inputs(model, inputs, keep)[1], prune_inputs(model, inputs, plain)[1]
        assert [k.tolist() for k in got.kept] == [k.tolist() for k in want.kept]
    whole = prune_inputs(model, inputs, Shared(AtMost(10**6)))[1]
    assert [len(k) for k in whole.kept] == whole.sizes
    tiles = prune_inputs(model, inputs, PerTile(AtMost(10**6)), separators="prune")[1]
    some = prune_inputs(model, inputs, PerTile(1.0))[1]
    assert [k.tolist() for k in tiles.kept] == [k.tolist() for k in some.kept]
    with pytest.raises(BridgeError, match="2 images share"):
        prune_inputs(model, inputs, Shared(AtMost(1)))


def test_at_most_with_a_tolerance_stops_at_whichever_comes_first(batch):
    for k in (2, 9, 50):
        got = select_tokens(batch, AtMost(k), tol=0.4)
        assert torch.equal(got, select_tokens(batch, min(k, 20), tol=0.4))


def test_too_many_tokens_recommend_at_most(qwen, llava):
    inputs = qwen_inputs(qwen, (2, 1))
    with prune(qwen, 34), pytest.raises(BridgeError, match=r"image 1 has 32 tokens; use AtMost\(34\)"):
        qwen(**inputs)
    with (
        prune(qwen, 34, "fastv"),
        pytest.raises(BridgeError, match=r"image 1: .* has 32 tokens; use AtMost\(34\)"),
    ):
        qwen(**inputs)
    with (
        prune(llava, PerTile(37)),
        pytest.raises(BridgeError, match=r"a tile of image 0 has 36 tokens; use AtMost"),
    ):
        llava(**tiny_inputs(llava, (1,), (4,)))


def test_a_pruner_that_needs_more_tokens_still_says_so():
    model = deep_llava()
    inputs = tiny_inputs(model, (1,), (4,))
    with prune(model, AtMost(9), "pyramiddrop"), pytest.raises(BridgeError, match=r"9\.75 is the least"):
        model(**inputs)
    with (
        pytest.raises(BridgeError, match="official lists"),
        prune(model, AtMost(192), "sparsevlm", budget="preset"),
    ):
        pytest.fail("the block must not start")


@pytest.mark.parametrize(
    ("text", "keep"), [("64", 64), ("0.25", 0.25), ("1.0", 1.0), ("at-most-64", AtMost(64))]
)
def test_budgets_are_read_from_text(text, keep):
    got = read_keep(text)
    assert got == keep
    assert type(got) is type(keep)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("many", "expected a token count"),
        ("at-most-", "expected a token count"),
        ("at-most-0.5", "expected a token count"),
        ("at-most-0", "at least one token"),
        ("0", "keep = 0"),
        ("-3", "keep = -3"),
        ("1.5", "expected a share in"),
        ("nan", "expected a share in"),
    ],
)
def test_budgets_that_cannot_be_read(text, message):
    with pytest.raises(BridgeError, match=message):
        read_keep(text)
