"""What every family of transformers must get right, or refuse: one function a feature.

Each gives the largest difference of a logit that it has seen, or raises `BridgeError`; anything else that is raised is
a fault. The judges: `verify`, whose right answers come from the unpruned model; and what must be the same by two ways.
"""

from __future__ import annotations

import inspect
from typing import Any

import every_family
import recipes_a_to_j
import recipes_k_to_z
import torch
from every_family import Call, call, recipe
from torch import Tensor

from vlm_bridge import BridgeError, prune, prune_inputs
from vlm_bridge.live.verify import verify

NOT_TEXT = recipes_a_to_j.NOT_TEXT | recipes_k_to_z.NOT_TEXT
_DICT = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
STEPS = 4
UNITS = {"Gemma3ForConditionalGeneration": 7}
"""Where crops of an image stand between words like images do, and count as such."""


class NotThere(Exception):
    """The family does not have the feature, or its own release does not either."""


def _verified(model: Any, made: Call, **options: Any) -> float:
    found = verify(model, made.inputs, **options)
    refused = [check.said for check in found.checks if check.outcome == "refused"]
    if refused and refused[0].startswith("the unpruned model does not answer"):
        raise NotThere(refused[0])
    if refused:
        raise BridgeError(refused[0])
    assert found.ok, str(found)
    return max(check.difference or 0.0 for check in found.checks)


