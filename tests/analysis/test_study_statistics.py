"""Every statistic of the study on data whose truth is known; and the verdicts on data made to deserve them."""

from __future__ import annotations

import dataclasses
import json
from math import inf

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.study import bootstrap, report
from analysis.study.arms import FACTORIAL, FILLS, FULL, STARTS, TWINS, swapped
from analysis.study.bootstrap import Draws, Interval, interval, simultaneous
from analysis.study.correlations import correlation
from analysis.study.predictors import NAMES, error_name
from analysis.study.report import write_verdicts
from analysis.study.results import EMPTY, Results
from analysis.study.rules import LEAST_ERROR, RIVALS, verdicts
from analysis.study.verdict import Number, Study, Verdict

KEEPS = (0.5, 0.33, 0.22, 0.11, 0.06, 0.03)


def made(
    chance,
    error,
    cells,
    questions=8,
    scenes=40,
    seed=0,
    strata=(("m", "a"),),
    skills=("one",),
    blind=None,
    more=None,
):
    """Results of answers drawn with the given chances (cells,), (cells, scenes) or by skill; predictors (cells, scenes) or (cells,).

    ``error`` is that of p = 2; ``more`` has other predictors by name.
    """
    rng = np.random.default_rng(seed)
    wide = lambda v: np.broadcast_to(np.asarray(v, float).reshape(len(cells), -1), (len(cells), scenes))  # noqa: E731
    units = [(m, f, str(i)) for m, f in strata for i in range(scenes)]
    owner = np.repeat(np.arange(len(units)), questions)
    skill = np.array([skills[i % len(skills)] for i in range(questions)] * len(units))
    by_skill = chance if isinstance(chance, dict) else dict.fromkeys(skills, chance)
    level = np.empty((len(cells), len(owner)))
    for name, values in by_skill.items():
        level[:, skill == name] = wide(values)[:, owner[skill == name] % scenes]
    score = (rng.random(level.shape) < level).astype(float)
    numbers = {name: np.full((len(cells), len(units)), np.nan) for name in NAMES}
    for name, values in ({error_name(2): error} | (more or {})).items():
        numbers[name] = np.tile(wide(values), (1, len(strata)))
    tokens = np.tile(wide([max(144 * k, 1) for _, k in cells]), (1, len(strata)))
    arms = frozenset(a for a, k in cells if 0 < k < 1) if blind is None else frozenset(blind)
    return Results(tuple(cells), tuple(units), owner, skill, score, tokens, numbers, arms)


def grid(arms, keeps=KEEPS):
    return [(FULL, 1.0)] + [(a, k) for k in keeps for a in arms]


# ---- intervals


def test_the_basic_interval_is_twice_the_estimate_minus_the_quantiles():
    """Davison and Hinkley, Bootstrap Methods and their Application, equation 5.6, on resamples whose quantiles are known."""
    values = np.concatenate([[10.0], np.linspace(0, 100, 1001)])
    bar = interval(values)
    assert (bar.low, bar.high) == pytest.approx((20 - 97.5, 20 - 2.5))
    wide = interval(values, level=1 - 0.05 / 6)
    assert (wide.low, wide.high) == pytest.approx((20 - 99.5833, 20 - 0.41667), abs=1e-3)


def test_intervals_of_correlations_are_cut():
    values = np.concatenate([[0.9], np.linspace(0.2, 0.95, 1001)])
    bar = interval(values, within=1)
    assert bar.low == pytest.approx(1.8 - 0.93125)
    assert bar.high == 1
    (together,) = simultaneous(values[:, None], within=1)
    assert together.high == 1


def test_intervals_over_scenes_cover_the_truth():
    """Scenes differ: the 95 % interval covers the true mean in most of 100 repetitions.

    With coverage 0.93 (40 scenes) the chance of fewer than 80 hits in 100 is below 1e-5. Drawn question by question, as if those of a
    scene were independent, it would cover about half.
    """
    rng, hits = np.random.default_rng(0), 0
    for seed in range(100):
        chance = rng.beta(0.8, 0.4, size=(1, 40))
        results = made(chance, [0.0], [(FULL, 1.0)], questions=12, seed=seed)
        bar = interval(Draws(results, resamples=200).accuracy[:, 0])
        hits += bar.low <= 2 / 3 <= bar.high
    assert hits >= 80


