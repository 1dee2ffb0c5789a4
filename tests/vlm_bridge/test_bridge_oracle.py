"""The oracle: a pruned run is the unpruned model with the dropped tokens masked out where they were."""

import pytest
import torch
from tiny_vlm import (
    FAMILIES,
    IMAGE,
    generated,
    keep_mask,
    masked_reference,
    positions_of,
    tiny_inputs,
    tiny_tensor_model,
)

from vlm_bridge import PRUNERS, prune, prune_inputs

BEFORE = {name: row for name, row in PRUNERS.items() if not (row.inside or row.open_options)}
SUBSETS = (*(name for name, row in BEFORE.items() if not row.merges), "residual", "greedy")
MERGING = tuple(name for name, row in BEFORE.items() if row.merges)
TOLERANCE = 1e-5


def options_of(method, clip, tokenizer):
    return {"clip": clip, "processor": tokenizer} if "clip_text" in PRUNERS[method].needs else {}


def assert_equals_reference(model, inputs, report, got, steps=12):
    tokens, logits = masked_reference(model, inputs, report.kept, report.sizes, steps)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.logits, logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SUBSETS)
def test_pruned_equals_masked(models, clip, tokenizer, family, method):
    """Batch 2, left padding, KV cache, 12 greedy tokens; the cache has the pruned length."""
    model = models[family]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    assert (inputs["attention_mask"] == 0).any()
    with prune(model, 7, method, rng=0, **options_of(method, clip, tokenizer)) as report:
        got = generated(model, inputs)
    assert [len(k) for k in report.kept] == [7, 7]
    assert_equals_reference(model, inputs, report, got)
    real = inputs["attention_mask"].sum(1) - torch.tensor(report.sizes) + 7
    assert got.cache.get_seq_length() == int(real.max()) + 11


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", MERGING)
def test_merging_pruners_run_on_live_signals(models, clip, tokenizer, family, method):
    """Exact counts; the merge matrix of the report makes the rows that the LLM is given."""
    model = models[family]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    given = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        with prune(model, 7, method, rng=0, **options_of(method, clip, tokenizer)) as report:
            got = generated(model, inputs, steps=2)
    finally:
        handle.remove()
    assert [len(k) for k in report.kept] == [7, 7]
    assert got.tokens.shape == (2, 2)
    pixels = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        images = model.model.get_image_features(**pixels, return_dict=True).pooler_output
    short = given[0][0][
        given[0][0].shape[0] - int((inputs["attention_mask"][0]).sum()) + len(images[0]) - 7 :
    ]
    row = short[1:8]
    kept, merge = report.kept[0], report.merges[0]
    assert merge.shape in ((7, len(images[0])), (7, len(images[0]) + 1))
    alone = torch.nn.functional.one_hot(kept, merge.shape[1]).to(merge)
    same = (merge == alone).all(1)
    assert not same.all(), "something is merged"
    torch.testing.assert_close(row[same], images[0][kept[same]].detach())
    if not PRUNERS[method].before_projector:
        torch.testing.assert_close(row, (merge @ images[0]).detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_matters(models, family):
    """What the tolerance would overlook is far smaller than what pruning does."""
    model = models[family]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    full = generated(model, inputs)
    with prune(model, 7):
        pruned = generated(model, inputs)
    assert (full.logits[:, 0] - pruned.logits[:, 0]).abs().amax(1).min() > 1e4 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SUBSETS)
def test_keeping_all_changes_nothing(models, clip, tokenizer, family, method):
    model = models[family]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    full = generated(model, inputs)
    with torch.no_grad():
        logits = model(**inputs).logits
    with prune(model, 1.0, method, rng=0, **options_of(method, clip, tokenizer)) as report:
        got = generated(model, inputs)
        with torch.no_grad():
            kept_logits = model(**inputs).logits
    assert torch.equal(got.tokens, full.tokens)
    torch.testing.assert_close(got.logits, full.logits, atol=TOLERANCE, rtol=0)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(kept_logits[real], logits[real], atol=TOLERANCE, rtol=0)
    assert report.errors == [0.0] * 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("images", "text", "keep"),
    [
        ((2, 1), (3, 8), 0.2),
        ((2, 1), (3, 8), [3, 11, 5]),
        ((1, 0), (3, 30), 6),
        ((0, 3, 0), (60, 3, 2), [9, 1, 4]),
        ((3,), (4,), [2, 9, 5]),
    ],
    ids=["several", "ragged", "row without", "rows without", "alone"],
)
def test_several_images_and_ragged_budgets(models, family, images, text, keep):
    model = models[family]
    inputs = tiny_inputs(model, images, text)
    with prune(model, keep) as report:
        got = generated(model, inputs, steps=6)
    assert report.rows == [row for row, count in enumerate(images) for _ in range(count)]
    if isinstance(keep, list):
        assert [len(k) for k in report.kept] == keep
    assert_equals_reference(model, inputs, report, got, steps=6)


