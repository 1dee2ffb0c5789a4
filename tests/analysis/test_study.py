"""The study's engine: answers against `prune`, predictors against their definitions, rows, resumption, the page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vlm_bridge
from analysis import reference, scenes, study
from analysis.__main__ import main
from analysis.study import arms, page, predictors, units
from analysis.study import plan as plans
from analysis.study.answering import Prefix, answers, logits
from analysis.study.encoding import Checkpoint, encode_image
from analysis.study.kept_tokens import filled, kept
from analysis.study.results import read
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
    return encode_image(live, scene.image, [q.text for q in scene.questions])


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


BEFORE = [a for a in study.ARMS.values() if not (a.inside or a.fill)]


@pytest.mark.parametrize("arm", BEFORE, ids=lambda a: a.name)
def test_answers_are_those_of_the_pruned_model(live, scene, seen, arm):
    (sets,) = kept(arm, seen, [0.11], [scene.seed])
    one = sets[1 % len(sets)]
    mine = logits(live, seen, [dataclasses.replace(one.prefix, asked=(1,))])[0][0]
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
    assert len({tuple(row[:5].tolist()) for many in together for row in many}) == sum(
        len(p.asked) for p in prefixes
    )


def test_half_precision_rounds_and_leaves_the_model_alone(live, scene, seen):
    half = dataclasses.replace(live, half=True)
    (one,) = kept(study.ARMS["spare"], seen, [0.22], [0])[0]
    exact, rough = (torch.cat(logits(own, seen, [one.prefix])).float() for own in (live, half))
    assert 0 < (exact - rough).norm() < 0.05 * exact.norm()
    assert half.answering.dtype == torch.bfloat16
    assert live.model.dtype == torch.float32
    assert live.answering is live.model


def test_generate_says_the_same(live, scene, seen):
    arm = study.ARMS["greedy + fold"]
    texts = [f"<image> {q.text}" for q in scene.questions]
    inputs = live.processor(images=[scene.image] * len(texts), text=texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with vlm_bridge.prune(live.model, **study.arguments(arm, 0.06, 0, scene, live.processor)):
        out = live.model.generate(**inputs, max_new_tokens=1)[:, -1]
    ((one,),) = kept(arm, seen, [0.06], [scene.seed])
    assert answers(live, seen, [one.prefix]) == [out.tolist()]


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


def test_filled_tokens_are_projections(seen):
    places = torch.tensor([3, 40, 90, 141])
    rows = filled(seen.tokens, places)
    assert torch.equal(rows[places], seen.tokens[places])
    basis = np.linalg.qr(seen.tokens[places].double().numpy().T)[0]
    expected = seen.tokens.double().numpy() @ basis @ basis.T
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-4)


# ---- predictors


def test_predictors_are_their_definitions(seen):
    measure = predictors.Measure.of(seen)
    places = torch.tensor([0, 17, 63, 64, 101, 143])
    found = dict(zip(predictors.NAMES, measure([places], [[0, 2]])[0].tolist(), strict=True))
    x = seen.tokens.double().numpy()

    def left(rows, scale=None):
        basis = np.linalg.qr(rows[places].T)[0]
        rest = rows - rows @ basis @ basis.T
        scale = np.ones(len(rows)) if scale is None else scale
        return np.linalg.norm(rest * scale[:, None]) / np.linalg.norm(rows * scale[:, None])

    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    pairs = 1 - cosine[np.ix_(places, places)][np.triu_indices(6, 1)]
    paid = seen.signals["cls_attention"].double().numpy().mean(0)

    def relevance(q):
        words = seen.asked[q]["llm_text"].double().numpy()
        score = (unit @ (words / np.linalg.norm(words, axis=1, keepdims=True)).T).max(1)
        return (score - score.min() + 1e-6) / (score.max() - score.min())

    weighted = np.mean([left(x, relevance(q)) for q in (0, 2)])
    spectrum = np.linalg.svd(x, compute_uv=False)
    expected = {
        "error": left(x),
        "error, cosine": left(unit),
        "error, weighted": weighted,
        "error, tower": left(seen.signals["vision_clip"].double().numpy()),
        "error, layer 1": left(seen.layers[0].double().numpy()),
        "error, layer 2": left(seen.layers[1].double().numpy()),
        "error / optimum": left(x) * np.linalg.norm(x) / np.linalg.norm(spectrum[6:]),
        "least distance": pairs.min(),
        "mean distance": pairs.mean(),
        "coverage": cosine[:, places].max(1).mean(),
        "attention": paid[places].sum() / paid.sum(),
        "norm share": (x[places] ** 2).sum() / (x**2).sum(),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < found["attention"] < 1


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

NAMES = ("spare", "divprune", "random", "random + fold", "resprune", "spare + fill", "fastv")


@pytest.fixture(scope="module")
def plan(untrained):
    return study.Plan(models=(str(untrained),), scenes=1, plane_scenes=0, keeps=KEEPS, arms=NAMES)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    return study.run(plan, tmp_path_factory.mktemp("study"), workers=1)


def test_units_hold_every_cell_and_question(plan, finished):
    for unit in plan.units():
        one = units.Unit.load(plans.unit_path(finished, unit))
        scene = study.scene_of(*unit[1:])
        assert set(one.cells) == {(a, k) for a in NAMES for k in KEEPS} | {
            (study.FULL, 1.0),
            (study.BLIND, 0.0),
        }
        assert one.texts.tolist() == [q.text for q in scene.questions]
        assert (one.right == (one.said == one.gold)).all()
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
    few = dataclasses.replace(plan, scenes=4, inside_scenes=2, plane_scenes=3)
    found = [plans.arms_of(few, unit, plans.load(unit[0])) for unit in few.units()]
    assert [any(a.inside for a in some) for some, _ in found] == [True] * 4 + [False] * 4
    assert [bool(points) for _, points in found] == [True] * 6 + [False] * 2
    assert all(len(some) == len(found[-1][0]) + 1 for some, _ in found[:4])


def test_packed_rows_say_what_the_units_say(plan, finished, tmp_path):
    results = read(study.pack(finished, tmp_path / "rows.npz"))
    assert len(results.units) == 2
    for u, (_, family, scene) in enumerate(results.units):
        one = units.Unit.load(plans.unit_path(finished, (plan.models[0], family, int(scene))))
        rows = [results.index(*cell) for cell in one.cells]
        assert (results.right[rows][:, results.owner == u] == one.right).all()
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
    assert "NOT SETTLED" in printed  # one scene settles nothing
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
    with pytest.raises(ValueError, match="fills"):
        study.arguments(study.ARMS["spare + fill"], 0.5, 0, None, None)


def test_shipped_rows_give_page_and_verdicts_without_a_model(tmp_path):
    assert main(["figures", "--out", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    assert len(json.loads((tmp_path / "verdicts.json").read_text())) == 6
    assert (tmp_path / "report.html").stat().st_size > 500_000
    page = (tmp_path / "docs" / "verdicts.md").read_text()
    assert page == (tmp_path / "verdicts.md").read_text()
    shown = Path("docs/study/verdicts.md").read_text()
    said = re.compile(r"^(?:\*Confirmation set:\* )?\*\*[A-Za-z ]+\.?\*\*", re.MULTILINE)
    assert said.findall(page) == said.findall(shown)
    assert (tmp_path / "docs" / "models.md").read_text() == Path("docs/study/models.md").read_text()
