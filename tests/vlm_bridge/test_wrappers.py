"""Models inside of wrappers: pruned as the model inside is, or refused with what to pass instead."""

import copy
import functools
import warnings

import pytest
import torch
from peft_like import PeftModel, PeftModelForCausalLM, loras
from test_cli import processor_of
from tiny_qwen import deep_llava
from tiny_vlm import generated, masked_reference, tiny_clip, tiny_inputs, tiny_model, tiny_tokenizer
from torch import nn
from transformers import GenerationMixin, LlamaForCausalLM

from vlm_bridge import BridgeError, prune, prune_inputs


def adapted(cls):
    """A deep LLaVA with LoRA layers that say something."""
    model = cls(deep_llava())
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in loras(model):
            weight.copy_(torch.randn(weight.shape, generator=g) / 5)
    return model


def hooked_as_accelerate_does(model):
    """accelerate puts a `forward` of its own on the instance and calls the one before."""
    before = model.forward

    @functools.wraps(before)
    def forward(*args, **kwargs):
        return before(*args, **kwargs)

    model.forward = forward
    model._old_forward = before
    return model


WRAPPERS = {
    "peft": lambda: adapted(PeftModel),
    "peft of a task": lambda: adapted(PeftModelForCausalLM),
    "DataParallel": lambda: nn.DataParallel(deep_llava()),
    "peft in DataParallel": lambda: nn.DataParallel(adapted(PeftModelForCausalLM)),
}


def inside(wrapper):
    while True:
        if isinstance(wrapper, nn.DataParallel):
            wrapper = wrapper.module
        elif hasattr(wrapper, "get_base_model"):
            wrapper = wrapper.get_base_model()
        else:
            return wrapper


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(("method", "fold"), [("spare", False), ("spare", True), ("fastv", False)])
def test_calls_through_a_wrapper_are_pruned_like_those_of_the_model_inside(name, method, fold):
    wrapper = WRAPPERS[name]()
    model = inside(wrapper)
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    plain = tiny_inputs(model, (0, 0), (4, 9))
    attributes = set(vars(model))
    with torch.no_grad():
        with prune(model, 5, method, fold=fold) as want:
            logits = model(**inputs).logits
            tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        full = model(**inputs).logits
        with prune(wrapper, 5, method, fold=fold) as report:
            assert torch.equal(wrapper(**inputs).logits, logits)
            caller = wrapper.module if isinstance(wrapper, nn.DataParallel) else wrapper
            assert torch.equal(caller.generate(**inputs, max_new_tokens=4, do_sample=False), tokens)
            assert wrapper(**plain).logits.shape[:2] == plain["input_ids"].shape
        assert report.calls == want.calls == 2
        assert [k.tolist() for k in report.kept] == [k.tolist() for k in want.kept]
        assert logits.shape != full.shape or not torch.allclose(logits, full)
        assert torch.equal(wrapper(**inputs).logits, full)
    assert set(vars(model)) == attributes


def test_a_compiled_model_is_pruned_whatever_it_was_compiled_for_before():
    """Compiled code does not notice hooks that come later, such as those of folding and of layers."""
    model = tiny_model("llava")
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    wrapper = torch.compile(model, backend="eager")
    ways = ({"keep": 5}, {"keep": 5, "fold": True}, {"keep": 5, "method": "fastv", "layer": 1})
    with torch.no_grad():
        torch.testing.assert_close(wrapper(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0)
        for options in ways:
            with prune(model, **options):
                logits = model(**inputs).logits
            with prune(wrapper, **options) as report:
                torch.testing.assert_close(wrapper(**inputs).logits, logits, atol=1e-5, rtol=0)
            assert report.calls == 1
        with prune(wrapper, 5):
            tokens = wrapper.generate(**inputs, max_new_tokens=3, do_sample=False)
        with prune(model, 5):
            assert torch.equal(tokens, model.generate(**inputs, max_new_tokens=3, do_sample=False))


def test_wrappers_agree_with_the_masked_model():
    wrapper = WRAPPERS["peft of a task"]()
    inputs = tiny_inputs(inside(wrapper), (1, 1), (4, 9))
    with prune(wrapper, 5) as report:
        got = generated(wrapper, inputs, steps=4)
    tokens, logits = masked_reference(inside(wrapper), inputs, report.kept, report.sizes, 4)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.logits, logits, atol=1e-5, rtol=0)


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = tiny_model("llava")
        inputs = tiny_inputs(model)
        wrapper = nn.parallel.DistributedDataParallel(model)
        with prune(wrapper, 5) as report, torch.no_grad():
            got = wrapper(**inputs).logits
    finally:
        torch.distributed.destroy_process_group()
    with prune(model, 5), torch.no_grad():
        assert torch.equal(got, model(**inputs).logits)
    assert report.calls == 1


