"""Cost against FLOPs that torch counts and caches that a real run fills; when pruning pays."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_families import FAMILIES, family_call, family_model
from tiny_qwen import LAYERS, deep_llava, tiny_qwen
from tiny_vlm import _TEXT, _awake, tiny_inputs, tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from vlm_bridge import BridgeError, prune
from vlm_bridge.model.families import base_of
from vlm_bridge.reporting.cost import Cost, Decoder


def counted(model, **inputs):
    """FLOPs by module, and the bytes of the cache that the call filled."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = model(**inputs, use_cache=True)
    flops = {name.partition(".")[2]: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    return flops, stored(out.past_key_values)


def stored(cache):
    """Bytes of keys and values."""
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.numel() * t.element_size() for t in tensors)


def eager(model):
    """The counter knows matrix products; the fused attention of a CPU is none."""
    model.set_attn_implementation("eager")
    return model


def decoder_name(model):
    base = base_of(model)
    return "model.language_model" if hasattr(base, "language_model") else "model.text_model"


# FLOPs and bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_to_the_last_flop(family):
    """Also what is left out: the head, and vision tower and projector, which cost the same either way."""
    model = eager(family_model(family))
    inputs = family_call(model, (1,), (9,)).inputs
    n = inputs["input_ids"].shape[1]
    whole, cache = counted(model, **inputs)
    with prune(model, 0.4) as report:
        pruned, shorter = counted(model, **inputs)
    cost = report.cost
    at = decoder_name(model)
    assert cost.flops_before == whole[at]
    assert cost.flops_after == pruned[at]
    assert cost.kv_bytes_before == cache
    assert cost.kv_bytes_after == shorter
    assert cost.kv_bytes_saved == cache - shorter > 0
    config = model.config.get_text_config()
    assert whole["lm_head"] == 2 * n * config.hidden_size * config.vocab_size
    others = [name for name in whole if name.startswith("model.") and name.count(".") == 1 and name != at]
    assert sum(whole[name] for name in others) > 0
    assert [whole[name] for name in others] == [pruned[name] for name in others]


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "dart"])
def test_inside_the_llm_layer_by_layer(kind, method):
    model = eager(deep_llava() if kind == "llava" else tiny_qwen(kind))
    inputs = family_call(model, (1,), (9,)).inputs
    n = inputs["input_ids"].shape[1]
    with prune(model, 0.4, method) as report:
        flops, shorter = counted(model, **inputs)
    one = Decoder.of(model)
    [counts] = report.layers
    lengths = [n - counts[0] + count for count in counts]
    assert min(lengths) < n
    layers = [f"model.language_model.layers.{i}" for i in range(LAYERS)]
    work = [flops[f"{layer}.self_attn"] + flops[f"{layer}.mlp"] for layer in layers]
    assert work == [one.prefill_flops(length) / LAYERS for length in lengths]
    assert report.cost.flops_after == sum(work)
    assert report.cost.flops_before == one.prefill_flops(n)
    assert report.cost.kv_bytes_after == shorter
    reading = flops["model.language_model"] - sum(work)
    assert 0 <= reading < 0.1 * sum(work), "what the rule reads of queries and keys is left out"


def test_heads_of_another_width_and_windows():
    """Gemma's heads are no share of the width; in half of its layers the cache holds a window."""
    config = family_model("gemma3").config
    config.text_config.head_dim, config.text_config.sliding_window = 20, 16
    model = eager(_awake(Gemma3ForConditionalGeneration(config)))
    sizes = Decoder.of(model)
    assert sizes.head_width * sizes.heads != sizes.width
    assert (sizes.windowed, sizes.window) == (1, 15)
    inputs = family_call(model, (1,), (30,)).inputs
    flops, cache = counted(model, **inputs)
    n = inputs["input_ids"].shape[1]
    assert sizes.prefill_flops(n) == flops["model.language_model"]
    assert sizes.kv_bytes(n) == cache
    assert sizes.kv_bytes(10) == sizes.kv_bytes(5) * 2


def test_a_window_without_a_list_of_layers_is_everywhere():
    model = _awake(MistralForCausalLM(MistralConfig(**_TEXT, sliding_window=8)))
    ids = torch.arange(10, 40)[None]
    flops, cache = counted(eager(model), input_ids=ids)
    sizes = Decoder.of(model)
    assert sizes.kv_bytes(30) == cache == sizes.kv_bytes(7)
    assert sizes.prefill_flops(30) == flops["model"]


def test_experts():
    """What a token is sent to, and the router."""
    config = Qwen3MoeConfig(
        **_TEXT, head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40
    )
    model = eager(_awake(Qwen3MoeForCausalLM(config)))
    model.set_experts_implementation("eager")
    flops, cache = counted(model, input_ids=torch.arange(10, 40)[None])
    sizes = Decoder.of(model)
    assert sizes.prefill_flops(30) == flops["model"]
    assert sizes.kv_bytes(30) == cache
    config.mlp_only_layers = [0]
    assert Decoder.of(model) is None


