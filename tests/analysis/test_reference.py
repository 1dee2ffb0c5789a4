"""The shipped model is what its card says, and pruning it is the masking it claims to be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vlm_bridge
from analysis import reference, scenes, study
from analysis.training import evaluate
from analysis.training.card import write_card

CARD = json.loads((reference.HERE / "measured.json").read_text())


@pytest.fixture(scope="module")
def shipped():
    return reference.load()


def test_card_is_written_from_the_measurement(tmp_path):
    write_card(CARD, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == (reference.HERE / "README.md").read_text()
    assert CARD["accuracy"] >= 0.8
    assert CARD["accuracy"] - CARD["blind"] >= 0.5
    assert CARD["features"]["norm_ratio"] <= 5
    assert CARD["features"]["directions"]["99"] >= 24


def test_new_scenes_give_the_accuracy_of_the_card(shipped):
    """Forty scenes that the card has not seen: about 470 questions, standard error 0.02 a cluster effect included."""
    right, features = [], []
    for seed in range(40):
        scene = scenes.make(50_000 + seed, "test", study.QUESTIONS)
        words, rows = evaluate.ask(*shipped, scene)
        right += [word == q.answer for word, q in zip(words, scene.questions, strict=True)]
        features.append(evaluate.directions(rows, 0.99))
    assert abs(np.mean(right) - CARD["accuracy"]) < 0.1
    assert np.mean(features) >= 24


@pytest.mark.parametrize(
    "arm", ["spare", "resprune", "divprune", "greedy", "vispruner", "uniform grid", "random"]
)
def test_pruning_equals_masking(shipped, arm):
    """Two prompts with left padding: the pruned logits are those of the full model that cannot see the dropped tokens."""
    model, processor = shipped
    pictures = [scenes.make(i, "test") for i in (60_000, 60_001)]
    texts = ["<image> what is behind ?", "<image> how many red object ?"]
    inputs = processor(images=[p.image for p in pictures], text=texts, padding=True, return_tensors="pt")
    choice = study.arguments(study.ARMS[arm], 0.125, 0, pictures[0], processor)
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with vlm_bridge.prune(model, **choice) as report:
            pruned = model(**inputs).logits[:, -1]
        mask = inputs["attention_mask"].clone()
        for row, kept in enumerate(report.kept):
            place = (inputs["input_ids"][row] == model.config.image_token_id).nonzero().flatten()
            mask[row, place[np.setdiff1d(np.arange(len(place)), kept.numpy())]] = 0
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        masked = model(**{**inputs, "attention_mask": mask}, position_ids=positions).logits[:, -1]
    assert torch.allclose(pruned, masked, atol=1e-5, rtol=1e-5)
    assert (pruned - full).abs().max() > 1e-2
    assert "generate" not in model.__dict__
