"""Signals of every family's vision tower: which patches a token is made of, and what the tower attends to."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, WITH_GRID, family_call
from tower_oracle import PIXTRAL, attended, encode, made_of, pixtral_call, tower_model, vision_of

from vlm_bridge import PRUNERS, BridgeError, prune, prune_inputs
from vlm_bridge.model import encoding as bridge_inputs
from vlm_bridge.model.families import IMAGE, VIDEO, find_family
from vlm_bridge.model.patches import CONNECTORS, patches_per_token, projection
from vlm_bridge.model.prompt import Prompt
from vlm_bridge.model.tower import CAPTURED, Attended, feature_layer, watched
from vlm_bridge.pruners.relevance import unit_rows
from vlm_bridge.pruners.zoo_prune import sensitivity
from vlm_bridge.selection.signals import Live, Sources

TOWERS = (*FAMILIES, *PIXTRAL)
OF_THE_TOWER = ("vision_clip", "vision_mean", "vision_keys", "cls_attention", "received", "received_early")


@cache
def model_of(name):
    return tower_model(name)


def call_of(name, images=(1, 1), **options):
    make = pixtral_call if name in PIXTRAL else family_call
    return make(model_of(name), images, **options)


def looked_at(name, inputs, kind=IMAGE):
    """Signals of the bridge for all images, or videos, of a call: name → one tensor an image, tokens first."""
    return _looked_at(model_of(name), inputs, kind)


def _looked_at(model, inputs, kind=IMAGE):
    family = find_family(model)
    with torch.no_grad(), watched(model, family, inputs, CAPTURED, kind) as tower:
        encoded = bridge_inputs.encode(model, inputs, kind)
    prompt = Prompt.of(model, inputs)
    visuals = prompt.visuals(model, family, {kind: encoded})
    live = Live(model, family, inputs, prompt, visuals, {kind: tower}, Sources())
    found = {signal: live._signal(signal) for signal in OF_THE_TOWER}
    found["vision_keys"] = [keys.transpose(0, 1) for keys in found["vision_keys"]]
    for signal in ("cls_attention", "received", "received_early"):
        found[signal] = [table.mT for table in found[signal]]
    return found, visuals


@cache
def oracle_patches(name, kind="image"):
    inputs = call_of(name).inputs if kind == "image" else call_of(name, (0, 0), videos=(1, 1)).inputs
    return made_of(model_of(name), inputs, kind)


def expected(name, monkeypatch, kind="image", received=None):
    """Keys and attention of each token by the tower's eager attention and by what tokens are made of."""
    inputs = call_of(name).inputs if kind == "image" else call_of(name, (0, 0), videos=(1, 1)).inputs
    keys, attention = attended(model_of(name), inputs, monkeypatch, kind, received=received)
    own = oracle_patches(name, kind)
    return [
        torch.stack([rows[p].mean(0) if p else torch.zeros_like(rows[0]) for p in own])
        for rows in (keys, attention)
    ]


@pytest.mark.parametrize("name", TOWERS)
def test_keys_and_attention_are_those_of_the_patches_a_token_is_made_of(name, monkeypatch):
    """Of images of several sizes in a batch, against the attention weights of the tower itself."""
    own = oracle_patches(name)
    size = patches_per_token(model_of(name), find_family(model_of(name)))
    assert {len(places) for places in own} <= {size, 0}, "the oracle found all patches of a token"
    found, _ = looked_at(name, call_of(name).inputs)
    keys, attention = expected(name, monkeypatch)
    assert (torch.cat(found["vision_keys"]) - keys).abs().max() < 1e-5
    assert (torch.cat(found["cls_attention"]) - attention).abs().max() < 1e-5
    for signal, layer in (("received", "late"), ("received_early", "early")):
        _, attention = expected(name, monkeypatch, "image", layer)
        assert (torch.cat(found[signal]) - attention).abs().max() < 1e-5
    assert attention.std(0).max() > 1e-3, "attention is not flat, so that another order would be seen"


