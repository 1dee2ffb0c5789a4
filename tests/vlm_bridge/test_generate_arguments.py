"""Arguments of `generate` under pruning: as the unpruned model's own `generate` with the dropped tokens masked out.

What `generate` makes of its arguments (penalties, forbidden n-grams, watermarks, ...) reads the full prompt.
"""

import inspect

import pytest
import torch
from tiny_qwen import deep_llava, qwen_inputs, tiny_qwen
from tiny_vlm import (
    BOS,
    IMAGE,
    PAD,
    keep_mask,
    positions_of,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
)
from tokenizers.decoders import Fuse
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)

from vlm_bridge import BridgeError, prune

STEPS = 8


@pytest.fixture(scope="module")
def deep():
    return deep_llava()


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen()


@pytest.fixture(scope="module")
def assistant():
    """Another model of the same sizes; its drafts are mostly wrong."""
    return tiny_model("llava", seed=3)


def oracle(model, inputs, report, **options):
    """The unpruned model's own `generate`: dropped tokens masked out, original positions."""
    stay = keep_mask(inputs, report.kept, report.sizes)
    given = {**inputs, "attention_mask": stay.long(), "position_ids": positions_of(inputs["attention_mask"])}
    torch.manual_seed(0)
    return model.generate(**given, **{"max_new_tokens": STEPS, "do_sample": False, **options})


def pruned(model, inputs, keep=5, method="spare", fold=False, **options):
    with prune(model, keep, method, fold=fold) as report:
        torch.manual_seed(0)
        got = model.generate(**inputs, **{"max_new_tokens": STEPS, "do_sample": False, **options})
    return got, report


def ending_in_an_image(model):
    """The last words stand in front of the last image too, so that what is counted there matters; two prompts."""
    inputs = tiny_inputs(model, (2, 1), (0, 0))
    ids = inputs["input_ids"]
    for row in range(2):
        ids[row, -2:] = torch.tensor([30 + row, 31])
        first = int((ids[row] == IMAGE).nonzero()[0])
        ids[row, first - 1] = BOS
    return inputs


