"""Figures of the study. All but the kept tokens are drawn from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

import cssp

from . import statistics
from .scenes import SKILLS
from .statistics import Draws, Results, interval
from .study.arms import ALPHAS, ARMS, BETAS, BLIND, FULL, SPACES, plane_arm
from .study.predictors import NAMES, SIGN

INK, SOFT, GRID = "#1d2330", "#667085", "#e4e7ec"
LEADS = {
    "spare": "#c2410c", "residual, cosine": "#ea9a4b", "divprune": "#2456a6", "greedy": "#15803d", "strong rrqr": "#65a30d",
    "osinsky": "#0d9488", "cdpruner": "#7c3aed", "vispruner": "#be185d", "resprune": "#a16207", "uniform grid": "#64748b",
    "random": "#9ca3af",
}  # fmt: skip
"""Arms with a colour of their own in every figure; the others are grey."""
BANDS = ("spare", "divprune", "greedy", "random")
SHOWN = ("spare", "divprune", "greedy", "cdpruner", "vispruner", "random")

plt.rcParams.update(
    {
        "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
        "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left",
    }
)  # fmt: skip


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=140, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def _percent(keep: float) -> str:
    return f"{100 * keep:g} %"


def _tokens(results: Results, keep: float) -> float:
    cells = [
        i for i, (a, k) in enumerate(results.cells) if k == keep and a in ("spare", "random", "divprune")
    ]
    cells = cells or [i for i, (_, k) in enumerate(results.cells) if k == keep]
    ran = results.ran[cells]
    return float(results.tokens[cells][ran].mean())


def error_and_accuracy(draws: Draws, path: Path) -> bool:
    """One panel a budget: error against accuracy, a point an arm."""
    results = draws.results
    keeps, full = results.keeps, statistics.full_and_blind(draws)[0].value
    columns = min(4, len(keeps) + 1)
    rows = -(-(len(keeps) + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.3 * columns, 3.1 * rows), squeeze=False, sharey=True
    )
    error = draws.mean(lambda s: s.predictor("error"))
    seen: dict[str, str] = {}
    for ax, keep in zip(axes.flat, keeps, strict=False):
        for i, (arm, k) in enumerate(results.cells):
            if k != keep or arm not in results.blind or not np.isfinite(error[0, i]):
                continue
            colour = LEADS.get(arm, "#cbd0d8")
            bar = interval(draws.accuracy[:, i])
            ax.errorbar(
                error[0, i], 100 * bar.value, yerr=[[100 * (bar.value - bar.low)], [100 * (bar.high - bar.value)]],
                color=colour, marker="o", ms=6 if arm in LEADS else 4.5, elinewidth=0.9, mec="white", mew=0.5,
                zorder=4 if arm == "spare" else 3 if arm in LEADS else 2,
            )  # fmt: skip
            seen[arm if arm in LEADS else "other pruners"] = colour
        ax.axhline(100 * full, color=INK, lw=0.8, ls=":")
        rho = interval(statistics.within(draws, keep))
        ax.set_title(f"{_percent(keep)} kept ({_tokens(results, keep):.0f} tokens)")
        ax.annotate(
            "ρ = " + rho.written("{:+.2f}"), (0.98, 0.97), xycoords="axes fraction", ha="right",
            va="top", fontsize=8, color=SOFT, bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1},
        )  # fmt: skip
        ax.tick_params(labelleft=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("right answers, %")
    for ax in axes.flat[len(keeps) :]:
        ax.set_axis_off()
    order = [a for a in LEADS if a in seen] + (["other pruners"] if "other pruners" in seen else [])
    handles = [Line2D([], [], color=seen[a], marker="o", ls="", label=a) for a in order]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=":", label="all tokens kept"))
    axes.flat[len(keeps)].legend(handles=handles, loc="center left", frameon=False, fontsize=9)
    figure.supxlabel(
        "reconstruction error: the share of the tokens that lies outside the span of the kept ones, ‖X − P$_S$X‖ / ‖X‖",
        fontsize=9.5,
    )
    figure.tight_layout()
    _save(figure, path)
    return True


def retained_accuracy(draws: Draws, path: Path) -> bool:
    """Accuracy kept against tokens kept: pruners on the left, compensation on the right."""
    results = draws.results
    values = 100 * statistics.retained(draws)
    blind = results.index(BLIND, 0.0)
    panels = [("Tokens dropped", [a for a in LEADS if a in results.arms], "")]
    parents = [a for a in ("spare", "divprune", "greedy", "random") if f"{a} + fold" in results.arms]
    if parents:
        panels.append(("Compensation: dropped tokens folded in, or filled in", parents, "twins"))
    figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.8), sharey=True, squeeze=False)
    x = {k: _tokens(results, k) for k in results.keeps}
    for ax, (title, arms, kind) in zip(axes[0], panels, strict=True):
        ends: list[tuple[float, str, str]] = []
        for arm in arms:
            for suffix, style, band in (
                ("", "-", not kind),
                *((((" + fold"), "--", True), (" + fill", ":", False)) if kind else ()),
            ):
                at = [(k, i) for k in results.keeps if (i := results.index(arm + suffix, k)) is not None]
                if not at:
                    continue
                xs, own = [x[k] for k, _ in at], values[:, [i for _, i in at]]
                low, high = statistics.band(own)
                ax.plot(
                    xs, own[0], style, color=LEADS[arm], lw=1.7, marker="o" if not suffix else None, ms=3.5
                )
                if band and arm in BANDS:
                    ax.fill_between(xs, low, high, color=LEADS[arm], alpha=0.13, lw=0)
                if not suffix:
                    ends.append((own[0, -1], arm, LEADS[arm]))
        _labels(ax, ends, min(x.values()))
        ax.axhline(100, color=INK, lw=0.8)
        if blind is not None:
            ax.axhline(values[0, blind], color=SOFT, lw=0.8, ls=":")
            ax.annotate(
                "no tokens at all",
                (max(x.values()), values[0, blind]),
                ha="right",
                va="bottom",
                fontsize=8,
                color=SOFT,
            )
        ax.set_xscale("log")
        ticks = sorted({round(v) for v in x.values()})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.set_xlim(min(x.values()) / 2.3, max(x.values()) * 1.1)
        ax.set_xlabel(f"visual tokens kept, of {results.tokens[results.index(FULL, 1.0)].max():.0f}")
        ax.set_title(title)
        if kind:
            key = [
                Line2D([], [], color=INK, ls=s, label=t)
                for s, t in (("-", "dropped"), ("--", "folded"), (":", "filled in"))
            ]
            ax.legend(handles=key, loc="upper left", frameon=False, ncols=3)
    axes[0][0].set_ylabel("accuracy, % of that with all tokens")
    figure.tight_layout()
    _save(figure, path)
    return True


def _labels(ax, ends: list[tuple[float, str, str]], x: float) -> None:
    """Names at the left ends of lines, apart from each other."""
    low, high = ax.get_ylim()
    gap, last = (high - low) / 26, -np.inf
    for y, name, colour in sorted(ends):
        last = max(y, last + gap)
        ax.annotate(name, (x, y), (x * 0.93, last), ha="right", va="center", fontsize=8, color=colour)


def skills(draws: Draws, path: Path) -> bool:
    """Points lost against all tokens, arm by skill, at a tight budget."""
    results = draws.results
    keep = min(results.keeps, key=lambda k: abs(k - 0.06))
    names = [s for s in SKILLS if s in results.skills] or results.skills
    arms = [
        a
        for a in results.arms
        if results.index(a, keep) is not None
        and (
            a in LEADS
            or a.endswith(" + fold")
            or (ARMS.get(a, None) is not None and ARMS[a].group == "published")
        )
    ]
    full = results.index(FULL, 1.0)
    table = np.full((len(arms), len(names)), np.nan)
    for j, skill in enumerate(names):
        accuracy = draws.mean(lambda s, skill=skill: s.accuracy([skill]))[0]
        table[:, j] = [100 * (accuracy[results.index(a, keep)] - accuracy[full]) for a in arms]
    order = np.argsort(-np.nanmean(table, 1))
    arms, table = [arms[i] for i in order], table[order]
    figure, ax = plt.subplots(figsize=(1.6 + 0.72 * len(names) + 1.5, 1.3 + 0.27 * len(arms)))
    picture = ax.imshow(table, cmap="RdYlBu", vmin=-60, vmax=60, aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(arms)), arms)
    ax.tick_params(length=0, colors=INK)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for (i, j), v in np.ndenumerate(table):
        if np.isfinite(v):
            ax.text(
                j,
                i,
                f"{v:+.0f}" if round(v) else "0",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if abs(v) > 42 else INK,
            )
    bar = figure.colorbar(picture, ax=ax, shrink=0.5, pad=0.02)
    bar.set_label(f"points against all tokens, {_percent(keep)} kept", color=SOFT)
    bar.outline.set_visible(False)
    _save(figure, path)
    return True


def plane(draws: Draws, path: Path) -> bool:
    """Accuracy over the two exponents of the family."""
    results = draws.results
    spaces = [s for s in SPACES if any(plane_arm(0.0, ALPHAS[0], s).name == a for a in results.arms)]
    keeps = [k for k in results.keeps if results.index(plane_arm(0.0, 0.0, "llm").name, k) is not None]
    if not spaces or not keeps:
        return False
    figure, axes = plt.subplots(
        len(spaces), len(keeps), figsize=(4.9 * len(keeps), 3.3 * len(spaces)), squeeze=False
    )
    for row, space in zip(axes, spaces, strict=True):
        for ax, keep in zip(row, keeps, strict=True):
            at = [[results.index(plane_arm(b, a, space).name, keep) for a in ALPHAS] for b in BETAS]
            table = 100 * draws.accuracy[0][np.array(at)]
            picture = ax.imshow(table, origin="lower", cmap="YlGnBu", aspect="auto")
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for (i, j), v in np.ndenumerate(table):
                ax.text(
                    j,
                    i,
                    f"{v:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if v > middle else INK,
                )
            ax.set_xticks(range(len(ALPHAS)), [f"{a:+g}" if a else "0" for a in ALPHAS])
            ax.set_yticks(range(len(BETAS)), [f"{b:g}" for b in BETAS])
            ax.grid(visible=False)
            ax.tick_params(length=0, colors=INK)
            ax.set_title(f"{SPACES[space]}, {_percent(keep)} kept ({_tokens(results, keep):.0f} tokens)")
            ax.set_xlabel("against relevance   ←   exponent α   →   with relevance", fontsize=8.5)
            ax.set_ylabel("cosines  ←  exponent β  →  raw", fontsize=8.5)
            points = {"SPARE": (1.0, 0.0)} | (
                {"CDPruner": (0.0, -1.0)} if space == "clip" else {"ResPrune": (1.0, 0.5)}
            )
            for name, (b, a) in points.items():
                j, i = ALPHAS.index(a), BETAS.index(b)
                ax.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="#c2410c", lw=1.8))
                ax.text(
                    j,
                    i - 0.33,
                    name,
                    ha="center",
                    va="center",
                    fontsize=5.6,
                    color="#c2410c",
                    fontweight="bold",
                )
            bar = figure.colorbar(picture, ax=ax, pad=0.02)
            bar.set_label("right answers, %", color=SOFT)
            bar.outline.set_visible(False)
    figure.tight_layout()
    _save(figure, path)
    return True


def predictors(draws: Draws, path: Path) -> bool:
    """How well each number predicts accuracy: over arms within a budget, and over images within an arm."""
    results = draws.results
    names = [n for n in NAMES if np.isfinite(statistics.partial(draws, n)[0])]
    if not names:
        return False
    asked: Sequence[tuple[str, Callable[[Draws, str], np.ndarray]]] = (
        ("over pruners, given the budget", statistics.partial),
        ("over pruners, for one image", statistics.across_arms),
        ("over images, for one pruner", statistics.across_images),
    )
    found = {title: [interval(SIGN[n] * f(draws, n)) for n in names] for title, f in asked}
    order = np.argsort([bar.value for bar in found[asked[0][0]]])
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 0.9 + 0.33 * len(names)), sharey=True)
    for ax, (title, bars) in zip(axes, found.items(), strict=True):
        for y, i in enumerate(order):
            bar = bars[i]
            colour = "#c2410c" if names[i] == "error" else INK
            ax.plot([bar.low, bar.high], [y, y], color=colour, lw=1.6)
            ax.plot(bar.value, y, "o", color=colour, ms=5)
        ax.axvline(0, color=SOFT, lw=0.8)
        ax.set_title(title)
        ax.set_xlim(-1, 1)
        ax.set_xticks((-1, -0.5, 0, 0.5, 1))
        ax.set_xlabel("correlation with accuracy\n(right of 0: as meant)")
        ax.set_yticks(range(len(names)), [names[i] for i in order])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
    figure.tight_layout()
    _save(figure, path)
    return bool(results.cells)


def tightness(results: Results, path: Path) -> bool:
    """Squared error over the best possible, measured, beside the factor that a theorem allows."""
    methods = {
        "spare": "residual",
        "strong rrqr": "strong_rrqr",
        "osinsky": "osinsky",
        "volume": "volume",
        "random pivot": "random_pivot",
        "local search": "local_search",
    }
    shown = [a for a in (*methods, "greedy", "divprune", "random") if a in results.arms]
    if not shown:
        return False
    ratio = results.predictors["error / optimum"] ** 2
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.35 * columns, 2.9 * rows), sharey=True, sharex=True, squeeze=False
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    n = round(float(results.tokens.max()))
    for ax, arm in zip(axes.flat, shown, strict=False):
        colour = LEADS.get(arm, "#475467")
        xs, factors = [], []
        for keep in results.keeps:
            i = results.index(arm, keep)
            values = ratio[i][np.isfinite(ratio[i])] if i is not None else np.array([])
            if not len(values):
                continue
            k = _tokens(results, keep)
            low, middle, high = np.quantile(values, (0, 0.5, 1))
            ax.plot([k, k], [low, high], color=colour, lw=4, alpha=0.35, solid_capstyle="round")
            ax.plot(k, middle, "o", color=colour, ms=4.5)
            guarantee = cssp.METHODS[methods[arm]].guarantee if arm in methods else None
            factor = guarantee.frobenius(256, n, round(k)) if guarantee and guarantee.frobenius else None
            if factor:
                xs.append(k)
                factors.append(factor)
        ax.plot(xs, factors, "_", color=INK, ms=13, mew=2)
        ax.set_title(arm + ("" if factors else "\n(no bound)"), fontsize=9)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(0.8, 1e7)
        ticks = [round(_tokens(results, k)) for k in results.keeps][::2]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.axhline(1, color=SOFT, lw=0.8, ls=":")
    for ax in axes[:, 0]:
        ax.set_ylabel("squared error / least possible")
    figure.supxlabel("visual tokens kept", fontsize=9.5)
    key = [
        Line2D([], [], color=SOFT, lw=4, alpha=0.5, marker="o", label="measured: all images, median"),
        Line2D(
            [],
            [],
            color=INK,
            marker="_",
            ms=13,
            mew=2,
            ls="",
            label="what the theorem allows (above 10⁷: not drawn)",
        ),
    ]
    figure.legend(handles=key, loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.05))
    figure.tight_layout()
    _save(figure, path)
    return True


def kept_tokens(
    own, path: Path, keep: float = 0.06, arms: Sequence[str] = SHOWN, scenes_: Sequence[tuple[str, int]] = ()
) -> bool:
    """Which patches every arm keeps, drawn over scenes, with one question and what the model answers."""
    from . import scenes
    from .study.answer import answers
    from .study.keep import kept
    from .study.plan import CONFIRM, EXPLORE, scene_of
    from .study.seen import look

    wanted = scenes_ or (("objects", EXPLORE + 3), ("objects", EXPLORE + 8), ("digits", EXPLORE + 2))
    assert all(number < CONFIRM for _, number in wanted)
    arms = [
        a for a in arms if own.clip is not None or not {"clip_text", "clip_patches"} & set(ARMS[a].signals)
    ]
    figure, axes = plt.subplots(
        len(wanted), len(arms) + 1, figsize=(1.85 * (len(arms) + 1), 2.25 * len(wanted)), squeeze=False
    )
    for row, (family, number) in zip(axes, wanted, strict=True):
        scene = scene_of(family, number)
        question = next((q for q in scene.questions if q.skill in ("two hops", "layout")), scene.questions[0])
        seen = look(own, scene.image, [question.text])
        row[0].imshow(scene.image)
        row[0].set_title(f"{fill(question.text, 26)}\n→ {question.answer}", fontsize=7)
        for ax, arm in zip(row[1:], arms, strict=True):
            ((one,),) = kept(ARMS[arm], seen, [keep], [number])
            ((word,),) = answers(own, seen, [one.prefix])
            said = own.processor.tokenizer.convert_ids_to_tokens(word)
            side = round(len(seen.tokens) ** 0.5)
            shade = np.ones((side, side))
            shade.flat[one.places.numpy()] = 0
            shade = np.kron(shade, np.ones((scenes.PATCH, scenes.PATCH)))[..., None]
            ax.imshow((scene.pixels * (1 - 0.82 * shade) + 0.82 * 255 * shade).astype(np.uint8))
            right = said == question.answer
            ax.set_title(
                f"{arm}\n{said} {'✓' if right else '✗'}",
                fontsize=7.5,
                color="#15803d" if right else "#b42318",
                loc="center",
            )
    for ax in axes.flat:
        ax.set_axis_off()
    figure.tight_layout()
    _save(figure, path)
    return True


DRAWN: dict[str, Callable[[Draws, Path], bool]] = {
    "error_and_accuracy": error_and_accuracy,
    "retained_accuracy": retained_accuracy,
    "predictors": predictors,
    "skills": skills,
    "plane": plane,
    "tightness": lambda draws, path: tightness(draws.results, path),
}


def draw(draws: Draws, folder: Path, own=None) -> dict[str, Path]:
    """All figures that the rows allow, as PNG files; the kept tokens where a model is given, or from an earlier run."""
    paths = {}
    for name, one in DRAWN.items():
        path = folder / f"{name}.png"
        if one(draws, path):
            paths[name] = path
    path = folder / "kept_tokens.png"
    if own is not None:
        kept_tokens(own, path)
    if path.exists():
        paths["kept_tokens"] = path
    return paths