@pytest.mark.parametrize("name", WITH_GRID)
def test_frames_of_videos(name, monkeypatch):
    """Attention within each frame, tokens in the order of the prompt."""
    inputs = call_of(name, (0, 0), videos=(1, 1)).inputs
    found, visuals = looked_at(name, inputs, VIDEO)
    keys, attention = expected(name, monkeypatch, "video")
    assert [len(visual.rows) for visual in visuals] == [len(rows) for rows in found["vision_keys"]]
    assert (torch.cat(found["vision_keys"]) - keys).abs().max() < 1e-5
    assert (torch.cat(found["cls_attention"]) - attention).abs().max() < 1e-5
    for signal, layer in (("received", "late"), ("received_early", "early")):
        _, attention = expected(name, monkeypatch, "video", layer)
        assert (torch.cat(found[signal]) - attention).abs().max() < 1e-5


@pytest.mark.parametrize("name", TOWERS)
def test_rows_before_the_projector(name):
    """What the projector makes of a token's rows, one token at a time, is what the LLM is given."""
    model = model_of(name)
    found, visuals = looked_at(name, call_of(name).inputs)
    project = projection(model, find_family(model))
    for side_by_side, mean, visual in zip(found["vision_clip"], found["vision_mean"], visuals, strict=True):
        real = (side_by_side != 0).any(-1)  # separators are no patches
        one_by_one = torch.cat([project(row[None]) for row in side_by_side[real][:7]])
        assert (one_by_one - visual.rows[real][:7]).abs().max() < 1e-5
        assert (project(side_by_side[real]) - visual.rows[real]).abs().max() < 1e-5
        parts = side_by_side.unflatten(-1, (-1, mean.shape[-1]))
        assert torch.equal(parts.mean(1), mean)


def test_padding_is_no_query(monkeypatch):
    """Patches of a tile that are padding attend to nobody; they receive nothing."""
    model, call = model_of("smolvlm"), call_of("smolvlm", (1,), text=(4,))
    mask = call.inputs["pixel_attention_mask"].clone()
    mask[..., 32:] = False
    inputs = {**call.inputs, "pixel_attention_mask": mask}
    padding = [6 * y + x for y in range(6) for x in (4, 5)]
    _, attention = attended(model, inputs, monkeypatch, padding=padding)
    found, _ = looked_at("smolvlm", inputs)
    own = oracle_patches("smolvlm")[:9]
    want = torch.stack([attention[places].mean(0) for places in own])
    assert (found["cls_attention"][0] - want).abs().max() < 1e-5
    assert (found["cls_attention"][0][[2, 5, 8]] == 0).all()
    assert (found["cls_attention"][0][[0, 1, 3, 4]] > 0).all()


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3", "mistral3"])
def test_zoo_prune_sees_the_projector_of_a_half_precision_model_in_float32(name):
    """In bfloat16 its step of 0.01 would mostly vanish: the choice would be another, without a word."""
    model, inputs = copy.deepcopy(model_of(name)).bfloat16(), call_of(name, (1,), text=(4,)).inputs
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}
    wide = copy.deepcopy(model).float()  # the same weights
    seen, _ = _looked_at(model, inputs)
    rows, project = seen["vision_clip"][0], projection(model, find_family(model))
    directions = unit_rows(torch.randn(8, rows.shape[-1], generator=torch.Generator().manual_seed(0)))
    got = sensitivity(rows.float(), project, directions, 0.01)
    want = sensitivity(rows.float(), projection(wide, find_family(wide)), directions, 0.01)
    assert ((got - want).abs() / want).max() < 1e-3
    assert next(project.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llava", "smolvlm", "qwen2_5_vl", "internvl", "mistral3"])
def test_any_kernel_will_do_and_the_tower_is_given_back(name):
    """Signals do not depend on the kernel; what is encoded is not changed by watching, nor the tower."""
    model, inputs = model_of(name), call_of(name).inputs
    tower, _, attention = vision_of(model)
    before, config, plain = looked_at(name, inputs)[0], attention.config, encode(model, inputs)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    tower.set_attn_implementation("eager")
    try:
        found, _ = looked_at(name, inputs)
    finally:
        tower.set_attn_implementation("sdpa")
    for signal in OF_THE_TOWER:
        assert (torch.cat(found[signal]) - torch.cat(before[signal])).abs().max() < 1e-5
    assert torch.equal(
        torch.cat([visual.rows for visual in looked_at(name, inputs)[1]]).flatten(), plain.flatten()
    )
    assert attention.config is config
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_kernels_say_alike_who_sees_whom():
    """Masks that are added, boolean, of padding only, and lengths of sequences behind one another."""
    g = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 7, 4, generator=g) for _ in range(2))
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(4, 4)).bool()[None, None]
    added = torch.where(blocks, 0.0, torch.finfo(torch.float32).min)
    halves = list(zip(query.split([3, 4], 2), key.split([3, 4], 2), strict=True))
    ways = [
        Attended.of(query, key, blocks, {}),
        Attended.of(query, key, added, {"scaling": 0.5}),
        Attended.of(query, key, None, {"cu_seq_lens_k": torch.tensor([0, 3, 7])}),
    ]
    received = [torch.cat([call.received() for call in calls], -1) for calls in ways]
    want = torch.cat([(q @ k.mT / 2).softmax(-1).mean(-2) for q, k in halves], -1)
    for one in received:
        assert (one - want).abs().max() < 1e-6
    padded = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    (call,) = Attended.of(query, key, padded, {})
    want = (query[:, :, :4] @ key[:, :, :4].mT / 2).softmax(-1).mean(-2)
    assert (call.received()[..., :4] - want).abs().max() < 1e-6
    assert (call.received()[..., 4:] == 0).all()
    with pytest.raises(BridgeError, match="a mask of type BlockMask, expected a tensor: load the model with"):
        Attended.of(query, key, type("BlockMask", (), {})(), {})


