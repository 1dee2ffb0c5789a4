"""``python -m analysis study | train | figures | bench | edges | guarantees | mutation | deep | fuzz | gpu |
pruners | families | threads | outofcore | kernels | tasks | which | damage | tables | dependence | extend``
(``--help`` after any of them)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., Any]
OUT = Path("out")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, options, _) in COMMANDS.items():
        options(commands.add_parser(name, help=text).add_argument)
    chosen = vars(parser.parse_args(arguments))
    return COMMANDS[chosen.pop("command")][2](**chosen)


def _study_options(add: Add) -> None:
    add("--full", action="store_true", help="the complete study (hours) instead of the quick one")
    add("--quick", action="store_true", help="the quick one: a few scenes, minutes (the default)")
    add("--scenes", type=int, help="scenes of each family")
    add("--families", nargs="+", help="only these families of scenes")
    add("--arms", nargs="+", help="only these arms")
    add("--keep", nargs="+", type=float, help="shares of tokens kept")
    add("--inside", type=int, help="scenes of each family that get the systems inside the language model")
    add("--model", nargs="+", help="folders of checkpoints (the shipped one)")
    add(
        "--confirm",
        action="store_true",
        help="the same plan on the held-out confirmation set, which may be used once",
    )
    add(
        "--questions",
        type=Path,
        help="your own questions instead of scenes: JSON lines, or a parquet file (see docs/study/own.md)",
    )
    add(
        "--scoring",
        choices=("contains", "exact"),
        default="contains",
        help="of answers to your own questions",
    )
    add("--limit", type=int, help="of your own questions, only those about the first so many images")
    add("--out", type=Path, help="(default out/study, out/study-full; out/study-own with --questions)")
    add("--workers", type=int, default=2)


def _study(
    full: bool,
    quick: bool,
    confirm: bool,
    out: Path | None,
    workers: int,
    questions: Path | None,
    limit: int | None,
    scoring: str,
    **changes,
) -> int:
    from analysis import study
    from analysis.study import user_data

    names = {"keep": "keeps", "inside": "inside_scenes", "model": "models"}
    changes = {
        names.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in changes.items() if v is not None
    }
    try:
        plan = dataclasses.replace(study.COMPLETE if full and not quick else study.QUICK, **changes)
        if questions is not None:
            arms = plan.arms if "arms" in changes else user_data.ARMS
            folder = out or OUT / "study-own"
            rows = user_data.run(plan.models[0], questions, folder, arms, plan.keeps, limit, scoring)
            return _figures(rows, folder, None)
        folder = out or OUT / ("study-full" if full else "study")
        if confirm:
            study.confirm(plan, folder / "confirm", workers)
        else:
            study.run(plan, folder, workers)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return _figures(None, folder, None, draw=plan.models[0])


def _figures_options(add: Add) -> None:
    add("--rows", type=Path, help="packed rows (default: those in OUT)")
    add("--docs", type=Path, help="put the verdicts into this folder, too")
    add("--out", type=Path, default=OUT / "study")


def _figures(rows: Path | None, out: Path, docs: Path | None, draw: str | None = None) -> int:
    from analysis import study
    from analysis.study import page

    checkpoint = None if draw is None else study.load(draw)
    try:
        return page.make(rows, out, docs, checkpoint)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


def _train_options(add: Add) -> None:
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=OUT / "train")
    add("--scenes", type=int, default=40, help="training scenes, in thousands")
    add("--workers", type=int, default=2)
    add("--scale", type=float, default=1.0, help="share of the recipe's steps (for trying it out)")
    add("--device", default="cpu", help="cpu, or cuda")
    add("--export", type=Path, help="write the finished model there (default: OUT/seedN/model)")
    add(
        "--codes",
        choices=("summed", "neutral"),
        default="summed",
        help="what visual tokens are taught: summed codes, longer where more is shown, or neutral ones, whose norms tell nothing",
    )
    add(
        "--start",
        type=Path,
        help="folder of a finished model that goes on instead: it learns to transcribe (and neutral norms, if asked for)",
    )


def _train(**options) -> int:
    from analysis.training import train

    train(**options)
    return 0


def _bench_options(add: Add) -> None:
    add("--quick", action="store_true", help="one size, three repeats")
    add("--sizes", nargs="+", help="only these, as 4096x576x64 or 5000x5000x500-float64")
    add("--kinds", nargs="+", help="only these kinds of matrices")
    add("--repeats", type=int, help="instead of each size's own number")
    add("--imports", action="store_true", help="only the time of `import cssp`")
    add("--docs", type=Path, help="put the table and the figures into this folder, too")
    add("--out", type=Path, help="(default out/bench, out/bench-quick); resumes where it stopped")


def _bench(out: Path | None, quick: bool, imports: bool, **options) -> int:
    from analysis.benchmarks import bench

    out = out or OUT / ("bench-quick" if quick else "bench")
    return bench.main(out, quick, only_imports=imports, **options)


def _edges_options(add: Add) -> None:
    add("--method", nargs="+", help="only these of our methods")
    add("--ours", action="store_true", help="without the peers")
    add("--out", type=Path, default=OUT / "edges")


def _edges(method: list[str] | None, ours: bool, out: Path) -> int:
    from analysis.benchmarks import edges

    return edges.main(out, method, peers=not ours)


def _guarantees_options(add: Add) -> None:
    add("--instances", type=int, default=2000, help="instances a statement")
    add("--draws", type=int, default=400, help="draws where no exact law is to be had")
    add("--method", nargs="+", help="only these methods")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=OUT / "guarantees")


def _guarantees(instances: int, draws: int, method: list[str] | None, seed: int, out: Path) -> int:
    from analysis.theory import guarantees

    return guarantees.main(instances, out, method, seed, draws)


def _mutation_options(add: Add) -> None:
    add("--method", nargs="+", help="only these methods")
    add("--workers", type=int, default=1)


def _mutation(method: list[str] | None, workers: int) -> int:
    from analysis.theory import mutation

    return mutation.main(method, workers)


def _deep_options(add: Add) -> None:
    add("--examples", type=int, default=20_000, help="examples a property")
    add("--workers", type=int, default=2)
    add("--only", nargs="+", help="only properties whose names contain one of these words")
    add("--out", type=Path, default=OUT / "deep")


def _deep(**options) -> int:
    from analysis import deep

    return deep.main(**options)


def _fuzz_options(add: Add) -> None:
    add("--minutes", type=float, default=20)
    add("--watchdog", type=int, default=60, help="seconds a call may take")
    add("--seed", type=int, default=0)
    add("--replay", type=Path, help="run one kept input instead")
    add("--only", nargs="+", help="only these kinds of input, see analysis/inputs.py")
    add("--out", type=Path, default=OUT / "fuzz")


def _fuzz(**options) -> int:
    from analysis import fuzz

    return fuzz.main(**options)


def _gpu_options(add: Add) -> None:
    add("--out", type=Path, default=OUT / "gpu")
    add("--step", nargs="+", help="only these steps, anew: tests speed prefill bench train")
    add("--tiny", action="store_true", help="try the plumbing on the CPU with toy sizes")


def _gpu(out: Path, step: list[str] | None, tiny: bool) -> int:
    from analysis import gpu

    return gpu.main(out, step, tiny)


def _pruners_options(add: Add) -> None:
    add("--keep", type=int, nargs="+", default=[64, 192], help="tokens of 576")
    add("--names", nargs="+", help="only these")
    add("--docs", type=Path, help="put the table into this folder, too")
    add("--out", type=Path, default=OUT / "pruners")


def _pruners(**options) -> int:
    from analysis import pruners

    return pruners.main(**options)


def _families_options(add: Add) -> None:
    add("--names", nargs="+", help="only these")
    add("--docs", type=Path, help="put the table into this folder, too")
    add("--out", type=Path, default=OUT / "families")


def _families(**options) -> int:
    from analysis import families

    return families.main(**options)


def _threads_options(add: Add) -> None:
    add("--names", nargs="+", help="only these patterns")
    add("--threads", type=int, default=4)
    add("--calls", type=int, default=50, help="of each thread")
    add("--out", type=Path, default=OUT / "threads")


def _threads(**options) -> int:
    from analysis import threads

    return threads.main(**options)


def _outofcore_options(add: Add) -> None:
    add("--full", action="store_true", help="up to 4096 x 1,000,000 (16 GB on disk)")
    add("--columns", type=int, nargs="+", help="numbers of columns")
    add("--rows", type=int)
    add("-k", type=int)
    add("--folder", type=Path, help="where the matrix is put while it is needed (default OUT)")
    add("--out", type=Path, default=OUT / "outofcore")


def _outofcore(**options) -> int:
    from analysis.benchmarks import outofcore

    return outofcore.main(**options)


def _mapped_options(add: Add) -> None:
    add("--gib", type=float, default=3.2, help="size of the file")
    add("--rows", type=int, default=2000)
    add("-k", type=int, default=50)
    add("--method", default="residual")
    add("--memory-up-to", type=float, default=1.0, help="largest file, in GiB, that is also read into memory")
    add("--folder", type=Path, help="where the file is made (default: a temporary folder)")


def _mapped(**options) -> int:
    from analysis.benchmarks import mapped

    return mapped.main(**options)


def _kernels_options(add: Add) -> None:
    add("--streams", action="store_true", help="the streams, instead of the kernels")
    add("--points", type=int, default=10_000)
    add("--trials", type=int, default=10)
    add("--out", type=Path, default=OUT / "kernels")


def _kernels(streams: bool, points: int, trials: int, out: Path) -> int:
    from analysis import kernels

    print(kernels.streams(out) if streams else kernels.table(kernels.run(points, trials=trials, out=out)))
    return 0


def _tasks_options(add: Add) -> None:
    add("--names", nargs="+", help="only these: cur sensors unsupervised nystrom")
    add("--repeats", type=int, default=21)
    add("--docs", type=Path, help="put the page into this folder, too")
    add("--out", type=Path, default=OUT / "tasks")


def _tasks(**options) -> int:
    from analysis import peer_tasks

    return peer_tasks.main(**options)


def _which_options(add: Add) -> None:
    add("--docs", type=Path, help="put the tables and the figure into this folder instead")
    add("--out", type=Path, default=OUT / "which")


def _which(**options) -> int:
    from analysis import which

    return which.main(**options)


def _damage_options(add: Add) -> None:
    add("--cases", type=int, default=2000, help="damaged files")
    add("--pairs", type=int, default=200, help="pairs of problems that a weaker fingerprint confuses")
    add("--seed", type=int, default=0)


def _damage(**options) -> int:
    from analysis import damage

    return damage.main(**options)


def _tables_options(add: Add) -> None:
    add("--methods", action="store_true", help="through every method instead of the command line")
    add("--limit", type=int, help="about so many tables, evenly spread")
    add("--workers", type=int, default=2)
    add("--out", type=Path, default=OUT / "tables", help="resumes where it stopped")


def _tables(**options) -> int:
    from analysis import real_tables

    return real_tables.main(**options)


def _dependence_options(add: Add) -> None:
    add("--matrices", type=int, default=200, help="matrices with orthonormal rows")
    add("--full", action="store_true", help="200,000 x 2,053 one-hot as well")


def _dependence(**options) -> int:
    from analysis import dependence

    return dependence.main(**options)


def _extend_options(add: Add) -> None:
    add(
        "--rows", action="store_true", help="only the tests that go through the tables of methods and pruners"
    )
    add("--workers", type=int, default=2)


def _extend(**options) -> int:
    from analysis import extend

    return extend.main(**options)


#: Of every command: what it is for, its options, what it does.
COMMANDS: dict[str, tuple[str, Callable[[Add], None], Callable[..., int]]] = {
    "study": ("prune held-out scenes in many ways and relate predictors to accuracy", _study_options, _study),
    "figures": (
        "verdicts, figures and report again from the rows of a study, without a model",
        _figures_options,
        _figures,
    ),
    "train": ("train the reference model (resumes where it stopped)", _train_options, _train),
    "bench": ("time the selectors, their peers and the floors side by side", _bench_options, _bench),
    "edges": ("hostile inputs on every method and on peer routines", _edges_options, _edges),
    "guarantees": ("try every method against every statement about it", _guarantees_options, _guarantees),
    "mutation": ("sabotage every method and see whether a test notices", _mutation_options, _mutation),
    "deep": ("the property tests on many examples each", _deep_options, _deep),
    "fuzz": ("fuzz cssp and its command line, guided by the branches reached", _fuzz_options, _fuzz),
    "gpu": ("everything that waits for a GPU", _gpu_options, _gpu),
    "pruners": ("what every pruner needs, does and costs", _pruners_options, _pruners),
    "families": ("every feature on every model family, against the oracle", _families_options, _families),
    "threads": ("calls of one pruned model from several threads at a time", _threads_options, _threads),
    "outofcore": ("selection from a matrix on disk, on a local cluster", _outofcore_options, _outofcore),
    "memory-map": ("selection from a large mapped file: memory, time and numbers", _mapped_options, _mapped),
    "kernels": ("landmarks of hard kernels; columns that are seen once", _kernels_options, _kernels),
    "tasks": ("tasks that peers show on their own pages, side by side", _tasks_options, _tasks),
    "tables": ("real tables through the command line and through every method", _tables_options, _tables),
    "which": ("error and time of every method on three shapes of real data", _which_options, _which),
    "dependence": (
        "tied and dependent columns in every method, and what they cost",
        _dependence_options,
        _dependence,
    ),
    "extend": (
        "add the method and the pruner of docs/guide/extend.md to a copy and run the fast tests there",
        _extend_options,
        _extend,
    ),
    "damage": ("damage checkpoints and states of streams and see what happens", _damage_options, _damage),
}


if __name__ == "__main__":
    sys.exit(main())
