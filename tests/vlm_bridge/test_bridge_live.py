"""Borrowing a live model: what `generate` still does, what is refused, and how the model is given back."""

import copy
import gc
import inspect
import weakref

import pytest
import torch
from tiny_vlm import (
    BOS,
    IMAGE,
    PAD,
    generated,
    masked_reference,
    tiny_inputs,
    tiny_model,
)
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation import utils as generation

from vlm_bridge import BridgeError, Report, prune, prune_inputs

# given back ---------------------------------------------------------------------------------------


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(
    "place",
    ["block", "encoder", "decoder", "head", "processor", "streamer", "step 3", "features", "embedding"],
)
def test_given_back_after_an_exception(llava, place, fold, monkeypatch):
    """`untouched` looks at hooks, attributes, class and weights; here also: the model works as before."""
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    before = generated(llava, inputs, steps=4)

    def fail(*args, **kwargs):
        raise Broken

    class Faulty(LogitsProcessor):
        def __call__(self, ids, scores):
            raise Broken

    class FaultyStreamer:
        def put(self, value):
            raise Broken

    options, where = {}, None
    if place == "processor":
        options["logits_processor"] = LogitsProcessorList([Faulty()])
    elif place == "streamer":
        options["streamer"] = FaultyStreamer()
        inputs = tiny_inputs(llava, (1,), (4,))
    else:
        where = {
            "encoder": llava.model.vision_tower,
            "features": llava.model.multi_modal_projector,
            "decoder": llava.model.language_model.layers[1].self_attn,
            "head": llava.lm_head,
            "embedding": llava.model.language_model.embed_tokens,
        }.get(place)
    calls = iter(range(100))
    with pytest.raises(Broken), monkeypatch.context() as patch:  # noqa: PT012
        if where is not None:
            patch.setattr(where, "forward", fail)
        elif place == "step 3":
            forward = llava.lm_head.forward
            patch.setattr(llava.lm_head, "forward", lambda x: fail() if next(calls) == 3 else forward(x))
        with prune(llava, 7, fold=fold):
            if place == "block":
                raise Broken
            llava.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    after = generated(llava, tiny_inputs(llava, (1, 1), (4, 9)), steps=4)
    assert torch.equal(after.logits, before.logits)


def test_a_failing_call_inside_the_block_can_be_followed_by_another(llava, monkeypatch):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, 7, fold=True) as report:
        with pytest.raises(BridgeError, match="NaN"):
            llava.generate(**{**inputs, "pixel_values": inputs["pixel_values"] * torch.nan}, max_new_tokens=1)
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):  # noqa: PT012
            patch.setattr(llava.lm_head, "forward", lambda x: 1 / 0)
            llava(**inputs)
        count = len(report.kept)
        text = tiny_inputs(llava, (0, 0), (4, 9))
        with torch.no_grad():
            inside = llava(**text).logits
        got = generated(llava, inputs, steps=2)
    assert count == 2, (
        "a call that fails before pruning leaves no entry; one that fails later has been pruned"
    )
    with torch.no_grad():
        assert torch.equal(inside, llava(**text).logits)
    assert got.tokens.shape == (2, 2)


def test_the_instance_override_is_an_instance_override(llava):
    own = type(llava).generate
    with prune(llava, 7):
        assert "generate" in vars(llava)
        assert type(llava).generate is own
    assert "generate" not in vars(llava)
    assert inspect.ismethod(llava.generate)


def test_a_callers_own_override_comes_back(llava):
    calls = []

    def mine(**kwargs):
        calls.append(sorted(kwargs))
        return type(llava).generate(llava, **kwargs)

    inputs = tiny_inputs(llava, (1,), (4,))
    llava.generate = mine
    try:
        with prune(llava, 7):
            llava.generate(**inputs, max_new_tokens=1, do_sample=False)
        assert llava.generate is mine
        assert "mm_encoder_outputs" in calls[0]
    finally:
        del llava.generate


def test_nesting_is_refused_and_models_do_not_interfere(llava, models):
    other = models["llava_next"]
    inputs, more = tiny_inputs(llava, (1,), (4,)), tiny_inputs(other, (1,), (4,))
    with prune(llava, 7) as report:
        with pytest.raises(BridgeError, match="being pruned already"), prune(llava, 3):
            pass
        with prune(other, 5) as second:
            llava.generate(**inputs, max_new_tokens=1)
            other.generate(**more, max_new_tokens=1)
        llava.generate(**inputs, max_new_tokens=1)
    assert [len(k) for k in report.kept] == [7, 7]
    assert [len(k) for k in second.kept] == [5]