def test_prune_inputs_takes_wrappers():
    wrapper = WRAPPERS["peft of a task"]()
    inputs = tiny_inputs(inside(wrapper))
    new, report = prune_inputs(wrapper, inputs, 5)
    want, _ = prune_inputs(inside(wrapper), inputs, 5)
    with torch.no_grad():
        assert torch.equal(wrapper(**new).logits, inside(wrapper)(**want).logits)
    assert [len(k) for k in report.kept] == [5, 5]


@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_a_direct_call_of_forward_is_pruned_too(method):
    """PEFT calls it so, and so do people."""
    model = deep_llava()
    inputs = tiny_inputs(model)
    with prune(model, 5, method) as report, torch.no_grad():
        assert torch.equal(model.forward(**inputs).logits, model(**inputs).logits)
    assert report.calls == 2
    assert "forward" not in vars(model)


def _of_a_block_left(model):
    with prune(model, 5):
        return model.forward


PAST = {
    "the bound forward": lambda model: model.forward,
    "the class's forward": lambda model: functools.partial(type(model).forward, model),
    "the model without its head": lambda model: model.model,
    "a compiled forward": lambda model: torch.compile(model.forward, backend="eager"),
    "the forward of a block that was left": _of_a_block_left,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["spare", "fastv"])
@pytest.mark.parametrize("name", PAST)
def test_calls_past_the_models_forward_are_refused(name, method):
    """They would answer from the full prompt, as if nothing had been asked for."""
    torch.compiler.reset()
    model = deep_llava()
    inputs, past = tiny_inputs(model), PAST[name](model)
    with torch.no_grad():
        plain = past(**inputs)[0]
        with prune(model, 5, method) as report, pytest.raises(BridgeError, match="call model"):
            past(**inputs)
        assert torch.equal(past(**inputs)[0], plain)
    assert report.calls == 0
    assert "forward" not in vars(model.model)


def test_a_forward_of_the_callers_own_is_used_and_comes_back():
    model = hooked_as_accelerate_does(tiny_model("llava"))
    inputs, mine = tiny_inputs(model), model.forward
    with prune(model, 5), torch.no_grad():
        got = model(**inputs).logits
    assert vars(model)["forward"] is mine
    del model.forward
    with prune(model, 5), torch.no_grad():
        assert torch.equal(model(**inputs).logits, got)


def test_users_hooks_see_the_callers_arguments_and_the_output():
    model = tiny_model("llava")
    inputs, seen = tiny_inputs(model), []
    before = model.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["input_ids"].shape), with_kwargs=True
    )
    after = model.register_forward_hook(lambda m, a, out: seen.append(out.logits.shape[:2]))
    with prune(model, 5), torch.no_grad():
        got = model(**inputs).logits.shape[:2]
    assert seen == [inputs["input_ids"].shape, got]
    before.remove()
    after.remove()


def test_nesting_is_seen_through_wrappers():
    model = tiny_model("llava")
    with (
        prune(model, 5),
        pytest.raises(BridgeError, match="being pruned already"),
        prune(nn.DataParallel(model), 5),
    ):
        pass


