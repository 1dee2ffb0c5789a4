"""The study's engine: answers against `prune`, predictors against their definitions, rows, resumption, the page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cssp
import vlm_bridge
from analysis import reference, scenes, study
from analysis.__main__ import main
from analysis.study import arms, decimer, page, predictors, units
from analysis.study import plan as plans
from analysis.study.answering import Prefix, answers, logits
from analysis.study.encoding import Checkpoint, encode_image
from analysis.study.influence import influence
from analysis.study.kept_tokens import columns_of, filled, grid_of, kept
from analysis.study.results import join, read
from analysis.training.model import build_joint, tokenizer
from vlm_bridge import PRUNERS

KEEPS = (0.22, 0.06)


@pytest.fixture(scope="module")
def live():
    """The shipped model in a joint space of random weights: which tokens are kept is then arbitrary, but defined."""
    model, processor = reference.load()
    return Checkpoint(model, processor, (build_joint(0, model).eval(), tokenizer("<s> $A </s>")))


@pytest.fixture(scope="module")
def scene():
    return scenes.make(7, "test", {"existence": 1, "two hops": 1, "background": 1})


@pytest.fixture(scope="module")
def seen(live, scene):
    return encode_image(live, scene.image, scene.questions, plans.covered(scene))


def test_every_pruner_has_an_arm_or_a_reason():
    used = {arm.method for arm in study.ARMS.values()}
    assert set(PRUNERS) == used | set(arms.EXCLUDED)
    assert not used & set(arms.EXCLUDED)


# ---- answers


@torch.no_grad()
def pruned(live, scene, arm, keep, q):
    """The model's logits after the prompt, with one question in the call, by the bridge."""
    texts = [f"<image> {scene.questions[q].text}"]
    inputs = live.processor(images=[scene.image], text=texts, return_tensors="pt")
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    with vlm_bridge.prune(
        live.model, **study.arguments(arm, keep, 0, scene, live.processor, live.clip)
    ) as report:
        out = live.model(**inputs).logits[0, -1]
    return out, report


BEFORE = [a for a in study.ARMS.values() if not (a.inside or a.fill or a.smaller or a.columns)]


@pytest.mark.parametrize("arm", BEFORE, ids=lambda a: a.name)
def test_answers_are_those_of_the_pruned_model(live, scene, seen, arm):
    (sets,) = kept(arm, seen, [0.11], [scene.seed])
    one = sets[1 % len(sets)]
    mine = logits(live, seen, [dataclasses.replace(one.prefix, asked=(1,))])[0][0][0]
    expected, report = pruned(live, scene, arm, 0.11, 1)
    assert one.places.tolist() == report.kept[0].tolist()
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-3)


def test_many_prunings_and_questions_in_one_pass_do_not_see_each_other(live, scene, seen):
    chosen = [study.ARMS[a] for a in ("spare", "random + fold", "divprune + fill")]
    prefixes = [one.prefix for arm in chosen for sets in kept(arm, seen, KEEPS, [3]) for one in sets]
    prefixes.append(Prefix(seen.tokens[:0], torch.arange(0), (2, 0)))
    together = logits(live, seen, prefixes)
    for prefix, many in zip(prefixes, together, strict=True):
        for q, row in zip(prefix.asked, many, strict=True):
            alone = logits(live, seen, [dataclasses.replace(prefix, asked=(q,))])[0][0]
            torch.testing.assert_close(row, alone, rtol=0, atol=2e-3)
    assert len({tuple(row[0, :5].tolist()) for many in together for row in many}) == sum(
        len(p.asked) for p in prefixes
    )


@pytest.fixture(scope="module")
def transcribed(live, scene):
    """The scene with an answer of several words among its questions."""
    asked = [
        scene.questions[0],
        scenes.Question("transcription", "what is behind ?", f"{scene.background} d3 above red"),
        scene.questions[2],
    ]
    return encode_image(live, scene.image, asked, plans.covered(scene)), asked


