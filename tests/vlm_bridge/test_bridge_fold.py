"""Folding. A key with bias log c draws the attention of c copies of itself: that is the oracle."""

import pytest
import torch
from tiny_vlm import FAMILIES, IMAGE, generated, positions_of, tiny_inputs

from vlm_bridge import BridgeError, prune, prune_inputs
from vlm_bridge.selection.fold import add_bias, by_cluster, by_interpolation, causal_mask


def naive_clusters(features, kept):
    """Owner of every row: itself if kept, else the kept row with the largest cosine."""
    unit = features / features.norm(dim=-1, keepdim=True)
    owner = (unit @ unit[kept].T).argmax(-1)
    for c, j in enumerate(kept.tolist()):
        owner[j] = c
    return owner


def test_by_cluster():
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    x[20] = x[4]
    kept = torch.tensor([4, 9, 20, 25])
    folded = by_cluster(x, kept)
    means, sizes = folded.rows, folded.sizes
    owner = naive_clusters(x, kept)
    assert sizes.sum() == 30
    assert owner[20] == 2
    for c in range(4):
        torch.testing.assert_close(means[c], x[owner == c].mean(0))
        assert sizes[c] == (owner == c).sum()
    torch.testing.assert_close(folded.coefficients @ x, means)
    assert by_cluster(x.bfloat16(), kept).rows.dtype == torch.bfloat16


def test_by_interpolation():
    """Shares are the positive parts of the interpolation coefficients, found here by least squares."""
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).double()
    x[20], x[7] = 0, -x[9]
    kept = torch.tensor([4, 9, 25])
    folded = by_interpolation(x, kept)
    T = torch.linalg.lstsq(x[kept].T, x.T).solution.clamp(min=0)
    T[:, kept] = torch.eye(3).double()
    nearest = naive_clusters(x, kept)
    for j in range(30):
        if T[:, j].sum() < 1e-12:
            T[nearest[j], j] = 1
    share = T / T.sum(0)
    torch.testing.assert_close(folded.sizes, share.sum(1))
    torch.testing.assert_close(folded.rows, (share @ x) / share.sum(1)[:, None])
    assert float(folded.sizes.sum()) == pytest.approx(30)


@torch.no_grad()
def duplicated_reference(model, inputs, kept, sizes, steps):
    """No bias, no cache, full length: every visual token is its cluster's mean, where the kept token is.

    The copies of a token see each other, as the one token they stand for sees itself.
    """
    embeds = model.get_input_embeddings()(inputs["input_ids"]).clone()
    extra = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    rows = model.model.get_image_features(**extra, return_dict=True).pooler_output
    positions = positions_of(inputs["attention_mask"])
    batch, length = inputs["input_ids"].shape
    group = (
        torch.arange(length).expand(batch, -1).clone()
    )  # copies of one token share a group: the kept column
    places = (inputs["input_ids"] == IMAGE).nonzero()
    for span, features, rows_kept in zip(places.split(sizes), rows, kept, strict=True):
        row, columns = int(span[0, 0]), span[:, 1]
        owner = naive_clusters(features, rows_kept)
        embeds[row, columns] = torch.stack([features[owner == c].mean(0) for c in owner])
        group[row, columns] = columns[rows_kept[owner]]
    positions = positions.gather(1, group)
    real = inputs["attention_mask"].bool()
    tokens, logits = [], []
    for _ in range(steps):
        seen = (group[:, None, :] <= group[:, :, None]) & real[:, None, :]
        seen |= torch.eye(seen.shape[1], dtype=torch.bool)  # padding sees itself: no empty softmax
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        out = model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits[:, -1]
        best = out.argmax(-1, keepdim=True)
        tokens.append(best)
        logits.append(out)
        embeds = torch.cat([embeds, model.get_input_embeddings()(best)], 1)
        positions = torch.cat([positions, positions[:, -1:] + 1], 1)
        group = torch.cat([group, group[:, -1:] * 0 + group.shape[1]], 1)
        real = torch.cat([real, torch.ones_like(best, dtype=torch.bool)], 1)
    return torch.cat(tokens, 1), torch.stack(logits, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["spare", "divprune", "random"])
