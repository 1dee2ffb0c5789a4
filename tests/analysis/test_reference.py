"""The shipped model is what its card says, and pruning it is the masking it claims to be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vlm_bridge
from analysis import reference, scenes
from analysis.study import arms
from analysis.training import evaluate
from analysis.training.card import write_card

CARD = json.loads((reference.HERE / "measured.json").read_text())
CHANCE = {
    "existence": 1 / 2,
    "colour": 1 / 6,
    "shape": 1 / 5,
    "count": 1 / 5,
    "spatial": 1 / 4,
    "comparison": 1 / 3,
    "two hops": 2 / 11,
    "fine detail": 1 / 10,
    "background": 1 / 8,
    "reading": 1 / 10,
    "ink": 1 / 6,
    "presence": 1 / 2,
    "tally": 1 / 5,
    "order": 1 / 10,
    "layout": 1 / 4,
    "ground": 1 / 8,
}


@pytest.fixture(scope="module")
def shipped():
    return reference.load()


def test_card_is_written_from_the_measurement(tmp_path):
    write_card(CARD, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == (reference.HERE / "README.md").read_text()


@pytest.mark.parametrize("name", reference.measured())
def test_models_are_what_the_study_needs(name):
    """Of the shipped one every skill reaches 0.8; counting just misses it with seed 1, two hops with seed 0."""
    card = reference.measured()[name]
    assert card["accuracy"] >= 0.92
    short = {"seed 1": {"count": 0.79}, "seed 0": {"two hops": 0.6}}.get(name, {})
    assert all(s["accuracy"] >= short.get(skill, 0.8) for skill, s in card["skills"].items())
    for skill, s in card["skills"].items():
        assert s["blind"] - CHANCE[skill] < 0.15, skill
    for features in card["features"].values():
        assert features["directions"]["90"] >= 24
        assert features["directions"]["99"] >= 60
        assert features["norm_ratio"] <= 5
        assert features["largest_over_median_norm"] > 1.5


def test_joint_space_tells_captions_apart():
    assert CARD["joint"]["retrieval"] > 5 / CARD["joint"]["group"]


def test_new_scenes_give_the_accuracy_of_the_card(shipped):
    """Thirty scenes of each family that the card has not seen: about 1,000 questions."""
    for family, measured in CARD["families"].items():
        right, rank = {}, []
        for seed in range(50_000, 50_030):
            scene = scenes.make(seed, "test", family=family)
            words, rows = evaluate.ask(*shipped, scene)
            for word, q in zip(words, scene.questions, strict=True):
                right.setdefault(q.skill, []).append(word == q.answer)
            rank.append(evaluate.directions(rows, 0.99))
        found = np.mean([np.mean(right[s]) for s in right if s not in scenes.AUXILIARY_SKILLS])
        assert abs(found - measured["accuracy"]) < 0.08
        assert np.mean(rank) >= 60


@pytest.mark.parametrize(
    "arm", ["auto", "spare", "resprune", "divprune", "greedy", "vispruner", "uniform grid", "random"]
)
def test_pruning_equals_masking(shipped, arm):
    """Two prompts with left padding: the pruned logits are those of the full model that cannot see the dropped tokens."""
    model, processor = shipped
    pictures = [scenes.make(i, "test") for i in (60_000, 60_001)]
    texts = ["<image> what is behind ?", "<image> how many red object ?"]
    inputs = processor(images=[p.image for p in pictures], text=texts, padding=True, return_tensors="pt")
    chosen = arms.ARMS[arm]
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with vlm_bridge.prune(
            model,
            0.125,
            chosen.method,
            relevance=chosen.relevance,
            processor=processor,
            rng=[0],
            **chosen.options,
        ) as report:
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