# quantised ----------------------------------------------------------------------------------------


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("method", ["spare", "visionzip", "prumerge", "holov", "zoo_prune", "fastv", "dart"])
def test_dynamically_quantised_models(method):
    """Their layers have no parameters. Keeping all changes nothing; fewer is the model on the rewritten inputs."""
    model = quantised(deep_llava())
    drawn = {} if method in ("fastv", "dart") else {"rng": 0}
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    with torch.no_grad():
        full = model(**inputs).logits
        with prune(model, 1.0, method):
            assert torch.equal(model(**inputs).logits, full)
        with prune(model, 5, method, **drawn) as report:
            got = model(**inputs).logits
            assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] == full.shape[1] + 2
        if method in ("spare", "zoo_prune"):
            new, _ = prune_inputs(model, inputs, 5, method, **drawn)
            torch.testing.assert_close(model(**new).logits, got)
    assert [len(k) for k in report.kept][:2] == [5, 5]
    assert torch.isfinite(got).all()


def test_a_quantised_clip():
    model, (clip, tokenizer) = tiny_model("llava"), tiny_clip()
    inputs = tiny_inputs(model)
    with prune(model, 5, "cdpruner", clip=(quantised(clip), tokenizer), processor=tokenizer) as report:
        model(**inputs)
    assert [len(k) for k in report.kept] == [5, 5]


# refused ------------------------------------------------------------------------------------------


class Pipeline:
    """As in transformers: an object with a model."""

    model = None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: None, r"model = None: expected a vision-language model.*got a NoneType\.$"),
        (lambda: "llava-hf/llava-1.5-7b-hf", "got a str. Load the model of this name first"),
        (lambda: object(), "got an object"),
        (lambda: Pipeline(), r"prune\(pipe.model"),
        (lambda: tiny_tokenizer(), "A tokenizer goes into processor="),
        (lambda: processor_of(tiny_model("llava")), "A processor goes into processor="),
        (
            lambda: tiny_model("llava").model.vision_tower,
            "CLIPVisionModel has no get_image_features.*whole model",
        ),
        (
            lambda: tiny_model("llava").model.language_model,
            "LlamaModel has no get_image_features.*text alone",
        ),
        (
            lambda: LlamaForCausalLM(tiny_model("llava").config.text_config),
            "LlamaForCausalLM has no get_image_features",
        ),
        (lambda: tiny_clip()[0], "CLIPModel.forward takes no mm_encoder_outputs.*generative"),
        (
            lambda: nn.Sequential(tiny_model("llava")),
            "Sequential has no get_image_features.*pass the model inside",
        ),
    ],
)
@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_what_is_no_such_model_is_refused(what, message, method):
    with pytest.raises(BridgeError, match=message), prune(what(), 5, method):
        pytest.fail("the block must not start")
    if method == "spare":
        with pytest.raises(BridgeError, match=message):
            prune_inputs(what(), {}, 5)


def test_wrappers_that_cannot_be_right_are_refused():
    wrapper = nn.DataParallel(tiny_model("llava"))
    wrapper.device_ids = [0, 1]
    with pytest.raises(BridgeError, match=r"2 devices.*model\.module"), prune(wrapper, 5):
        pass
    prefix = PeftModel(tiny_model("llava"))
    prefix._is_prompt_learning = True
    with pytest.raises(BridgeError, match="virtual tokens"), prune(prefix, 5):
        pass


def test_generate_still_knows_the_signature_of_forward():
    """`generate` reads from it which arguments a model takes."""
    model = tiny_model("llava")
    inputs = tiny_inputs(model)
    with prune(model, 5), pytest.raises(ValueError, match="not_an_argument"):
        model.generate(**inputs, max_new_tokens=1, not_an_argument=1)
    assert isinstance(model, GenerationMixin)
    assert copy.copy(vars(model)).get("forward") is None