def test_intervals_together_hold_together():
    """Of 30 means at once all are covered in about 95 % of 200 repetitions; taken one by one in far fewer.

    With 150 scenes the quantile is a normal one where it should be Student's: coverage is about 0.93, and fewer than 170
    of 200 have a chance below 1e-4.
    """
    rng, together, single = np.random.default_rng(1), 0, 0
    for _ in range(200):
        sample = rng.normal(size=(150, 30))
        draws = rng.multinomial(150, np.full(150, 1 / 150), size=400) @ sample / 150
        values = np.concatenate([sample.mean(0)[None], draws])
        together += all(b.low <= 0 <= b.high for b in simultaneous(values))
        single += all((b := interval(values[:, j])).low <= 0 <= b.high for j in range(30))
    assert together >= 170
    assert single < 120


def test_paired_differences_are_sharper_than_two_intervals():
    rng = np.random.default_rng(2)
    chance = rng.beta(0.5, 0.5, size=40)
    results = made(np.stack([chance, chance]), np.zeros((2, 40)), [("a", 0.5), ("b", 0.5)], questions=30)
    right = results.score.copy()
    right[1] = right[0]
    right[1, ::20] = 1
    results = dataclasses.replace(results, score=right)
    draws = Draws(results)
    gap, alone = interval(draws.gap("b", "a", 0.5)), [interval(draws.accuracy[:, i]) for i in range(2)]
    assert gap.low > 0
    assert gap.value == pytest.approx(right[1].mean() - right[0].mean())
    assert alone[0].high > alone[1].low
    assert gap.high - gap.low < 0.2 * (alone[0].high - alone[0].low)


def test_few_scenes_say_nothing_about_certainty():
    results = made([0.9, 0.2], [0.1, 0.5], [("a", 0.5), ("b", 0.5)], scenes=bootstrap.LEAST - 1)
    bar = interval(Draws(results).gap("a", "b", 0.5))
    assert bar.value > 0.4
    assert np.isnan([bar.low, bar.high]).all()


def test_models_answer_about_the_same_scenes_and_are_drawn_together():
    results = made([0.5], [0.1], [("a", 0.5)], strata=(("m", "f"), ("n", "f"), ("m", "g")))
    draws = Draws(results)
    one, two, other = (s.weights for s in draws.strata)
    assert one is two
    assert not np.array_equal(one, other)
    values = [
        results.score[
            0, np.isin(results.owner, [i for i, u in enumerate(results.units) if u[:2] == s])
        ].mean()
        for s in results.strata()
    ]
    assert draws.accuracy[0, 0] == pytest.approx(np.mean(values))
    part = results.only("n", "f")
    assert Draws(part).accuracy[0, 0] == pytest.approx(values[1])
    assert {u[0] for u in part.units} == {"n"}


def test_cells_that_some_scenes_did_not_run_count_where_they_ran():
    results = made([0.5, 0.5], [0.1, 0.1], [("a", 0.5), ("b", 0.5)])
    asked = results.owner < 10
    score = results.score.copy()
    score[1, ~asked] = np.nan
    results = dataclasses.replace(results, score=score)
    assert Draws(results).accuracy[0, 1] == pytest.approx(score[1, asked].mean())


# ---- error and accuracy

ARMS = tuple(f"p{i}" for i in range(10))


def cells_of(error_of, chance_of):
    cells = grid(ARMS)
    error = [0 if a == FULL else error_of(int(a[1:]), k) for a, k in cells]
    chance = [0.95 if a == FULL else chance_of(int(a[1:]), k) for a, k in cells]
    return cells, np.array(error), np.array(chance)


ERROR = error_name(2)


def test_error_that_tells_all():
    cells, error, chance = cells_of(
        lambda i, k: 0.06 * i + 0.3 * (1 - k), lambda i, k: 0.9 - 0.06 * i - 0.3 * (1 - k)
    )
    draws = Draws(made(chance, error, cells, questions=40), resamples=200)
    assert correlation(draws, ERROR, keeps=[0.11])[0] < -0.95
    assert interval(correlation(draws, ERROR), within=1).high < -0.8


