"""vLLM answers what `prune` answers in transformers, token for token; run by ``make serve-test``.

One process serves one engine after the other, in the order of the parameters.
"""

import copy
import json
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: see docs/serving.md")
vllm = pytest.importorskip("vllm")

import serving_models  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaConfig  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402

from analysis import reference, scenes  # noqa: E402
from vlm_bridge import prune  # noqa: E402
from vlm_bridge.budget import read_keep  # noqa: E402
from vlm_bridge.chat import prepare, question  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # of the engine
]
LENGTH = 6
QUESTIONS = 2


def engine(folder, settings, **options):
    """An engine in this process, on the CPU, in float32."""
    common = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "block_size": 32}
    return vllm.LLM(
        str(folder),
        hf_overrides={"vlm_bridge": settings},
        distributed_executor_backend="uni",
        **{**common, **options},
    )


def outputs(llm, asked, settings, adapters=None):
    """What the engine returns, all in one batch; one mapping of settings, or None, for each question."""
    prompts = [
        {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": images},
            **({} if own is None else {"mm_processor_kwargs": {"vlm_bridge": own}}),
        }
        for (ids, images, _), own in zip(asked, settings, strict=True)
    ]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=LENGTH)
    return llm.generate(prompts, greedy, use_tqdm=False, lora_request=adapters)


def answers(llm, asked, settings, adapters=None):
    """Token ids of the answers."""
    return [list(out.outputs[0].token_ids) for out in outputs(llm, asked, settings, adapters)]


def counted():
    """Tokens kept and dropped, and steps with a choice, as the engine's metrics have them."""
    from vlm_bridge.vllm.metrics import DROPPED, KEPT, SECONDS

    return KEPT._value.get(), DROPPED._value.get(), sum(one.get() for one in SECONDS._buckets)


def once(ids, token):
    """A prompt's ids with one placeholder for each run of placeholders."""
    return [int(i) for at, i in enumerate(ids) if i != token or at == 0 or ids[at - 1] != token]


@pytest.fixture(scope="module")
def model():
    return reference.load()


@pytest.fixture(scope="module")
def asked(model):
    """Questions about scenes: ids with one placeholder, images, and inputs of transformers."""
    found = []
    for scene in [scenes.make(seed, family=family) for seed in (1, 2) for family in scenes.FAMILIES]:
        for one in scene.questions[:QUESTIONS]:
            inputs = prepare(model[1], [question([scene.image], one.text)])
            ids = once(inputs["input_ids"][0].tolist(), model[0].config.image_token_index)
            found.append((ids, [scene.image], inputs))
    return found


def pruned(model, own, positions):
    """The model as an engine with these settings has it."""
    if own is None:
        return nullcontext()
    keep = read_keep(own["keep"]) if isinstance(own["keep"], str) else own["keep"]
    return prune(model[0], **{**own, "keep": keep}, positions=positions, processor=model[1])


