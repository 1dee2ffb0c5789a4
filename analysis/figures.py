"""Figures of the study: error against accuracy, accuracy retained against tokens kept, and the kept tokens themselves."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from . import statistics
from .statistics import Results

MARKERS = "osD^vP*X<>hd8p"


def _styles(methods: list[str]) -> dict[str, dict]:
    """One colour and marker a method; a folded twin shares its parent's colour, hollow and dashed."""
    parents = list(dict.fromkeys(m.removesuffix(" + fold") for m in methods if m != "full"))
    palette = plt.get_cmap("tab10").colors + plt.get_cmap("Dark2").colors
    styles = {}
    for m in methods:
        if m == "full":
            styles[m] = {"color": "black", "marker": "_"}
            continue
        i = parents.index(m.removesuffix(" + fold"))
        styles[m] = {"color": palette[i % len(palette)], "marker": MARKERS[i % len(MARKERS)]}
        if m.endswith("+ fold"):
            styles[m] |= {"markerfacecolor": "none", "linestyle": "--"}
    return styles


def error_and_accuracy(results: Results, path: Path) -> None:
    """One panel a budget: mean reconstruction error against accuracy, with 95 % intervals."""
    keeps = [k for k in results.keeps if k < 1]
    bars, styles = statistics.accuracies(results), _styles(results.methods)
    figure, axes = plt.subplots(1, len(keeps), figsize=(3.6 * len(keeps), 4.6), sharey=True, squeeze=False)
    found = statistics.correlations(results)
    for ax, keep in zip(axes[0], keeps, strict=True):
        for i, (method, k) in enumerate(results.cells):
            if k != keep:
                continue
            style = {key: v for key, v in styles[method].items() if key != "linestyle"}
            bar = bars[i]
            ax.errorbar(
                results.error[i].mean(), bar.value, yerr=[[bar.value - bar.low], [bar.high - bar.value]], capsize=2,
                elinewidth=0.8, markersize=7, linestyle="", label=method, **style
            )  # fmt: skip
        rho = found[f"within keep = {keep:g}"]
        tokens = np.mean([t for t, (_, k) in zip(results.tokens, results.cells, strict=True) if k == keep])
        ax.set_title(f"{keep:.1%} kept (about {tokens:.0f} tokens)\nSpearman ρ = {rho}", fontsize=9)
        ax.set_xlabel("reconstruction error  ‖X − P$_S$X‖ / ‖X‖")
        ax.grid(alpha=0.25)
    axes[0][0].set_ylabel("accuracy on held-out questions")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle("Does reconstruction error predict accuracy?  (95 % bootstrap intervals over scenes)")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def retained_accuracy(results: Results, path: Path) -> None:
    """Accuracy retained against tokens kept, on a logarithmic axis of tokens."""
    bars, styles = statistics.retained(results), _styles(results.methods)
    figure, ax = plt.subplots(figsize=(8.6, 5.6))
    methods = [m for m in results.methods if m != "full"]
    for order, method in enumerate(methods):
        at = [i for i, (m, _) in enumerate(results.cells) if m == method]
        x = results.tokens[at] * 1.012 ** (order - len(methods) / 2)
        value = np.array(
            [(bars[i].value, bars[i].value - bars[i].low, bars[i].high - bars[i].value) for i in at]
        )
        ax.errorbar(
            x,
            value[:, 0],
            yerr=value[:, 1:].T,
            capsize=2,
            elinewidth=0.7,
            lw=1.3,
            label=method,
            **styles[method],
        )
    ax.axhline(1, color="black", lw=0.8)
    ax.set_xscale("log")
    ticks = sorted({round(t) for t, (_, k) in zip(results.tokens, results.cells, strict=True) if k < 1})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("visual tokens kept (of 144)")
    ax.set_ylabel("accuracy / accuracy with all tokens")
    ax.set_title(
        "Accuracy retained (95 % bootstrap intervals over scenes; points shifted sideways for legibility)",
        fontsize=10,
    )
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def kept_tokens(
    model, processor, path: Path, keep: float, arms: list[str], seeds: tuple[int, ...] = (3, 11, 17)
) -> None:
    """Which patches every arm keeps, drawn over held-out scenes, with one question that was asked."""
    from . import scenes, study

    figure, axes = plt.subplots(len(seeds), len(arms) + 1, figsize=(1.75 * (len(arms) + 1), 2.5 * len(seeds)))
    for row, seed in zip(axes, seeds, strict=True):
        scene = scenes.make(seed, "test")
        question = scene.questions[0]
        row[0].imshow(scene.image)
        row[0].set_title(f"{question.text}\n({question.answer})", fontsize=6)
        for ax, arm in zip(row[1:], arms, strict=True):
            kept, said, error = _kept(model, processor, scene, arm, keep)
            shade = np.ones((scenes.GRID, scenes.GRID))
            shade.flat[kept] = 0
            shade = np.kron(shade, np.ones((scenes.PATCH, scenes.PATCH)))[..., None]
            ax.imshow((scene.pixels * (1 - 0.8 * shade) + 0.8 * 255 * shade).astype(np.uint8))
            colour = "darkgreen" if said == question.answer else "firebrick"
            ax.set_title(f"{study.ARMS[arm].name}\n“{said}”  error {error:.2f}", fontsize=6, color=colour)
    for ax in axes.flat:
        ax.set_axis_off()
    key = [
        Line2D([], [], color=c, lw=4, label=t)
        for c, t in (("darkgreen", "answer right"), ("firebrick", "wrong"))
    ]
    figure.legend(handles=key, loc="lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(f"Tokens kept at {keep:.1%}: dropped patches are faded", fontsize=10)
    figure.tight_layout(rect=(0, 0.04, 1, 0.98))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _kept(model, processor, scene, arm: str, keep: float) -> tuple[np.ndarray, str, float]:
    import vlm_bridge

    from . import study

    inputs = processor(images=[scene.image], text=[f"<image> {scene.questions[0].text}"], return_tensors="pt")
    with vlm_bridge.prune(model, **study.arguments(study.ARMS[arm], keep, 0, scene, processor)) as report:
        out = model.generate(**inputs, max_new_tokens=1)
    word = processor.tokenizer.convert_ids_to_tokens(out[0, -1:])[0]
    return report.kept[0].numpy(), word, report.errors[0]


def draw(
    results: Results, folder: Path, model=None, processor=None, arms: list[str] | None = None
) -> dict[str, Path]:
    """All figures of a study as PNG files; the kept tokens only where a model is given."""
    paths = {
        name: folder / f"{name}.png" for name in ("error_and_accuracy", "retained_accuracy", "kept_tokens")
    }
    error_and_accuracy(results, paths["error_and_accuracy"])
    retained_accuracy(results, paths["retained_accuracy"])
    if model is None:
        paths.pop("kept_tokens")
    else:
        keep = min(k for k in results.keeps if k < 1)
        plain = [
            m for m in results.methods if m != "full" and not m.endswith("+ fold")
        ]  # folding keeps the same
        kept_tokens(model, processor, paths["kept_tokens"], keep, arms or plain)
    return paths