@torch.no_grad()
def test_answers_of_several_words_are_predicted_given_the_right_ones_before(live, scene, transcribed):
    """Word by word: the pruned model's own prediction after the question and the right words so far."""
    encoded, asked = transcribed
    ((one,),) = kept(study.ARMS["spare"], encoded, [0.11], [scene.seed])
    mine = logits(live, encoded, [one.prefix])[0]
    assert [len(rows) for rows in mine] == [1, 4, 1]
    words = asked[1].answer.split()
    for step in range(4):
        text = " ".join(["<image> what is behind ?", *words[:step]])
        inputs = live.processor(images=[scene.image], text=[text], return_tensors="pt")
        inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
        with vlm_bridge.prune(live.model, 0.11, "spare"):
            expected = live.model(**inputs).logits[0, -1]
        torch.testing.assert_close(mine[1][step], expected, rtol=0, atol=2e-3)


def test_the_score_of_an_answer_is_its_share_of_right_words(live, scene, transcribed):
    encoded, asked = transcribed
    chosen = [study.ARMS[name] for name in ("spare", "fastv")]
    unit = units.study_image(live, scene.image, asked, chosen, KEEPS, [7], plans.covered(scene))
    full = [
        ids.tolist()
        for ids in answers(live, encoded, [Prefix(encoded.tokens, torch.arange(144), (0, 1, 2))])[0]
    ]
    gold = [ids.tolist() for ids in encoded.answers]
    share = [np.mean([a == b for a, b in zip(x, y, strict=True)]) for x, y in zip(full, gold, strict=True)]
    assert unit.score[0].tolist() == pytest.approx(share)
    assert 0 < share[1] < 1
    inside = [row for cell, row in zip(unit.cells, unit.score, strict=True) if cell[0] == "fastv"]
    assert np.isnan(inside).tolist() == [[False, True, False]] * len(inside)
    assert units._score("a b d", "a b c") == pytest.approx(2 / 3)


def test_generate_says_the_same(live, scene, seen):
    arm = study.ARMS["greedy + fold"]
    texts = [f"<image> {q.text}" for q in scene.questions]
    inputs = live.processor(images=[scene.image] * len(texts), text=texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with vlm_bridge.prune(live.model, **study.arguments(arm, 0.06, 0, scene, live.processor)):
        out = live.model.generate(**inputs, max_new_tokens=1)[:, -1]
    ((one,),) = kept(arm, seen, [0.06], [scene.seed])
    assert torch.cat(answers(live, seen, [one.prefix])[0]).tolist() == out.tolist()


@pytest.mark.parametrize("arm", [a for a in study.ARMS.values() if a.nested], ids=lambda a: a.name)
def test_one_run_serves_all_budgets(seen, arm):
    together = kept(arm, seen, (0.5, *KEEPS), [5])
    alone = kept(dataclasses.replace(arm, nested=False), seen, (0.5, *KEEPS), [5])
    assert [[o.places.tolist() for o in s] for s in together] == [
        [o.places.tolist() for o in s] for s in alone
    ]


def test_an_arm_that_does_not_read_the_question_chooses_once(seen):
    assert [len(s) for s in kept(study.ARMS["spare"], seen, KEEPS, [0])] == [1, 1]
    assert [len(s) for s in kept(study.ARMS["spare, normal, LLM space"], seen, KEEPS, [0])] == [3, 3]
    assert {a.name for a in study.ARMS.values() if a.asks} >= {
        "cdpruner",
        "resprune",
        "trim",
        "mmtok",
        "fastv",
        "relevance",
    }


def test_what_acts_inside_cannot_keep_fewer_than_its_first_layers_see():
    asked = [(a.name, k) for a in study.ARMS.values() for k in study.KEEPS if not a.can_keep(k, 144, 4)]
    assert {name for name, _ in asked} == {"sparsevlm", "pyramiddrop"}
    assert min(k for k in study.KEEPS if ("pyramiddrop", k) not in asked) == 0.33


PLACES = torch.tensor([3, 40, 90, 141])


def test_filled_tokens_are_projections(seen):
    rows = filled(seen.tokens, PLACES)
    torch.testing.assert_close(rows[PLACES], seen.tokens[PLACES])
    basis = np.linalg.qr(seen.tokens[PLACES].double().numpy().T)[0]
    expected = seen.tokens.double().numpy() @ basis @ basis.T
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-4)