def test_queries_may_share_a_key():
    """Grouped queries, as in the tower of EXAONE 4.5."""
    query, key = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    (found,) = Attended.of(query, key, None, {})
    scores = torch.einsum("bghqw,bgkw->bghqk", query.unflatten(1, (2, 2)), key) / 8**0.5
    assert torch.allclose(found.received(), scores.softmax(-1).mean(-2).flatten(1, 2), atol=1e-6)


def test_received_attention_is_formed_block_by_block(monkeypatch):
    g = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 2, 11, 4, generator=g) for _ in range(2))
    mask = torch.rand(2, 1, 11, 11, generator=g) < 0.7
    whole = [Attended(query, key, m, 0.5).received() for m in (None, mask)]
    monkeypatch.setattr("vlm_bridge.model.tower._ENTRIES", 3 * key[..., 0].numel())
    for before, m in zip(whole, (None, mask), strict=True):
        assert (Attended(query, key, m, 0.5).received() - before).abs().max() < 1e-6


# pruners ------------------------------------------------------------------------------------------

READERS = [row for row in PRUNERS.values() if row.elsewhere]
"""Pruners that read the vision tower."""
KEEP = 2


def test_every_pruner_that_reads_a_tower_says_whose_rule_it_is_elsewhere():
    read = {*CAPTURED, "clip_patches"}
    own = [row.name for row in PRUNERS.values() if read & {*row.requires, *row.reads} and row.inside is None]
    assert own == [row.name for row in READERS]


