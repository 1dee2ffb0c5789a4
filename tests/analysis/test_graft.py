"""A language model behind the reference tower: what it is asked in training is what it is asked by the study."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analysis import gpu, reference, scenes
from analysis.__main__ import main
from analysis.training import data, graft, packed
from analysis.training.model import VOCABULARY

MADE = [
    scenes.make(i, "train", data.TRAINING_QUESTIONS, family) for i in range(3) for family in scenes.FAMILIES
]


@pytest.fixture(autouse=True)
def few_scenes_at_the_end(monkeypatch):
    monkeypatch.setattr(graft, "CHECKED", 2)


@pytest.fixture(scope="module")
def arrays():
    rows = [data.row(scene, np.random.default_rng(i)) for i, scene in enumerate(MADE)]
    return data.Arrays(*map(np.stack, zip(*rows, strict=True)))


@pytest.fixture
def language():
    """A tiny language model whose tokenizer cuts words into pieces, some answers into several."""
    pieces = Tokenizer(models.BPE(unk_token="<none>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        special_tokens=["<none>", "<begin>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()[:0],
    )
    pieces.train_from_iterator([" ".join(VOCABULARY[5:])] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<none>",
        unk_token="<none>",
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def test_questions_and_answers_come_back_from_the_packed_scene(arrays):
    for i, scene in enumerate(MADE):
        asked = graft.asked(arrays, i)
        known = {(q.text, q.answer) for q in scene.questions}
        assert len(asked) == arrays.segments[i].max() + 1 > 5
        assert set(asked) <= known
    assert any(len(answer.split()) > 1 for i in range(len(MADE)) for _, answer in graft.asked(arrays, i))


def test_the_tower_is_the_shipped_one_and_tokens_are_as_long_as_words(language):
    words = language[0].get_input_embeddings().weight.detach().clone()
    model = graft.graft(*language)
    shipped = reference.load()[0].model.vision_tower.state_dict()
    for name, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(value, shipped[name])
    assert torch.equal(model.get_input_embeddings().weight[: len(words)], words)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    pixels = graft.normalise(torch.from_numpy(np.stack([scene.pixels for scene in MADE])))
    with torch.no_grad():
        tokens = packed.visual_tokens(model, pixels)
    assert 0.5 < float(tokens.norm(dim=-1).median() / words.norm(dim=1).median()) < 2


def test_the_finished_model_is_asked_as_it_was_trained(language, arrays, tmp_path):
    """The loss of packed scenes is that of one prompt at a time through the saved processor and the saved model."""
    model, tokenizer = graft.graft(*language), language[1]
    found = graft.train(model, tokenizer, arrays, tmp_path, scale=0.001, device="cpu")
    assert json.loads((tmp_path / "model" / "measured.json").read_text()) == found
    assert found["skills"].keys() <= set(scenes.SKILLS)
    net, processor = reference.load(tmp_path / "model")
    pieces = graft.Pieces(arrays, tokenizer, "cpu")
    batch = pieces.batch(np.array([0]))
    with torch.no_grad():
        image = packed.visual_tokens(net, batch.pixels)
        loss, _, answers, _ = packed.answer_loss(
            net, image, batch.tokens, batch.segments, batch.targets, marks=graft.marks(tokenizer)
        )
        separate, several = [], 0
        for question, answer in graft.asked(arrays, 0)[: int(batch.segments.max()) + 1]:
            inputs = processor(images=[MADE[0].image], text=["<image>"], return_tensors="pt")
            ids, right = (
                processor.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question, answer)
            )
            several += len(right) > 1
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids + right])], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            logits = net(**inputs).logits[0, -len(right) - 1 :]
            want = torch.tensor([*right, tokenizer.eos_token_id])
            separate += nn.functional.cross_entropy(logits, want, reduction="none")
    assert several > 2
    assert len(answers) == len(separate) - int(batch.segments.max()) - 1
    assert loss.item() == pytest.approx(torch.stack(separate).mean().item(), abs=1e-4)
    saved = [p.name for p in (tmp_path).glob("*.pt")]
    assert sorted(saved) == ["both.pt", "projector.pt"]


def test_first_the_projector_learns_and_then_the_language_model_with_it(language, arrays, tmp_path):
    model, tokenizer = graft.graft(*language), language[1]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    projector, both = graft.stages(tokenizer)
    batch = graft.Pieces(arrays, tokenizer, "cpu").batch(np.arange(4))
    start = projector.loss(model, batch, 0)[0].item()
    graft.train(model, tokenizer, arrays, tmp_path, scale=0.03, device="cpu")
    assert both.loss(model.float(), batch, 0)[0].item() < 0.9 * start
    moved = {
        name
        for name, value in model.state_dict().items()
        if not torch.allclose(value.float(), before[name], atol=2e-3)
    }
    assert not any("vision_tower" in name for name in moved)
    assert any("projector" in name for name in moved)
    assert any("language_model" in name for name in moved)
    part = torch.load(tmp_path / "projector.pt", weights_only=True)
    assert sum(p.numel() for p in part["masters"]) == sum(
        p.numel() for p in model.model.multi_modal_projector.parameters()
    )


def test_without_the_language_model_the_command_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    assert main(["graft", "--language", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "expected a folder with a GGUF file" in said
    assert "`make graft`" in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(graft, "FOLDER", tmp_path / "nowhere")
    assert "make graft" in gpu.STEPS["graft"](tmp_path, "cpu", False)["not done"]