def test_single_unpadded_prompt_with_gaps(llava):
    """Batch 1, no padding, original positions: the case in which transformers sees packed sequences."""
    inputs = tiny_inputs(llava, (1,), (6,))
    assert inputs["attention_mask"].all()
    for cache in (True, False):
        with prune(llava, 8) as report:
            got = generated(llava, inputs, use_cache=cache)
        assert_equals_reference(llava, inputs, report, got)


def test_the_packed_sequence_trap_is_real(llava):
    """Without the mask that `prune` puts back, the same inputs give other logits."""
    inputs = tiny_inputs(llava, (1,), (6,))
    new, report = prune_inputs(llava, inputs, 8)
    trapped = llava.generate(
        **new, max_new_tokens=1, use_cache=False, return_dict_in_generate=True, output_logits=True
    ).logits[0]
    _, logits = masked_reference(llava, inputs, report.kept, report.sizes, 1)
    assert (trapped - logits[:, 0]).abs().max() > 1e-2


def test_compact_positions(llava):
    """Compact positions are counted over what is left, and differ from kept ones."""
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, 7, positions="compact") as report:
        got = generated(llava, inputs, steps=1)
    stay = keep_mask(inputs, report.kept, report.sizes)
    with torch.no_grad():
        want = llava(**{**inputs, "attention_mask": stay.long()}, position_ids=positions_of(stay)).logits[
            :, -1
        ]
    torch.testing.assert_close(got.logits[:, 0], want, atol=TOLERANCE, rtol=0)
    _, kept = masked_reference(llava, inputs, report.kept, report.sizes, 1)
    assert (kept[:, 0] - want).abs().max() > 1e-2


