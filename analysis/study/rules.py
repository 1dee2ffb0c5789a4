"""The six questions of the study, each answered by a rule that was fixed before the run (docs/study/plan.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from analysis.study import correlations
from analysis.study.arms import ARMS
from analysis.study.bootstrap import RESAMPLES, Draws, Stratum, interval, mean_known, simultaneous
from analysis.study.predictors import NAMES, SIGN
from analysis.study.proxy import proxy
from analysis.study.results import Results
from analysis.study.verdict import MARGIN, NO, OPEN, PARTLY, UNASKED, YES, Number, Study, Verdict, points
from analysis.study.verdict_text import PLAIN

#: Skills whose questions are about two things or more.
COMPOSITIONAL = ("count", "spatial", "comparison", "two hops", "tally", "order", "layout")


#: The only candidate of verdict 6 on the confirmation set, as it was made for that question: its intervals need no correction for others.
CANDIDATES = ("auto",)


def verdicts(
    results: Results, resamples: int = RESAMPLES, candidates: Sequence[str] | None = None
) -> list[Verdict]:
    """Return all six verdicts, in the order of the plan; the sixth of these candidates alone, where they are named."""
    study = Study(results, resamples)
    found = [one(study) for one in (predicts, diversity, relevance, lower_error, compensation)]
    found.append(best(study, candidates))
    return [replace(v, plain=v.plain or PLAIN[i].get(v.verdict, "")) for i, v in enumerate(found, 1)]


# ---- 1


def predicts(study: Study) -> Verdict:
    """Decide question 1: does reconstruction error predict accuracy?"""
    question = "Does reconstruction error predict accuracy across methods at a fixed budget?"
    rule = (
        "ρ is Spearman's correlation of error and accuracy over the arms that drop tokens without reading the question, "
        "at one budget. Yes: the mean of ρ over budgets is at most −0.5, its interval lies below −0.3, and at every budget "
        "the simultaneous interval lies below 0. No: the interval of the mean lies above −0.3. Partly: the interval of the "
        "mean lies below 0. Else not settled."
    )
    keeps = study.results.keeps
    usable = [k for k in keeps if np.isfinite(correlations.within(study.draws, k)[0])]
    if not usable:
        return Verdict(question, UNASKED, "Fewer than three such arms were run.", rule)
    mean = study.number(
        "mean ρ over budgets", lambda d: mean_known([correlations.within(d, k) for k in usable])
    )
    each = study.numbers({f"ρ at {k:.0%} kept": lambda d, k=k: correlations.within(d, k) for k in usable})
    more = [
        study.number("partial correlation given the budget", correlations.partial),
        study.number("all budgets pooled", correlations.pooled),
        study.number("image by image, within an arm and budget", correlations.across_images),
        study.number("arm by arm, within an image and budget", correlations.across_arms),
    ]
    for name in ("unseen pruner", "unseen pruner and budget", "error alone"):
        more.append(study.number(f"forecast skill: {name}", lambda d, n=name: proxy(d)[n]))
    turned = {
        n: study.number(
            f"given the budget, positive as meant: {n}", lambda d, n=n: SIGN[n] * correlations.partial(d, n)
        )
        for n in NAMES
    }
    compared = {n: number for n, number in turned.items() if np.isfinite(number.all.value)}
    below = [k for k, n in zip(usable, each, strict=True) if n.all.high < 0]
    if mean.all.value <= -0.5 and mean.all.high < -0.3 and len(below) == len(usable):
        verdict = YES
    elif mean.all.low > -0.3:
        verdict = NO
    elif mean.all.high < 0:
        verdict = PARTLY
    else:
        verdict = OPEN
    where = ", ".join(f"{k:.0%}" for k in below) or "no budget"
    share = more[4].all.written("{:.0%}")
    statement = (
        f"Mean ρ over budgets {mean.all}; below zero for certain at {where}. Knowing an unseen pruner's error removes "
        f"{share} of the squared error that a forecast from the budget alone makes; image by image, within an arm, "
        f"ρ is {more[2].all}."
    )
    if compared:
        most = max(compared, key=lambda n: compared[n].all.value)
        statement += (
            f" Of {len(compared)} numbers that need no answers, “{most}” goes with accuracy most, given the budget: "
            f"{compared[most].all}."
        )
    return Verdict(question, verdict, statement, rule, (mean, *each, *more, *compared.values()), 1)


# ---- 2


def diversity(study: Study) -> Verdict:
    """Decide question 2: does the residual rule beat cosine diversity?"""
    question = "Does the residual rule (SPARE) beat cosine diversity (DivPrune), and more so on compositional skills?"
    rule = (
        "Accuracy of spare minus divprune, paired, mean over tight budgets (at most 15 %); and that gap on skills about "
        f"two things or more ({', '.join(COMPOSITIONAL)}) minus the gap on the others. The two intervals hold together. "
        "Yes: both lie above 0. Partly: the first does. No: the first lies below 0.01. Else not settled."
    )
    if not study.has("spare", "divprune"):
        return Verdict(question, UNASKED, "spare or divprune was not run.", rule)
    skills = study.results.skills
    two, one = [s for s in skills if s in COMPOSITIONAL], [s for s in skills if s not in COMPOSITIONAL]

    def gap(chosen: Sequence[str] | None) -> Callable[[Draws], np.ndarray]:
        return lambda d: d.gaps("spare", "divprune", study.tight, chosen)

    asked = {"spare − divprune": gap(None)}
    if one and two:
        asked["the same, compositional minus other skills"] = lambda d: gap(two)(d) - gap(one)(d)
    found = study.numbers(asked)
    first, second = found[0].all, found[-1].all
    if first.low > 0:
        verdict = YES if len(found) > 1 and second.low > 0 else PARTLY
    else:
        verdict = NO if first.high < MARGIN else OPEN
    per_skill = study.numbers({f"spare − divprune: {s}": gap([s]) for s in skills}) if len(skills) > 1 else []
    per_budget = study.numbers(
        {
            f"spare − divprune at {k:.0%}": lambda d, k=k: d.gap("spare", "divprune", k)
            for k in study.results.keeps
        }
    )
    plain = Draws(study.results, "question", resamples=len(study.draws.strata[0].weights) - 1)
    by_question = Number("spare − divprune, questions resampled", interval(gap(None)(plain)))
    statement = f"At tight budgets spare minus divprune is {points(first)} points"
    statement += (
        f"; on compositional skills that gap minus the one on other skills is {points(second)}."
        if len(found) > 1
        else "."
    )
    return Verdict(
        question, verdict, statement, rule, (*found, by_question, *per_budget, *per_skill), len(found)
    )


# ---- 3


def relevance(study: Study) -> Verdict:
    """Decide question 3: does anti-relevance help?"""
    question = "Does anti-relevance beat no relevance and relevance with the usual sign, and in which space?"
    rule = (
        "spare with anti-relevance minus spare, and minus spare with normal relevance, mean over tight budgets, in the "
        "language model's and in CLIP's space; the intervals hold together. Yes in a space where both lie above 0; no where "
        "one lies below 0.01; else not settled. Overall: yes if in both, partly if in one, no if in none."
    )
    asked: dict[str, Callable[[Draws], np.ndarray]] = {}
    for space in ("LLM space", "CLIP space"):
        anti, normal = f"spare, anti, {space}", f"spare, normal, {space}"
        if study.has("spare", anti, normal):
            for against, words in (("spare", "none"), (normal, "normal")):
                asked[f"anti − {words}, {space}"] = lambda d, a=anti, b=against: d.gaps(a, b, study.tight)
            asked[f"normal − none, {space}"] = lambda d, a=normal: d.gaps(a, "spare", study.tight)
    if not asked:
        return Verdict(question, UNASKED, "No arm with relevance was run.", rule)
    found = study.numbers(asked)
    by_name = {n.name: n.all for n in found}
    said, parts = [], []
    for space in ("LLM space", "CLIP space"):
        if f"anti − none, {space}" not in by_name:
            continue
        both = [by_name[f"anti − {w}, {space}"] for w in ("none", "normal")]
        verdict = YES if min(b.low for b in both) > 0 else NO if min(b.high for b in both) < MARGIN else OPEN
        said.append(verdict)
        parts.append(
            f"in {space} anti-relevance changes accuracy by {points(both[0])} points against none and {points(both[1])} against normal"
        )
    if all(v == YES for v in said):
        overall = YES
    elif YES in said:
        overall = PARTLY
    else:
        overall = NO if all(v == NO for v in said) else OPEN
    statement = "; ".join(parts) + "."
    return Verdict(question, overall, statement[0].upper() + statement[1:], rule, tuple(found), len(found))


# ---- 4


def lower_error(study: Study) -> Verdict:
    """Decide question 4: do rules of lower error answer better than the residual rule?"""
    question = (
        "Do Farahat's gain, strong RRQR or Osinsky's rule beat the residual rule where their error is lower?"
    )
    rule = (
        "Accuracy of each minus spare, paired, mean over tight budgets, over the images on which its mean error at that budget is the "
        "lower one; the intervals of all methods hold together. Yes: all lie above 0. Partly: one does. No: all lie below "
        "0.01. Else not settled."
    )
    methods = [m for m in ("greedy", "strong rrqr", "osinsky", "volume") if study.has("spare", m)]
    if not methods:
        return Verdict(question, UNASKED, "None of these methods was run.", rule)
    found = study.numbers(
        {
            f"{m} − spare where its error is lower": lambda d, m=m: _where_lower(d, m, study.tight)
            for m in methods
        }
    )
    more = study.numbers(
        {f"{m} − spare, all images": lambda d, m=m: d.gaps(m, "spare", study.tight) for m in methods}
    )
    errors = [
        study.number(f"error of {m} over error of spare", lambda d, m=m: _error_ratio(d, m, study.tight))
        for m in methods
    ]
    known = [n.all for n in found if np.isfinite(n.all.value)]
    if not known:
        verdict = OPEN
    elif all(n.low > 0 for n in known):
        verdict = YES
    elif any(n.low > 0 for n in known):
        verdict = PARTLY
    else:
        verdict = NO if all(n.high < MARGIN for n in known) else OPEN
    statement = "; ".join(
        f"{m}, with {e.all.value:.2f} times the error, "
        + (
            f"changes accuracy by {points(n.all)} points where its error is lower"
            if np.isfinite(n.all.value)
            else "never has the lower one"
        )
        for m, n, e in zip(methods, found, errors, strict=True)
    )
    return Verdict(
        question,
        verdict,
        statement[0].upper() + statement[1:] + ".",
        rule,
        (*found, *more, *errors),
        len(found),
    )


def _where_lower(draws: Draws, method: str, keeps: Sequence[float]) -> np.ndarray:
    """Return the gap of a method to spare over the images where its error is lower, (1 + B,)."""

    def one(s: Stratum) -> np.ndarray:
        right, asked = s.counts()
        errors = s.by_scene(draws.results.predictors["error"])
        gaps = []
        for keep in keeps:
            i, j = draws.results.index(method, keep), draws.results.index("spare", keep)
            lower = (errors[i] < errors[j]).astype(float)
            total = s.weights @ (asked[i] * lower)
            gaps.append(
                np.where(
                    total > 0, s.weights @ ((right[i] - right[j]) * lower) / np.maximum(total, 1), np.nan
                )
            )
        return mean_known(gaps)

    return draws.mean(one)


def _error_ratio(draws: Draws, method: str, keeps: Sequence[float]) -> np.ndarray:
    def one(s: Stratum) -> np.ndarray:
        e = s.predictor("error")
        return np.mean(
            [e[:, draws.results.index(method, k)] / e[:, draws.results.index("spare", k)] for k in keeps],
            axis=0,
        )

    return draws.mean(one)


# ---- 5


def compensation(study: Study) -> Verdict:
    """Decide question 5: does folding dropped tokens into the kept ones help?"""
    question = "Does compensation help: folding dropped tokens into those that are kept?"
    rule = (
        "Accuracy of each arm folded into clusters minus the same arm plain, mean over tight budgets; the intervals of all "
        "twins hold together. Yes: all lie above 0. Partly: one does and none below. No: all lie below 0.01. Else not "
        "settled. Filling dropped tokens in with their reconstruction is shown beside: its gain is what lost positions cost, "
        "what remains to all tokens is what the lost span costs."
    )
    twins = [
        a for a in study.results.arms if a.endswith(" + fold") and study.has(a, a.removesuffix(" + fold"))
    ]
    if not twins:
        return Verdict(question, UNASKED, "No folded twin was run.", rule)
    gain = lambda d, a: d.gaps(a, a.split(" + ")[0], study.tight)  # noqa: E731
    found = study.numbers({a: lambda d, a=a: gain(d, a) for a in twins})
    others = [
        a
        for a in study.results.arms
        if a.endswith((" + interpolation fold", " + fill")) and study.has(a, a.split(" + ")[0])
    ]
    more = study.numbers({a: lambda d, a=a: gain(d, a) for a in others}) if others else []
    if all(n.all.low > 0 for n in found):
        verdict = YES
    elif any(n.all.low > 0 for n in found) and not any(n.all.high < 0 for n in found):
        verdict = PARTLY
    else:
        verdict = NO if all(n.all.high < MARGIN for n in found) else OPEN
    gains = [f"{n.name.removesuffix(' + fold')} {points(n.all)}" for n in found]
    statement = f"Folding changes accuracy at tight budgets by (points): {'; '.join(gains)}."
    fills = [f"{n.name.removesuffix(' + fill')} {points(n.all)}" for n in more if n.name.endswith("+ fill")]
    if fills:
        statement += f" Filling in all positions: {'; '.join(fills)}."
    mixed = verdict == OPEN and any(n.all.low > 0 for n in found) and any(n.all.high < 0 for n in found)
    plain = "It depends: folding helps some pruners and harms others." if mixed else ""
    return Verdict(question, verdict, statement, rule, (*found, *more), len(found), plain)


# ---- 6


def best(study: Study, among: Sequence[str] | None = None) -> Verdict:
    """Decide question 6: does one pruner beat both at every budget?"""
    question = "Is there a pruner that beats both spare and divprune at every budget?"
    rule = (
        "Of pruners in front of the language model, and folded twins: gaps to spare and divprune of all pruners at all budgets "
        "are given intervals that hold together. Yes: for some pruner all its intervals lie above 0. Partly: for some pruner "
        "all lie above −0.01 at every budget and above 0 against both at the tight budgets taken together. No: every pruner has an "
        "interval below 0.01. Else not settled."
    )
    if not study.has("spare", "divprune"):
        return Verdict(question, UNASKED, "spare or divprune was not run.", rule)
    keeps = study.results.keeps
    rivals = ("spare", "divprune")
    candidates = [
        a for a in study.results.arms
        if a not in rivals and not (a in ARMS and (ARMS[a].inside or ARMS[a].fill)) and not a.startswith("family ")
        and all(study.results.index(a, k) is not None for k in keeps) and (among is None or a in among)
    ]  # fmt: skip
    if not candidates:
        return Verdict(question, UNASKED, "No other pruner was run at all budgets.", rule)
    table = np.stack(
        [study.draws.gap(a, r, k) for a in candidates for r in rivals for k in keeps]
        + [study.draws.gaps(a, r, study.tight) for a in candidates for r in rivals], 1,
    )  # fmt: skip
    held = simultaneous(table)
    each = len(rivals) * len(keeps)
    score, low, high, tight = {}, {}, {}, {}
    for c, a in enumerate(candidates):
        own = held[c * each : (c + 1) * each]
        score[a], low[a], high[a] = (
            min(n.value for n in own),
            min(n.low for n in own),
            min(n.high for n in own),
        )
        start = len(candidates) * each + len(rivals) * c
        tight[a] = min(held[start : start + len(rivals)], key=lambda n: n.low)
    order = sorted(candidates, key=lambda a: -tight[a].value)
    winners = [a for a in order if low[a] > 0]
    near = [a for a in order if low[a] > -MARGIN and tight[a].low > 0]
    if winners:
        verdict, chosen = YES, winners[0]
    elif near:
        verdict, chosen = PARTLY, near[0]
    else:
        verdict = NO if all(h < MARGIN for h in high.values()) else OPEN
        chosen = order[0]
    numbers = study.numbers(
        {f"{chosen} − {r}, tight budgets": lambda d, r=r: d.gaps(chosen, r, study.tight) for r in rivals}
    )
    numbers += [Number(f"{a} − the better of both, tight budgets", tight[a]) for a in order[:8]]
    numbers += study.numbers(
        {f"{chosen} − {r} at {k:.0%}": lambda d, r=r, k=k: d.gap(chosen, r, k) for r in rivals for k in keeps}
    )
    statement = (
        f"{'The best at tight budgets is' if among is None else 'The candidate is'} {chosen}: {points(tight[chosen])} points above the better of spare and divprune; "
        f"its smallest gap at any budget is {100 * score[chosen]:+.1f} points"
        + (f" (lower end {100 * low[chosen]:+.1f})." if np.isfinite(low[chosen]) else ".")
    )
    return Verdict(question, verdict, statement, rule, tuple(numbers), len(rivals))