def test_other_fills_keep_positions_and_not_their_content(seen):
    """Shuffled: the same rows at other places. Mean and dummy: one row everywhere."""
    dropped = torch.ones(144, dtype=torch.bool)
    dropped[PLACES] = False
    whole, shuffled, mean, dummy = (filled(seen.tokens, PLACES, fill, [5]) for fill in arms.FILLS)
    for rows in (shuffled, mean, dummy):
        torch.testing.assert_close(rows[PLACES], seen.tokens[PLACES])
    order = [sorted(rows[dropped][:, 0].tolist()) for rows in (whole, shuffled)]
    assert order[0] == order[1]
    assert (whole[dropped] != shuffled[dropped]).any(1).float().mean() > 0.9
    torch.testing.assert_close(mean[dropped], seen.tokens.mean(0).expand(140, -1))
    assert (dummy[dropped] == dummy[dropped][0]).all()
    assert float(dummy[dropped][0].norm()) == pytest.approx(float(seen.tokens.norm(dim=1).median()), rel=1e-5)
    again, other = (filled(seen.tokens, PLACES, "dummy fill", [seed]) for seed in (5, 6))
    assert torch.equal(again, dummy)
    assert not torch.equal(other, dummy)


def test_equal_classes_change_norms_of_things_alone(seen):
    rows, things = columns_of(study.ARMS["greedy, equal classes"], seen), seen.things
    norms = rows.norm(dim=1)
    assert 0 < things.sum() < 144
    assert float(norms[things].median()) == pytest.approx(float(norms[~things].median()), rel=1e-5)
    assert torch.equal(rows[~things], seen.tokens[~things])
    cosine = torch.nn.functional.cosine_similarity(rows, seen.tokens)
    torch.testing.assert_close(cosine, torch.ones(144))
    sets = [
        kept(study.ARMS[name], seen, [0.11], [0])[0][0].places for name in ("greedy, equal classes", "greedy")
    ]
    assert not torch.equal(*sets)


def test_things_are_the_patches_that_they_cover():
    objects, digits = (scenes.make(3, "test", family=family) for family in ("objects", "digits"))
    mask = plans.covered(digits).reshape(12, 12)
    assert {tuple(cell) for cell in mask.nonzero().tolist()} == {mark.patch for mark in digits.marks}
    assert (plans.covered(objects).reshape(12, 12).numpy() >= (objects.owner >= 0)).all()
    assert plans.covered(objects).sum() == (objects.owner >= 0).sum() + len(objects.marks)