def test_forward_gives_the_pruned_prompts_logits(llava):
    inputs = tiny_inputs(llava, (1, 2), (4, 9))
    with torch.no_grad(), prune(llava, 6) as report:
        got = llava(**inputs).logits
    stay = keep_mask(inputs, report.kept, report.sizes)
    positions = positions_of(inputs["attention_mask"])
    with torch.no_grad():
        want = llava(**{**inputs, "attention_mask": stay.long()}, position_ids=positions).logits
    assert got.shape[1] == int(stay.sum(1).max())
    for row in range(2):
        count = int(stay[row].sum())
        torch.testing.assert_close(got[row, -count:], want[row][stay[row]], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("with_mask", [True, False])
def test_decoding_by_hand(llava, with_mask):
    """Forward with images, then steps on the cache it returned, as an unpruned model would be driven."""
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    mask = inputs["attention_mask"]
    tokens = []
    with torch.no_grad(), prune(llava, 7) as report:
        out = llava(**inputs, use_cache=True)
        for _ in range(6):
            best = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(best)
            mask = torch.cat([mask, torch.ones_like(best)], 1)
            out = llava(
                input_ids=best,
                past_key_values=out.past_key_values,
                attention_mask=mask if with_mask else None,
            )
    want, _ = masked_reference(llava, inputs, report.kept, report.sizes, 6)
    assert torch.equal(torch.cat(tokens, 1), want)


def test_right_padding_and_labels(llava):
    """Training-style calls: padding stays on its side, labels are cut, gradients reach the projector."""
    left = tiny_inputs(llava, (1, 1), (4, 9))
    pad = int((left["attention_mask"][0] == 0).sum())
    ids, mask = left["input_ids"].clone(), left["attention_mask"].clone()
    ids[0], mask[0] = ids[0].roll(-pad), mask[0].roll(-pad)
    labels = ids.masked_fill((mask == 0) | (ids == IMAGE), -100)
    inputs = {**left, "input_ids": ids, "attention_mask": mask, "labels": labels}
    new, report = prune_inputs(llava, inputs, 7)
    assert new["attention_mask"][0].tolist() == sorted(new["attention_mask"][0].tolist(), reverse=True)
    stay = keep_mask(inputs, report.kept, report.sizes)
    assert torch.equal(new["labels"][1], labels[1][stay[1]])
    with torch.enable_grad(), prune(llava, 7):
        llava(**inputs).loss.backward()
    assert llava.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    llava.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_prune_inputs_alone(models, family):
    model = models[family]
    inputs = tiny_inputs(model, (1, 2), (4, 9))
    before = {k: v.clone() for k, v in inputs.items()}
    new, report = prune_inputs(model, inputs, 0.1)
    assert all(torch.equal(inputs[k], before[k]) for k in before), "the caller's inputs stay"
    assert "pixel_values" not in new
    out = model.generate(**new, max_new_tokens=12, do_sample=False)
    tokens, _ = masked_reference(model, inputs, report.kept, report.sizes)
    assert torch.equal(out[:, new["input_ids"].shape[1] :], tokens)
    assert (new["input_ids"] == IMAGE).sum() == sum(map(len, report.kept))


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_embeds(models, family):
    model = models[family]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    embeds = {k: v for k, v in inputs.items() if k != "input_ids"}
    embeds["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with prune(model, 7) as report:
        got = model.generate(**embeds, max_new_tokens=6, do_sample=False)
    tokens, _ = masked_reference(model, inputs, report.kept, report.sizes, 6)
    assert torch.equal(got, tokens), "from embeddings alone, generate returns the answer alone"


def test_given_encoder_outputs_are_pruned(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    encoded = llava.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
    call = {k: v for k, v in inputs.items() if k != "pixel_values"} | {
        "mm_encoder_outputs": {"image": encoded}
    }
    with prune(llava, 7):
        got = llava.generate(**call, max_new_tokens=4, do_sample=False)
        want = llava.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(got, want)
    assert [len(rows) for rows in encoded.pooler_output] == [36, 36], "the caller's own stay as they are"


def test_kept_rows_are_those_of_select_tokens(models, clip, tokenizer):
    """A live choice is the model-free one on the projected features with the prompt's own signals."""
    from vlm_bridge import select_tokens
    from vlm_bridge.selection.signals import clip_patch_embeds, clip_text_embeds

    model = models["llava"]
    inputs = tiny_inputs(model, (1, 1), (4, 9))
    out = model.model.get_image_features(
        pixel_values=inputs["pixel_values"], output_hidden_states=True, return_dict=True
    )
    patches = clip_patch_embeds(clip[0], out.hidden_states[-2][:, 1:])
    for row in range(2):
        ids = inputs["input_ids"][row]
        words = ids[(ids > 2) & (ids != IMAGE)]
        llm_text = model.get_input_embeddings()(words)
        clip_text = clip_text_embeds(clip[0], clip[1], tokenizer.decode(words))
        assert len(clip_text) == -(-(len(words) + 2) // 8)
        for method in ("resprune", "cdpruner", "spare"):
            options = {
                "clip": clip,
                "processor": tokenizer,
                "relevance": None if method != "spare" else "anti",
            }
            with prune(model, 9, method, **options) as report:
                generated(model, inputs, steps=1)
            want = select_tokens(
                out.pooler_output[row],
                9,
                method,
                options["relevance"],
                llm_text=llm_text,
                clip_patches=patches[row],
                clip_text=clip_text,
            )
            assert torch.equal(report.kept[row], want), method


def test_packed_clip_patches_follow_the_features(models, clip):
    """LLaVA-NeXT and OneVision: CLIP embeddings are packed like the features, separators are zero."""
    from vlm_bridge.model.families import anyres

    for family in ("llava_next", "llava_onevision"):
        model = models[family]
        inputs = tiny_inputs(model, (1, 1), (4, 9))
        tiles = []
        handle = model.model.multi_modal_projector.register_forward_hook(
            lambda m, i, out, to=tiles: to.append(out)
        )
        rows = model.model.get_image_features(
            pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"], return_dict=True
        ).pooler_output
        handle.remove()
        packed = anyres(model.model, tiles[0], inputs)
        for mine, theirs in zip(packed, rows, strict=True):
            newline = (theirs == model.model.image_newline).all(-1)
            assert newline.any()
            assert torch.equal(mine[~newline], theirs[~newline])
            assert (mine[newline] == 0).all()


@pytest.mark.parametrize("keep", [4, [2, 5, 3]])
def test_a_family_that_wants_tensors(keep):
    """InternVL: right, also with ragged budgets and beams, where `generate` alone would mix the rows up."""
    model = tiny_tensor_model()
    inputs = tiny_inputs(model, (2, 1), (4, 9))
    with prune(model, keep) as report:
        got = generated(model, inputs, steps=6)
        both = model.generate(**inputs, num_beams=2, max_new_tokens=4, do_sample=False)
    real = inputs["attention_mask"][1].bool()
    alone = {"input_ids": inputs["input_ids"][1:, real], "pixel_values": inputs["pixel_values"][2:]}
    with prune(model, keep[2:] if isinstance(keep, list) else keep):
        one = model.generate(**alone, num_beams=2, max_new_tokens=4, do_sample=False)
    assert torch.equal(one[0, -4:], both[1, -4:])
    report.kept, report.sizes = report.kept[:3], report.sizes[:3]
    assert_equals_reference(model, inputs, report, got, steps=6)