def expected(model, asked, settings, positions):
    """What `prune` answers in transformers, or the model alone where there are no settings."""
    found = []
    for (_, _, inputs), own in zip(asked, settings, strict=True):
        with pruned(model, own, positions), torch.no_grad():
            out = model[0].generate(**inputs, do_sample=False, max_new_tokens=LENGTH)
        found.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return found


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_the_reference_model_answers_as_in_transformers(model, asked, positions):
    """Budgets and pruners of requests, mixed in one batch, over a default of the engine; then once more from the prefix cache."""
    llm = engine(reference.HERE, {"keep": 72, "positions": positions})
    settings = [
        {"keep": keep, "method": method}
        for keep in (1.0, 72, 9)
        for method in ("spare", "divprune", "auto")
        for _ in asked
    ]
    many = [one for _ in range(len(settings) // len(asked)) for one in asked]
    want = expected(model, many, settings, positions)
    assert len({tuple(one) for one in want}) > 3
    got = answers(llm, many, settings)
    differ = [s for a, b, s in zip(got, want, settings, strict=True) if a != b]
    assert not differ, (len(differ), len(want), differ[:5])
    assert answers(llm, many, settings) == want, "from the prefix cache"
    for own, said in (
        ({"keep": 0}, "at least one token"),
        ({"keep": 900}, "has 144 tokens"),
        ({"method": "fastv"}, "inside"),
    ):
        with pytest.raises(ValueError, match=said):
            answers(llm, many[:1], [own])
    assert answers(llm, many[:1], settings[:1]) == want[:1], "the engine goes on"


def test_the_engine_counts_what_it_keeps(asked):
    llm = engine(reference.HERE, {"keep": 72})
    inputs = asked[0][2]
    full = inputs["input_ids"].shape[1]
    for settings, kept in ((None, 72), ({"keep": 9}, 9), ({"keep": 9}, 9), ({"keep": 1.0}, 144)):
        before = counted()
        (out,) = outputs(llm, asked[:1], [settings])
        after = counted()
        assert len(out.prompt_token_ids) == full - 144 + kept, (
            "the scheduler and `usage` see the pruned prompt"
        )
        assert (after[0] - before[0], after[1] - before[1]) == (kept, 144 - kept)
    assert counted()[2] > 0


def test_a_second_question_does_not_run_the_tower(model, asked, monkeypatch):
    """Where the pruner reads the question, settings and question are part of what vLLM knows an image by."""
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration

    encoded, own = [], LlavaForConditionalGeneration.embed_multimodal

    def counting(self, **kwargs):
        found = own(self, **kwargs)
        encoded.append(len(found))
        return found

    llm = engine(reference.HERE, {"keep": 72, "method": "auto"})
    monkeypatch.setattr(LlavaForConditionalGeneration, "embed_multimodal", counting)
    assert asked[0][1] == asked[1][1], "two questions on one image"
    other = next(one for one in asked if one[1] != asked[0][1])
    for some, settings, images in (
        (asked[:1], [None], 1),
        (asked[1:2], [None], 0),
        ([*asked[:2], other], [{"keep": 9}] * 3, 1),
        (asked[:1], [{"keep": 9, "method": "spare"}], 1),  # vLLM itself keeps its rows, for any question
    ):
        encoded.clear()
        want = [{"keep": 72, "method": "auto"} | (one or {}) for one in settings]
        assert answers(llm, some, settings) == expected(model, some, want, "keep")
        assert sum(encoded) == images


def adapter(folder, model, parts):
    """Write a LoRA adapter of some matrices of the language model, and return a model in which it is merged."""
    g, rank, own, merged = torch.Generator().manual_seed(0), 4, {}, copy.deepcopy(model)
    for name, weight in merged.model.language_model.named_parameters():
        part = name.removesuffix(".weight")
        if part.endswith(parts):
            a, b = (
                torch.randn(*size, generator=g) / 3
                for size in ((rank, weight.shape[1]), (weight.shape[0], rank))
            )
            kind = ("embedding_A", "embedding_B") if part == "embed_tokens" else ("A.weight", "B.weight")
            for which, matrix in zip(kind, (a, b), strict=True):
                own[f"base_model.model.model.language_model.{part}.lora_{which}"] = matrix
            weight.data += b @ a
    folder.mkdir()
    save_file(own, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(parts)}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return merged


def test_adapters_of_the_language_model_change_answers_and_no_choice(model, asked, tmp_path):
    """Requests with and without an adapter in one batch, 40 tokens a step; the same tokens of an image serve both."""
    merged = adapter(tmp_path / "own", model[0], ("q_proj", "v_proj"))
    budgets = ((9, "spare"), (72, "auto"))
    settings = [own for keep, method in budgets for own in [{"keep": keep, "method": method}] * len(asked)]
    many, own = asked * 2, LoRARequest("own", 1, str(tmp_path / "own"))
    want = [expected((one, model[1]), many, settings, "keep") for one in (model[0], merged)]
    assert sum(a != b for a, b in zip(*want, strict=True)) > 3, "the adapter says something"
    # On a CPU, vLLM 0.32 gives requests without an adapter, beside others, the last place for adapters: it stays empty.
    adapters = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2}
    llm = engine(reference.HERE, {"keep": 72}, max_num_batched_tokens=40, **adapters)
    got = answers(llm, many * 2, settings * 2, [None] * len(many) + [own] * len(many))
    assert got == want[0] + want[1]

    def embedded(served):
        ids = torch.arange(60)  # more than a step has, for which adapters are laid out
        return len(served._adapted_tables), served.embed_question(ids)

    ((tables, rows),) = llm.apply_model(embedded)
    assert tables == 1
    assert torch.equal(rows, model[0].get_input_embeddings().weight[:60])
    with pytest.raises(ValueError, match="enable_tower_connector_lora does not work"):
        engine(reference.HERE, {"keep": 72}, enable_tower_connector_lora=True, **adapters)


def test_an_engine_of_another_architecture_is_refused(tmp_path):
    """It would be served unpruned, without a word."""
    LlamaConfig(architectures=["LlamaForCausalLM"], vocab_size=64).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM: expected one of .*InternVLForConditionalGeneration"
    ):
        engine(tmp_path, {"keep": 9}, skip_tokenizer_init=True)


