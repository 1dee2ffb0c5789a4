"""The self-check: right on what is right, and in words about what is not."""

import every_family
import pytest
import torch
from family_matrix import NOT_TEXT  # noqa: F401  (registers the recipes)
from tiny_families import family_call, shared_model
from tiny_vlm import VOCAB, tiny_inputs, tiny_model
from torch import nn

import vlm_bridge
from vlm_bridge import BridgeError, prune, verify
from vlm_bridge.live import prompt_session
from vlm_bridge.live.session import Replaced

FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "smolvlm",
    "gemma3",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_right_models_are_called_right(family):
    model = shared_model(family)
    found = verify(model, family_call(model).inputs)
    assert found.ok, str(found)
    assert [check.outcome for check in found.checks] == ["right"] * 5
    assert found.recurrent == ()
    assert f"{type(model).__name__}: right." in str(found)
    assert "masked out" in str(found)


@pytest.mark.parametrize("name", ["Qwen3_5ForConditionalGeneration", "Lfm2VlForConditionalGeneration"])
def test_of_recurrent_models_the_shorter_sequence_is_right(name):
    model = every_family.build(name)
    for keep in (1, 0.25, 0.5, 0.75):
        found = verify(model, every_family.call(model, (2, 1)).inputs, keep)
        assert found.ok, str(found)
        assert found.recurrent
        assert "never fed" in str(found)
        assert max(check.difference or 0 for check in found.checks) <= 1e-4


# models and bridges that are not right: what the report says ---------------------------------------


@pytest.fixture
def llava():
    from tiny_families import family_model

    return family_model("llava")


def outcomes(model, **options):
    found = verify(model, family_call(model).inputs, **options)
    assert not found.ok
    return {check.name: check.outcome for check in found.checks}, str(found)


ALL_FORWARD = "forward with keep=1.0 equals the unpruned model"
ALL_GENERATE = "generate with keep=1.0 equals the unpruned model"
FORWARD = "the pruned forward equals the model with dropped tokens masked out"
GENERATE = "generate equals forward, token by token"
LEFT = "nothing is left on the model"


def test_a_model_that_treats_encoded_images_otherwise(llava):
    """Rows that come in encoded are scaled: keep = all is wrong already."""
    forward = llava.model.forward

    def scaled(*args, mm_encoder_outputs=None, **kwargs):
        if mm_encoder_outputs and not kwargs.get("past_key_values"):
            output = mm_encoder_outputs["image"]
            mm_encoder_outputs = {
                "image": type(output)(pooler_output=[1.1 * rows for rows in output.pooler_output])
            }
        return forward(*args, mm_encoder_outputs=mm_encoder_outputs, **kwargs)

    llava.model.forward = scaled
    found, said = outcomes(llava)
    assert found[ALL_FORWARD] == "wrong"
    assert found[FORWARD] == "wrong"
    assert "not right" in said


def test_a_decoder_that_counts_places_instead_of_positions(llava):
    """Something of every token's place in the sequence is added: keep = all is right, gaps are not."""
    decoder, table = (
        llava.model.language_model,
        torch.randn(200, 48, generator=torch.Generator().manual_seed(3)),
    )

    def add(module, args, kwargs):
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        return args, {**kwargs, "inputs_embeds": embeds + table[past : past + embeds.shape[1]]}

    decoder.register_forward_pre_hook(add, with_kwargs=True)
    found, _ = outcomes(llava)
    assert found[ALL_FORWARD] == found[ALL_GENERATE] == "right"
    assert found[FORWARD] == "wrong"


def test_a_bridge_that_leaves_positions_to_the_model(llava, monkeypatch):
    """What EXAONE does: its preparation drops the positions. The bridge puts them back; without that, it shows."""
    prepare = llava.prepare_inputs_for_generation
    llava.prepare_inputs_for_generation = lambda *args, **kwargs: {
        **prepare(*args, **kwargs),
        "position_ids": None,
    }
    assert verify(llava, family_call(llava).inputs).ok
    monkeypatch.setattr(prompt_session, "_with_positions", lambda kwargs, layout: kwargs)
    found, said = outcomes(llava)
    assert found[FORWARD] == "right"
    assert found[GENERATE] == "wrong"
    assert "generate equals forward" in said


