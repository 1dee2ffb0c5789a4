"""Pruning inside the LLM: every system is the full-length model with the dropped tokens masked out per layer."""

import copy

import inside_oracle as oracle
import pytest
import torch
from tiny_qwen import LAYERS, deep_llava, qwen_inputs, tiny_qwen
from tiny_vlm import FAMILIES, IMAGE, generated, positions_of, tiny_inputs, tiny_tensor_model
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from vlm_bridge import PRUNERS, BridgeError, Shared, prune, prune_inputs
from vlm_bridge.live.inside.segments import Segment
from vlm_bridge.pruners import dart, fastv, pyramiddrop, sparsevlm
from vlm_bridge.reporting.cost import Decoder

TOLERANCE = 1e-5
KINDS = ("llava", "qwen2_5_vl")
METHODS = ("fastv", "dart", "pyramiddrop", "sparsevlm")


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """The systems' rows are in the table."""
    for module in (dart, fastv, pyramiddrop, sparsevlm):
        monkeypatch.setitem(PRUNERS, module.ROW.name, module.ROW)


@pytest.fixture(scope="session")
def deep():
    found = {"llava": deep_llava(), **{k: tiny_qwen(k) for k in ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")}}
    for kind, model in found.items():
        inputs_of(kind, model)
    return found


def _state(model):
    slots = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")
    hooks = {name: [len(getattr(m, slot)) for slot in slots] for name, m in model.named_modules()}
    methods = {k: v for k, v in vars(type(model)).items() if callable(v)}
    return hooks, set(vars(model)), methods, [p.detach().clone() for p in model.parameters()]


@pytest.fixture(autouse=True)
def given_back(deep):
    """Every test leaves the shared models as they were."""
    before = {kind: _state(model) for kind, model in deep.items()}
    yield
    for kind, model in deep.items():
        assert_same_state(before[kind], _state(model))


def assert_same_state(before, after):
    assert before[:3] == after[:3]
    assert all(torch.equal(a, b) for a, b in zip(before[3], after[3], strict=True))


def inputs_of(kind, model, images=(1, 1), text=(4, 9)):
    return (tiny_inputs if kind == "llava" else qwen_inputs)(model, images, text)


def sizes_of(inputs, model):
    if "image_grid_thw" in inputs:
        return (inputs["image_grid_thw"].prod(1) // 4).tolist()
    return [36] * len(inputs["pixel_values"])


def case(method, images, sizes, keep, version=1):
    """Options for `prune`, and stages and rule for the reference, from the systems' own definitions."""
    if method in ("fastv", "dart"):
        budgets = keep if isinstance(keep, list) else [keep] * len(sizes)
        if method == "fastv":
            return {}, (2,), oracle.last_token(images, [[k] for k in budgets], own=False)
        rules = [oracle.pivots(images, k) for k in budgets]
        return {}, (2,), lambda stage, i, *rest: rules[i](stage, i, *rest)
    if method == "pyramiddrop":
        counts = [[n // 2, n // 4, n // 8] for n in sizes]
        return {}, (1, 2, 3), oracle.last_token(images, counts, own=True)
    lists = {1: (300, 200, 110), 2: (300, 200, 118)}[version]
    counts, clusters = [], []
    for n in sizes:
        now, kept, merged = n, [], []
        for official in lists:
            kept.append(round(official * n / 576))
            gone = now - kept[-1]
            merged.append(0 if version == 2 else (int(0.3 * gone) + 1) // 10 + 1)
            now = kept[-1] + merged[-1]
        counts.append(kept)
        clusters.append(merged)
    return {"version": version}, (1, 2, 3), oracle.raters(images, counts, clusters, version)


def assert_equals_reference(model, inputs, method, keep, positions="keep", version=1, steps=12, **options):
    """Greedy tokens, their logits, the kept rows, and the length of every layer's cache."""
    sizes = sizes_of(inputs, model)
    images = oracle.image_columns(inputs, sizes)
    extra, stages, rule = case(method, images, sizes, keep, version)
    asked = keep if method in ("fastv", "dart") else None
    with prune(model, asked, method, positions=positions, **extra) as report:
        got = generated(model, inputs, steps, **options)
    want = oracle.reference(model, inputs, sizes, stages, rule, steps, positions == "compact")
    for stage, kept in enumerate(want.kept):
        assert [cuts[stage].kept.tolist() for cuts in report.cuts] == kept
        assert {cuts[stage].layer for cuts in report.cuts} == {stages[stage]}
    assert torch.equal(got.tokens, want.tokens)
    torch.testing.assert_close(got.logits, want.logits, atol=TOLERANCE, rtol=0)
    if got.cache is not None:
        lengths = [layer.keys.shape[2] for layer in got.cache.layers]
        assert lengths == [max(rows) + steps - 1 for rows in want.lengths]
    return report, got


@pytest.mark.parametrize("images", [(1, 1), (2, 1), (0, 2)], ids=["one", "several", "row without"])
@pytest.mark.parametrize("method", [*METHODS, "sparsevlm v2"])
@pytest.mark.parametrize("kind", KINDS)
def test_pruned_equals_masked(deep, kind, method, images):
    """Batch 2, left padding, KV cache, 12 greedy tokens."""
    model = deep[kind]
    inputs = inputs_of(kind, model, images, (4, 9) if images[0] else (70, 3))
    assert (inputs["attention_mask"] == 0).any()
    version = 2 if method.endswith("v2") else 1
    report, _ = assert_equals_reference(model, inputs, method.split()[0], 13, version=version)
    assert report.rows == [row for row, count in enumerate(images) for _ in range(count)]


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("method", METHODS)
def test_other_qwens(deep, kind, method):
    """Qwen3-VL has norms on queries and keys, and rows added behind its first layer."""
    assert_equals_reference(deep[kind], inputs_of(kind, deep[kind], (2, 1)), method, 9, steps=5)


@pytest.mark.parametrize("family", [*FAMILIES, "internvl"])
def test_other_families(models, family):
    """Packed tiles with separators, and an encoder that gives one tensor; ragged sizes."""
    model = tiny_tensor_model() if family == "internvl" else models[family]
    inputs = tiny_inputs(model, (2, 1), (4, 9))
    with prune(model, 5, "fastv", layer=1) as report:
        got = generated(model, inputs, 4)
    images = oracle.image_columns(inputs, report.sizes)
    rule = oracle.last_token(images, [[5]] * 3, own=False)
    want = oracle.reference(model, inputs, report.sizes, (1,), rule, 4)
    assert [kept.tolist() for kept in report.kept] == want.kept[0]
    torch.testing.assert_close(got.logits, want.logits, atol=TOLERANCE, rtol=0)


def test_inputs_embeds(deep):
    """Placeholders are found by their embedding; the answer comes alone, as `generate` has it."""
    model = deep["llava"]
    inputs = inputs_of("llava", model)
    embeds = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with prune(model, 7, "dart"):
        want = generated(model, inputs, 5).tokens
        got = model.generate(**embeds, max_new_tokens=5, do_sample=False)
    assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fastv", "dart"])
def test_ragged_budgets(deep, kind, method):
    assert_equals_reference(deep[kind], inputs_of(kind, deep[kind], (2, 1)), method, [3, 17, 8], steps=5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_alone_and_unpadded(deep, kind, method):
    """Batch 1 without padding: the case in which gaps in positions look like packed sequences."""
    inputs = inputs_of(kind, deep[kind], (1,), (6,))
    assert_equals_reference(deep[kind], inputs, method, 8, steps=5)
    assert_equals_reference(deep[kind], inputs, method, 8, steps=3, use_cache=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_without_cache(deep, kind, method):
    """Tokens are chosen once, at the prompt, though every step runs all of it again."""
    inputs = inputs_of(kind, deep[kind], (2, 1))
    report, _ = assert_equals_reference(deep[kind], inputs, method, 8, steps=5, use_cache=False)
    assert report.calls == 1


@pytest.mark.parametrize("method", METHODS)
def test_compact_positions(deep, method):
    """Positions packed anew at every stage, in decoding too; not the same as kept ones."""
    inputs = inputs_of("llava", deep["llava"], (2, 1))
    _, packed = assert_equals_reference(deep["llava"], inputs, method, 8, positions="compact", steps=5)
    asked = 8 if method in ("fastv", "dart") else None
    with prune(deep["llava"], asked, method):
        kept = generated(deep["llava"], inputs, 1)
    assert (packed.logits[:, 0] - kept.logits[:, 0]).abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_eager_attention(deep, kind, method):
    model = copy.deepcopy(deep[kind])
    model.set_attn_implementation("eager")
    assert_equals_reference(model, inputs_of(kind, model, (2, 1)), method, 8, steps=3)


def dense(module, query, key, value, attention_mask, scaling, position_ids=None, **kwargs):
    """What a flash kernel computes: a padding mask (B, keys) or None, causal from the last key backwards.

    Positions with gaps would be read as packed sequences.
    """
    assert position_ids is None or position_ids.shape[-1] == query.shape[2]
    assert not _is_packed_sequence(position_ids, len(query))
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    assert attention_mask is None or attention_mask.shape == (len(key), key.shape[2])
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])[
        None
    ]
    if attention_mask is not None:
        seen = seen & attention_mask[:, None].bool()
    scores = (query @ key.mT * scaling).masked_fill(~seen[:, None], torch.finfo(query.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


@pytest.mark.parametrize("images", [(2, 1), (1,)], ids=["padded", "alone"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_masks(deep, kind, method, images, monkeypatch):
    """Kernels with padding masks, as flash attention's: a stand-in for one, since there is none for CPUs."""
    name = "flash_attention_dense"
    monkeypatch.setitem(AttentionInterface._global_mapping, name, dense)
    padding = AttentionMaskInterface._global_mapping["flash_attention_2"]
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, name, padding)
    model = copy.deepcopy(deep[kind])
    model.config.get_text_config()._attn_implementation = name
    assert_equals_reference(model, inputs_of(kind, model, images, (4, 9)[: len(images)]), method, 8, steps=4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_pruning_matters_and_keeping_all_changes_nothing(deep, kind, method):
    model = deep[kind]
    inputs = inputs_of(kind, model)
    full = generated(model, inputs, 4)
    with torch.no_grad():
        logits = model(**inputs).logits
    with prune(model, 1.0, method) as report:
        got = generated(model, inputs, 4)
        with torch.no_grad():
            kept = model(**inputs).logits
    assert torch.equal(got.tokens, full.tokens)
    torch.testing.assert_close(got.logits, full.logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(kept, logits, atol=TOLERANCE, rtol=0)
    assert report.errors == [0.0] * 4
    asked = 9 if method in ("fastv", "dart") else None
    with prune(model, asked, method):
        pruned = generated(model, inputs, 4)
    assert (full.logits[:, 0] - pruned.logits[:, 0]).abs().amax(1).min() > 1e4 * TOLERANCE


def test_recycled_tokens_are_means(deep):
    """Four clusters at one stage, and what the report says of them."""
    model = deep["llava"]
    inputs = inputs_of("llava", model, (2, 1))
    images = oracle.image_columns(inputs, [36] * 3)
    rule = oracle.raters(images, [[8]] * 3, [[4]] * 3)
    with prune(model, None, "sparsevlm", stages=(2,), shares=(1 / 3,), recycled=4) as report:
        got = generated(model, inputs)
    want = oracle.reference(model, inputs, [36] * 3, (2,), rule)
    torch.testing.assert_close(got.logits, want.logits, atol=TOLERANCE, rtol=0)
    assert [len(kept) for kept in report.kept] == [12] * 3
    for merge, cuts in zip(report.merges, report.cuts, strict=True):
        torch.testing.assert_close(merge, cuts[0].merge)
        torch.testing.assert_close(merge.sum(1), torch.ones(12))
        assert ((merge > 0).sum(1) > 1).any()
        assert ((merge == 1).sum(1) == 1).sum() >= 8
        assert (merge.count_nonzero(0) <= 1).all(), "a token goes to one place"


def test_beams_and_several_answers(deep):
    """As each prompt alone; the report has one entry for each image, not for each beam."""
    for kind in KINDS:
        model = deep[kind]
        inputs = inputs_of(kind, model, (2, 1))
        real = inputs["attention_mask"][1].bool()
        alone = {"input_ids": inputs["input_ids"][1:, real]}
        if kind == "llava":
            alone["pixel_values"] = inputs["pixel_values"][2:]
        else:
            alone["image_grid_thw"] = inputs["image_grid_thw"][2:]
            alone["pixel_values"] = inputs["pixel_values"][-96:]
            alone["mm_token_type_ids"] = inputs["mm_token_type_ids"][1:, real]
        options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "do_sample": False}
        for method in METHODS:
            asked = 9 if method in ("fastv", "dart") else None
            with prune(model, asked, method) as report:
                both = model.generate(**inputs, **options)
                one = model.generate(**alone, **options)
                generated(model, inputs, steps=5)
            assert torch.equal(both[2:, -5:], one[:, -5:])
            assert report.rows == [0, 0, 1, 0, 0, 0, 1]
            for first, second in zip(report.kept[:3], report.kept[4:], strict=True):
                assert torch.equal(first, second)


def test_logits_keep_their_shape(deep):
    """Forward: full length; at places that stay as the reference, at dropped ones the state they left with."""
    model = deep["llava"]
    inputs = inputs_of("llava", model, (2, 1))
    seen = []
    handle = model.model.language_model.layers[2].register_forward_pre_hook(
        lambda m, args: seen.append(args[0])
    )
    with torch.no_grad():
        full = model(**inputs, position_ids=positions_of(inputs["attention_mask"])).logits
        with prune(model, 5, "fastv") as report:
            got = model(**inputs, position_ids=positions_of(inputs["attention_mask"])).logits
    handle.remove()
    assert got.shape == full.shape
    images = oracle.image_columns(inputs, [36] * 3)
    left = model.lm_head(model.model.language_model.norm(seen[0]))
    for (row, columns), kept in zip(images, report.kept, strict=True):
        dropped = [c for j, c in enumerate(columns) if j not in kept.tolist()]
        torch.testing.assert_close(got[row, dropped], left[row, dropped], atol=TOLERANCE, rtol=0)
    one = oracle.reference(
        model, inputs, [36] * 3, (2,), oracle.last_token(images, [[5]] * 3, own=False), steps=1
    )
    torch.testing.assert_close(got[:, -1], one.logits[:, 0], atol=TOLERANCE, rtol=0)


def test_labels_and_gradients(deep):
    model = copy.deepcopy(deep["llava"])
    inputs = inputs_of("llava", model)
    labels = inputs["input_ids"].masked_fill(
        (inputs["attention_mask"] == 0) | (inputs["input_ids"] == IMAGE), -100
    )
    with torch.enable_grad(), prune(model, None, "sparsevlm"):
        model(**inputs, labels=labels).loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_decoding_by_hand(deep, kind, method):
    """Steps of one and of two tokens on the returned cache, as an unpruned model would be driven."""
    model = deep[kind]
    inputs = inputs_of(kind, model, (2, 1))
    asked = 9 if method in ("fastv", "dart") else None
    with torch.no_grad(), prune(model, asked, method):
        want = generated(model, inputs, steps=5)
        position = {"position_ids": positions_of(inputs["attention_mask"])} if kind == "llava" else {}
        out = model(**inputs, **position, use_cache=True)
        torch.testing.assert_close(out.logits[:, -1], want.logits[:, 0], atol=TOLERANCE, rtol=0)
        mask = inputs["attention_mask"]
        for step, width in ((0, 1), (1, 2), (3, 1)):
            new = want.tokens[:, step : step + width]
            mask = torch.cat([mask, torch.ones_like(new)], 1)
            if kind == "llava":
                at = positions_of(mask)[:, -width:]
            else:
                at = (mask.cumsum(1) - 1)[:, -width:] + model.model.rope_deltas
                at = at[None].expand(3, -1, -1)
            out = model(
                input_ids=new, attention_mask=mask, position_ids=at, past_key_values=out.past_key_values
            )
            torch.testing.assert_close(
                out.logits[:, -1], want.logits[:, step + width], atol=TOLERANCE, rtol=0
            )


def test_a_conversation_goes_on(deep):
    """A second turn of `generate` on the cut cache: the caches grow by the same number in every layer."""
    model = deep["llava"]
    inputs = inputs_of("llava", model, (1,), (6,))
    with prune(model, 7, "fastv"):
        first = generated(model, inputs, steps=3)
        before = [layer.keys.shape[2] for layer in first.cache.layers]
        ids = torch.cat([inputs["input_ids"], first.tokens, torch.tensor([[20, 30, 40]])], 1)
        again = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=first.cache,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    images = oracle.image_columns(inputs, [36])
    rule = oracle.last_token(images, [[7]], own=False)

    def fixed(stage, image, state, rows, column):
        state.alive = state.alive.clone()
        state.alive[:, inputs["input_ids"].shape[1] :] = False  # chosen when the prompt was read
        return rule(stage, image, state, rows, column)

    longer = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": inputs["pixel_values"],
    }
    want = oracle.reference(model, longer, [36], (2,), fixed, steps=4)
    torch.testing.assert_close(torch.stack(again.logits, 1), want.logits, atol=TOLERANCE, rtol=0)
    grown = [layer.keys.shape[2] for layer in again.past_key_values.layers]
    assert {b - a for a, b in zip(before, grown, strict=True)} == {7}


def test_text_passes_through(deep):
    for kind in KINDS:
        model = deep[kind]
        inputs = {
            k: v for k, v in inputs_of(kind, model, (0, 0)).items() if k in ("input_ids", "attention_mask")
        }
        full = generated(model, inputs, steps=4)
        with prune(model, 3, "fastv") as report:
            got = generated(model, inputs, steps=4)
        assert torch.equal(got.logits, full.logits)
        assert report.calls == 0
        assert report.kept == []


def test_generate_is_seen_in_full(deep):
    """The prompt is never shortened: lengths, streamers and processors need no translation."""
    model = deep["llava"]
    inputs = inputs_of("llava", model)
    width = inputs["input_ids"].shape[1]
    shown = []
    with prune(model, 3, "dart"):
        out = model.generate(**inputs, max_length=width + 4, do_sample=False, logits_processor=[_Look(shown)])
    assert out.shape[1] == width + 4
    assert shown == [width, width + 1, width + 2, width + 3]


class _Look:
    def __init__(self, shown):
        self.shown = shown

    def __call__(self, input_ids, scores):
        self.shown.append(input_ids.shape[1])
        return scores


class Boom(RuntimeError):
    pass


@pytest.mark.parametrize("where", ["layer 3", "layer 2's attention", "the rule", "the encoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_given_back_after_exceptions(deep, kind, where, monkeypatch):
    """In the middle of a forward; inside the block the next call is right again."""
    model = deep[kind]
    inputs = inputs_of(kind, model)
    before = _state(model)
    decoder = model.model.language_model
    target = {
        "layer 3": decoder.layers[3].mlp,
        "layer 2's attention": decoder.layers[2].self_attn,
        "the encoder": model.model.vision_tower if kind == "llava" else model.model.visual,
    }.get(where)

    def boom(*args, **kwargs):
        raise Boom

    with prune(model, 5, "fastv") as report:
        want = generated(model, inputs, steps=3)
        assert report.calls == 1
        for run in (lambda: model(**inputs), lambda: model.generate(**inputs, max_new_tokens=2)):
            with monkeypatch.context() as patch:
                if target is None:
                    patch.setattr(fastv, "most_attended", boom)
                else:
                    handle = target.register_forward_pre_hook(boom)
                with pytest.raises(Boom):
                    run()
                if target is not None:
                    handle.remove()
        assert report.calls == 1, "a call that fails leaves no entry"
        got = generated(model, inputs, steps=3)
    assert torch.equal(got.logits, want.logits)
    with pytest.raises(Boom), prune(model, 5, "fastv"):
        raise Boom
    assert_same_state(before, _state(model))


def test_the_models_own_generate_comes_back(deep):
    """An instance attribute that was there before, as other tools set it."""
    model = copy.deepcopy(deep["llava"])
    inputs = inputs_of("llava", model)
    calls, inner = [], model.generate

    def mine(*args, **kwargs):
        calls.append(1)
        return inner(*args, **kwargs)

    model.generate = mine
    with prune(model, 5, "fastv"):
        generated(model, inputs, 1)
    assert calls == [1]
    assert vars(model)["generate"] is mine


def test_the_decoder_alone_is_left_alone(deep):
    """Only calls of the model are pruned: hooks stand aside once it has returned."""
    model = deep["llava"]
    inputs = inputs_of("llava", model, (1,), (6,))
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    decoder = model.model.language_model
    with torch.no_grad():
        want = decoder(inputs_embeds=embeds).last_hidden_state
        with prune(model, 5, "fastv"):
            model(**inputs)
            got = decoder(inputs_embeds=embeds).last_hidden_state
    assert torch.equal(got, want)


@pytest.mark.parametrize("method", METHODS)
def test_report(deep, method):
    model = deep["llava"]
    inputs = inputs_of("llava", model, (2, 1))
    asked = 9 if method in ("fastv", "dart") else None
    with prune(model, asked, method) as report:
        with torch.no_grad():
            model(**inputs)
        once = report.cost
        with torch.no_grad():
            model(**inputs)
    assert report.calls == 2
    assert report.sizes == [36] * 6
    assert all(0 < e < 1 for e in report.errors)
    assert [len(x) for x in (report.seconds, report.merges, report.cuts, report.layers)] == [6] * 4
    assert report.cost == once + once
    for kept, cuts, layers in zip(report.kept, report.cuts, report.layers, strict=True):
        assert torch.equal(kept, cuts[-1].kept)
        at = {cut.layer: len(cut.kept) for cut in cuts}
        count, counts = 36, []
        for layer in range(LAYERS):
            count = at.get(layer, count)
            counts.append(count)
        assert layers == tuple(counts)
    lengths = inputs["attention_mask"].sum(1).tolist()
    one = Decoder.of(model)
    kv = flops = 0
    for layer in range(LAYERS):
        first = lengths[0] - 72 + report.layers[0][layer] + report.layers[1][layer]
        second = lengths[1] - 36 + report.layers[2][layer]
        kv += sum(one.kv_bytes(n) // LAYERS for n in (first, second))
        flops += sum(one.prefill_flops(n) / LAYERS for n in (first, second))
    assert once.kv_bytes_after == kv
    assert once.flops_after == pytest.approx(flops)
    assert once.kv_bytes_before == sum(map(one.kv_bytes, lengths))
    assert (once.tokens_before, once.tokens_after) == (108, sum(map(len, report.kept[:3])))


def test_average_budget_is_met(deep):
    """`keep` of the staged systems is the average over all layers."""
    model = deep["qwen2_5_vl"]
    inputs = inputs_of("qwen2_5_vl", model, (2, 1))
    for method in ("pyramiddrop", "sparsevlm"):
        with prune(model, [18, 16.0 / 32, 14], method) as report, torch.no_grad():
            model(**inputs)
        assert report.sizes == [36, 32, 24]
        assert [sum(layers) / LAYERS for layers in report.layers] == [18, 16, 14]


def test_a_mask_for_flash_attention():
    """Kernels with padding masks get one of the segment's columns, made where padding comes in."""
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    full = Segment.full(mask)
    stay = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 1, 1, 1]]).bool()
    cut, index = full.narrowed(stay)
    assert cut.source.tolist() == [[-1, 1, 3, 4], [0, 2, 3, 4]]
    assert index.tolist() == cut.source.tolist()
    assert cut.mask(mask.long(), 4, 4, "2d").tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    later = torch.cat([mask.long(), torch.ones(2, 2).long()], 1)
    assert cut.mask(later, 1, 6, "2d").tolist() == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert cut.mask(None, 4, 4, "2d").tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    even = Segment.full(mask[1:])
    assert even.mask(None, 5, 5, "2d") is None
    assert even.mask(None, 5, 5, "4d") is None
    right, _ = Segment.full(mask.flip(1)).narrowed(stay.flip(1))
    assert right.source.tolist() == [[0, 1, 3, -1], [0, 1, 2, 4]]
    assert right.packed.tolist() == [[0, 1, 2, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("method", METHODS)
def test_right_padding(deep, method):
    """A forward on a right-padded batch gives what the left-padded one gives."""
    model = deep["llava"]
    left = inputs_of("llava", model)
    pad = int((left["attention_mask"][0] == 0).sum())
    ids, mask = left["input_ids"].clone(), left["attention_mask"].clone()
    ids[0], mask[0] = ids[0].roll(-pad), mask[0].roll(-pad)
    asked = 7 if method in ("fastv", "dart") else None
    with torch.no_grad(), prune(model, asked, method) as report:
        want = model(**left, position_ids=positions_of(left["attention_mask"])).logits
        got = model(
            **{**left, "input_ids": ids, "attention_mask": mask}, position_ids=positions_of(mask)
        ).logits
    assert [k.tolist() for k in report.kept[:2]] == [k.tolist() for k in report.kept[2:]]
    torch.testing.assert_close(got[1], want[1], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got[0, :-pad], want[0, pad:], atol=TOLERANCE, rtol=0)


def refused(model, inputs, match, method="fastv", keep=5, call=None, **options):
    with pytest.raises(BridgeError, match=match), prune(model, keep, method, **options), torch.no_grad():
        (call or (lambda: model(**inputs)))()


def test_refusals(deep):
    model = deep["llava"]
    inputs = inputs_of("llava", model)
    generate = {"max_new_tokens": 2, "do_sample": False}

    def with_(**options):
        return lambda: model.generate(**inputs, **generate, **options)

    static = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
    refused(model, inputs, "StaticCache", call=lambda: model(**inputs, past_key_values=static))
    refused(model, inputs, "cache_implementation", call=with_(cache_implementation="static"))
    refused(model, inputs, "prefill_chunk_size", call=with_(prefill_chunk_size=8))
    refused(model, inputs, "prompt_lookup", call=with_(prompt_lookup_num_tokens=2))
    refused(model, inputs, "assistant_model", call=with_(assistant_model=model))
    refused(model, inputs, "layers from 1 to 3", layer=4)
    refused(model, inputs, "layers from 1 to 3", layer=0)
    refused(model, inputs, "no option 'layers'.*layer", layers=3)
    refused(model, inputs, "has 36 tokens", keep=37)
    refused(model, inputs, "image 1: keep = 37", keep=[4, 37])
    refused(model, inputs, "keep = 0", keep=[4, 0])
    refused(model, inputs, "keep = 1.5", keep=1.5)
    refused(model, inputs, "each image as a whole", keep=Shared(9))
    refused(model, inputs, "3 budgets for 2 images", keep=[4, 4, 4])
    refused(model, inputs, "keep = None", keep=None)
    refused(model, inputs, "relevance", relevance="anti")
    refused(model, inputs, "fold", fold=True)
    refused(model, inputs, "tol", tol=0.1)
    refused(model, inputs, "positions", positions="packed")
    refused(model, inputs, "attention", attention=torch.zeros(1))
    refused(model, inputs, "9.75 is the least", "pyramiddrop", keep=9)
    refused(model, inputs, "ascending order", "pyramiddrop", keep=None, stages=(2, 1, 3))
    refused(model, inputs, "shares", "pyramiddrop", keep=None, shares=(0.5, 0.6, 0.1))
    refused(model, inputs, "version = 3", "sparsevlm", version=3)
    refused(model, inputs, "official lists", "sparsevlm", keep=100, budget="preset")
    refused(model, inputs, "budget = 'exact'", "sparsevlm", budget="exact")
    with prune(model, 5, "fastv"), pytest.raises(BridgeError, match="already"), prune(model, 5):
        pass
    with pytest.raises(BridgeError, match="use prune"):
        prune_inputs(model, inputs, 5, "fastv")
    videos = {**inputs, "pixel_values_videos": inputs["pixel_values"]}
    refused(model, inputs, "video", call=lambda: model.generate(**videos))
    with torch.no_grad():
        encoded = {"image": model.get_image_features(inputs["pixel_values"], return_dict=True)}
    refused(model, inputs, "either pixels or", call=lambda: model(**inputs, mm_encoder_outputs=encoded))
    cache = DynamicCache()
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
    refused(model, inputs, "filled cache", call=lambda: model(**inputs, past_key_values=cache))


def test_models_that_are_refused(deep):
    qwen = deep["qwen2_5_vl"]
    inputs = inputs_of("qwen2_5_vl", qwen)
    refused(qwen, inputs, "multi-dimensional", positions="compact")
    qwen3 = deep["qwen3_vl"]
    inputs = inputs_of("qwen3_vl", qwen3)
    deeper = copy.deepcopy(qwen3)
    deeper.model.visual.deepstack_visual_indexes = [0, 1]
    deeper.model.visual.deepstack_merger_list.append(deeper.model.visual.deepstack_merger_list[0])
    refused(deeper, inputs, "from layer 2 on", layer=1)
    model = copy.deepcopy(deep["llava"])
    model.config.text_config._attn_implementation = "flex_attention"
    refused(model, inputs, "flex_attention")
    model = copy.deepcopy(deep["llava"])
    model.config.text_config.sliding_window = 8
    refused(model, inputs, "sliding window")
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"] * 2
    refused(model, inputs, "sliding_attention")
    model = copy.deepcopy(deep["llava"])
    del model.model.language_model.layers[1].self_attn.q_proj
    refused(model, inputs, "no q_proj")
    model = copy.deepcopy(deep["llava"])
    model.train()
    model.model.language_model.layers[0].gradient_checkpointing = True
    refused(model, inputs, "gradient checkpointing")