ARGUMENTS = {
    "repetition_penalty": {"repetition_penalty": 2.5},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "sequence_bias": {"sequence_bias": [[[31, 40], 9.0], [[40, 50], 9.0], [[50], 3.0]]},
    "a bias behind many placeholders": {"sequence_bias": [[[IMAGE] * 8 + [30, 31, 77], 50.0]]},
    "bad_words_ids": {"bad_words_ids": [[56, 68], [20]]},
    "suppress_tokens": {"suppress_tokens": list(range(10, 60))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(10, 110))},
    "forced_bos_token_id": {"forced_bos_token_id": 44},
    "forced_eos_token_id": {"forced_eos_token_id": 45},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 3.0), "eos_token_id": 33},
    "min_new_tokens": {"min_new_tokens": 6, "eos_token_id": list(range(10, 60))},
    "min_length": {"min_length": 80, "eos_token_id": list(range(10, 60))},
    "max_length": {"max_length": 84, "max_new_tokens": None},
    "guidance_scale": {"guidance_scale": 1.8},
    "guidance without cache": {"guidance_scale": 1.8, "use_cache": False},
    "negative prompt": {
        "guidance_scale": 1.8,
        "negative_prompt_ids": torch.tensor([[BOS, 20, 21], [BOS, 22, 23]]),
        "negative_prompt_attention_mask": torch.ones(2, 3, dtype=torch.long),
    },
    "watermark": {"watermarking_config": WatermarkingConfig(bias=4.0, seeding_scheme="lefthash")},
    "self-hashing watermark": {
        "watermarking_config": WatermarkingConfig(bias=4.0, seeding_scheme="selfhash", context_width=3)
    },
    "renormalize_logits": {"renormalize_logits": True, "remove_invalid_values": True},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01},
    "typical sampling": {"do_sample": True, "typical_p": 0.8, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3},
    "top_h": {"do_sample": True, "top_h": 0.5},
    "samples with a penalty": {"do_sample": True, "num_return_sequences": 3, "repetition_penalty": 1.5},
    "beams with a penalty": {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "beams with lengths": {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "eos_token_id": 33},
    "no cache": {"use_cache": False},
    "dynamic": {"cache_implementation": "dynamic"},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "max_time": {"max_time": 1000.0},
    "config": {
        "generation_config": GenerationConfig(repetition_penalty=2.5, pad_token_id=PAD, max_new_tokens=8)
    },
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_mean_what_they_mean_on_the_masked_model(llava, name):
    inputs, options = ending_in_an_image(llava), ARGUMENTS[name]
    got, report = pruned(llava, inputs, **options)
    assert torch.equal(got, oracle(llava, inputs, report, **options))


@pytest.mark.parametrize(
    "name",
    [
        "repetition_penalty",
        "no_repeat_ngram_size",
        "a bias behind many placeholders",
        "bad_words_ids",
        "suppress_tokens",
        "begin_suppress_tokens",
        "encoder_repetition_penalty",
        "guidance_scale",
        "watermark",
        "forced_eos_token_id",
    ],
)
def test_these_arguments_change_the_answer(llava, name):
    """Else the test above would show nothing."""
    inputs = ending_in_an_image(llava)
    assert not torch.equal(pruned(llava, inputs, **ARGUMENTS[name])[0], pruned(llava, inputs)[0])


def test_forced_first_token_is_that_of_a_prompt_of_one_token(llava):
    """A prompt of a single image that keeps one token is not a prompt of one token."""
    inputs = tiny_inputs(llava, (1,), (4,))
    where = inputs["input_ids"][0] == IMAGE
    inputs["input_ids"], inputs["attention_mask"] = (
        inputs["input_ids"][:, where],
        inputs["attention_mask"][:, where],
    )
    plain = pruned(llava, inputs, keep=1)[0]
    assert torch.equal(pruned(llava, inputs, keep=1, forced_bos_token_id=44)[0], plain)
    assert plain[0, -STEPS] != 44


def test_ngrams_are_counted_in_the_full_prompt(llava):
    """Between two placeholders that are neighbours after pruning only stood others before."""
    inputs = tiny_inputs(llava, (2,), (0,))
    ids = inputs["input_ids"]
    first, last = (ids[0] == IMAGE).nonzero()[35], (ids[0] == IMAGE).nonzero()[36]
    ids[0, first + 1 : last] = 60
    inputs["input_ids"] = ids[:, : int((ids[0] == IMAGE).nonzero()[-1]) + 1]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"no_repeat_ngram_size": 36}
    got, report = pruned(llava, inputs, keep=[5, 34], **options)
    assert torch.equal(got, oracle(llava, inputs, report, **options))