def test_nothing_is_leaked(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    for _ in range(3):
        with prune(llava, 5, fold=True) as report:
            out = llava.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
            cache = weakref.ref(out.past_key_values)
            del out
    seen = weakref.ref(report)
    del report
    gc.collect()
    assert cache() is None
    assert seen() is None
    assert len(llava._forward_pre_hooks) == len(llava._forward_hooks) == 0


# untouched calls ----------------------------------------------------------------------------------


def test_text_only_passes_through(llava):
    text = tiny_inputs(llava, (0, 0), (4, 9))
    before = generated(llava, text)
    with prune(llava, 7, "resprune") as report:
        got = generated(llava, text)
        by_position = llava.generate(
            text["input_ids"], attention_mask=text["attention_mask"], max_new_tokens=3
        )
        new, empty = prune_inputs(llava, text, 7)
    assert torch.equal(got.logits, before.logits)
    assert by_position.shape[1] == text["input_ids"].shape[1] + 3
    assert all(new[k] is text[k] for k in text)
    assert report.kept == report.sizes == report.errors == empty.kept == []
    assert report.calls == 0


def test_checkpoints_round_trip(llava, tmp_path):
    llava.save_pretrained(tmp_path)
    loaded = type(llava).from_pretrained(tmp_path).eval()
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, 7) as first, prune(loaded, 7) as second:
        assert torch.equal(generated(llava, inputs).logits, generated(loaded, inputs).logits)
        loaded.save_pretrained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(first.kept, second.kept, strict=True))


# generate's options -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "config", "model"])
def test_max_length_counts_the_full_prompt(llava, how, monkeypatch):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    length = inputs["input_ids"].shape[1] + 3
    options = {"argument": {"max_length": length}, "config": {}, "model": {}}[how]
    if how == "config":
        options = {"generation_config": GenerationConfig(max_length=length, pad_token_id=PAD)}
    if how == "model":
        monkeypatch.setattr(llava.generation_config, "max_length", length)
    with prune(llava, 7):
        got = llava.generate(**inputs, do_sample=False, **options)
    assert got.shape[1] == length
    if how == "config":
        assert options["generation_config"].max_length == length, "the caller's config stays"


def test_min_length_counts_the_full_prompt(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    first = int(generated(llava, inputs, steps=1).tokens)
    prompt = inputs["input_ids"].shape[1]
    with prune(llava, 1.0):
        got = llava.generate(
            **inputs, do_sample=False, eos_token_id=first, max_new_tokens=4, min_length=prompt
        )
        more = llava.generate(
            **inputs, do_sample=False, eos_token_id=first, max_new_tokens=4, min_length=prompt + 2
        )
    assert got.shape[1] == prompt + 1
    assert more.shape[1] > prompt + 1


def test_padding_without_a_mask_is_inferred_as_generate_does(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, 7):
        want = llava.generate(**inputs, max_new_tokens=4, do_sample=False)
        bare = {k: v for k, v in inputs.items() if k != "attention_mask"}
        got = llava.generate(**bare, max_new_tokens=4, do_sample=False)
    assert torch.equal(got, want)


@pytest.mark.parametrize("images", [(1, 1), (2, 0, 1)])
def test_beams_and_several_answers(llava, images):
    """Row by row alone and together: the same beams; sampled answers stand behind their own prompts."""
    inputs = tiny_inputs(llava, images, (4, 9, 6)[: len(images)])
    prompt = inputs["input_ids"]
    with prune(llava, 0.2):
        both = llava.generate(
            **inputs, num_beams=3, num_return_sequences=2, max_new_tokens=5, do_sample=False
        )
        torch.manual_seed(0)
        several = llava.generate(**inputs, num_return_sequences=3, max_new_tokens=5, do_sample=True)
        at = 0
        for row, count in enumerate(images):
            real = inputs["attention_mask"][row].bool()
            alone = {k: inputs[k][row : row + 1, real] for k in ("input_ids", "attention_mask")}
            if count:
                alone["pixel_values"] = inputs["pixel_values"][at : at + count]
            at += count
            one = llava.generate(
                **alone, num_beams=3, num_return_sequences=2, max_new_tokens=5, do_sample=False
            )
            assert torch.equal(one[:, -5:], both[2 * row : 2 * row + 2, -5:])
    assert torch.equal(both[:, :-5], prompt.repeat_interleave(2, 0))
    assert torch.equal(several[:, :-5], prompt.repeat_interleave(3, 0))


@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 5},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static", "disable_compile": True},
    ],
    ids=lambda o: next(iter(o)),
)
def test_other_ways_to_decode(llava, options):
    inputs = tiny_inputs(llava, (2,), (6,))
    if "prefill_chunk_size" in options and not hasattr(generation, "_slice_mm_encoder_output"):
        with prune(llava, 7), pytest.raises(BridgeError, match="prefill_chunk_size"):
            llava.generate(**inputs, max_new_tokens=8, **options)
        return
    with prune(llava, 7) as report:
        got = llava.generate(**inputs, max_new_tokens=8, do_sample=False, **options)
    tokens, _ = masked_reference(llava, inputs, report.kept, report.sizes, 8)
    assert torch.equal(got[:, -8:], tokens)