@pytest.mark.parametrize("name", [name for name in TOWERS if name not in ("llava_next", "llava_onevision")])
@pytest.mark.parametrize("row", READERS, ids=lambda row: row.name)
def test_pruners_choose_by_the_tower_or_say_why_not(name, row, monkeypatch, clip, tokenizer):
    """In a batch, from signals found without the bridge: the same choice; or a refusal with its reason."""
    model, inputs = model_of(name), call_of(name).inputs
    family, text = find_family(model), torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    given = {"llm_text": text} if "llm_text" in row.needs else {}
    if "clip_patches" in row.needs:
        context = prune(model, KEEP, row.name, clip=clip, clip_text=torch.ones(1, 24))
        if name == "llava":
            with context, torch.no_grad():
                model(**inputs)
            return
        kind = model.config.vision_config.model_type
        with context, pytest.raises(BridgeError) as caught:
            model(**inputs)
        assert f"is of type {kind!r}, whose rows have no place in CLIP's joint space" in str(caught.value)
        assert "works without: " in str(caught.value)
        return
    with torch.no_grad(), prune(model, KEEP, row.name, rng=0, **given) as report:
        model(**inputs)
    keys, attention = expected(name, monkeypatch)
    _, late = expected(name, monkeypatch, received="late")
    _, early = expected(name, monkeypatch, received="early")
    seen, visuals = looked_at(name, inputs)
    rngs = np.random.default_rng(0).spawn(len(visuals))
    sizes = [len(visual.rows) for visual in visuals]
    project = projection(model, family)
    parts = zip(*(table.split(sizes) for table in (keys, attention, late, early)), strict=True)
    for i, (own_keys, own_attention, own_late, own_early) in enumerate(parts):
        signals = {
            "vision_keys": own_keys.transpose(0, 1),
            "cls_attention": own_attention.mT,
            "received": own_late.mT,
            "received_early": own_early.mT,
            "vision_clip": seen["vision_clip"][i],
            "vision_mean": seen["vision_mean"][i],
            "projector": project,
            "llm_text": text,
        }
        if name == "llava" and row.name == "visionzip":
            signals["vision_cls"] = torch.zeros(32)  # only that it is there counts for the choice
        if patches_per_token(model, family) > 1 and row.name == "vispruner":
            del signals["vision_clip"]
        drawn = {"rng": rngs[i]} if row.draws else {}
        read = {key: value for key, value in signals.items() if key in row.reads}
        plan = row.plan(visuals[i].rows, KEEP, None, **read, **drawn)
        assert report.kept[i].tolist() == sorted(plan.indices)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "gemma3", "llava_interleave"])
@pytest.mark.parametrize("method", ["visionzip", "prumerge"])
def test_tokens_are_merged_behind_a_projector_that_joins_patches(name, method):
    model, inputs = model_of(name), call_of(name, (1,), text=(4,)).inputs
    new, report = prune_inputs(model, inputs, KEEP, method)
    got = torch.cat(list(new["mm_encoder_outputs"]["image"].pooler_output))
    found, visuals = looked_at(name, inputs)
    joins = patches_per_token(model, find_family(model)) > 1
    rows = visuals[0].rows if joins else found["vision_clip"][0]
    merged = report.merges[0] @ rows
    want = merged if joins else projection(model, find_family(model))(merged)
    assert (got - want).abs().max() < 1e-5


def test_mmtok_compares_the_means_of_joined_patches():
    """As the authors do for Qwen2.5-VL; rows side by side would give other cosines."""
    found, visuals = looked_at("qwen2_5_vl", call_of("qwen2_5_vl").inputs)
    side_by_side, mean = found["vision_clip"][0], found["vision_mean"][0]
    text = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))

    def chosen(**rows):
        return PRUNERS["mmtok"].plan(visuals[0].rows, 9, None, llm_text=text, alpha=9.0, **rows).indices

    got = chosen(vision_clip=side_by_side, vision_mean=mean)
    assert got == chosen(vision_clip=mean)
    assert got != chosen(vision_clip=side_by_side)


# never silently wrong -----------------------------------------------------------------------------