def test_error_that_only_tells_the_budget():
    """Within a budget error means nothing; pooled over budgets it would look like everything."""
    luck = [7, 0, 8, 4, 1, 5, 9, 2, 3, 6]
    assert abs(np.corrcoef(luck, range(10))[0, 1]) < 0.1
    cells, error, chance = cells_of(
        lambda i, k: 0.7 * (1 - k) + 0.004 * i, lambda i, k: 0.9 - 0.5 * (1 - k) + 0.004 * luck[i]
    )
    draws = Draws(made(chance, error, cells, questions=40), resamples=200)
    assert abs(correlation(draws, ERROR)[0]) < 0.25


def test_a_correlation_is_spearmans_of_the_arms_drawn():
    """Every resample by hand: scenes weigh the means, arms are taken as often as they were drawn."""
    rng = np.random.default_rng(4)
    cells = [(a, 0.11) for a in ARMS[:6]]
    chance = rng.uniform(0.2, 0.9, 6)
    draws = Draws(made(chance, rng.uniform(0, 1, (6, 40)), cells, questions=6), resamples=30)
    found = correlation(draws, ERROR, keeps=[0.11])
    (stratum,), arms = draws.strata, draws.drawn_arms(6)
    assert arms[0].tolist() == list(range(6))
    assert len({tuple(sorted(row)) for row in arms.tolist()}) > 20
    right, asked = (np.zeros((6, 40)) for _ in range(2))
    np.add.at(right.T, draws.results.owner, draws.results.score.T)
    np.add.at(asked.T, draws.results.owner, 1)
    errors = draws.results.predictors[ERROR]
    for b in range(31):
        w = dict(
            zip(sorted(map(str, range(40))), stratum.weights[b], strict=True)
        )  # clusters are in the order of their names
        w = np.array([w[str(i)] for i in range(40)])
        x, y = errors @ w / w.sum(), (right @ w) / (asked @ w)
        expected = spearmanr(x[arms[b]], y[arms[b]]).statistic
        assert found[b] == pytest.approx(expected, abs=1e-5)


def test_drawing_arms_widens_the_interval():
    """With few arms, most of what is not known is which arms there are."""
    rng = np.random.default_rng(5)
    cells = [(a, k) for k in KEEPS for a in ARMS[:7]]
    place = np.tile(rng.permutation(7), len(KEEPS))
    results = made(
        0.3 + 0.05 * place + np.tile(rng.normal(0, 0.1, 7), len(KEEPS)), np.tile(np.arange(7), 6), cells, 200
    )
    draws = Draws(results, resamples=200)
    bar = interval(correlation(draws, ERROR))
    draws.drawn_arms = lambda count: np.tile(np.arange(count), (201, 1))
    fixed = interval(correlation(draws, ERROR))
    assert fixed.value == bar.value
    assert bar.high - bar.low > 3 * (fixed.high - fixed.low)


def test_arms_that_keep_the_same_tokens_count_once():
    cells, error, chance = cells_of(lambda i, k: 0.06 * i, lambda i, k: 0.9 - 0.06 * i)
    results = made(chance, error, cells, questions=10)
    twin = [results.index("p3", k) for k in KEEPS]
    copied = [results.index("p7", k) for k in KEEPS]
    score, numbers = results.score.copy(), {n: v.copy() for n, v in results.predictors.items()}
    score[twin], numbers[ERROR][twin] = score[copied], numbers[ERROR][copied]
    same = dataclasses.replace(results, score=score, predictors=numbers)
    assert results.distinct == list(ARMS)
    assert same.distinct == [a for a in ARMS if a != "p7"]
    without = Draws(dataclasses.replace(same, blind=same.blind - {"p7"}), resamples=20)
    np.testing.assert_allclose(correlation(Draws(same, resamples=20), ERROR), correlation(without, ERROR))


