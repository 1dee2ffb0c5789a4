"""What pruning must get right on every family: one function a feature, each against the masking oracle.

A cell asserts what must be equal token for token and returns the largest difference of logits it has seen. Where the
bridge refuses, with `BridgeError`, `REFUSED` says so and why; anything else that is raised is a fault.
``python -m analysis families`` runs all cells and writes the table of the documentation.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import torch
from tiny_families import (
    BIDIRECTIONAL,
    FAMILIES,
    PROMPT,
    WITH_GRID,
    WITH_VIDEO,
    family_call,
    masked_inputs,
    masked_reference,
    original_positions,
    stay_mask,
)
from transformers import GenerationMixin
from transformers.generation import utils as generation

from vlm_bridge import PerTile, prune, prune_inputs

KEEP = 5
_DICT = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}


def pruned(model, call, keep=KEEP, *, steps=12, method="spare", generate=None, **options):
    """The model's own `generate` inside `prune`: its answer and the report."""
    with prune(model, keep, method, **options) as report:
        out = model.generate(**call.inputs, **{"max_new_tokens": steps, **_DICT, **(generate or {})})
    prompt = call.inputs["input_ids"]
    copies = out.sequences.shape[0] // prompt.shape[0]
    full = prompt.repeat_interleave(copies, 0)
    assert torch.equal(out.sequences[:, : prompt.shape[1]], full), "the full prompt stands in front"
    return out, report


def masked(model, call, report, *, steps=12, generate=None):
    """The unpruned model's own `generate` with the dropped tokens masked out."""
    inputs = masked_inputs(model, call, report.kept)
    return model.generate(**inputs, **{"max_new_tokens": steps, **_DICT, **(generate or {})})


def difference(a, b):
    """Largest difference of two lists of logits."""
    return float((torch.stack(tuple(a), 1) - torch.stack(tuple(b), 1)).abs().max())


def against_reference(model, call, out, report, steps=12, positions=None):
    """Tokens equal those of the cache-free oracle; how far the logits differ."""
    tokens, logits = masked_reference(model, call, report.kept, steps, positions)
    assert torch.equal(out.sequences[:, -steps:], tokens)
    return difference(out.logits, logits.unbind(1))


def against_generate(model, call, keep=KEEP, *, steps=8, generate=None, plain=None, **options):
    """Sequences equal those of the masked `generate` (with the arguments `plain` instead); logits, too."""
    torch.manual_seed(5)
    out, report = pruned(model, call, keep, steps=steps, generate=generate, **options)
    torch.manual_seed(5)
    want = masked(model, call, report, steps=steps, generate=generate if plain is None else plain)
    assert torch.equal(out.sequences, want.sequences)
    return difference(out.logits, want.logits)


# cells --------------------------------------------------------------------------------------------


def oracle(model):
    """A batch of two with left padding, 12 greedy tokens, the cache as short as it should be."""
    call = family_call(model)
    assert (call.inputs["attention_mask"] == 0).any()
    out, report = pruned(model, call)
    assert [len(k) for k in report.kept] == [KEEP, KEEP]
    assert report.rows == [0, 1]
    real = stay_mask(call, report.kept).sum(1)
    assert out.past_key_values.get_seq_length() == int(real.max()) + 11
    full = model.generate(**call.inputs, max_new_tokens=1, **_DICT)
    assert difference(full.logits, out.logits[:1]) > 0.05, "visual tokens matter"
    return against_reference(model, call, out, report)


def keep_all(model):
    """keep = 1.0 changes nothing: tokens, logits of `generate`, logits of `forward`."""
    call = family_call(model, (2, 1))
    full = model.generate(**call.inputs, max_new_tokens=12, **_DICT)
    out, report = pruned(model, call, 1.0)
    assert torch.equal(out.sequences, full.sequences)
    assert report.errors == [0.0] * len(call.spans)
    with torch.no_grad():
        before = model(**call.inputs).logits
        with prune(model, 1.0):
            after = model(**call.inputs).logits
    real = call.inputs["attention_mask"].bool()
    return max(difference(out.logits, full.logits), float((before - after)[real].abs().max()))