def test_another_order_is_refused(monkeypatch):
    """Where tokens are not in the order that the family's row says, nothing is chosen."""
    model, inputs = model_of("qwen2_5_vl"), call_of("qwen2_5_vl").inputs
    monkeypatch.setitem(CONNECTORS, "qwen2_5_vl", CONNECTORS["qwen2_vl"])
    with prune(model, KEEP, "vispruner"), pytest.raises(BridgeError, match="are not what the projector made"):
        model(**inputs)


def test_a_cls_row_among_the_tokens_is_refused():
    """The tower attends from CLS to 36 patches a tile, the projector is given 37 rows."""
    model = model_of("llava")
    inputs = {**call_of("llava").inputs, "vision_feature_select_strategy": "full"}
    with torch.no_grad(), watched(model, find_family(model), inputs, CAPTURED) as tower:
        bridge_inputs.encode(model, inputs)
    with pytest.raises(BridgeError, match="attends to 72 patches, its projector is given 74"):
        tower.signal("cls_attention")


def test_what_the_first_layer_is_given_is_no_layer():
    base = model_of("llava").model
    assert feature_layer(base, {"vision_feature_layer": 0}) is None
    assert feature_layer(base, {"vision_feature_layer": 1}) is base.vision_tower.encoder.layers[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen2_vl", "the vision tower has no CLS token"),
        ("internvl", "joins several patches to a token, so that it cannot map a CLS row"),
    ],
)
def test_cls_rows_that_nobody_can_use_are_refused(name, said):
    model, inputs = model_of(name), call_of(name).inputs
    with torch.no_grad(), watched(model, find_family(model), inputs, CAPTURED) as tower:
        bridge_inputs.encode(model, inputs)
    with pytest.raises(BridgeError, match=said):
        tower.cls_rows()


def test_unknown_families_are_refused_by_name(monkeypatch):
    model, inputs = model_of("internvl"), call_of("internvl").inputs
    monkeypatch.delitem(CONNECTORS, "internvl")
    with prune(model, KEEP, "vispruner"), pytest.raises(BridgeError) as caught:
        model(**inputs)
    text = str(caught.value)
    assert "pruner 'vispruner' needs the vision tower's attention to its patches" in text
    assert "which patches a token of 'internvl' is made of is not known" in text
    works = text.split("works without: ")[1].split(", or any")[0].split(", ")
    assert {"spare", "resprune", "divprune", "random"} <= set(works)
    for method in works:
        with prune(model, KEEP, method, rng=0), torch.no_grad():
            model(**inputs)


def test_videos_whose_frames_are_pooled_are_refused():
    call = call_of("llava_onevision", (0,), text=(4,), videos=(1,))
    with prune(model_of("llava_onevision"), KEEP, "vispruner"), pytest.raises(BridgeError) as caught:
        model_of("llava_onevision")(**call.inputs)
    assert "how rows of the vision tower make up a video is not known" in str(caught.value)


@pytest.mark.parametrize("name", WITH_GRID)
def test_images_and_videos_in_one_prompt(name):
    """Each has the signals of its own call of the tower."""
    model = model_of(name)
    both = family_call(model, (1, 0), videos=(1, 1)).inputs
    with torch.no_grad(), prune(model, KEEP, "vispruner", important_ratio=1.0) as report:
        model(**both)
    videos, _ = looked_at(name, both, VIDEO)
    images, _ = looked_at(name, {k: v for k, v in both.items() if "video" not in k}, IMAGE)
    tables = [images["cls_attention"][0], *videos["cls_attention"]]
    for kept, table in zip(report.kept, tables, strict=True):
        assert kept.tolist() == sorted(table.mean(1).topk(KEEP).indices.tolist())


def test_two_threads_share_a_model():
    """What one call sees is not mixed with the images of another."""
    model = model_of("llava")
    calls = [call_of("llava", (1,), text=(4,), seed=seed).inputs for seed in range(4)]

    def chosen(inputs):
        return prune_inputs(model, inputs, KEEP, "vispruner")[1].kept[0].tolist()

    alone = [chosen(inputs) for inputs in calls]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(chosen, calls * 4)) == alone * 4