def test_the_share_of_background_moves_the_correlation():
    """Lower error is better for the background and worse for things: the mixture goes from one to the other."""
    cells, error, rising = cells_of(lambda i, k: 0.06 * i, lambda i, k: 0.3 + 0.06 * i)
    chance = {"colour": rising, "ground": 1.2 - rising}
    results = made(chance, error, cells, questions=40, skills=tuple(chance))
    assert results.tasks == ["things", "background"]
    draws = Draws(results, resamples=20)
    found = [correlation(draws, ERROR, share=share)[0] for share in (0, 0.25, 0.75, 1)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(correlation(draws, ERROR, "things")[0])
    assert found[-1] == pytest.approx(correlation(draws, ERROR, "background")[0])
    assert found[-1] < -0.9 < 0.9 < found[0]


def test_arms_that_do_not_drop_stay_out_of_correlations():
    cells, error, chance = cells_of(lambda i, k: 0.06 * i, lambda i, k: 0.9 - 0.06 * i)
    chance = np.where([a == "p9" for a, _ in cells], 1.0, chance)
    whole = made(chance, error, cells, questions=40)
    without = Draws(dataclasses.replace(whole, blind=frozenset(ARMS[:9])), resamples=50)
    assert correlation(without, ERROR)[0] < -0.9 < correlation(Draws(whole, resamples=50), ERROR)[0]


def test_ranks_count_every_skill_alike():
    """p0 is better on one of three skills by much, p1 on two by little."""
    results = made(
        [0.5, 0.5, 0.5],
        np.zeros(3),
        [("p0", 0.06), ("p1", 0.06), ("p2", 0.06)],
        questions=30,
        skills=("x", "y", "z"),
    )
    right = np.zeros(results.score.shape, bool)
    number = np.arange(right.shape[1])
    right[0] = (results.skill == "x") | (number % 4 == 0)
    right[1] = (number % 3 == 0) | (number % 4 == 0)
    right[1] &= results.skill != "x"
    right[1] |= (results.skill != "x") & (number % 5 == 0)
    results = dataclasses.replace(results, score=right.astype(float))
    draws = Draws(results, resamples=50)
    assert draws.accuracy[0, 0] > draws.accuracy[0, 1]
    mean = bootstrap.ranks(draws, ["p0", "p1", "p2"], [0.06])[0]
    assert mean.sum() == pytest.approx(6)
    assert mean[1] == pytest.approx((2.5 + 1 + 1) / 3)
    assert mean[0] == pytest.approx((1 + 2 + 2) / 3)


# ---- verdicts

TASK_SKILLS = {"things": "colour", "background": "ground", "transcription": "transcription"}


def study_of(chance, arms, tasks=("things",), questions=30, scenes=30, keeps=KEEPS, **more):
    """Results in which an arm at a budget answers questions of a task with chance(arm, keep, task)."""
    cells = grid(arms, keeps)
    level = {
        TASK_SKILLS[t]: np.array([0.95 if a == FULL else chance(a, k, t) for a, k in cells]) for t in tasks
    }
    return made(level, np.full(len(cells), 0.5), cells, questions, scenes, skills=tuple(level), **more)


def verdict(results, number):
    return verdicts(results, resamples=200)[number - 1]


def of_errors(things, background, swaps=(0.1, -0.1)):
    """A study in which lower error_∞ (things) and error_2 (background) raise accuracy by these slopes, and swaps by these amounts."""
    names = [f"rule {i}" for i in range(40)]
    places = np.random.default_rng(2).permutation(40)
    frobenius, largest = dict(zip(names, places, strict=True)), dict(zip(names, 39 - places, strict=True))
    ladder = [swapped(start, p) for start in STARTS for p in (2, inf)]

    def chance(arm, keep, task):
        if arm in ladder:
            gain = swaps[task == "background"] / 2
            return 0.5 + (gain if arm.endswith("∞") else -gain)
        place = largest[arm] if task == "things" else frobenius[arm]
        return 0.5 - (things if task == "things" else background) * (place - 19.5)

    results = study_of(chance, [*names, *ladder], ("things", "background"), questions=80, keeps=(0.11, 0.06))
    at = [(a, k) for a, k in results.cells]
    for name, place in ((error_name(2), frobenius), (error_name(inf), largest)):
        results.predictors[name][:] = np.array([0.1 + place.get(a, np.nan) for a, _ in at])[:, None]
    return results


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (of_errors(0.01, 0.01), "yes"),
        (of_errors(0.01, 0.01, swaps=(0.1, 0.1)), "partly"),
        (of_errors(-0.01, -0.01, swaps=(-0.1, 0.1)), "no"),
        (of_errors(0.0, 0.0, swaps=(0.0, 0.0)), "not settled"),
    ],
    ids=["each its own", "swaps on the background do harm", "the other way round", "nothing"],
)
def test_first_verdict(planted, expected):
    found = verdict(planted, 1)
    assert found.verdict == expected
    assert found.looked_at == 6
    assert bool(found.plain)