def test_a_bridge_that_leaves_something_behind(llava, monkeypatch):
    class Sticky(prompt_session.KeyBias):
        def __init__(self, modules, bias):
            super().__init__([llava.lm_head], bias)

        def remove(self):
            pass

    monkeypatch.setattr(prompt_session, "KeyBias", Sticky)
    found, said = outcomes(llava)
    assert found[LEFT] == "wrong"
    assert "hooks of lm_head" in said


def test_half_precision_cannot_tell(llava):
    found = verify(llava.bfloat16(), family_call(llava).inputs)
    assert not found.ok
    assert {check.outcome for check in found.checks} <= {"right", "cannot tell"}
    assert "load the model in float32" in str(found)


# what is asked ------------------------------------------------------------------------------------


def test_refusals_are_part_of_the_report(llava):
    found = verify(llava, family_call(llava).inputs, keep=10_000)
    assert not found.ok
    assert "refused" in {check.outcome for check in found.checks}
    llava.config.is_encoder_decoder = True
    found = verify(llava, family_call(llava).inputs)
    assert [check.outcome for check in found.checks] == ["refused"]
    assert "text encoder" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fastv"}, "leaves them as they are"),
        ({"method": "prumerge"}, "leaves them as they are"),
        ({"fold": True}, "fold"),
        ({"method": "nothing"}, "nothing"),
    ],
)
def test_what_has_another_right_answer(llava, options, message):
    with pytest.raises(BridgeError, match=message):
        verify(llava, family_call(llava).inputs, **options)


def test_inputs_without_an_image(llava):
    inputs = {k: v for k, v in family_call(llava).inputs.items() if k != "pixel_values"}
    found = verify(llava, inputs)
    assert "expected inputs with input_ids and an image or video" in str(found)


def test_the_shipped_model_with_its_processor():
    reference = pytest.importorskip("analysis.reference")
    model, processor = reference.load()
    found = verify(model, processor)
    assert found.ok, str(found)
    assert found.effect > 0.1
    assert vlm_bridge.verify is verify


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 2.0},
        {"num_beams": 3, "num_return_sequences": 2},
        {"eos_token_id": list(range(VOCAB))},
        {"guidance_scale": 2.0, "repetition_penalty": 1.5},
        {"use_cache": False},
        {"prefill_chunk_size": 8},
        {"stop_strings": ["yes"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_models_own_generation_config_is_no_fault_of_its(settings):
    model = tiny_model("llava")
    model.generation_config.update(**settings)
    config = model.generation_config
    found = verify(model, tiny_inputs(model))
    assert found.ok, str(found)
    assert model.generation_config is config


def test_dropout_is_named():
    """And not taken for a fault of pruning."""
    model = tiny_model("llava").train()
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    found = verify(model, tiny_inputs(model))
    assert not found.ok
    assert "call model.eval()" in str(found)
    assert "wrong" not in str(found)


def test_wrapped_models_and_inputs_with_positions():
    model = tiny_model("llava")
    inputs = tiny_inputs(model)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = verify(nn.DataParallel(model, device_ids=[]), {**inputs, "position_ids": positions})
    assert found.ok, str(found)
    assert found.model == "LlavaForConditionalGeneration"


def test_a_model_that_is_being_pruned_is_refused():
    model = tiny_model("llava")
    with prune(model, 5):
        found = verify(model, tiny_inputs(model))
    assert "being pruned already" in str(found)


def test_compact_positions_have_another_right_answer(llava):
    with pytest.raises(BridgeError, match="expected 'keep'"):
        verify(llava, family_call(llava).inputs, positions="compact")


def test_a_forward_left_behind_is_found(monkeypatch):
    model = tiny_model("llava")
    remove = Replaced.remove
    monkeypatch.setattr(Replaced, "remove", lambda lent: lent.name == "forward" or remove(lent))
    found = verify(model, tiny_inputs(model))
    assert "changed: forward of model, forward of the model" in str(found)
