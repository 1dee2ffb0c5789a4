"""``python -m analysis study | train | figures | bench | edges | guarantees | mutation | deep | fuzz | gpu |
pruners | families | outofcore | kernels | tasks | which`` (``--help`` after any of them)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

OUT = Path("out")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    study = commands.add_parser(
        "study", help="prune held-out scenes in many ways and relate predictors to accuracy"
    )
    study.add_argument(
        "--full", action="store_true", help="the complete study (hours) instead of the quick one"
    )
    study.add_argument(
        "--quick", action="store_true", help="the quick one: a few scenes, minutes (the default)"
    )
    study.add_argument("--scenes", type=int, help="scenes of each family")
    study.add_argument("--families", nargs="+", help="only these families of scenes")
    study.add_argument("--arms", nargs="+", help="only these arms")
    study.add_argument("--keep", nargs="+", type=float, help="shares of tokens kept")
    study.add_argument(
        "--plane", type=int, help="scenes of each family that get the plane of the family of pruners"
    )
    study.add_argument("--model", nargs="+", help="folders of checkpoints (the shipped one)")
    study.add_argument(
        "--confirm", action="store_true", help="the same plan on the scenes that are touched once"
    )
    study.add_argument(
        "--questions",
        type=Path,
        help="your own questions instead of scenes: JSON lines, or a parquet file (see docs/study/own.md)",
    )
    study.add_argument(
        "--scoring",
        choices=("contains", "exact"),
        default="contains",
        help="of answers to your own questions",
    )
    study.add_argument(
        "--limit", type=int, help="of your own questions, only those about the first so many images"
    )
    study.add_argument(
        "--out", type=Path, help="(default out/study, out/study-full; out/study-own with --questions)"
    )
    study.add_argument("--workers", type=int, default=2)

    figures = commands.add_parser(
        "figures", help="verdicts, figures and report again from the rows of a study, without a model"
    )
    figures.add_argument("--rows", type=Path, help="packed rows (default: those in OUT)")
    figures.add_argument("--docs", type=Path, help="put the verdicts into this folder, too")
    figures.add_argument("--out", type=Path, default=OUT / "study")

    train = commands.add_parser("train", help="train the reference model (resumes where it stopped)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, default=OUT / "train")
    train.add_argument("--scenes", type=int, default=40, help="training scenes, in thousands")
    train.add_argument("--workers", type=int, default=2)
    train.add_argument(
        "--scale", type=float, default=1.0, help="share of the recipe's steps (for trying it out)"
    )
    train.add_argument("--device", default="cpu", help="cpu, or cuda")
    train.add_argument("--export", type=Path, help="write the finished model there (default: OUT/model)")

    bench = commands.add_parser("bench", help="time the selectors, their peers and the floors side by side")
    bench.add_argument("--quick", action="store_true", help="one size, three repeats")
    bench.add_argument("--sizes", nargs="+", help="only these, as 4096x576x64 or 5000x5000x500-float64")
    bench.add_argument("--kinds", nargs="+", help="only these kinds of matrices")
    bench.add_argument("--repeats", type=int, help="instead of each size's own number")
    bench.add_argument("--imports", action="store_true", help="only the time of `import cssp`")
    bench.add_argument("--docs", type=Path, help="put the table and the figures into this folder, too")
    bench.add_argument(
        "--out", type=Path, help="(default out/bench, out/bench-quick); resumes where it stopped"
    )

    edges = commands.add_parser("edges", help="hostile inputs on every method and on peer routines")
    edges.add_argument("--method", nargs="+", help="only these of our methods")
    edges.add_argument("--ours", action="store_true", help="without the peers")
    edges.add_argument("--out", type=Path, default=OUT / "edges")

    guarantees = commands.add_parser("guarantees", help="try every method against every statement about it")
    guarantees.add_argument("--instances", type=int, default=2000, help="instances a statement")
    guarantees.add_argument("--draws", type=int, default=400, help="draws where no exact law is to be had")
    guarantees.add_argument("--method", nargs="+", help="only these methods")
    guarantees.add_argument("--seed", type=int, default=0)
    guarantees.add_argument("--out", type=Path, default=OUT / "guarantees")

    mutation = commands.add_parser("mutation", help="sabotage every method and see whether a test notices")
    mutation.add_argument("--method", nargs="+", help="only these methods")
    mutation.add_argument("--workers", type=int, default=1)

    deep = commands.add_parser("deep", help="the property tests on many examples each")
    deep.add_argument("--examples", type=int, default=20_000, help="examples a property")
    deep.add_argument("--workers", type=int, default=2)
    deep.add_argument("--only", nargs="+", help="only properties whose names contain one of these words")
    deep.add_argument("--out", type=Path, default=OUT / "deep")

    fuzz = commands.add_parser("fuzz", help="fuzz cssp.select, guided by the branches it reaches")
    fuzz.add_argument("--minutes", type=float, default=20)
    fuzz.add_argument("--watchdog", type=int, default=60, help="seconds a call may take")
    fuzz.add_argument("--seed", type=int, default=0)
    fuzz.add_argument("--replay", type=Path, help="run one kept input instead")
    fuzz.add_argument("--out", type=Path, default=OUT / "fuzz")

    gpu = commands.add_parser("gpu", help="everything that waits for a GPU")
    gpu.add_argument("--out", type=Path, default=OUT / "gpu")
    gpu.add_argument("--step", nargs="+", help="only these steps, anew: tests speed prefill bench train")
    gpu.add_argument("--tiny", action="store_true", help="try the plumbing on the CPU with toy sizes")

    pruners = commands.add_parser("pruners", help="what every pruner needs, does and costs")
    pruners.add_argument("--keep", type=int, nargs="+", default=[64, 192], help="tokens of 576")
    pruners.add_argument("--names", nargs="+", help="only these")
    pruners.add_argument("--docs", type=Path, help="put the table into this folder, too")
    pruners.add_argument("--out", type=Path, default=OUT / "pruners")

    families = commands.add_parser("families", help="every feature on every model family, against the oracle")
    families.add_argument("--names", nargs="+", help="only these")
    families.add_argument("--docs", type=Path, help="put the table into this folder, too")
    families.add_argument("--out", type=Path, default=OUT / "families")

    outofcore = commands.add_parser("outofcore", help="selection from a matrix on disk, on a local cluster")
    outofcore.add_argument("--full", action="store_true", help="up to 4096 x 1,000,000 (16 GB on disk)")
    outofcore.add_argument("--columns", type=int, nargs="+", help="numbers of columns")
    outofcore.add_argument("--rows", type=int)
    outofcore.add_argument("-k", type=int)
    outofcore.add_argument(
        "--folder", type=Path, help="where the matrix is put while it is needed (default OUT)"
    )
    outofcore.add_argument("--out", type=Path, default=OUT / "outofcore")

    kernels = commands.add_parser("kernels", help="landmarks of hard kernels; columns that are seen once")
    kernels.add_argument("--streams", action="store_true", help="the streams, instead of the kernels")
    kernels.add_argument("--points", type=int, default=10_000)
    kernels.add_argument("--trials", type=int, default=10)
    kernels.add_argument("--out", type=Path, default=OUT / "kernels")

    tasks = commands.add_parser("tasks", help="tasks that peers show on their own pages, side by side")
    tasks.add_argument("--names", nargs="+", help="only these: cur sensors unsupervised nystrom")
    tasks.add_argument("--repeats", type=int, default=21)
    tasks.add_argument("--docs", type=Path, help="put the page into this folder, too")
    tasks.add_argument("--out", type=Path, default=OUT / "tasks")

    which = commands.add_parser("which", help="error and time of every method on three shapes of real data")
    which.add_argument("--docs", type=Path, help="put the tables and the figure into this folder instead")
    which.add_argument("--out", type=Path, default=OUT / "which")

    chosen = vars(parser.parse_args(arguments))
    run = {
        "study": _study,
        "figures": _figures,
        "train": _train,
        "bench": _bench,
        "edges": _edges,
        "guarantees": _guarantees,
        "mutation": _mutation,
        "deep": _deep,
        "fuzz": _fuzz,
        "gpu": _gpu,
        "pruners": _pruners,
        "families": _families,
        "outofcore": _outofcore,
        "which": _which,
        "kernels": _kernels,
        "tasks": _tasks,
    }
    return run[chosen.pop("command")](**chosen)


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
    from . import study
    from .study import own

    names = {"keep": "keeps", "plane": "plane_scenes", "model": "models"}
    changes = {
        names.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in changes.items() if v is not None
    }
    try:
        plan = dataclasses.replace(study.COMPLETE if full and not quick else study.QUICK, **changes)
        if questions is not None:
            arms = plan.arms if "arms" in changes else own.ARMS
            folder = own.run(
                plan.models[0], questions, out or OUT / "study-own", arms, plan.keeps, limit, scoring
            )
            return _figures(None, folder, None)
        folder = out or OUT / ("study-full" if full else "study")
        if confirm:
            study.confirm(plan, folder / "confirm", workers)
        else:
            study.run(plan, folder, workers)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return _figures(None, folder, None, draw=plan.models[0])


def _figures(rows: Path | None, out: Path, docs: Path | None, draw: str | None = None) -> int:
    from . import study
    from .study import page

    own = None if draw is None else study.load(draw)
    try:
        return page.make(rows, out, docs, own)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


def _train(**options) -> int:
    from .training import train

    train(**options)
    return 0


def _bench(out: Path | None, quick: bool, imports: bool, **options) -> int:
    from .benchmarks import bench

    out = out or OUT / ("bench-quick" if quick else "bench")
    return bench.main(out, quick, only_imports=imports, **options)


def _edges(method: list[str] | None, ours: bool, out: Path) -> int:
    from .benchmarks import edges

    return edges.main(out, method, peers=not ours)


def _guarantees(instances: int, draws: int, method: list[str] | None, seed: int, out: Path) -> int:
    from .theory import guarantees

    return guarantees.main(instances, out, method, seed, draws)


def _mutation(method: list[str] | None, workers: int) -> int:
    from .theory import mutation

    return mutation.main(method, workers)


def _deep(**options) -> int:
    from . import deep

    return deep.main(**options)


def _fuzz(**options) -> int:
    from . import fuzz

    return fuzz.main(**options)


def _gpu(out: Path, step: list[str] | None, tiny: bool) -> int:
    from . import gpu

    return gpu.main(out, step, tiny)


def _pruners(**options) -> int:
    from . import pruners

    return pruners.main(**options)


def _families(**options) -> int:
    from . import families

    return families.main(**options)


def _kernels(streams: bool, points: int, trials: int, out: Path) -> int:
    from . import kernels

    print(kernels.streams(out) if streams else kernels.table(kernels.run(points, trials=trials, out=out)))
    return 0


def _outofcore(**options) -> int:
    from .benchmarks import outofcore

    return outofcore.main(**options)


def _tasks(**options) -> int:
    from . import peer_tasks

    return peer_tasks.main(**options)


def _which(**options) -> int:
    from . import which

    return which.main(**options)


if __name__ == "__main__":
    sys.exit(main())
