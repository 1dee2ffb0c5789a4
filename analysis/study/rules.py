"""The six questions of the study, each answered by a rule that was fixed before the run (docs/study/plan.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from analysis.study.arms import FACTORIAL, SMALLER, SPACES, STARTS, TWINS, exponent, swapped
from analysis.study.bootstrap import RESAMPLES, Draws, Interval, mean_known, simultaneous
from analysis.study.correlations import correlation
from analysis.study.predictors import PS, error_name
from analysis.study.results import Results
from analysis.study.tasks import BACKGROUND, SHARES, THINGS, TRANSCRIPTION
from analysis.study.verdict import (
    LEVEL,
    MARGIN,
    NO,
    OPEN,
    PARTLY,
    UNASKED,
    YES,
    Number,
    Study,
    Verdict,
    points,
)
from analysis.study.verdict_text import BOTH, BY_TASK, CONTENT, DEPENDS, LENGTH, NEITHER, PLAIN

Statistics = dict[str, Callable[[Draws], np.ndarray]]


def verdicts(results: Results, resamples: int = RESAMPLES) -> list[Verdict]:
    """Return all six verdicts, in the order of the plan."""
    study = Study(results, resamples)
    found = [one(study) for one in (which_error, residual_and_norms, relevance, least_error, filling, auto)]
    return [replace(v, plain=PLAIN[i].get(v.verdict, "")) for i, v in enumerate(found, 1)]


def _sentence(parts: Sequence[str]) -> str:
    """Return the parts as one sentence."""
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


# ---- 1

#: Of every task: the exponent of the error that is expected to predict it, and the other one.
EXPECTED = {THINGS: (inf, 2), BACKGROUND: (2, inf), TRANSCRIPTION: (2, inf)}


def which_error(study: Study) -> Verdict:
    """Decide question 1: which error predicts which task?"""
    question = "Which reconstruction error predicts which answers?"
    rule = (
        "ρ(p) is Spearman's correlation of error_p and accuracy over the arms that drop tokens without reading the question, within each "
        "budget, mean over budgets. (a) On things: ρ(∞) lies below 0 and below ρ(2). (b) On background and on transcription: ρ(2) lies below 0 and "
        "below ρ(∞). (c) Accuracy with swaps towards ∞ minus accuracy with swaps towards 2, mean of the three starts at tight budgets, lies "
        "above 0 on things and below 0 on background and on transcription. Yes: all hold, for the tasks that were run. Partly: those of one task do. No: none "
        "does, and one is contradicted by its interval. Else not settled."
    )
    tasks = [t for t in study.results.tasks if np.isfinite(correlation(study.draws, error_name(2), t)[0])]
    if not tasks:
        return Verdict(question, UNASKED, "Fewer than three such arms were run.", rule)
    rhos: Statistics = {}
    swaps: Statistics = {}
    for task in tasks:
        p, other = EXPECTED[task]
        rho = {q: lambda d, t=task, q=q: correlation(d, error_name(q), t) for q in (2, inf)}
        rhos[f"ρ({exponent(p)}), {task}"] = rho[p]
        rhos[f"ρ({exponent(p)}) − ρ({exponent(other)}), {task}"] = lambda d, a=rho[p], b=rho[other]: (
            a(d) - b(d)
        )
        sign = 1 if task == THINGS else -1  # turned so that below zero is what the rule expects, as with ρ
        if any(study.has(swapped(s, inf), swapped(s, 2)) for s in STARTS):
            swaps[f"swaps towards {exponent(other)} minus swaps towards {exponent(p)}, {task}"] = (
                lambda d, t=task, g=sign: -g * swap_gain(d, study, t)
            )
    found = study.numbers(rhos | swaps, within=[2 if "−" in name else 1 for name in (*rhos, *swaps)])
    own = {task: [n.all for n in found if n.name.endswith(f", {task}")] for task in tasks}
    holds = {task: len(bars) == 3 and all(b.high < 0 for b in bars) for task, bars in own.items()}
    if all(holds.values()):
        verdict = YES
    elif any(holds.values()):
        verdict = PARTLY
    else:
        verdict = NO if any(b.low > 0 for bars in own.values() for b in bars) else OPEN
    said = []
    for task, bars in own.items():
        p = exponent(EXPECTED[task][0])
        words = f"on {task} ρ({p}) is {bars[0].written('{:+.2f}')}"
        if len(bars) == 3:
            words += f", and swaps towards {p} instead of {exponent(EXPECTED[task][1])} change accuracy by {points(_turned(bars[2]))} points"
        said.append(words)
    more = [
        study.number(f"ρ of {name}, {task}", lambda d, n=name, t=task: correlation(d, n, t), within=1)
        for task in tasks for name in (error_name(p) for p in PS)
    ]  # fmt: skip
    if THINGS in tasks and BACKGROUND in tasks:
        more += [
            study.number(
                f"ρ({exponent(p)}), {share:.0%} of the questions about the background",
                lambda d, p=p, w=share: correlation(d, error_name(p), share=w), within=1,
            )
            for p in (2, inf) for share in SHARES
        ]  # fmt: skip
    return Verdict(question, verdict, _sentence(said), rule, (*found, *more), len(found))


def swap_gain(draws: Draws, study: Study, task: str) -> np.ndarray:
    """Return the accuracy with swaps towards ∞ minus that with swaps towards 2, mean over starts at tight budgets."""
    skills = study.results.of_task(task)
    return mean_known([draws.gaps(swapped(s, inf), swapped(s, 2), study.tight, skills) for s in STARTS])


def _turned(bar: Interval) -> Interval:
    return Interval(-bar.value, -bar.high, -bar.low)


# ---- 2


def residual_and_norms(study: Study) -> Verdict:
    """Decide question 2: is it the residual rule, or are it the norms?"""
    question = "Does the residual rule beat max–min diversity once norms are made equal?"
    rule = (
        "At tight budgets, on things: the effect of the rule is residual minus max–min, mean of cosine and classes made equal, on each model. Yes: it lies above "
        "0 on every model. No: below 0.01 on every model. It depends on the model: two models' intervals lie on different sides of 0. Else not "
        "settled. The effect of norms, raw minus classes made equal, mean of the three rules, is shown beside."
    )
    models = {
        m: d for m, d in study.models.items() if np.isfinite(rule_effect(d, study)[0])
    }  # fmt: skip
    if not models:
        return Verdict(question, UNASKED, "No model has run the factorial on questions about things.", rule)
    effects = simultaneous(np.stack([rule_effect(d, study) for d in models.values()], 1), LEVEL)
    norms = simultaneous(np.stack([norm_effect(d, study) for d in models.values()], 1), LEVEL)
    if all(e.low > 0 for e in effects):
        verdict = YES
    elif all(e.high < MARGIN for e in effects):
        verdict = NO
    else:
        verdict = DEPENDS if any(e.low > 0 for e in effects) and any(e.high < 0 for e in effects) else OPEN
    said, numbers = [], []
    for model, effect, norm in zip(models, effects, norms, strict=True):
        of_norm = norm_and_thing(study.results, model)
        said.append(
            f"on {model}, where norm and thing have rank correlation {of_norm:+.2f}, the rule changes accuracy by {points(effect)} points and "
            f"raw norms by {points(norm)}"
        )
        numbers += [Number(f"residual − max–min, norms made equal: {model}", effect)]
    for model, norm in zip(models, norms, strict=True):
        numbers.append(Number(f"raw norms − classes made equal: {model}", norm))
    cells = {
        f"{columns}, {name}: accuracy at tight budgets": lambda d, a=arm: mean_accuracy(d, a, study)
        for (columns, name), arm in FACTORIAL.items() if study.has(arm)
    }  # fmt: skip
    more = [study.number(name, f) for name, f in cells.items()]
    return Verdict(question, verdict, _sentence(said), rule, (*numbers, *more), len(models))


def _factor_gap(draws: Draws, study: Study, first: tuple[str, str], second: tuple[str, str]) -> np.ndarray:
    return draws.gaps(FACTORIAL[first], FACTORIAL[second], study.tight, study.results.of_task(THINGS))


def rule_effect(draws: Draws, study: Study) -> np.ndarray:
    """Return residual minus max–min, mean of cosine and classes made equal, (1 + B,)."""
    columns = ("cosine", "equal classes")
    return np.mean([_factor_gap(draws, study, (c, "residual"), (c, "max–min")) for c in columns], axis=0)


def norm_effect(draws: Draws, study: Study) -> np.ndarray:
    """Return raw minus classes made equal, mean of the three rules, (1 + B,)."""
    rules = ("residual", "max–min", "gain")
    return np.mean([_factor_gap(draws, study, ("raw", r), ("equal classes", r)) for r in rules], axis=0)


def norm_and_thing(results: Results, model: str) -> float:
    """Return the rank correlation of a token's norm and whether a thing covers it, mean over the images of a model."""
    own = [v for u, v in zip(results.units, results.norm_and_thing, strict=False) if u[0] == model]
    known = [v for v in own if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def mean_accuracy(draws: Draws, arm: str, study: Study, task: str = THINGS) -> np.ndarray:
    """Return the accuracy of an arm in a task, mean over tight budgets, (1 + B,)."""
    cells = [i for k in study.tight if (i := study.results.index(arm, k)) is not None]
    skills = study.results.of_task(task)
    return draws.mean(lambda s: mean_known(list(s.accuracy(skills, cells).T)))


# ---- 3


def relevance(study: Study) -> Verdict:
    """Decide question 3: does anti-relevance help?"""
    question = "Does anti-relevance beat no relevance and relevance with the usual sign, and in which space?"
    rule = (
        "spare with anti-relevance minus spare, and minus spare with normal relevance, mean over tight budgets, in the "
        "language model's and in CLIP's space. Yes in a space where both lie above 0; no where "
        "one lies below 0.01; else not settled. Overall: yes if in both, partly if in one, no if in none."
    )
    asked: Statistics = {}
    beside: Statistics = {}
    for space in SPACES.values():
        anti, normal = f"spare, anti, {space}", f"spare, normal, {space}"
        if study.has("spare", anti, normal):
            for against, words in (("spare", "none"), (normal, "normal")):
                asked[f"anti − {words}, {space}"] = lambda d, a=anti, b=against: d.gaps(a, b, study.tight)
            beside[f"normal − none, {space}"] = lambda d, a=normal: d.gaps(a, "spare", study.tight)
    if not asked:
        return Verdict(question, UNASKED, "No arm with relevance was run.", rule)
    found = study.numbers(asked)
    said, parts = [], []
    for space in SPACES.values():
        both = [n.all for n in found if n.name.endswith(space)]
        if not both:
            continue
        said.append(
            YES if min(b.low for b in both) > 0 else NO if min(b.high for b in both) < MARGIN else OPEN
        )
        parts.append(
            f"in {space} anti-relevance changes accuracy by {points(both[0])} points against none and {points(both[1])} against normal"
        )
    if all(v == YES for v in said):
        overall = YES
    elif YES in said:
        overall = PARTLY
    else:
        overall = NO if all(v == NO for v in said) else OPEN
    return Verdict(question, overall, _sentence(parts), rule, (*found, *study.numbers(beside)), len(found))


# ---- 4

LEAST_ERROR = {
    "greedy": "greedy",
    "osinsky": "osinsky",
    "volume": "volume",
    "local search": swapped("spare", 2),
}


def least_error(study: Study) -> Verdict:
    """Decide question 4: do rules of least error beat the residual rule, and in which task?"""
    question = "In which task do rules of least error beat the residual rule?"
    rule = (
        "greedy (p = 2), Osinsky's rule, volume sampling and local search minus spare, tight budgets, in each task. A task is theirs if one lies above "
        "0, not theirs if all lie below 0.01. Yes: theirs in every task. By task: theirs in one and not theirs in another. No: not theirs in any. Else "
        "not settled."
    )
    asked: Statistics = {
        f"{words} − spare, {task}": lambda d, a=arm, t=task: d.gaps(a, "spare", study.tight, study.results.of_task(t))
        for task in study.results.tasks for words, arm in LEAST_ERROR.items() if study.has("spare", arm)
    }  # fmt: skip
    if not asked:
        return Verdict(question, UNASKED, "None of these methods was run.", rule)
    found = study.numbers(asked)
    theirs, said = [], []
    for task in study.results.tasks:
        own = [n for n in found if n.name.endswith(f", {task}") and np.isfinite(n.all.value)]
        if not own:
            continue
        theirs.append(
            YES if any(n.all.low > 0 for n in own) else NO if all(n.all.high < MARGIN for n in own) else OPEN
        )
        best = max(own, key=lambda n: n.all.value)
        said.append(
            f"on {task} the best of them is {best.name.split(' −')[0]}, {points(best.all)} points from spare"
        )
    if all(t == YES for t in theirs):
        verdict = YES
    elif YES in theirs and NO in theirs:
        verdict = BY_TASK
    else:
        verdict = NO if all(t == NO for t in theirs) else OPEN
    return Verdict(question, verdict, _sentence(said), rule, tuple(found), len(found))


# ---- 5

#: What filling brings, by what it might be: one twin minus another, or minus the arm itself.
FILLED = {
    "content in place": ("fill", "shuffled fill"),
    "length, a constant token": ("dummy fill", ""),
    "length, the mean token": ("mean fill", ""),
}


def filling(study: Study) -> Verdict:
    """Decide question 5: what returns when dropped positions are filled?"""
    question = "What returns when dropped positions are filled: content in its place, or length?"
    rule = (
        "On things, tight budgets, mean over spare, greedy, divprune and random: content in place if fill minus shuffled fill lies above 0; length if dummy fill minus "
        "plain, or mean fill minus plain, lies above 0. The verdict names what was found: content, length, both, neither (all intervals below 0.01) or "
        "not settled."
    )
    if study.results.of_task(THINGS) == () or not study.has(*TWINS, *(f"{a} + fill" for a in TWINS)):
        return Verdict(question, UNASKED, "Not all of these arms were run on questions about things.", rule)
    found = study.numbers({name: lambda d, n=name: fill_gain(d, study, n) for name in FILLED})
    content, *length = [n.all for n in found]
    is_content, is_length = content.low > 0, any(n.low > 0 for n in length)
    if is_content or is_length:
        verdict = BOTH if is_content and is_length else CONTENT if is_content else LENGTH
    else:
        verdict = NEITHER if all(n.all.high < MARGIN for n in found) else OPEN
    more = study.numbers(
        {
            f"{twin} − plain": lambda d, t=twin: _twin_gap(d, study, t, "")
            for twin in ("fill", "shuffled fill", "fold")
        }
    )
    statement = _sentence([f"{n.name}: {points(n.all)} points" for n in (*found, more[0])])
    return Verdict(question, verdict, statement, rule, (*found, *more), len(found))


def fill_gain(draws: Draws, study: Study, what: str) -> np.ndarray:
    """Return what one kind of filling brings, mean over twins at tight budgets, (1 + B,)."""
    return _twin_gap(draws, study, *FILLED[what])


def _twin_gap(draws: Draws, study: Study, first: str, second: str) -> np.ndarray:
    name = lambda arm, twin: f"{arm} + {twin}" if twin else arm  # noqa: E731
    skills = study.results.of_task(THINGS)
    return mean_known([draws.gaps(name(a, first), name(a, second), study.tight, skills) for a in TWINS])


# ---- 6

RIVALS = ("spare", "divprune", "greedy", "resprune", SMALLER)


def auto(study: Study) -> Verdict:
    """Decide question 6: is one pruner enough, once it knows the task?"""
    question = "Is one pruner as good as any other in every task, once it knows the task?"
    rule = (
        "auto with the task given, minus spare, divprune, greedy, resprune and the smaller image. Yes: at every budget and in every task that was run all gaps lie above −0.01, "
        "and at tight budgets above 0. Partly: all lie above −0.01 at tight budgets. No: one lies below −0.01. Else not settled."
    )
    results = study.results
    asked: Mapping[tuple[str, str, float], np.ndarray] = {
        (rival, task, k): study.draws.gap("auto", rival, k, results.of_task(task))
        for rival in RIVALS for task in results.tasks for k in results.keeps
    }  # fmt: skip
    asked = {cell: gap for cell, gap in asked.items() if np.isfinite(gap[0])}
    if not asked:
        return Verdict(question, UNASKED, "auto and its rivals were not run.", rule)
    found = dict(zip(asked, simultaneous(np.stack(list(asked.values()), 1), LEVEL), strict=True))
    tight = [bar for (_, _, k), bar in found.items() if k in study.tight]
    if all(bar.low > -MARGIN for bar in found.values()) and all(bar.low > 0 for bar in tight):
        verdict = YES
    elif all(bar.low > -MARGIN for bar in tight):
        verdict = PARTLY
    else:
        verdict = NO if any(bar.high < -MARGIN for bar in found.values()) else OPEN
    numbers, said = [], []
    for task in results.tasks:
        own = {cell: bar for cell, bar in found.items() if cell[1] == task}
        if not own:
            continue
        (rival, _, keep), least = min(own.items(), key=lambda one: one[1].value)
        said.append(
            f"on {task} its smallest gap, to {rival} with {keep:.0%} of the tokens kept, is {points(least)} points"
        )
    numbers = [
        Number(f"auto − {rival} at {keep:.0%}, {task}", bar) for (rival, task, keep), bar in found.items()
    ]
    return Verdict(question, verdict, _sentence(said), rule, tuple(numbers), len(numbers))