def _generate(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    return model.generate(**inputs, **{"max_new_tokens": STEPS, "min_new_tokens": STEPS, **_DICT, **options})


def _pruned(model: Any, inputs: dict[str, Any], asked: dict[str, Any] | None = None, **options: Any) -> Any:
    with torch.no_grad(), prune(model, **{"keep": 0.5, **(asked or {})}):
        return _generate(model, inputs, **options)


def _apart(one: Any, other: Any) -> float:
    """Largest difference of the logits of two answers, whose tokens must be the same."""
    assert torch.equal(one.sequences, other.sequences)
    return float((torch.stack(one.logits) - torch.stack(other.logits)).abs().max())


def _unpruned(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """What the unpruned model answers; where it cannot, there is nothing to be equal to."""
    try:
        return _generate(model, inputs, **options)
    except Exception as error:
        raise NotThere(f"the unpruned model fails: {type(error).__name__}: {error}") from error


def _same_with(model: Any, inputs: dict[str, Any], **options: Any) -> float:
    """How far logits with `options` are from those without; 0 where no farther than twice the unpruned model's own."""
    one, other = _unpruned(model, inputs), _unpruned(model, inputs, **options)
    if not torch.equal(one.sequences, other.sequences):
        raise NotThere(f"the unpruned model answers otherwise with {options}")
    found = _apart(_pruned(model, inputs, **options), _pruned(model, inputs))
    return found if found > 2 * _apart(one, other) else 0.0


# features -----------------------------------------------------------------------------------------


def images(model):
    """A batch with left padding: keep = all, the pruned forward, generate; nothing left behind."""
    return _verified(model, call(model))


def four_budgets(model):
    """One token, an eighth, a half, three quarters of every image."""
    return max(_verified(model, call(model, (2, 1)), keep=keep) for keep in (1, 0.125, 0.5, 0.75))


def videos(model):
    """A video in every prompt."""
    _takes_videos(model)
    return _verified(model, call(model, (0, 0), videos=(1, 1)))


def _takes_videos(model: Any) -> None:
    if "pixel_values_videos" not in inspect.signature(model.forward).parameters:
        raise NotThere("takes no video")


def images_and_videos(model):
    """An image in one prompt, a video in the other."""
    _takes_videos(model)
    made = call(model, (1, 0), videos=(0, 1))
    _unpruned(model, made.inputs)
    return _verified(model, made)


def sounds(model):
    """A sound beside every image."""
    if recipe(model).sound is None:
        raise NotThere("takes no sound")
    return _verified(model, call(model, sound=True))


def one_budget_an_image(model):
    """keep = 3 keeps three tokens of an image, of however many tiles, and of a video, of however many frames."""
    _, report = prune_inputs(model, call(model, (2, 1)).inputs, 3)
    units = {3, 2, UNITS.get(type(model).__name__, 3)}  # images; or prompts, where tiles stand in words
    assert len(report.kept) in units
    assert {len(kept) for kept in report.kept} == {3}, report.sizes
    if "pixel_values_videos" in inspect.signature(model.forward).parameters:
        _, report = prune_inputs(model, call(model, (0, 0), videos=(1, 1)).inputs, 3)
        assert [len(kept) for kept in report.kept] == [3, 3]
    return 0.0


def text(model):
    """A prompt of words passes through untouched."""
    inputs = {k: v[:, -4:] for k, v in call(model).inputs.items() if k in ("input_ids", "attention_mask")}
    plain = _unpruned(model, inputs)
    with prune(model, 0.5) as report:
        got = _generate(model, inputs)
    assert report.calls == 0
    return _apart(got, plain)


def without_cache(model):
    """``use_cache=False``, a single prompt without padding: gaps must not be read as packed sequences."""
    made = call(model, (1,), (6,))
    return _same_with(model, made.inputs, use_cache=False)


def chunks(model):
    """The prompt read seven tokens at a time equals the prompt read at once."""
    made = call(model)
    got = _pruned(model, made.inputs, prefill_chunk_size=7)
    return _apart(got, _pruned(model, made.inputs))


def static(model):
    """A static cache."""
    made, options = call(model), {"cache_implementation": "static", "disable_compile": True}
    return _same_with(model, made.inputs, **options)


def copies(model):
    """Several answers to a prompt, each with the rows of its own prompt: greedy ones are all the same."""
    made = call(model)
    options = {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
    got = _pruned(model, made.inputs, **options)
    plain = _pruned(model, made.inputs)
    assert torch.equal(got.sequences, plain.sequences.repeat_interleave(2, 0))
    return float((torch.stack(got.logits) - torch.stack(plain.logits).repeat_interleave(2, 1)).abs().max())


def beams(model):
    """Beam search: the score of an answer is the one that `forward`, decoding by hand, gives it."""
    made = call(model)
    options = {"num_beams": 2, "output_scores": True, "length_penalty": 0.0}
    got = _pruned(model, made.inputs, **options)
    tokens = got.sequences[:, -STEPS:]
    logits = by_hand_logits(model, made.inputs, tokens)
    scores = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(1)
    return float((scores - got.sequences_scores).abs().max())


def by_hand_logits(model: Any, inputs: dict[str, Any], tokens: Tensor, **asked: Any) -> Tensor:
    """Logits (B, steps, vocabulary) behind each of `tokens`, decoded one by one on the pruned cache."""
    with torch.no_grad(), prune(model, **{"keep": 0.5, **asked}):
        out = model(**inputs, use_cache=True)
        found = [out.logits[:, -1]]
        for step in range(tokens.shape[1] - 1):
            if out.past_key_values is None:
                raise NotThere("forward makes no cache")
            out = model(
                input_ids=tokens[:, step : step + 1], past_key_values=out.past_key_values, use_cache=True
            )
            found.append(out.logits[:, -1])
    return torch.stack(found, 1)


def by_hand(model):
    """Decoding by hand on the cache that `forward` returns equals `generate`."""
    made = call(model)
    out = _pruned(model, made.inputs)
    logits = by_hand_logits(model, made.inputs, out.sequences[:, -STEPS:])
    return float((logits - torch.stack(out.logits, 1)).abs().max())


def compact(model):
    """Positions 0, 1, ...: `generate` equals `forward`, and with keep = all it changes nothing."""
    made = call(model)
    out = _pruned(model, made.inputs, {"positions": "compact"})
    logits = by_hand_logits(model, made.inputs, out.sequences[:, -STEPS:], positions="compact")
    full = _pruned(model, made.inputs, {"positions": "compact", "keep": 1.0})
    same = _apart(full, _unpruned(model, made.inputs))
    return max(same, float((logits - torch.stack(out.logits, 1)).abs().max()))


def rewritten(model):
    """`prune_inputs`, then `forward`, equals `forward` inside of `prune`."""
    made = call(model)
    new, _ = prune_inputs(model, made.inputs, 0.5)
    with torch.no_grad():
        got = model(**new).logits[:, -1]
        with prune(model, 0.5):
            want = model(**made.inputs).logits[:, -1]
    return float((got - want).abs().max())


def folded(model):
    """Folding: `generate` equals `forward`, and with keep = all it changes nothing."""
    made = call(model)
    out = _pruned(model, made.inputs, {"fold": True})
    logits = by_hand_logits(model, made.inputs, out.sequences[:, -STEPS:], fold=True)
    full = _pruned(model, made.inputs, {"fold": True, "keep": 1.0})
    same = _apart(full, _unpruned(model, made.inputs))
    return max(same, float((logits - torch.stack(out.logits, 1)).abs().max()))


def inside(model):
    """FastV, inside the LLM: `generate` equals `forward`, and with keep = all it changes nothing."""
    made = call(model)
    asked = {"method": "fastv", "layer": 1}
    out = _pruned(model, made.inputs, asked)
    with torch.no_grad(), prune(model, 0.5, **asked):
        first = model(**made.inputs).logits[:, -1]
    full = _pruned(model, made.inputs, {**asked, "keep": 1.0})
    return max(float((out.logits[0] - first).abs().max()), _apart(full, _unpruned(model, made.inputs)))


FEATURES = {
    "images": images,
    "four budgets": four_budgets,
    "videos": videos,
    "images and videos": images_and_videos,
    "sounds": sounds,
    "one budget an image": one_budget_an_image,
    "text": text,
    "without cache": without_cache,
    "chunked prefill": chunks,
    "static cache": static,
    "several answers": copies,
    "beams": beams,
    "decoding by hand": by_hand,
    "compact positions": compact,
    "`prune_inputs`": rewritten,
    "folded": folded,
    "FastV": inside,
}


# what is refused, and a part of the reason ----------------------------------------------------------


ON_ENTRY = {
    "Blip2": "its `generate` is its own",
    "Florence2": "go through a text encoder",
    "InstructBlip": "its `generate` is its own",
    "InstructBlipVideo": "no get_image_features",
    "Kosmos2": "no get_image_features",
    "T5Gemma2": "go through a text encoder",
}
"""Families whose answer is refused altogether, by the beginning of their class."""

_STATES = (
    *("Glm5Next", "Inkling", "Inkling2", "Lfm2Vl", "Lfm3Vl", "MiniCPMOcr", "MiniCPMV4_6", "MiniCPMV4_7"),
    *("Qwen3_5", "Qwen3_5Moe", "Qwen4Exp", "UnlimitedOcr", "NemotronH_Omni_Reasoning_V3"),
)
_CHOOSERS = ("Dots3Note", "MistralLarge4", "MiniMaxM3Sparse")
_SEEN_BACKWARDS = ("Gemma3", "Gemma4", "Gemma4Unified", "Molmo2", "PaliGemma")

_REFUSED = {
    "chunked prefill": {
        "see those behind them": _SEEN_BACKWARDS,
        "does not find everything that its encoder returns": ("Fuyu", "Granite4Vision", "Llama4", "Ovis2"),
        "they are embeddings": ("Phi4Multimodal",),
        "by the positions of tokens": ("MiniMaxM3Sparse",),
    },
    "folded": {
        "adds a bias to the scores of every layer": (*_STATES, *_CHOOSERS),
        "share those of others": ("Gemma3n",),
    },
    "FastV": {
        "carry a state from token to token or choose": (*_STATES, *_CHOOSERS),
        "windows are counted in tokens of the cache": (
            *("AyaVision", "Cohere2Vision", "CohereCompass", "Exaone4_5_", "Gemma3n", "Idefics2", "Llama4"),
            *("MuseGlimmer", "MuseSpark", "Step3p7"),
        ),
        "adds visual rows behind layers": (
            *(
                "Cosmos3Omni",
                "Granite4Vision",
                "GraniteDocling",
                "Qwen3OmniMoeThinker",
                "Qwen3VL",
                "Qwen3VLMoe",
            ),
        ),
        "tokens of an image see those behind them": _SEEN_BACKWARDS,
        "separate query and key projections": ("Kimi_K25", "Phi4Multimodal"),
        "final norm cannot be found": ("Fuyu",),
    },
    **{
        feature: {"by the positions of tokens": ("MiniMaxM3Sparse",)}
        for feature in (
            *(
                "images",
                "four budgets",
                "videos",
                "images and videos",
                "one budget an image",
                "without cache",
            ),
            *("static cache", "several answers", "beams", "decoding by hand", "`prune_inputs`"),
        )
    },
}


def refused(feature: str, name: str) -> str | None:
    """A part of the reason for which a class is refused a feature; None where it is right."""
    reasons = _REFUSED.get(feature, {})
    return next((why for why, names in reasons.items() if _start(name) in names), None)


def _start(name: str) -> str:
    """A class's name without what all have."""
    return name.removesuffix("ForConditionalGeneration").removesuffix("ForCausalLM")


def scale(model: Any) -> float:
    """What a difference of logits is to be compared with."""
    with torch.no_grad():
        logits = model(**call(model).inputs).logits
    return max(1.0, float(logits[logits > torch.finfo(logits.dtype).min / 2].std()))


def families() -> list[str]:
    """Classes of transformers that answer in words from visual tokens."""
    return [name for name in every_family.classes() if name not in NOT_TEXT and _start(name) not in ON_ENTRY]


def refused_on_entry() -> dict[str, str]:
    """Classes that `prune` does not take, and a part of what it says."""
    found = {name: "" for name in every_family.classes() if name in NOT_TEXT}
    return found | {
        name: ON_ENTRY[_start(name)] for name in every_family.classes() if _start(name) in ON_ENTRY
    }
