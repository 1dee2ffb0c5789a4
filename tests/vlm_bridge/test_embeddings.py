"""`inputs_embeds` instead of token ids, and beside them."""

import pytest
import torch
from tiny_qwen import qwen_inputs, tiny_qwen
from tiny_vlm import (
    FAMILIES,
    IMAGE,
    generated,
    keep_mask,
    positions_of,
    tiny_inputs,
    tiny_model,
    tiny_tensor_model,
)

from vlm_bridge import BridgeError, prune, prune_inputs

MODELS = {
    **{family: lambda family=family: tiny_model(family) for family in FAMILIES},
    "internvl": tiny_tensor_model,
    "qwen2_5_vl": tiny_qwen,
    "qwen3_vl": lambda: tiny_qwen("qwen3_vl"),
}
GRIDS = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model = MODELS[request.param]()
    inputs = (qwen_inputs if request.param in GRIDS else tiny_inputs)(model, (1, 1), (4, 9))
    return request.param, model, inputs, model.get_input_embeddings()(inputs["input_ids"]).detach()


@pytest.mark.parametrize("keep", [5, 1.0])
@pytest.mark.parametrize("fold", [False, True])
def test_embeddings_beside_their_ids_change_nothing(case, keep, fold):
    _, model, inputs, embeds = case
    with prune(model, keep, fold=fold):
        want = generated(model, inputs, steps=4)
        got = generated(model, {**inputs, "inputs_embeds": embeds}, steps=4)
    assert torch.equal(got.tokens, want.tokens)
    torch.testing.assert_close(got.logits, want.logits, atol=1e-5, rtol=0)


def test_embeddings_alone_answer_alone(case):
    """On a grid the ids are needed, to place the tokens."""
    name, model, inputs, embeds = case
    alone = {k: v for k, v in inputs.items() if k != "input_ids"} | {"inputs_embeds": embeds}
    with prune(model, 5):
        if name in GRIDS:
            with pytest.raises(BridgeError, match="input_ids"):
                model.generate(**alone, max_new_tokens=4, do_sample=False)
            return
        want = generated(model, inputs, steps=4)
        got = model.generate(**alone, max_new_tokens=4, do_sample=False)
    assert torch.equal(got, want.tokens)


def test_soft_prompts_beside_ids_are_what_is_computed_with():
    """Other embeddings of the words than their ids': the masked model's own `generate` with both."""
    model = tiny_model("llava")
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    words = (inputs["input_ids"] != IMAGE) & inputs["attention_mask"].bool()
    noise = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1))
    both = {**inputs, "inputs_embeds": torch.where(words[..., None], embeds + noise, embeds)}
    with prune(model, 5) as report:
        got = model.generate(**both, max_new_tokens=6, do_sample=False)
        plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    stay = keep_mask(inputs, report.kept[:2], report.sizes[:2]).long()
    masked = {**both, "attention_mask": stay, "position_ids": positions_of(inputs["attention_mask"])}
    assert torch.equal(got, model.generate(**masked, max_new_tokens=6, do_sample=False))
    assert not torch.equal(got, plain)


@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_ids_of_another_prompt_are_refused_on_a_grid_and_a_record_elsewhere(case, method):
    name, model, inputs, embeds = case
    short = {**inputs, "inputs_embeds": embeds, "input_ids": inputs["input_ids"][:, -3:]}
    options = {"layer": 1} if method == "fastv" else {}
    with prune(model, 5, method, **options):
        if name in GRIDS:
            with pytest.raises(BridgeError, match=r"input_ids of shape \(2, 3\) beside inputs_embeds"):
                model.generate(**short, max_new_tokens=4, do_sample=False)
            return
        want = generated(model, inputs, steps=4)
        got = model.generate(**short, max_new_tokens=4, do_sample=False)
    assert torch.equal(got[:, :3], short["input_ids"])
    assert torch.equal(got[:, 3:], want.tokens)


@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_placeholders_at_other_places_are_refused(case, method):
    """As many of them, so that no count gives it away."""
    _, model, inputs, embeds = case
    ids = inputs["input_ids"].clone()
    row, column = (ids == IMAGE).nonzero()[0].tolist()
    ids[row, column], ids[row, -1] = 30, IMAGE
    options = {"layer": 1} if method == "fastv" else {}
    with (
        prune(model, 5, method, **options) as report,
        pytest.raises(BridgeError, match="disagree on where the image is"),
    ):
        model.generate(**{**inputs, "input_ids": ids, "inputs_embeds": embeds}, max_new_tokens=2)
    assert report.calls == 0
    if method == "spare":
        with pytest.raises(BridgeError, match="disagree"):
            prune_inputs(model, {**inputs, "input_ids": ids, "inputs_embeds": embeds}, 5)
