"""Signals of a live vision tower against what the tower itself returns."""

import pytest
import torch
from tiny_vlm import N, tiny_inputs

from vlm_bridge import PRUNERS, BridgeError, Relevance, prune, select_tokens
from vlm_bridge.model.encoding import encode
from vlm_bridge.model.families import IMAGE, find_family
from vlm_bridge.model.prompt import Prompt
from vlm_bridge.model.tower import CAPTURED, attention_of, feature_layer, watched
from vlm_bridge.pruners.plan import Plan, Pruner
from vlm_bridge.selection.signals import Live, Sources


def seen(features, k, weights, *, vision_clip, vision_cls, vision_keys, cls_attention, projector):
    raise AssertionError


def mean_first(
    features, k, weights, *, vision_clip, vision_cls=None, projector=None, share=0.5, cls_in=False
):
    """Keeps the first k tokens; the last of them becomes a mean of all, or of all and the CLS row."""
    n = len(features)
    merge = torch.eye(k, n + cls_in)
    merge[k - 1] = 1 / (n + cls_in)
    return Plan(indices=tuple(range(k)), merge=merge)


SEEN = Pruner("seen", "test", "test", seen)
MEAN = Pruner("mean", "test", "test", mean_first, weighted=False, merges="mean", before_projector=True)


def live(model, inputs):
    from vlm_bridge.selection.request import Request

    request = Request(SEEN, None, {})
    family = find_family(model)
    with torch.no_grad(), watched(model, family, inputs, request.wants) as tower:
        encoded = encode(model, inputs)
    prompt = Prompt.of(model, inputs)
    visuals = prompt.visuals(model, family, {IMAGE: encoded})
    return Live(model, family, inputs, prompt, visuals, {IMAGE: tower}, Sources()), request, encoded


@pytest.mark.parametrize("layer", [-2, 1, -1])
def test_signals_are_those_of_the_tower(llava, layer):
    inputs = {**tiny_inputs(llava, (1, 1), (4, 9)), "vision_feature_layer": layer}
    call, request, encoded = live(llava, inputs)
    tower = llava.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    finally:
        tower.set_attn_implementation("sdpa")
    at = layer if layer < 0 else layer - 1
    module = tower.encoder.layers[at].self_attn
    before = out.hidden_states[layer - 1]
    keys = module.k_proj(tower.encoder.layers[at].layer_norm1(before)).detach()
    for i, found in enumerate(call.gather(request)):
        torch.testing.assert_close(found["vision_clip"], out.hidden_states[layer][i, 1:])
        torch.testing.assert_close(found["vision_cls"], out.hidden_states[layer][i, 0])
        torch.testing.assert_close(found["cls_attention"], out.attentions[at][i, :, 0, 1:])
        want = keys[i, 1:].unflatten(-1, (4, 8)).transpose(0, 1)
        torch.testing.assert_close(found["vision_keys"], want)
        torch.testing.assert_close(found["projector"](found["vision_clip"]), encoded.entries[i].detach())
        assert found["cls_attention"].shape == (4, N)


def test_tiles_are_packed_like_the_image(models):
    """A row's signals belong to its patch; separators get zeros; the CLS row is the base view's."""
    model = models["llava_next"]
    inputs = tiny_inputs(model, (2, 1), (4, 9))
    call, request, encoded = live(model, inputs)
    for image, found, tile in zip(encoded.entries, call.gather(request), call.tiles(), strict=True):
        real = tile >= 0
        assert (found["vision_clip"][~real] == 0).all()
        torch.testing.assert_close(found["projector"](found["vision_clip"][real]), image[real].detach())
        assert found["vision_keys"].shape == (4, len(image), 8)
        assert found["cls_attention"].shape == (4, len(image))
        assert (found["cls_attention"][:, real] > 0).all()
        assert (found["cls_attention"][:, ~real] == 0).all()
        assert tile[:N].unique().numel() == 1


def test_the_tower_is_watched_only_inside(llava, monkeypatch):
    """Hooks are gone after an error in the encoder as well."""
    inputs = tiny_inputs(llava, (1,), (4,))
    before = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in llava.modules())
    attention = attention_of(feature_layer(llava.model, {}))
    config = attention.config
    monkeypatch.setattr(llava.model.multi_modal_projector.act, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError), watched(llava, find_family(llava), inputs, CAPTURED) as tower:
        encode(llava, inputs)
    assert tower.calls
    assert attention.config is config
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in llava.modules()) == before


@pytest.mark.parametrize("cls_in", [False, True])
def test_merging_before_the_projector(llava, monkeypatch, cls_in):
    """The merged row that the LLM is given is the projection of the mean of vision rows."""
    monkeypatch.setitem(PRUNERS, "mean", MEAN)
    inputs = tiny_inputs(llava, (1,), (4,))
    given = {}
    handle = llava.model.language_model.register_forward_pre_hook(
        lambda m, a, k: given.update(k), with_kwargs=True
    )
    try:
        with prune(llava, 3, "mean", cls_in=cls_in) as report, torch.no_grad():
            llava(**inputs)
    finally:
        handle.remove()
    with torch.no_grad():
        states = llava.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        rows = llava.model.multi_modal_projector(states[0, 1:])
        mean = states[0].mean(0) if cls_in else states[0, 1:].mean(0)
        merged = llava.model.multi_modal_projector(mean)
    want = torch.cat([rows[:2], merged[None]])
    assert (given["inputs_embeds"][0, 1:4] - want).abs().max() < 1e-5
    assert report.kept[0].tolist() == [0, 1, 2]
    assert report.merges[0].shape == (3, N + cls_in)
    with pytest.raises(BridgeError, match="merges tokens itself"), prune(llava, 3, "mean", fold=True):
        pass


def test_relevance_by_attention():
    g = torch.Generator().manual_seed(0)
    features, attention = torch.randn(9, 4, generator=g), torch.rand(2, 5, 9, generator=g)
    for reduction in ("mean", "max"):
        table = attention.mean(0)
        score = table.mean(0) if reduction == "mean" else table.amax(0)
        weights = (score - score.min() + 1e-6) / (score.max() - score.min())
        relevance = Relevance("attention", reduction, "normal")
        got = select_tokens(features, 4, "spare", relevance, attention=attention)
        assert torch.equal(got, select_tokens(features, 4, "spare", weights))
    with pytest.raises(BridgeError, match="attention of shape"):
        select_tokens(features, 4, "spare", relevance, attention=attention[..., 1:])
    with pytest.raises(BridgeError, match="reduced by 'mean' or 'max'"):
        Relevance("attention", "pooled")