CELLS = tuple(FACTORIAL.values())


@pytest.mark.parametrize(
    ("rule", "norms", "expected"),
    [((0.2, 0.2), 0.2, "yes"), ((-0.1, -0.1), 0.2, "no"), ((0.2, -0.2), 0.0, "it depends on the model")],
)
def test_second_verdict_tells_the_rule_from_the_norms(rule, norms, expected):
    parts = []
    kinds = {arm: key for key, arm in FACTORIAL.items()}
    for model, effect in zip("mn", rule, strict=True):

        def chance(arm, keep, task, effect=effect):
            columns, how = kinds[arm]
            return 0.4 + (norms if columns == "raw" else 0) + (effect if how == "residual" else 0)

        parts.append(study_of(chance, CELLS, strata=((model, "f"),), seed=len(parts)))
    both = dataclasses.replace(
        parts[0], units=parts[0].units + parts[1].units, owner=np.concatenate([parts[0].owner, parts[1].owner + 30]),
        skill=np.concatenate([p.skill for p in parts]), score=np.hstack([p.score for p in parts]),
        tokens=np.hstack([p.tokens for p in parts]), norm_and_thing=np.repeat([0.6, 0.0], 30),
        predictors={n: np.hstack([p.predictors[n] for p in parts]) for n in NAMES},
    )  # fmt: skip
    found = verdict(both, 2)
    assert found.verdict == expected
    assert "n m, where norm and thing have rank correlation +0.60" in found.statement
    assert [n.all.value for n in found.numbers[:4]] == pytest.approx([*rule, norms, norms], abs=0.04)


def test_second_verdict_that_is_not_settled():
    assert verdict(study_of(lambda a, k, t: 0.5, CELLS, questions=6, scenes=10), 2).verdict == "not settled"


def test_third_verdict_is_taken_in_each_space():
    names = ("spare", *(f"spare, {s}, {w}" for w in ("LLM space", "CLIP space") for s in ("anti", "normal")))

    def chance(a, k, t):
        return {"spare": 0.6, "spare, anti, CLIP space": 0.75, "spare, anti, LLM space": 0.4}.get(a, 0.5)

    found = verdict(study_of(chance, names), 3)
    assert found.verdict == "partly"
    assert "CLIP space anti-relevance changes accuracy by +1" in found.statement
    assert verdict(study_of(lambda a, k, t: 0.9 if "anti" in a else 0.5, names), 3).verdict == "yes"
    assert verdict(study_of(lambda a, k, t: 0.3 if "anti" in a else 0.5, names), 3).verdict == "no"
    assert verdict(study_of(lambda a, k, t: 0.5, names[:1]), 3).verdict == "not run"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [((0.2, 0.2), "yes"), ((-0.2, 0.2), "by task"), ((-0.2, -0.2), "no")],
)
def test_fourth_verdict_goes_task_by_task(gains, expected):
    """A task is theirs if one of the rules is better there, whatever the others are."""
    names = ("spare", *LEAST_ERROR.values())

    def chance(arm, keep, task):
        gain = gains[task == "background"]
        return 0.5 + (gain if arm == "osinsky" else -0.1 if arm != "spare" else 0)

    found = verdict(study_of(chance, names, ("things", "background")), 4)
    assert found.verdict == expected
    if gains[0] > 0:
        assert "n things the best of them is osinsky" in found.statement


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"fill": 0.2}, "content"),
        ({"dummy fill": 0.2, "fill": 0.2, "shuffled fill": 0.2}, "length"),
        ({"mean fill": 0.2, "fill": 0.2}, "both"),
        ({"fill": -0.1, "dummy fill": -0.1, "mean fill": -0.1}, "neither"),
    ],
)
def test_fifth_verdict_tells_content_from_length(gains, expected):
    names = [name for a in TWINS for name in (a, *(f"{a} + {t}" for t in ("fold", *FILLS)))]
    chance = lambda arm, k, t: 0.5 + gains.get(arm.partition(" + ")[2], 0)  # noqa: E731
    assert verdict(study_of(chance, names), 5).verdict == expected


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (lambda k, t: 0.3, "yes"),
        (lambda k, t: 0.3 if k <= 0.15 else -0.3, "partly"),
        (lambda k, t: -0.3 if t == "background" else 0.3, "no"),
        (lambda k, t: 0.0, "not settled"),
    ],
    ids=["everywhere", "at tight budgets", "in one task", "the same"],
)
def test_sixth_verdict_wants_every_task(gain, expected):
    chance = lambda a, k, t: 0.5 + (gain(k, t) if a == "auto" else 0)  # noqa: E731
    found = verdict(study_of(chance, ("auto", *RIVALS), ("things", "background"), keeps=(0.5, 0.11, 0.06)), 6)
    assert found.verdict == expected
    assert "n background its smallest gap" in found.statement