def several(model):
    """Two images in a row, a row without, budgets of their own."""
    call = family_call(model, (2, 0, 1), (3, 30, 8))
    keep = [3, 7, 2][: len(call.spans)]
    out, report = pruned(model, call, keep)
    assert [len(k) for k in report.kept] == keep
    assert report.sizes == [len(columns) for _, columns in call.spans]
    assert report.rows == [row for row, _ in call.spans]
    return against_reference(model, call, out, report)


def alone(model):
    """One prompt without padding, with gaps: with the cache and without (see `find_packed_sequence_indices`)."""
    call = family_call(model, (1,), (6,))
    return max(against_generate(model, call, generate={"use_cache": cache}) for cache in (True, False))


def compact(model):
    """Positions 0, 1, ... over what is left, on all axes."""
    call = family_call(model)
    out, report = pruned(model, call, positions="compact")
    stay = stay_mask(call, report.kept)
    positions = (stay.long().cumsum(-1) - 1).clamp(min=0).expand_as(original_positions(model, call))
    return against_reference(model, call, out, report, positions=positions)


def forward(model):
    """A plain call gives the logits of the pruned prompt."""
    call = family_call(model, (1, 2))
    with torch.no_grad(), prune(model, KEEP) as report:
        got = model(**call.inputs).logits
    inputs = masked_inputs(model, call, report.kept)
    if model.config.model_type == "paligemma":
        inputs["position_ids"] = inputs["position_ids"] + 1
    with torch.no_grad():
        want = model(**inputs).logits
    stay = stay_mask(call, report.kept)
    assert got.shape[1] == int(stay.sum(1).max())
    return max(
        float((got[row, -int(own.sum()) :] - want[row][own]).abs().max()) for row, own in enumerate(stay)
    )


def by_hand(model):
    """Decoding on the returned cache, with the full prompt's mask and with none."""
    call = family_call(model)
    found = 0.0
    for with_mask in (True, False):
        mask, tokens, logits = call.inputs["attention_mask"], [], []
        with torch.no_grad(), prune(model, KEEP) as report:
            out = model(**call.inputs, use_cache=True)
            for _ in range(6):
                logits.append(out.logits[:, -1])
                tokens.append(logits[-1].argmax(-1, keepdim=True))
                mask = torch.cat([mask, torch.ones_like(tokens[-1])], 1)
                out = model(
                    input_ids=tokens[-1],
                    past_key_values=out.past_key_values,
                    attention_mask=mask if with_mask else None,
                )
        want, expected = masked_reference(model, call, report.kept, 6)
        assert torch.equal(torch.cat(tokens, 1), want)
        found = max(found, difference(logits, expected.unbind(1)))
    return found


def rewritten(model):
    """`prune_inputs`, then `generate`; the caller's inputs stay as they were."""
    call = family_call(model)
    before = {name: value.clone() for name, value in call.inputs.items()}
    new, report = prune_inputs(model, call.inputs, [KEEP, 3])
    assert call.inputs.keys() == before.keys()
    assert all(torch.equal(call.inputs[name], before[name]) for name in before)
    out = model.generate(**new, max_new_tokens=12, **_DICT)
    return against_reference(model, call, out, report)


def embeddings(model):
    """A prompt as ``inputs_embeds``, in `forward`, and in `generate` where the model takes it there."""
    call = family_call(model)
    inputs = {name: value for name, value in call.inputs.items() if name != "input_ids"}
    inputs["inputs_embeds"] = model.get_input_embeddings()(call.inputs["input_ids"]).detach()
    with torch.no_grad(), prune(model, KEEP) as report:
        logits = model(**inputs).logits[:, -1]
    found = difference([logits], [masked_reference(model, call, report.kept, 1)[1][:, 0]])
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        return found
    with prune(model, KEEP) as report:
        out = model.generate(**inputs, max_new_tokens=6, **_DICT)
    return max(found, against_reference(model, call, out, report, steps=6))