def test_what_is_not_known_is_not_guessed(monkeypatch):
    text = tiny_model("llava").config.text_config
    for change in (
        {"intermediate_size": [96, 48]},
        {"layer_types": ["full_attention", "linear_attention"]},
        {"num_attention_heads": None, "head_dim": None},
        {"hidden_size": "removed"},
    ):
        sizes = {**text.to_dict(), **change}
        sizes = SimpleNamespace(**{name: value for name, value in sizes.items() if value != "removed"})
        config = SimpleNamespace(get_text_config=lambda sizes=sizes: sizes)
        assert Decoder.of(SimpleNamespace(config=config, dtype=torch.float32)) is None, change
    monkeypatch.setattr(Decoder, "of", lambda model: None)
    for method in ("spare", "fastv"):
        model = deep_llava()
        with prune(model, 9, method) as report, torch.no_grad():
            model(**tiny_inputs(model, (1,), (4,)))
        assert (report.cost.tokens_after, report.cost.flops_after) == (9, 0)
        assert report.cost.break_even(1e12, 1e12) == math.inf
        assert "does not name" in str(report.cost)


def test_half_precision_halves_the_cache():
    text = tiny_model("llava").config.text_config
    one, half = LlamaForCausalLM(text), LlamaForCausalLM(text).half()
    assert Decoder.of(one).kv_bytes(10) == 2 * Decoder.of(half).kv_bytes(10)


# when pruning pays --------------------------------------------------------------------------------

SAVES = Cost(576, 64, 640, 128, 1000, 200, 5e6, 1e6, seconds=2.0)


def test_break_even_by_hand():
    """4e6 FLOPs and 800 bytes a token saved, for two seconds."""
    assert SAVES.flops_saved == 4e6
    assert SAVES.kv_bytes_saved == 800
    assert SAVES.break_even_rate == 2e6
    assert SAVES.break_even(2e6) == 0
    assert SAVES.break_even(1e6, 1) == 0
    assert SAVES.break_even(4e6) == math.inf
    assert SAVES.break_even(4e6, 800) == 1  # one second is missing, one is saved with every token
    assert SAVES.break_even(8e6, 400) == 0.75
    assert SAVES.break_even(math.inf, 800) == 2
    assert Cost(seconds=1.0).break_even(1.0, 1.0) == math.inf
    assert Cost().break_even(1.0) == 0
    assert Cost().break_even_rate == 0
    assert Cost(flops_before=1.0).break_even_rate == math.inf


def test_break_even_is_where_the_two_sides_meet():
    for flops in (1e6, 3e6, 1e7):
        for traffic in (10.0, 1e4):
            tokens = SAVES.break_even(flops, traffic)
            saved = SAVES.flops_saved / flops + tokens * SAVES.kv_bytes_saved / traffic
            assert saved == pytest.approx(SAVES.seconds) if tokens else saved >= SAVES.seconds
    assert SAVES.break_even(1e7, 1e3) < SAVES.break_even(1e8, 1e3)
    assert SAVES.break_even(1e7, 1e3) < SAVES.break_even(1e7, 1e4)


@pytest.mark.parametrize("rates", [(0, 1), (-1, 1), (1, 0), (math.nan, 1), (1, math.nan)])
def test_rates_are_positive(rates):
    with pytest.raises(BridgeError, match="expected a positive rate"):
        SAVES.break_even(*rates)


def test_costs_add_up_and_times_are_not_compared():
    both = SAVES + SAVES
    assert (both.seconds, both.flops_saved, both.tokens_after) == (4.0, 8e6, 128)
    assert both.break_even(4e6, 800) == SAVES.break_even(4e6, 800)
    assert Cost(1, seconds=2.0) == Cost(1, seconds=3.0)


@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_the_report_brings_the_time_to_choose(method):
    model = deep_llava()
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    with prune(model, 9, method) as report, torch.no_grad():
        model(**inputs)
        first = report.cost
        model(**inputs)
    assert 0 < first.seconds < report.cost.seconds
    assert report.cost.seconds == sum(report.seconds)
    assert report.cost == first + first
    rate = report.cost.break_even_rate
    assert report.cost.break_even(0.99 * rate) == 0
    assert report.cost.break_even(1.01 * rate) == math.inf
    assert 0 < report.cost.break_even(1.01 * rate, 1e9) < math.inf


def test_in_words():
    assert str(SAVES) == (
        "prompt 640 -> 128 tokens, KV cache 1 kB -> 200 B, prefill 5 MFLOP -> 1 MFLOP; "
        "below 2 MFLOP/s the shorter prefill makes up for the time of choosing"
    )
    assert "below inf FLOP/s" in str(Cost(1, 1, 1, 1, 999, 1, 3.0, 1.0))