@torch.no_grad()
def test_the_image_made_smaller_is_what_the_encoder_gives_of_it(live, scene, seen):
    """At full size nothing changes; made smaller, tokens stand in the middle of what they cover."""
    torch.testing.assert_close(seen.smaller(12, 12), seen.tokens, rtol=0, atol=1e-3)
    found = [one for (one,) in kept(study.ARMS[arms.SMALLER], seen, (0.11, 0.06), [0])]
    assert [len(one.places) for one in found] == [16, 9]
    assert found[1].places.tolist() == [r * 12 + c for r in (2, 6, 10) for c in (2, 6, 10)]
    pixels = live.processor.image_processor(
        images=[scene.image.resize((24, 24), 3)], do_resize=False, do_center_crop=False, return_tensors="pt"
    )
    base = live.model.model
    rows = base.vision_tower(pixels["pixel_values"], interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(found[1].prefix.rows, base.multi_modal_projector(rows)[0], rtol=0, atol=1e-4)


def test_smaller_images_have_at_most_as_many_tokens_and_are_not_stretched():
    assert [grid_of(k) for k in (144, 72, 48, 32, 16, 9, 4, 3, 1)] == [
        (12, 12), (8, 9), (6, 8), (5, 6), (4, 4), (3, 3), (2, 2), (1, 2), (1, 1),
    ]  # fmt: skip


def test_auto_is_told_the_task_by_the_question(live, transcribed, scene):
    encoded, _ = transcribed
    found = kept(study.ARMS["auto"], encoded, [0.11], [0])[0]
    greedy = kept(study.ARMS["greedy"], encoded, [0.11], [0])[0][0]
    assert [one.places.tolist() == greedy.places.tolist() for one in found] == [False, True, False]


@pytest.mark.parametrize("start", arms.STARTS)
def test_swaps_lower_the_norm_that_they_are_told(seen, start):
    """Against the start, at every budget, and against swaps towards the other norm."""
    measure = predictors.Measure({"tokens": seen.tokens})
    names = (start, *(arms.swapped(start, p) for p in (2, inf)))
    sets = {name: kept(study.ARMS[name], seen, [0.06], [3])[0][0].places for name in names}
    for p in (2, inf):
        column = list(predictors.NAMES).index(predictors.error_name(p))
        error = {name: float(measure([places], [[0]])[0, column]) for name, places in sets.items()}
        assert error[arms.swapped(start, p)] <= min(error.values()) * (1 + 1e-9)


# ---- predictors


def test_predictors_are_their_definitions(live, seen):
    attention, gradient = influence(live, seen)
    measure = predictors.Measure.of(seen, attention, gradient)
    places = torch.tensor([0, 17, 63, 64, 101, 143])
    found = dict(zip(predictors.NAMES, measure([places], [[0, 2]])[0].tolist(), strict=True))
    x = seen.tokens.double().numpy()

    def error(rows, p, scale=1.0):
        basis = np.linalg.qr(rows[places].T)[0]
        heights, norms = (np.linalg.norm(v, axis=1) * scale for v in (rows - rows @ basis @ basis.T, rows))
        return np.linalg.norm(heights, p) / np.linalg.norm(norms, p)

    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    pairs = 1 - cosine[np.ix_(places, places)][np.triu_indices(6, 1)]
    paid = seen.signals["cls_attention"].double().numpy().mean(0)

    def relevance(q):
        words = seen.asked[q]["llm_text"].double().numpy()
        score = (unit @ (words / np.linalg.norm(words, axis=1, keepdims=True)).T).max(1)
        return (score - score.min() + 1e-6) / (score.max() - score.min())

    others = {
        "centred tokens": (x - x.mean(0), 1.0), "weighted by attention": (x, attention.numpy()),
        "weighted by gradient": (x, gradient.numpy()), "things only": (x, seen.things.double().numpy()),
        "layer 1": (seen.layers[0].double().numpy(), 1.0), "layer 2": (seen.layers[1].double().numpy(), 1.0),
        "attention outputs": (seen.attended.double().numpy(), 1.0),
    }  # fmt: skip
    name = predictors.error_name
    expected = {name(p): error(x, p) for p in (1, 2, 4, 8, 16, inf)}
    expected |= {name(p, "unit tokens"): error(unit, p) for p in (1, 2, 4, 8, 16, inf)}
    expected |= {name(p, of): error(rows, p, scale) for of, (rows, scale) in others.items() for p in (2, inf)}
    for p in (2, inf):
        expected[name(p, "weighted by relevance")] = np.mean([error(x, p, relevance(q)) for q in (0, 2)])
    expected |= {
        "error / optimum": error(x, 2)
        * np.linalg.norm(x)
        / np.linalg.norm(np.linalg.svd(x, compute_uv=False)[6:]),
        "least distance": pairs.min(),
        "mean distance": pairs.mean(),
        "coverage": cosine[:, places].max(1).mean(),
        "share of CLS attention": paid[places].sum() / paid.sum(),
        "share of squared norm": (x[places] ** 2).sum() / (x**2).sum(),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(np.round(list(found.values()), 9))) > 0.9 * len(found)
    by_cssp = cssp.select(x.T, 6, include=places.tolist())
    assert found[name(8)] == pytest.approx(by_cssp.error_p(8), rel=1e-6)


def test_influence_is_attention_and_gradient_of_the_unpruned_model(live, scene, transcribed):
    """Attention from the model's own weights; the gradient against finite differences of the loss of the right words."""
    encoded, asked = transcribed
    attention, gradient = influence(live, encoded)
    texts = [f"<image> {q.text} {' '.join(q.answer.split()[:-1])}".strip() for q in asked]
    paid = []
    for text in texts:
        inputs = live.processor(images=[scene.image], text=[text], return_tensors="pt")
        inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
        image = inputs["input_ids"][0] == live.model.config.image_token_id
        with torch.no_grad():
            layers = live.explaining(**inputs, output_attentions=True).attentions
        last = int(image.nonzero()[-1])
        paid.append(
            torch.stack([layer[0, :, last + 1 :][:, :, image].mean((0, 1)) for layer in layers]).mean(0)
        )
    torch.testing.assert_close(attention.float(), torch.stack(paid).mean(0), rtol=1e-3, atol=1e-6)

    def loss(tokens, q):
        rows = logits(live, encoded, [Prefix(tokens, torch.arange(144), (q,))])[0][0]
        return float(torch.nn.functional.cross_entropy(rows.double(), encoded.answers[q]))

    direction = torch.randn(encoded.tokens.shape[1], generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    token = int(gradient.argmax())
    slopes = []
    for q in range(3):
        moved = [encoded.tokens.clone() for _ in range(2)]
        for sign, rows in zip((1, -1), moved, strict=True):
            rows[token] += sign * 0.05 * direction
        slopes.append(abs(loss(moved[0], q) - loss(moved[1], q)) / 0.1)
    assert np.mean(slopes) <= float(gradient[token])  # Cauchy–Schwarz, for any direction
    assert float(gradient[token]) > 5 * float(gradient.median()) > 0
    assert gradient.shape == (144,)


def test_layers_see_the_tokens_alone(live, scene, seen):
    """States of the first layers do not depend on the question: text stands behind the image."""
    inputs = live.processor(
        images=[scene.image], text=["<image> is there a red circle ?"], return_tensors="pt"
    )
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        states = live.model(**inputs, output_hidden_states=True).hidden_states
    image = inputs["input_ids"][0] == live.model.config.image_token_id
    torch.testing.assert_close(seen.layers[1], states[2][0][image], rtol=0, atol=1e-4)


def test_duplicates_among_the_kept_tokens_do_no_harm():
    x = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    measure = predictors.Measure({"tokens": x})
    both, one = measure([torch.tensor([0, 1, 2]), torch.tensor([0, 2])], [[0], [0]])[:, 0].tolist()
    assert both == pytest.approx(one, abs=1e-5)
    assert torch.isnan(measure([torch.arange(0)], [[0]])).all()
    assert measure([torch.arange(20)], [[0]])[0, 0] == 0


# ---- rows

NAMES = ("spare", "divprune", "greedy", "random", "random + fold", "resprune", "spare + fill", "fastv")


@pytest.fixture(scope="module")
def plan(untrained):
    return study.Plan(models=(str(untrained),), scenes=1, keeps=KEEPS, arms=NAMES)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    return study.run(plan, tmp_path_factory.mktemp("study"), workers=1)


def test_units_hold_every_cell_and_question(plan, finished):
    for unit in plan.units():
        one = units.Unit.load(plans.unit_path(finished, unit))
        scene = study.scene_of(*unit[1:], plans.load(unit[0]))
        assert set(one.cells) == {(a, k) for a in NAMES for k in KEEPS} | {
            (study.FULL, 1.0),
            (study.BLIND, 0.0),
        }
        assert one.texts.tolist() == [q.text for q in scene.questions]
        words = [len(gold.split()) for gold in one.gold]
        assert set(words) == {1, 12}  # a row of patches has twelve
        short = np.equal(words, 1)
        assert (one.score == (one.said == one.gold))[:, short].all()
        whole = [not arm.startswith("fastv") for arm, _ in one.cells]
        assert np.isfinite(one.score[whole]).all()
        assert -1 <= one.norm_and_thing <= 1
        tokens = dict(zip(one.cells, one.tokens, strict=True))
        assert (tokens["spare", 0.06], tokens["divprune", 0.22], tokens[study.FULL, 1.0]) == (9, 32, 144)
        errors = dict(zip(one.cells, one.predictors[:, 0], strict=True))
        assert errors["random", 0.06] == errors["random + fold", 0.06]
        assert errors["spare", 0.06] > errors["spare", 0.22] > 0


def test_a_killed_study_goes_on(plan, finished, tmp_path):
    first, second = (plans.unit_path(finished, unit) for unit in plan.units())
    there = plans.unit_path(tmp_path, plan.units()[0])
    there.parent.mkdir(parents=True)
    there.write_bytes(first.read_bytes())
    plans.unit_path(tmp_path, plan.units()[1]).with_suffix(".1.part").write_bytes(second.read_bytes()[:100])
    stamp = there.stat().st_mtime_ns
    study.run(plan, tmp_path, workers=1)
    assert there.stat().st_mtime_ns == stamp
    again, expected = (units.Unit.load(plans.unit_path(f, plan.units()[1])) for f in (tmp_path, finished))
    assert (again.said == expected.said).all()
    np.testing.assert_array_equal(again.predictors, expected.predictors)
    more = dataclasses.replace(plan, arms=(*NAMES, "norm top"))
    assert not plans._whole(more, tmp_path, plan.units()[0])


def test_progress_moves_arm_by_arm_and_a_scene_is_one(plan):
    shares = []
    plans._study(plan, plan.units()[0], shares.append)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > len(NAMES)
    assert max(shares) <= 0.5


def test_parts_of_scenes_are_shown_before_any_scene_is_finished(plan, tmp_path, monkeypatch, capsys):
    shown = threading.Event()

    class Bar(plans.tqdm):
        def refresh(self, *arguments, **options):
            if 0 < self.n < 2:
                shown.set()
            return super().refresh(*arguments, **options)

    class Nothing:
        def save(self, path):
            pass

    def half_and_half(plan, unit, done):
        done(0.5)
        assert shown.wait(60)
        done(0.5)
        return Nothing()

    def threads(workers, _context, _start, arguments):
        return ThreadPoolExecutor(workers, initializer=plans._DONE.append, initargs=arguments)

    monkeypatch.setattr(plans, "_DONE", [])
    monkeypatch.setattr(plans, "_study", half_and_half)
    monkeypatch.setattr(plans, "tqdm", Bar)
    monkeypatch.setattr(plans, "ProcessPoolExecutor", threads)
    study.run(plan, tmp_path, workers=2)
    parts = [float(n) for n in re.findall(r"([\d.]+) of 2 scenes", capsys.readouterr().err)]
    assert (parts[0], parts[-1]) == (0, 2)
    assert any(0 < n < 2 for n in parts)
    assert parts == sorted(parts)


@pytest.mark.slow
def test_progress_of_worker_processes_ends_with_all_scenes(plan, tmp_path, capsys):
    few = dataclasses.replace(plan, arms=("spare", "random"))
    study.run(few, tmp_path, workers=2)
    shown = [float(n) for n in re.findall(r"([\d.]+) of 2 scenes", capsys.readouterr().err)]
    assert (shown[0], shown[-1]) == (0, 2)
    assert shown == sorted(shown)


def test_rows_of_another_model_of_the_same_name_are_not_used(plan, finished, untrained, tmp_path):
    """What the model says comes from its own weights, and rows of two models are never packed together."""
    other = shutil.copytree(untrained, tmp_path / "other" / Path(untrained).name)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name] = weights[name].roll(1, 0).contiguous()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    shutil.copytree(finished / "rows", tmp_path / "out" / "rows")
    once = dataclasses.replace(plan, models=(str(other),), arms=("spare",), families=plan.families[:1])
    study.run(once, tmp_path / "out", workers=1)
    path = plans.unit_path(tmp_path / "out", once.units()[0])
    before, after = (units.Unit.load(f) for f in (plans.unit_path(finished, plan.units()[0]), path))
    assert (before.predictors[0] != after.predictors[0]).any() or (before.said[0] != after.said[0]).any()
    with pytest.raises(ValueError, match="different models"):
        study.pack(tmp_path / "out", tmp_path / "rows.npz")
    stamp = path.stat().st_mtime_ns
    study.run(once, tmp_path / "out", workers=1)
    assert path.stat().st_mtime_ns == stamp
    np.savez(path, **{k: v for k, v in np.load(path).items() if k != "made_from"})
    assert not plans._whole(once, tmp_path / "out", once.units()[0])


def test_what_is_costly_runs_on_the_first_scenes(plan):
    few = dataclasses.replace(plan, scenes=4, inside_scenes=2)
    found = [plans.arms_of(few, unit, plans.load(unit[0])) for unit in few.units()]
    assert [any(a.inside for a in some) for some in found] == [True] * 4 + [False] * 4
    assert all(len(some) == len(found[-1]) + 1 for some in found[:4])


def test_packed_rows_say_what_the_units_say(plan, finished, tmp_path):
    results = read(study.pack(finished, tmp_path / "rows.npz"))
    assert len(results.units) == 2
    for u, (_, family, scene) in enumerate(results.units):
        one = units.Unit.load(plans.unit_path(finished, (plan.models[0], family, int(scene))))
        rows = [results.index(*cell) for cell in one.cells]
        np.testing.assert_allclose(results.score[rows][:, results.owner == u], one.score, atol=1 / 508)
        assert results.norm_and_thing[u] == pytest.approx(one.norm_and_thing)
        assert results.skill[results.owner == u].tolist() == one.skills.tolist()
        np.testing.assert_allclose(results.tokens[rows, u], one.tokens, rtol=1e-3)
        for j, name in enumerate(predictors.NAMES):
            np.testing.assert_allclose(
                results.predictors[name][rows, u], one.predictors[:, j], rtol=0.025, atol=1e-3
            )


def test_numbers_survive_as_bytes():
    values = np.array([0.0, 0.00104, 0.02, 0.5, 1.0, 9.9, np.nan])
    np.testing.assert_allclose(plans.restored(plans.quantised(values)), values, rtol=0.025)


def test_verdicts_figures_and_one_self_contained_page_without_a_model(
    finished, tmp_path, capsys, monkeypatch
):
    study.pack(finished, tmp_path / "rows.npz")
    monkeypatch.setattr(reference, "load", lambda *_: pytest.fail("no model is needed"))
    assert main(["figures", "--out", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    printed = capsys.readouterr().out
    told = re.findall(r"^   ([A-Z ]+)\. ", printed, re.MULTILINE)
    assert len(told) == 6
    assert set(told) <= {"NOT SETTLED", "NOT ASKED", "NOT RUN"}, "one scene settles nothing"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "nan" not in re.sub(r"aria-label=\"[^\"]*|base64,[^\"]*", "", page)
    assert "NaN" not in (tmp_path / "verdicts.json").read_text()
    assert len(json.loads((tmp_path / "verdicts.json").read_text())) == 6
    assert (tmp_path / "docs" / "verdicts.md").read_text().count("## ") == 6


def test_the_confirmation_set_refuses_another_plan(plan, finished, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(plans, "run", lambda plan, out, workers: asked.append(plan) or out)
    study.confirm(plan, tmp_path)
    study.confirm(plan, tmp_path)
    assert all(i >= plans.CONFIRM for one in asked for _, _, i in one.units())
    assert all(i < plans.CONFIRM for _, _, i in study.COMPLETE.units())
    with pytest.raises(ValueError, match="first time"):
        study.confirm(dataclasses.replace(plan, keeps=(0.5,)), tmp_path)


def test_what_is_wrong_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "SHIPPED", tmp_path / "nowhere.npz")
    assert main(["study", "--arms", "spare", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["figures", "--out", str(tmp_path)]) == 2
    assert "no rows" in capsys.readouterr().err
    with pytest.raises(ValueError, match="different names"):
        study.Plan(models=("a/model", "b/model"))
    with pytest.raises(ValueError, match="is no pruning"):
        study.arguments(study.ARMS["spare + fill"], 0.5, 0, None, None)


def test_rows_of_drawn_molecules_join_those_of_scenes(finished, tmp_path):
    """A molecule is a scene, its drawings are questions, and what was not run there is not known; photographs, plain drawings and those read wrongly are no part."""
    drawings = [(n, style, 1.0) for n in (3, 4, 100) for style in ("thick", "noisy")]
    drawings += [(5, "faint", 0.0), (6, "plain", 1.0), ("face at 0, 0", "astronaut", 1.0)]
    rows = [
        {"content": f"{n} {style}", "group": style, "number": n, "exact": np.nan, "arm": arm, "keep": k, "accuracy": 0.5 + n / 1000 if n != "face at 0, 0" else 1.0, "error 2": 0.1 * n if n != "face at 0, 0" else 0.0, "error inf": 0.2}
        for n, style, _ in drawings for arm, k in (("residual", 128), ("qdeim", 16), ("attention (oracle)", 16))
    ] + [{"content": f"{n} {style}", "group": style, "number": n, "exact": exact, "arm": study.FULL, "keep": 256} for n, style, exact in drawings]  # fmt: skip
    names = list(rows[0])
    np.savez(tmp_path / "decimer.npz", **{n: np.array([row.get(n, np.nan) for row in rows]) for n in names})
    drawn, confirmed = (decimer.read(tmp_path / "decimer.npz", again) for again in (False, True))
    assert [u[2] for u in drawn.units] == ["3", "4"]
    assert [u[2] for u in confirmed.units] == ["100"]
    assert drawn.blind == {"spare", "qdeim"}
    spare, full = drawn.index("spare", 0.5), drawn.index(study.FULL, 1.0)
    assert drawn.score[spare].tolist() == [0.503, 0.503, 0.504, 0.504]
    assert drawn.tokens[spare].tolist() == [128, 128]
    assert drawn.predictors[predictors.error_name(2)][spare].tolist() == pytest.approx([0.3, 0.4])
    assert np.nansum(drawn.score[full]) == 4
    scenes = read(study.pack(finished, tmp_path / "rows.npz"))
    both = join(scenes, drawn)
    assert set(both.cells) == set(scenes.cells) | set(drawn.cells)
    assert both.tasks == ["things", "background", "transcription"]
    part = both.only("DECIMER")
    assert np.isnan(part.score[part.index("divprune", 0.06)]).all()
    assert (part.score[part.index("spare", 0.5)] == drawn.score[spare]).all()
    cell = ("spare", 0.06)
    own = both.only(scenes.units[0][0])
    np.testing.assert_array_equal(own.score[own.index(*cell)], scenes.score[scenes.index(*cell)])


def test_rows_of_the_first_edition_are_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", right=np.zeros(3), arms=np.array(["spare"]))
    assert main(["figures", "--rows", str(tmp_path / "rows.npz"), "--out", str(tmp_path)]) == 2


def test_before_the_run_the_page_of_verdicts_has_the_questions_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHIPPED", tmp_path / "nowhere.npz")
    assert main(["figures", "--out", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "verdicts.md").read_text()
    assert text.count("**Not run.**") == 6
    assert text.count("*Rule:*") == 6
    assert not (tmp_path / "report.html").exists()


def test_the_page_of_verdicts_in_the_documentation_is_what_the_command_writes(tmp_path):
    assert main(["figures", "--out", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    for name in ("verdicts.md", "models.md"):
        assert (tmp_path / "docs" / name).read_text() == Path("docs/study", name).read_text()