@pytest.mark.parametrize("beams", [1, 3])
def test_callers_processors_and_criteria_come_first_and_see_all(llava, beams):
    inputs = ending_in_an_image(llava)
    seen = []

    class Spy(LogitsProcessor):
        def __call__(self, ids, scores):
            seen.append(ids.clone())
            return scores

    class Stop(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            seen.append(ids.clone())
            return torch.full((len(ids),), ids.shape[1] >= inputs["input_ids"].shape[1] + 4)

    options = {
        "logits_processor": LogitsProcessorList([NoRepeatNGramLogitsProcessor(1), Spy()]),
        "stopping_criteria": StoppingCriteriaList([Stop()]),
        "no_repeat_ngram_size": 3,
        "num_beams": beams,
    }
    got, report = pruned(llava, inputs, **options)
    mine, seen[:] = list(seen), []
    assert torch.equal(got, oracle(llava, inputs, report, **options))
    assert len(mine) == len(seen)
    assert all(torch.equal(a, b) for a, b in zip(mine, seen, strict=True))


@pytest.fixture(scope="module")
def speller():
    """A tokenizer whose words join without spaces, as stop strings need it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["abcdef"])  # what transformers tries tokens with
    tokenizer.backend_tokenizer.decoder = Fuse()
    return tokenizer


def test_stop_strings_end_where_they_end_without_pruning(llava, speller):
    """A stop string may reach back over the image, which must then be seen whole."""
    inputs = tiny_inputs(llava, (1,), (0,))
    inputs["input_ids"], inputs["attention_mask"] = (
        inputs["input_ids"][:, :-1],
        inputs["attention_mask"][:, :-1],
    )
    free, report = pruned(llava, inputs)
    words = speller.convert_ids_to_tokens(free[0, -STEPS - 1 :].tolist())
    for text, length in ((words[4], 4), ("<image>" * 7 + words[0] + words[1], 1), ("w119w118", STEPS)):
        options = {"stop_strings": [text], "tokenizer": speller}
        got, _ = pruned(llava, inputs, **options)
        assert torch.equal(got, oracle(llava, inputs, report, **options))
        assert got.shape[1] == inputs["input_ids"].shape[1] + length


def test_several_samples_are_asked_for_with_their_own_prompt(llava):
    inputs = tiny_inputs(llava)
    seen = []

    def allow(row, ids):
        seen.append((row, ids.clone()))
        return [20, 30]

    options = {
        "do_sample": True,
        "num_return_sequences": 2,
        "prefix_allowed_tokens_fn": allow,
        "max_new_tokens": 2,
    }
    got, report = pruned(llava, inputs, **options)
    mine, seen[:] = list(seen), []
    assert torch.equal(got, oracle(llava, inputs, report, **options))
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(mine, seen, strict=True))


@pytest.mark.parametrize("name", ["repetition_penalty", "no_repeat_ngram_size", "watermark"])
@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_grids_and_pruning_inside_the_llm(qwen, name, method):
    """Keeping all is the unpruned model; with fewer tokens, full ids are seen and the answer has its length."""
    inputs, options = qwen_inputs(qwen), ARGUMENTS[name]
    got, _ = pruned(qwen, inputs, 1.0, method, **options)
    torch.manual_seed(0)
    assert torch.equal(got, qwen.generate(**inputs, max_new_tokens=STEPS, do_sample=False, **options))
    seen = []

    class Spy(LogitsProcessor):
        def __call__(self, ids, scores):
            seen.append(ids.clone())
            return scores

    got, _ = pruned(qwen, inputs, 5, method, **options, logits_processor=LogitsProcessorList([Spy()]))
    assert torch.equal(seen[0], inputs["input_ids"])
    assert torch.equal(seen[-1], got[:, :-1])


# assistants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("extra", [{}, {"no_repeat_ngram_size": 2}, {"num_assistant_tokens": 1}], ids=str)
def test_assistants_change_no_greedy_answer(llava, seed, extra):
    """Of a good assistant (the same weights) and of a bad one."""
    inputs = tiny_inputs(llava, (2,), (6,))
    helper = tiny_model("llava", seed)
    if "num_assistant_tokens" in extra:
        helper.generation_config.num_assistant_tokens = extra.pop("num_assistant_tokens")
    got, report = pruned(llava, inputs, assistant_model=helper, **extra)
    assert torch.equal(got, oracle(llava, inputs, report, **extra))


@pytest.mark.parametrize(
    "options",
    [{"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": 3, "repetition_penalty": 2.0}],
    ids=str,
)
def test_prompt_lookup_changes_no_greedy_answer(llava, options):
    inputs = ending_in_an_image(llava)
    one = {**{k: v[:1] for k, v in inputs.items()}, "pixel_values": inputs["pixel_values"][:2]}
    got, report = pruned(llava, one, **options)
    assert torch.equal(
        got, oracle(llava, one, report, **{k: v for k, v in options.items() if "lookup" not in k})
    )


def test_drafts_with_folded_tokens(llava, assistant):
    inputs = tiny_inputs(llava, (2,), (6,))
    plain, _ = pruned(llava, inputs, fold=True)
    for options in ({"assistant_model": assistant}, {"prompt_lookup_num_tokens": 3}):
        assert torch.equal(pruned(llava, inputs, fold=True, **options)[0], plain)


REFUSED = {
    "custom_generate": ("somewhere/else", "custom decoding loop"),
    "penalty_alpha": (0.6, "fetched from the hub"),
    "dola_layers": ("low", "fetched from the hub"),
    "num_beam_groups": (2, "fetched from the hub"),
    "constraints": ([object()], "fetched from the hub"),
    "force_words_ids": ([[5]], "fetched from the hub"),
    "token_healing": (True, "tokenized again"),
    "assistant_early_exit": (1, "running already"),
    "use_mtp": (True, "cache of their own"),
    "speculation_type": ("dflash", "hidden states"),
    "cache_implementation": ("paged", "without the image"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["spare", "fastv"])
def test_refused_before_anything_is_computed(deep, name, method):
    value, reason = REFUSED[name]
    inputs = tiny_inputs(deep, (1,), (4,))
    seen = []
    handle = deep.model.vision_tower.register_forward_hook(lambda *args: seen.append(1))
    try:
        with prune(deep, 5, method) as report, pytest.raises(BridgeError, match=reason):
            deep.generate(**inputs, max_new_tokens=2, **{name: value})
    finally:
        handle.remove()
    assert not seen
    assert report.calls == 0


def test_refused_from_the_models_own_config(deep, monkeypatch):
    monkeypatch.setattr(deep.generation_config, "dola_layers", "low")
    with prune(deep, 5), pytest.raises(BridgeError, match="dola_layers='low'"):
        deep.generate(**tiny_inputs(deep, (1,), (4,)), max_new_tokens=2)


def test_assistants_that_are_pruned_are_refused(llava, assistant):
    inputs = tiny_inputs(llava, (1,), (4,))
    with prune(llava, 5), prune(assistant, 5):
        for helper in (llava, assistant):
            with pytest.raises(BridgeError, match="model that is being pruned"):
                llava.generate(**inputs, max_new_tokens=2, assistant_model=helper)


def test_guidance_with_folded_tokens_is_refused(llava):
    inputs = tiny_inputs(llava, (1,), (4,))
    with prune(llava, 5, fold=True):
        with pytest.raises(BridgeError, match="cannot be used with fold"):
            llava.generate(**inputs, max_new_tokens=2, guidance_scale=2.0)
        llava.generate(**inputs, max_new_tokens=2, guidance_scale=1.0)


def test_every_argument_of_generate_has_been_looked_at():
    """A new argument of a later release is sorted in here first: right, refused, or of no concern to the prompt."""
    tried = {name for options in ARGUMENTS.values() for name in options} | set(REFUSED)
    elsewhere = {  # tested in this file, in test_bridge_live, test_layers or test_families
        "inputs", "streamer", "assistant_model", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn",
        "stop_strings", "prompt_lookup_num_tokens", "prefill_chunk_size", "return_dict_in_generate", "output_logits",
        "num_return_sequences", "pad_token_id", "eos_token_id",
    }  # fmt: skip
    no_concern = {  # outputs, drafts, devices, encoder-decoders and notes: nothing here reads a decoder's prompt
        "self", "kwargs", "synced_gpus", "output_scores", "output_attentions", "output_hidden_states", "is_assistant",
        "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
        "target_lookbehind", "assistant_ensemble_weight", "max_matching_ngram_size", "bos_token_id", "decoder_start_token_id",
        "compile_config", "cache_config", "max_cache_len", "continuous_batching_config", "low_memory", "diversity_penalty",
        "transformers_version", "_from_model_config",
    }  # fmt: skip
    known = set(vars(GenerationConfig())) | set(inspect.signature(GenerationMixin.generate).parameters)
    assert known - tried - elsewhere - no_concern == set()