@pytest.fixture(scope="module")
def pictures():
    """Noise in portrait, landscape and square."""
    g = torch.Generator().manual_seed(0)
    sizes = [(84, 168), (168, 84), (140, 140), (56, 196)]
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8).numpy())
        for w, h in sizes
    ]


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", serving_models.FAMILIES)
def test_a_family_answers_as_in_transformers(tmp_path, pictures, family, positions):
    """One and two images in a prompt, computed 64 tokens a step; then once more from the prefix cache."""
    model, processor, mark = serving_models.build(tmp_path, family)
    if family == "gemma" and positions == "keep":
        with pytest.raises(ValueError, match=r"several.*compact"):
            engine(tmp_path, {"positions": positions})
        return
    sets = [[one] for one in pictures] + [pictures[:2], pictures[1:3]]
    if (
        family == "llava_onevision"
    ):  # transformers cuts no tiles where a prompt has several images, and vLLM does
        sets = sets[:4]
    asked = []
    for i, images in enumerate(sets):
        text = " ".join([f"w{20 + i} w{40 + i}", *[mark] * len(images), f"w{60 + i} w{80 + i} w{30 + i}"])
        inputs = processor(images=images, text=[text], return_tensors="pt")
        inputs.pop(
            "token_type_ids", None
        )  # vLLM's CPU attention is causal among the tokens of an image of Gemma
        asked.append((processor.tokenizer(text)["input_ids"], images, inputs))
    step = (
        300 if family == "llava_onevision" else 64
    )  # an image must not exceed both a step and 1153 x 944 pixels
    options = {"limit_mm_per_prompt": {"image": 2}, "max_num_batched_tokens": step}
    llm = engine(tmp_path, {"positions": positions}, **options)
    budgets = ((1.0, "spare"), ("at-most-18", "spare"), (0.5, "auto"), (4, "spare"), (4, "auto"))
    settings = [own for keep, method in budgets for own in [{"keep": keep, "method": method}] * len(asked)]
    settings += [None] * len(asked)
    many = asked * (len(settings) // len(asked))
    want = expected((model, processor), many, settings, positions)
    assert len({tuple(one) for one in want}) > 3
    got = answers(llm, many, settings)
    differ = [s for a, b, s in zip(got, want, settings, strict=True) if a != b]
    assert not differ, (len(differ), len(want), differ[:5])
    assert answers(llm, many, settings) == want, "from the prefix cache"
    assert llm.apply_model(lambda served: served.features.reused)[0] > 0
    if family == "qwen2_5":
        prompt = "w20 <|vision_start|><|video_pad|><|vision_end|> w60"
        when = {"fps": 2.0, "duration": 3.0, "total_num_frames": 6, "frames_indices": list(range(6))}
        video = (film(pictures), {**when, "video_backend": "none", "do_sample_frames": False})
        with pytest.raises(VLLMValidationError, match="0 video"):  # HTTP 400
            llm.generate({"prompt": prompt, "multi_modal_data": {"video": [video]}}, use_tqdm=False)


def film(pictures):
    """Six frames (6, 84, 84, 3)."""
    parts = [one.resize((84, 84)) for one in [*pictures, *pictures[:2]]]
    return (
        torch.stack([torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in parts])
        .reshape(6, 84, 84, 3)
        .numpy()
    )


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_a_video_is_pruned_as_in_transformers(tmp_path, pictures, positions):
    """Beside an image of the same prompt."""
    model, processor, mark = serving_models.build(tmp_path, "qwen2")
    frames, image = film(pictures), pictures[0]
    text = f"w20 {mark} w40 <|vision_start|><|video_pad|><|vision_end|> w60 w80"
    inputs = processor(
        images=[image], videos=[frames], text=[text], return_tensors="pt", do_sample_frames=False
    )
    llm = engine(tmp_path, {"positions": positions}, max_num_batched_tokens=64)
    for keep, method in ((1.0, "spare"), (5, "spare"), (0.5, "auto")):
        own = {"keep": keep, "method": method}
        with prune(model, **own, positions=positions, processor=processor), torch.no_grad():
            want = model.generate(**inputs, do_sample=False, max_new_tokens=LENGTH)[
                0, inputs["input_ids"].shape[1] :
            ]
        prompt = {
            "prompt_token_ids": processor.tokenizer(text)["input_ids"],
            "multi_modal_data": {"image": [image], "video": [frames]},
        }
        (out,) = llm.generate(
            {**prompt, "mm_processor_kwargs": {"vlm_bridge": own, "do_sample_frames": False}},
            vllm.SamplingParams(temperature=0, max_tokens=LENGTH),
            use_tqdm=False,
        )
        assert list(out.outputs[0].token_ids) == want.tolist(), own