def encoded(model):
    """``mm_encoder_outputs`` instead of pixels, used twice, with beams: they stay as they were."""
    call = family_call(model)
    names = ("pixel_values", "pixel_attention_mask", "image_grid_thw", "image_sizes", "batch_num_images")
    of_images = {name: call.inputs[name] for name in names if name in call.inputs}
    with torch.no_grad():
        output = model.model.get_image_features(**of_images, return_dict=True)
    inputs = {
        name: value for name, value in call.inputs.items() if name in PROMPT or name.endswith("grid_thw")
    }
    inputs["mm_encoder_outputs"] = {"image": output}
    options = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False}
    with prune(model, KEEP) as report:
        first, again = (model.generate(**inputs, **options) for _ in range(2))
    assert [len(rows) for rows in output.pooler_output] == report.sizes[
        :2
    ] or model.config.model_type == "internvl"
    assert torch.equal(first, again)
    report.kept = report.kept[:2]
    want = masked(model, call, report, generate=options)
    assert torch.equal(first, want.sequences)
    return 0.0


def beams(model):
    """Beam search with several answers a prompt and budgets of their own; scores, too."""
    call = family_call(model)
    options = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True}
    out, report = pruned(model, call, [KEEP, 3], steps=8, generate=options)
    want = masked(model, call, report, steps=8, generate=options)
    assert torch.equal(out.sequences, want.sequences)
    assert torch.equal(out.beam_indices, want.beam_indices)
    return float((out.sequences_scores - want.sequences_scores).abs().max())


def sampling(model):
    """Three samples a prompt, the same under the same seed."""
    options = {"do_sample": True, "num_return_sequences": 3}
    return against_generate(model, family_call(model), [KEEP, 3], generate=options)


def static(model):
    """A static cache."""
    return against_generate(model, family_call(model), generate={"cache_implementation": "static"}, plain={})


def chunks(model):
    """The prompt read seven tokens at a time."""
    return against_generate(model, family_call(model), generate={"prefill_chunk_size": 7}, plain={})


def lookup(model):
    """Prompt-lookup decoding."""
    return against_generate(
        model, family_call(model, (1,), (6,)), generate={"prompt_lookup_num_tokens": 2}, plain={}
    )


def assistant(model):
    """Assisted decoding."""
    return against_generate(
        model, family_call(model, (1,), (6,)), generate={"assistant_model": model}, plain={}
    )


def lengths(model):
    """``max_length`` counts the full prompt; a streamer sees it, then the answer."""

    class Streamer:
        def __init__(self):
            self.seen = []

        def put(self, value):
            self.seen += value.flatten().tolist()

        def end(self):
            self.seen.append("end")

    call, streamer = family_call(model, (1,), (6,)), Streamer()
    inputs = call.inputs
    longest = inputs["input_ids"].shape[1] + 6
    with prune(model, KEEP) as report:
        out = model.generate(**inputs, max_length=longest, streamer=streamer, do_sample=False)
    assert out.shape[1] == longest
    assert streamer.seen == [*out[0].tolist(), "end"]
    tokens, _ = masked_reference(model, call, report.kept, 6)
    assert torch.equal(out[:, -6:], tokens)
    return 0.0


def text_relevance(model):
    """A pruner that reads the prompt's text."""
    call = family_call(model, (1, 1), (4, 9))
    out, report = pruned(model, call, method="resprune", steps=4)
    return against_reference(model, call, out, report, 4)


def tiles(model):
    """Two tokens of every tile (of every unbroken run of placeholders of one encoder entry)."""
    call = family_call(model, (2, 1))
    out, report = pruned(model, call, PerTile(2), steps=4)
    assert all(len(k) >= 2 and len(k) % 2 == 0 for k in report.kept)
    return against_reference(model, call, out, report, 4)