def test_several_verdicts_share_the_level():
    """The numbers that a verdict looks at have wider intervals than those of 95 %."""
    names = ("spare", *LEAST_ERROR.values())
    study = Study(study_of(lambda a, k, t: 0.5, names), 300)
    gap = {"gap": lambda d: d.gaps("greedy", "spare", study.tight)}
    (wide,), (plain,) = study.numbers(gap), study.numbers(gap, level=0.95)
    assert (wide.all.high - wide.all.low) > 1.2 * (plain.all.high - plain.all.low)


def test_verdicts_are_written_with_their_strata(tmp_path):
    results = study_of(lambda a, k, t: 0.5, ("spare", "greedy"), strata=(("m", "f"), ("m", "g")))
    write_verdicts(verdicts(results, resamples=20), tmp_path)
    told = json.loads((tmp_path / "verdicts.json").read_text())
    assert [v["verdict"] for v in told].count("not run") == 5
    assert set(told[3]["numbers"][0]["strata"]) == {"m, f", "m, g"}
    text = (tmp_path / "verdicts.md").read_text()
    assert "| greedy − spare, things |" in text
    assert text.count("*Rule:*") == 6


def test_no_results_are_no_verdicts():
    assert [v.verdict for v in verdicts(EMPTY)] == ["not run"] * 6


def test_strata_agree_or_do_not():
    strata = {
        "same": Interval(0.2, -0.1, 0.5),
        "other, not for certain": Interval(-0.1, -0.3, 0.1),
        "other": Interval(-0.4, -0.5, -0.3),
        "unknown": Interval(np.nan, np.nan, np.nan),
    }
    up = Number("a", Interval(0.3, 0.1, 0.5), strata)
    assert (up.same, up.against) == (["same"], ["other"])
    down = Number("b", Interval(-0.3, -0.5, -0.1), {**strata, "up": Interval(0.3, 0.2, 0.4)})
    assert (down.same, down.against) == (["other, not for certain", "other"], ["up"])
    nothing = Number("c", Interval(0.0, 0.0, 0.0), strata)
    verdict = Verdict("?", "no", "", "", (up, nothing, down), looked_at=2)
    assert verdict.agreement == [up]
    page = report.markdown([verdict])
    assert "| 1 | a | 0.300 [0.100, 0.500] | 1 of 4 | other |" in page


def test_what_ran_on_some_scenes_is_compared_on_those():
    """The first twenty scenes are hard for all; an arm that ran on these alone is no worse than all tokens."""
    hard = np.repeat([0.2, 1.0], 20)
    results = made(np.stack([hard, hard]), np.zeros((2, 40)), [(FULL, 1.0), ("a", 0.5)], questions=20)
    score = results.score.copy()
    score[1] = np.where(results.owner < 20, score[0], np.nan)
    draws = Draws(dataclasses.replace(results, score=score), resamples=20)
    assert (draws.strata[0].gap(1, 0) == 0).all()
    assert draws.accuracy[0, 1] < 0.3 < 0.5 < draws.accuracy[0, 0]
    assert bootstrap.retained(draws)[:, 1] == pytest.approx(1)