def test_folded_equals_duplicated(models, family, method):
    model = models[family]
    inputs = tiny_inputs(model, (1, 2), (4, 9))
    with prune(model, 7, method, fold=True, rng=0) as report:
        got = generated(model, inputs)
    tokens, logits = duplicated_reference(model, inputs, report.kept, report.sizes, 12)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.logits, logits, atol=1e-5, rtol=0)


def test_folding_matters(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    logits = {}
    for fold in (False, True):
        with prune(llava, 5, fold=fold):
            logits[fold] = generated(llava, inputs, steps=1).logits
    assert (logits[True] - logits[False]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}]
)
@pytest.mark.parametrize("images", [(1,), (1, 2)])
def test_fold_with_other_caches(llava, options, images):
    inputs = tiny_inputs(llava, images, (4, 9)[: len(images)])
    with prune(llava, 6, fold=True) as report:
        got = generated(llava, inputs, steps=5, **options)
    tokens, logits = duplicated_reference(llava, inputs, report.kept, report.sizes, 5)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.logits, logits, atol=1e-5, rtol=0)


def test_fold_in_eager_attention(llava):
    inputs = tiny_inputs(llava, (1, 2), (4, 9))
    with prune(llava, 6, fold=True):
        sdpa = generated(llava, inputs, steps=5)
    llava.set_attn_implementation("eager")
    try:
        with prune(llava, 6, fold=True):
            eager = generated(llava, inputs, steps=5)
    finally:
        llava.set_attn_implementation("sdpa")
    torch.testing.assert_close(eager.logits, sdpa.logits, atol=1e-5, rtol=0)


def test_fold_with_beams_and_by_hand(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with torch.no_grad(), prune(llava, 6, fold=True) as report:
        both = llava.generate(**inputs, num_beams=3, max_new_tokens=5, do_sample=False)
        for row in range(2):
            alone = {k: v[row : row + 1] for k, v in inputs.items()}
            real = alone["attention_mask"][0].bool()
            alone |= {k: alone[k][:, real] for k in ("input_ids", "attention_mask")}
            one = llava.generate(**alone, num_beams=3, max_new_tokens=5, do_sample=False)
            assert torch.equal(one[0, -5:], both[row, -5:])
        out = llava(**inputs, use_cache=True)
        tokens = []
        for _ in range(4):
            tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
            out = llava(input_ids=tokens[-1], past_key_values=out.past_key_values)
        plain = llava(**tiny_inputs(llava, (0, 0), (4, 9)))
    want, _ = duplicated_reference(llava, inputs, report.kept[:2], report.sizes[:2], 4)
    assert torch.equal(torch.cat(tokens, 1), want)
    with torch.no_grad():
        untouched = llava(**tiny_inputs(llava, (0, 0), (4, 9)))
    assert torch.equal(plain.logits, untouched.logits), "no bias is left behind for calls without images"


def test_keeping_all_folds_nothing(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    full = generated(llava, inputs)
    with prune(llava, 1.0, fold=True):
        got = generated(llava, inputs)
    assert torch.equal(got.tokens, full.tokens)
    torch.testing.assert_close(got.logits, full.logits, atol=1e-5, rtol=0)


def test_add_bias_reads_every_kind_of_mask():
    bias = torch.tensor([0.0, 1.0, 2.0])[None, None, None]
    lowest = torch.finfo(torch.float32).min
    want = torch.tensor([[0.0, 1.0, lowest], [0.0, 1.0, 2.0]])[None, None]
    boolean = torch.tensor([[True, True, False], [True, True, True]])[None, None]
    assert torch.equal(causal_mask(2, 3, 1, bias.device), boolean)
    assert torch.equal(add_bias(boolean, bias), want)
    additive = torch.where(boolean, 0.0, lowest)
    got = add_bias(additive, bias)
    assert torch.equal(got[boolean.expand_as(got)], want[boolean])
    assert torch.isfinite(got).all()


def test_fold_refusals(llava, monkeypatch):
    monkeypatch.setattr(llava.config.get_text_config(), "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(BridgeError, match=r"flash_attention_2.*sdpa, eager"), prune(llava, 4, fold=True):
        pass
    with pytest.raises(BridgeError, match="cannot fold"):
        prune_inputs(llava, tiny_inputs(llava, (1,), (4,)), 4, fold=True)