def separators(model):
    """Rows that end a row of the grid stay, and count."""
    call = family_call(model)
    newline = getattr(model.model, "image_newline", None)
    keep = KEEP if newline is None else 40
    out, report = pruned(model, call, keep, steps=4, separators="keep")
    assert [len(k) for k in report.kept] == [keep, keep]
    if newline is not None:
        of_images = {k: v for k, v in call.inputs.items() if k not in PROMPT}
        rows = model.model.get_image_features(**of_images, return_dict=True).pooler_output
        for image, kept in zip(rows, report.kept, strict=True):
            places = (image == newline).all(-1).nonzero()[:, 0]
            assert 0 < len(places) < keep
            assert torch.isin(places, kept).all()
    return against_reference(model, call, out, report, 4)


def video(model):
    """An image in one prompt, a video in the other."""
    call = family_call(model, (1, 0), (4, 9), videos=(0, 1))
    out, report = pruned(model, call)
    assert report.sizes == [len(columns) for _, columns in call.spans]
    return against_reference(model, call, out, report)


def mixed(model):
    """Images and videos in one prompt, budgets in the order of their placeholders; beams."""
    call = family_call(model, (1, 1), (4, 9), videos=(2, 0))
    keep = [3, 7, 4, 2]
    out, report = pruned(model, call, keep, steps=6)
    assert [len(k) for k in report.kept] == keep
    assert report.rows == [0, 0, 0, 1]
    beams = against_generate(model, call, keep, generate={"num_beams": 2})
    return max(beams, against_reference(model, call, out, report, 6))


CELLS = {
    "images, batch, left padding": oracle,
    "keep = all": keep_all,
    "several images, ragged budgets": several,
    "videos": video,
    "images and videos": mixed,
    "one prompt, with and without cache": alone,
    "compact positions": compact,
    "separators kept": separators,
    "budget per tile": tiles,
    "text relevance": text_relevance,
    "`forward`": forward,
    "decoding by hand": by_hand,
    "`prune_inputs`": rewritten,
    "`inputs_embeds`": embeddings,
    "`mm_encoder_outputs`": encoded,
    "beams, several answers, scores": beams,
    "sampling, several answers": sampling,
    "static cache": static,
    "chunked prefill": chunks,
    "prompt lookup": lookup,
    "assistant model": assistant,
    "`max_length`, streamer": lengths,
}

REFUSED = {
    **{(cell, name): "takes no video" for cell in ("videos", "images and videos") for name in FAMILIES},
    **{("assistant model", name): "this assistant is a model that is being pruned" for name in FAMILIES},
    **{
        ("`inputs_embeds`", name): "places visual tokens on a grid, which is read from input_ids"
        for name in WITH_GRID
    },
    **{("chunked prefill", name): "see those behind them" for name in BIDIRECTIONAL},
}
if not hasattr(generation, "_slice_mm_encoder_output"):
    REFUSED |= {("chunked prefill", name): "drops images in this release" for name in FAMILIES}
for _name in WITH_VIDEO:
    del REFUSED["videos", _name], REFUSED["images and videos", _name]


def copies_in_order():
    """Whether `generate` copies the images A, B of a prompt as A, B, A, B; older releases as A, A, B, B."""
    rows = [torch.full((2, 1), float(i)) for i in range(2)]
    output = {"image": SimpleNamespace(pooler_output=rows)}
    owner = SimpleNamespace(config=SimpleNamespace(image_token_id=7))
    GenerationMixin._expand_multimodal_outputs(owner, torch.full((1, 4), 7), output, 2)
    return [float(one[0, 0]) for one in output["image"].pooler_output] == [0.0, 1.0, 0.0, 1.0]


_COPIED = ("`mm_encoder_outputs`", "beams, several answers, scores", "sampling, several answers")
UNJUDGED = set()
if not copies_in_order():
    UNJUDGED = {
        *((cell, "internvl") for cell in _COPIED),
        *(("images and videos", name) for name in WITH_VIDEO),
    }
"""Cells in which the oracle, `generate` itself, would be wrong."""
