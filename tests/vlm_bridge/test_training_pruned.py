"""Training inside the block: loss and gradients are those of the unpruned model with the dropped tokens masked out."""

import warnings

import pytest
import torch
from peft_like import PeftModelForCausalLM, loras
from tiny_qwen import deep_llava, qwen_inputs, tiny_qwen
from tiny_vlm import BOS, IMAGE, keep_mask, positions_of, tiny_inputs, tiny_model
from torch.utils.checkpoint import checkpoint

from vlm_bridge import BridgeError, prune

MODELS = {
    "llava": lambda: tiny_model("llava"),
    "llava_next": lambda: tiny_model("llava_next"),
    "qwen2_5_vl": tiny_qwen,
    "qwen3_vl": lambda: tiny_qwen("qwen3_vl"),
}


@pytest.fixture(params=MODELS)
def case(request):
    """A model in double precision, a padded batch, labels of all words, and the positions of the full prompts."""
    model = MODELS[request.param]().double()
    inputs = (qwen_inputs if "qwen" in request.param else tiny_inputs)(model, (1, 1), (4, 9))
    inputs["pixel_values"] = inputs["pixel_values"].double()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = words_of(inputs)
    positions = positions_of(mask)
    if "qwen" in request.param:
        found, _ = model.model.get_rope_index(
            ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"], attention_mask=mask
        )
        positions = torch.cat([positions[None], found])
    return model, inputs, labels, positions


def words_of(inputs):
    """Labels: no image, no padding, and no first token, which is predicted by padding."""
    ids = inputs["input_ids"]
    return torch.where(inputs["attention_mask"].bool() & (ids != IMAGE) & (ids != BOS), ids, -100)


def checkpointed(model, on=True):
    """Layers run again in the backward pass."""
    model.train(on)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable() if on else model.gradient_checkpointing_disable()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def masked_loss(model, inputs, labels, positions, report):
    """Each label that stays is predicted by the token before it that stays."""
    stay = keep_mask(inputs, report.kept, report.sizes)
    given = {**inputs, "attention_mask": stay.long(), "position_ids": positions}
    logits = model(**given, use_cache=False).logits
    pairs = [(logits[b, stay[b]][:-1], labels[b, stay[b]][1:]) for b in range(len(stay))]
    scores, wanted = (torch.cat(part) for part in zip(*pairs, strict=True))
    return torch.nn.functional.cross_entropy(
        scores.float(), wanted
    )  # in single precision, as transformers has it


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_every_gradient_are_those_of_the_masked_model(case, checkpointing):
    model, inputs, labels, positions = case
    if checkpointing:
        checkpointed(model)
    with prune(model, 5) as report:
        loss = model(**inputs, labels=labels, use_cache=False).loss
        got = gradients(model, loss)
    want_loss = masked_loss(model, inputs, labels, positions, report)
    want = gradients(model, want_loss)
    torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=1e-6)
    assert got.keys() == want.keys()
    assert any("vis" in name and grad.abs().max() > 1e-6 for name, grad in got.items()), (
        "the tower learns too"
    )
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[name], rtol=1e-5, atol=1e-6, msg=name)