def test_streamers_and_processors_see_the_full_prompt(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    prompt = inputs["input_ids"]

    class Streamer:
        def __init__(self):
            self.chunks, self.ended = [], False

        def put(self, value):
            self.chunks.append(value.reshape(-1))

        def end(self):
            self.ended = True

    class Spy(LogitsProcessor):
        seen = ()

        def __call__(self, ids, scores):
            self.seen = (*self.seen, ids)
            return scores

    streamer, spy = Streamer(), Spy()
    stop = StoppingCriteriaList([MaxLengthCriteria(prompt.shape[1] + 2)])
    allowed = []

    def allow(batch, ids):
        allowed.append(ids)
        return list(range(10, 100))

    with prune(llava, 7):
        got = llava.generate(
            **inputs,
            streamer=streamer,
            logits_processor=LogitsProcessorList([spy]),
            stopping_criteria=stop,
            prefix_allowed_tokens_fn=allow,
            max_new_tokens=6,
            do_sample=False,
        )
    assert got.shape[1] == prompt.shape[1] + 2
    assert torch.equal(streamer.chunks[0], prompt[0])
    assert torch.equal(torch.cat(streamer.chunks), got[0])
    assert streamer.ended
    assert torch.equal(spy.seen[0], prompt)
    assert torch.equal(spy.seen[1], got[:, :-1])
    assert torch.equal(allowed[0], prompt[0])


@pytest.mark.parametrize("beams", [1, 2])
def test_allowed_tokens_are_asked_for_with_the_prompt_they_belong_to(llava, beams):
    inputs = tiny_inputs(llava)
    seen = []

    def allow(prompt, ids):
        seen.append((prompt, ids.clone()))
        return [20 + prompt, 30 + prompt]

    with prune(llava, 7):
        got = llava.generate(
            **inputs, max_new_tokens=3, do_sample=False, num_beams=beams, prefix_allowed_tokens_fn=allow
        )
    length = inputs["input_ids"].shape[1]
    assert {prompt for prompt, _ in seen} == set(range(len(got)))
    for prompt, ids in seen:
        assert torch.equal(ids[:length], inputs["input_ids"][prompt])
    for prompt, row in enumerate(got):
        assert set(row[length:].tolist()) <= {20 + prompt, 30 + prompt}


def test_arguments_by_position(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    config = GenerationConfig(max_new_tokens=3, do_sample=False)
    with prune(llava, 7) as report, torch.no_grad():
        a = llava.generate(ids, config, pixel_values=pixels)
        b = llava.generate(**inputs, max_new_tokens=3, do_sample=False)
        c = llava(ids, pixels, inputs["attention_mask"]).logits
        d = llava(**inputs).logits
    assert torch.equal(a, b)
    assert torch.equal(c, d)
    assert report.calls == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"custom_generate": "somewhere/else"}, "custom_generate"),
        ({"pixel_values_videos": torch.ones(1)}, "video"),
    ],
)
def test_refused_with_a_reason(llava, options, message):
    with prune(llava, 7), pytest.raises(BridgeError, match=message):
        llava.generate(**tiny_inputs(llava, (1,), (4,)), max_new_tokens=1, **options)


def test_filled_caches_are_refused(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    text = tiny_inputs(llava, (0,), (6,))
    with torch.no_grad(), prune(llava, 7):
        filled = llava(**text, use_cache=True).past_key_values
        with pytest.raises(BridgeError, match="filled cache"):
            llava(**inputs, past_key_values=filled)
        with pytest.raises(BridgeError, match="filled cache"):
            llava.generate(**inputs, past_key_values=filled, max_new_tokens=1)
        pruned = llava(**inputs, use_cache=True).past_key_values
        with pytest.raises(BridgeError, match="pruned cache"):
            llava.generate(inputs["input_ids"], past_key_values=pruned, max_new_tokens=1)
        with pytest.raises(BridgeError, match="attention_mask has 3 columns"):
            llava(input_ids=torch.tensor([[9]]), past_key_values=pruned, attention_mask=torch.ones(1, 3))


FASTV = {"method": "fastv", "layer": 1}


def _followed(model, inputs, cache, mask):
    """Logits behind a token that follows the prompt in a cache."""
    more = (
        {"attention_mask": torch.cat([inputs["attention_mask"], torch.ones(2, 1)], 1).long()} if mask else {}
    )
    return model(input_ids=torch.tensor([[30], [31]]), past_key_values=cache, use_cache=True, **more).logits


def _stored(cache, path):
    torch.save(cache, path / "cache.pt")
    return torch.load(path / "cache.pt", weights_only=False)


@pytest.mark.parametrize("options", [{}, {"fold": True}, {"positions": "compact"}, FASTV])
@pytest.mark.parametrize("mask", [True, False])
def test_copies_of_a_pruned_cache_are_gone_on_with_alike(llava, options, mask):
    """One prompt, several continuations: `copy.deepcopy` of the cache is what the guides of transformers show."""
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with torch.no_grad(), prune(llava, 7, **options):
        filled = llava(**inputs, use_cache=True).past_key_values
        copies = [copy.deepcopy(filled) for _ in range(2)]
        want, *found = (_followed(llava, inputs, cache, mask) for cache in (filled, *copies))
    assert all(torch.equal(want, one) for one in found)


def test_rows_of_a_pruned_cache_change_places_only_where_they_are_alike(llava):
    """The second prompt keeps other tokens than the first; two copies of one prompt keep the same."""
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    alike = {name: value[1:].repeat_interleave(2, 0) for name, value in inputs.items()}
    back, tokens = torch.tensor([1, 0]), torch.tensor([[30], [31]])
    with torch.no_grad(), prune(llava, 7):
        filled = llava(**inputs, use_cache=True).past_key_values
        for reorder in (filled.reorder_cache, copy.deepcopy(filled).batch_select_indices):
            with pytest.raises(BridgeError, match="stay in their order"):
                reorder(back)
        filled.reset()
        llava.generate(**inputs, past_key_values=filled, num_beams=2, max_new_tokens=2)
        filled = llava(**alike, use_cache=True).past_key_values
        llava(input_ids=tokens, past_key_values=filled)
        want = llava(input_ids=tokens, past_key_values=copy.deepcopy(filled)).logits
        filled.reorder_cache(back)
        found = llava(input_ids=tokens.flip(0), past_key_values=filled).logits
    assert torch.allclose(want, found.flip(0), atol=1e-5)


@pytest.mark.parametrize("options", [{}, FASTV])
@pytest.mark.parametrize("brought", [lambda cache, path: cache, _stored])
def test_caches_of_other_blocks_are_refused(llava, options, brought, tmp_path):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with torch.no_grad(), prune(llava, 7, **options):
        filled = llava(**inputs, use_cache=True).past_key_values
    filled = brought(filled, tmp_path)
    with torch.no_grad(), prune(llava, 7, **options), pytest.raises(BridgeError, match="in another"):
        _followed(llava, inputs, filled, True)


@pytest.mark.parametrize("options", [{}, FASTV])
def test_a_cache_that_lost_some_of_its_prompt_is_refused_and_an_empty_one_is_not(llava, options):
    inputs, text = tiny_inputs(llava, (1, 1), (4, 9)), tiny_inputs(llava, (0,), (6,))
    with torch.no_grad():
        plain = llava(**text, use_cache=True)
        step = {"input_ids": torch.tensor([[30]]), "use_cache": True}
        want = llava(**step, past_key_values=plain.past_key_values).logits
        with prune(llava, 7, **options):
            filled = llava(**inputs, use_cache=True).past_key_values
            again = _followed(llava, inputs, filled, False)
            filled.crop(-1)
            assert torch.allclose(again, _followed(llava, inputs, filled, False), atol=1e-5)
            filled.crop(-3)
            with pytest.raises(BridgeError, match="cropped to"):
                _followed(llava, inputs, filled, False)
            filled.reset()
            llava(**text, past_key_values=filled, use_cache=True)
            assert torch.allclose(want, llava(**step, past_key_values=filled).logits, atol=1e-5)


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep = 0"),
        ({"keep": 1.5}, r"\(0, 1\]"),
        ({"method": "sparse"}, "unknown pruner 'sparse'.*spare"),
        ({"beta": 2}, "no option 'beta'"),
        ({"positions": "original"}, "expected one of keep, compact"),
        ({"relevance": "positive"}, "expected 'anti'"),
        ({"keep": None}, "needs tol"),
        ({"rng": torch.Generator()}, "expected None, an int of 0 or more, or a numpy.random.Generator"),
        ({"rng": -1}, "rng = -1"),
        ({"method": "random", "relevance": torch.ones(36)}, "uses no relevance"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_touched(llava, arguments, message):
    with pytest.raises(BridgeError, match=message), prune(llava, **arguments):
        pytest.fail("the block must not start")


def test_budgets_above_an_image_name_it(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, 37), pytest.raises(BridgeError, match="keep = 37, but image 0 has 36 tokens"):
        llava.generate(**inputs, max_new_tokens=1)
    with prune(llava, [5, 40]), pytest.raises(BridgeError, match="image 1 has 36 tokens"):
        llava(**inputs)
    with prune(llava, [5]), pytest.raises(BridgeError, match="1 budgets for 2 images"):
        llava(**inputs)


def test_nan_features_name_image_row_and_token(llava, monkeypatch):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    inputs["pixel_values"][1, :, 9, 9] = torch.nan
    with (
        prune(llava, 7) as report,
        pytest.raises(BridgeError, match=r"image 1 \(batch item 1\): token \d+ of features"),
    ):
        llava.generate(**inputs, max_new_tokens=1)
    assert report.kept == []


def test_placeholders_must_match(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    short = {**inputs, "input_ids": inputs["input_ids"].clone()}
    where = (short["input_ids"] == IMAGE).nonzero()
    short["input_ids"][tuple(where[0])] = 30
    with prune(llava, 7), pytest.raises(BridgeError, match=r"71 placeholders \(id 7\), the images give 72"):
        llava.generate(**short, max_new_tokens=1)
    moved = {**inputs, "input_ids": short["input_ids"].clone()}
    moved["input_ids"][1, -1] = IMAGE
    with (
        prune(llava, 7),
        pytest.raises(BridgeError, match="image 0 has 36 visual rows, but the placeholders of batch item 0"),
    ):
        llava(**moved)
    with prune(llava, 7), pytest.raises(BridgeError, match="attention_mask of shape"):
        llava(**{**inputs, "attention_mask": inputs["attention_mask"][:, 1:]})


def test_missing_clip_is_named(llava, clip, tokenizer):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with (
        prune(llava, 7, "cdpruner"),
        pytest.raises(BridgeError, match=r"spare.*clip=\(CLIPModel, tokenizer\)"),
    ):
        llava.generate(**inputs, max_new_tokens=1)
    with prune(llava, 7, "cdpruner", clip=clip[0]), pytest.raises(BridgeError, match="processor="):
        llava.generate(**inputs, max_new_tokens=1)
    with prune(llava, 7, "cdpruner", clip=llava), pytest.raises(BridgeError, match="expected a CLIPModel"):
        llava.generate(**inputs, max_new_tokens=1)


def test_given_signals_and_scores_per_image(llava, clip):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    g = torch.Generator().manual_seed(3)
    patches, text, scores = (
        torch.randn(2, 36, 5, generator=g),
        torch.randn(1, 5, generator=g),
        torch.rand(2, 36),
    )
    with prune(llava, 7, "cdpruner", clip_patches=patches, clip_text=text) as one:
        generated(llava, inputs, steps=1)
    with prune(llava, 7, "cdpruner", clip_patches=list(patches), clip_text=[text, text]) as two:
        generated(llava, inputs, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(one.kept, two.kept, strict=True))
    with prune(llava, 7, "spare", relevance=scores) as both:
        generated(llava, inputs, steps=1)
    _, single = prune_inputs(llava, inputs, 7, "spare", relevance=list(scores))
    assert all(torch.equal(a, b) for a, b in zip(both.kept, single.kept, strict=True))
    with (
        prune(llava, 7, "cdpruner", clip_patches=patches[:1], clip_text=text),
        pytest.raises(BridgeError, match="clip_patches"),
    ):
        generated(llava, inputs, steps=1)


def test_only_special_tokens_are_no_text(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    words = inputs["input_ids"] > IMAGE
    inputs["input_ids"][words] = BOS
    with prune(llava, 7, "resprune"), pytest.raises(BridgeError, match="no text besides special tokens"):
        llava.generate(**inputs, max_new_tokens=1)


def test_unsupported_models_are_refused(llava):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM(llava.config.text_config)
    with pytest.raises(BridgeError, match="LlamaForCausalLM has no get_image_features"), prune(plain, 7):
        pass
    old = tiny_model("llava")
    old.forward = lambda input_ids=None, pixel_values=None: None
    with pytest.raises(BridgeError, match=r"transformers >= 5.18"), prune(old, 7):
        pass
    del old.forward
    old.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(BridgeError, match=r"linear_attention.*fold=False"), prune(old, 7, fold=True):
        pass
    with pytest.raises(BridgeError, match="linear_attention"), prune(old, 7, "fastv"):
        pass


def test_a_family_without_a_row_works_by_contract(llava, monkeypatch):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    monkeypatch.setattr(llava.config, "model_type", "something_new")
    with prune(llava, 7) as report:
        got = generated(llava, inputs)
    tokens, _ = masked_reference(llava, inputs, report.kept, report.sizes)
    assert torch.equal(got.tokens, tokens)


# report -------------------------------------------------------------------------------------------


def test_report(llava):
    inputs = tiny_inputs(llava, (2, 1), (4, 9))
    features = llava.model.get_image_features(
        pixel_values=inputs["pixel_values"], return_dict=True
    ).pooler_output
    with prune(llava, 9) as report:
        generated(llava, inputs, steps=2)
        generated(llava, inputs, steps=2)
    assert isinstance(report, Report)
    assert report.calls == 2
    assert report.sizes == [36] * 6
    assert report.rows == [0, 0, 1] * 2
    assert [k.dtype for k in report.kept] == [torch.int64] * 6
    assert all((k.diff() > 0).all() for k in report.kept)
    assert all(s > 0 for s in report.seconds)
    for x, kept, error in zip(features, report.kept, report.errors, strict=False):
        x = x.detach().double()
        q, _ = torch.linalg.qr(x[kept].T)
        left = torch.linalg.norm(x.T - q @ (q.T @ x.T)) / torch.linalg.norm(x)
        assert error == pytest.approx(float(left), rel=1e-4)
    assert "kept 54 of 216 tokens" in repr(report)


def test_cost(llava):
    """Against the cache that a real run fills, and FLOPs counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = tiny_inputs(llava, (1,), (4,))
    with torch.no_grad(), prune(llava, 9) as report:
        cache = llava(**inputs, use_cache=True).past_key_values
    cost = report.cost
    assert (cost.tokens_before, cost.tokens_after) == (36, 9)
    assert cost.prompt_before - cost.prompt_after == 27
    assert cost.prompt_before == inputs["input_ids"].shape[1]
    stored = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert cost.kv_bytes_after == stored
    new, _ = prune_inputs(llava, inputs, 9)
    llava.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            llava(**new)
    finally:
        llava.set_attn_implementation("sdpa")
    counted = sum(counter.get_flop_counts()["LlavaForConditionalGeneration.model.language_model"].values())
    assert cost.flops_after == pytest.approx(counted, rel=0.01)


def test_rng_is_reproducible_and_moves_on(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    runs = []
    for _ in range(2):
        with prune(llava, 7, "random", rng=5) as report:
            generated(llava, inputs, steps=1)
            generated(llava, inputs, steps=1)
        runs.append([k.tolist() for k in report.kept])
    assert runs[0] == runs[1]
    assert len({tuple(k) for k in runs[0]}) == 4


def test_tolerance_budget(llava):
    inputs = tiny_inputs(llava, (1, 1), (4, 9))
    with prune(llava, None, tol=0.4) as report:
        got = generated(llava, inputs)
    assert all(e <= 0.4 for e in report.errors)
    tokens, _ = masked_reference(llava, inputs, report.kept, report.sizes)
    assert torch.equal(got.tokens, tokens)