def test_labels_of_an_answer_give_the_masked_models_own_loss(case):
    """No label stands right behind an image: then it is the loss that the model itself computes."""
    model, inputs, labels, positions = case
    labels = labels.clone()
    labels[:, :-3] = -100
    with prune(model, 5) as report:
        loss = model(**inputs, labels=labels).loss
    stay = keep_mask(inputs, report.kept, report.sizes).long()
    given = {**inputs, "attention_mask": stay, "position_ids": positions}
    torch.testing.assert_close(loss, model(**given, labels=labels).loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fold", [True, "interpolation"])
def test_gradients_pass_through_folded_tokens(fold):
    """Along a direction in all weights but the tower's, the loss grows as its gradient says: indices are fixed."""
    model = tiny_model("llava").double()
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    inputs["pixel_values"] = inputs["pixel_values"].double()
    weights = dict(model.named_parameters())
    g = torch.Generator().manual_seed(0)
    moved = {
        n: torch.randn(w.shape, generator=g, dtype=w.dtype)
        for n, w in weights.items()
        if "language_model" in n
    }

    def loss():
        return model(**inputs, labels=words_of(inputs)).loss

    with prune(model, 5, fold=fold) as report:
        got = gradients(model, loss())
        slope = sum(float((got[n] * d).sum()) for n, d in moved.items() if n in got)
        values = []
        with torch.no_grad():
            for step in (1e-4, -2e-4):
                for n, d in moved.items():
                    weights[n] += step * d
                values.append(float(loss()))
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, rel=1e-2)
    dropped = model.model.multi_modal_projector.linear_2.weight.grad
    assert dropped.abs().max() > 0
    assert report.calls == 3


def test_fold_and_pruning_inside_refuse_to_run_layers_again():
    """Their hooks have ended when the backward pass comes."""
    model = deep_llava()
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    for options in ({"fold": True}, {"method": "fastv"}):
        with prune(model, 5, **options):
            checkpointed(model)
            with pytest.raises(BridgeError, match="gradient checkpointing"):
                model(**inputs, labels=inputs["input_ids"], use_cache=False)
            with torch.no_grad():
                model(**inputs, labels=inputs["input_ids"], use_cache=False)
            checkpointed(model, on=False)


def test_choosing_takes_no_gradient(case):
    model, inputs, labels, _ = case
    with prune(model, 5, "resprune") as report:
        model(**inputs, labels=labels).loss.backward()
    assert not any(kept.requires_grad for kept in report.kept)


@pytest.mark.parametrize(
    "options", [{}, {"fold": True}, {"method": "fastv"}, {"checkpointing": True}], ids=str
)
def test_lora_learns_while_pruned_and_nothing_is_left(options):
    wrapper = PeftModelForCausalLM(deep_llava())
    model = wrapper.get_base_model()
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    if options.get("checkpointing"):
        checkpointed(model)
        model.enable_input_require_grads()
    labels = words_of(inputs)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    attributes, hooks = set(vars(model)), [len(m._forward_pre_hooks) for m in model.modules()]
    optimizer = torch.optim.AdamW(loras(wrapper), lr=0.05)
    losses = []
    with prune(wrapper, 5, **{k: v for k, v in options.items() if k != "checkpointing"}) as report:
        for _ in range(12):
            loss = wrapper(**inputs, labels=labels, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert report.calls == 12
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, state[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert set(vars(model)) == attributes
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks


@pytest.mark.parametrize("reentrant", [False, True])
def test_fold_refuses_checkpoints_of_the_callers_own(reentrant):
    """Parts run again in the backward pass would lack the bias, and gradients be wrong; the whole call may be run again."""
    model = tiny_model("llava").train()
    inputs = {**tiny_inputs(model), "use_cache": False}

    def loss(_):
        return model(**inputs).logits.square().mean()

    def gradient(run):
        model.zero_grad()
        with prune(model, 5, fold=True):
            run(loss, torch.ones(1, requires_grad=True)).backward()
        return model.lm_head.weight.grad.clone(), model.model.language_model.layers[0].mlp.up_proj.weight.grad

    def again(function, *args, **kwargs):
        return checkpoint(function, *args, use_reentrant=reentrant, **kwargs)

    want = gradient(lambda run, start: run(start))
    assert all(torch.equal(a, b) for a, b in zip(gradient(again), want, strict=True))
    for layer in model.model.language_model.layers:
        own = layer.forward
        layer.forward = lambda hidden, own=own, **kwargs: again(lambda rows: own(rows, **kwargs), hidden)
    with pytest.raises(BridgeError, match="checkpoint the whole call"):
        gradient(lambda run, start: run(start))
