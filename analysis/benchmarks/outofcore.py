"""Selection from a matrix on disk: passes, wall time, error and memory on a local cluster, against n and workers.

Every case runs in a process of its own with a cluster of its own, so that peaks of memory are those of the case. The
matrix has a decaying spectrum and columns of different length; it is made chunk by chunk and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

#: Rank of what is not noise, and the fall of its singular values j**-FALL.
RANK, FALL, NOISE = 512, 1.0, 1e-3

#: Bytes of a chunk of columns.
CHUNK = 32 << 20

SEED = 0


@dataclass(frozen=True)
class Case:
    """One run: a method on the matrix of a folder."""

    path: str
    method: str
    k: int
    workers: int
    memory: str = "3GB"
    checkpoint: str | None = None
    kill: str = ""  # "worker" or "client": killed when the first state is kept
    errors: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--full", action="store_true", help="up to 4096 x 1,000,000 (16 GB on disk)")
    parser.add_argument("--columns", type=int, nargs="+", help="numbers of columns")
    parser.add_argument("--rows", type=int)
    parser.add_argument("-k", type=int)
    parser.add_argument(
        "--folder", type=Path, help="where the matrix is put while it is needed (default OUT)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/outofcore"))


def main(arguments: argparse.Namespace) -> int:
    """Measure growth with n, then workers, a killed worker and an interrupted client, then sparse; prints a table."""
    out, full = arguments.out, arguments.full
    out.mkdir(parents=True, exist_ok=True)
    m, k = arguments.rows or (4096 if full else 1024), arguments.k or (200 if full else 50)
    columns = arguments.columns or ([10_000, 100_000, 1_000_000] if full else [4_000, 16_000])
    folder = arguments.folder or out
    records = []
    for n in columns:
        place = Path(tempfile.mkdtemp(prefix="outofcore-", dir=folder))
        path = place / "matrix.zarr"
        try:
            begun = time.perf_counter()
            make(path, m, n)
            print(
                f"{m} x {n}: {m * n * 4 / 1e9:.2f} GB made in {time.perf_counter() - begun:.0f} s", flush=True
            )
            records += _at_size(path, n, k, n == columns[-1], n == columns[0], out)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    records.append(
        isolated(sparse, 10**5 if full else 10**4, 10**6 if full else 10**5, 1e-4 if full else 1e-3, k)
    )
    print(_line(records[-1]), flush=True)
    (out / "outofcore.json").write_text(json.dumps(records, indent=1))
    (out / "outofcore.md").write_text(table(records))
    print("\n" + table(records))
    return 0


def _at_size(path: Path, n: int, k: int, largest: bool, smallest: bool, out: Path) -> list[dict[str, Any]]:
    case = Case(str(path), "residual", k, 2)
    cases = [
        replace(case, method=name) for name in ("plain pass", "residual", "sketched_qr", "greedy", "optimum")
    ]
    if not largest:
        cases.append(replace(case, workers=1, errors=False))
    records = [_run(case, n) for case in cases]
    if smallest:
        picks, state = records[1]["picks"], out / "state.npz"
        state.unlink(missing_ok=True)
        lost = _run(replace(case, checkpoint=str(state), kill="worker", errors=False), n)
        lost["same"] = lost["picks"] == picks and lost["killed"]
        state.unlink(missing_ok=True)
        interrupted = _run(replace(case, checkpoint=str(state), kill="client", errors=False), n)
        resumed = _run(replace(case, checkpoint=str(state), errors=False), n)
        resumed["same"], resumed["interrupted"] = resumed["picks"] == picks, interrupted.get("died", False)
        resumed["state_mb"] = state.stat().st_size / 1e6
        state.unlink(missing_ok=True)
        for record, what in (
            (lost, "residual, a worker killed"),
            (resumed, "residual, client killed and resumed"),
        ):
            record["method"] = what
        records += [lost, resumed]
        print("\n".join(map(_line, records[-2:])), flush=True)
    return records


def make(path: Path, m: int, n: int) -> None:
    """Write a zarr array of float32, one chunk of columns after the other."""
    import zarr

    rng = np.random.default_rng(SEED)
    U = np.linalg.qr(rng.standard_normal((m, min(RANK, m))))[0] * (1.0 + np.arange(min(RANK, m))) ** -FALL
    U = U.astype(np.float32)
    step = max(1, CHUNK // (4 * m))
    step = min(step, -(-n // 8))
    shutil.rmtree(path, ignore_errors=True)
    A = zarr.create_array(str(path), shape=(m, n), chunks=(m, step), dtype="float32", compressors=None)
    for a in range(0, n, step):
        rng = np.random.default_rng([SEED, a])
        b = min(n, a + step)
        X = U @ rng.standard_normal((U.shape[1], b - a), dtype=np.float32)
        X += np.float32(NOISE / m**0.5) * rng.standard_normal((m, b - a), dtype=np.float32)
        A[:, a:b] = X * np.exp(0.3 * rng.standard_normal(b - a)).astype(np.float32)


def _run(case: Case, n: int) -> dict[str, Any]:
    record = isolated(measured, case) | {"n": n} | asdict(case)
    print(_line(record), flush=True)
    return record


def isolated(f: Any, *arguments: Any) -> dict[str, Any]:
    """Run f in a separate process; {"died": True} where that was killed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, f, *arguments))
    process.start()
    theirs.close()
    try:
        answer: dict[str, Any] = ours.recv()
    except EOFError:
        answer = {"died": True}
    process.join()
    return answer


def _child(pipe: Any, f: Any, *arguments: Any) -> None:
    pipe.send(f(*arguments))


def measured(case: Case) -> dict[str, Any]:
    """Measure one case on a cluster of its own."""
    import dask.array as da
    from distributed import Client, LocalCluster

    import cssp

    with (
        LocalCluster(
            n_workers=case.workers,
            threads_per_worker=1,
            memory_limit=case.memory,
            dashboard_address=":0",
            silence_logs=50,
            local_directory=tempfile.mkdtemp(dir=Path(case.path).parent),
        ) as cluster,
        Client(cluster) as client,
    ):
        A = da.from_zarr(case.path)
        workers = list(client.run(os.getpid).values())
        record: dict[str, Any] = {}
        if case.kill:
            victims = workers[:1] if case.kill == "worker" else [*workers, os.getpid()]
            threading.Thread(
                target=_kill, args=(Path(case.checkpoint or ""), victims, record), daemon=True
            ).start()
        before, begun = busy(client), time.perf_counter()
        if case.method == "plain pass":
            A.map_blocks(_total, dtype=np.float64, chunks=(1, 1)).sum().compute()
        elif case.method == "optimum":
            total = float((A.astype(np.float64) ** 2).sum().compute())
            record["error"] = (cssp.passes.sketched_optimum(A, case.k, rng=SEED) / total) ** 0.5
        else:
            options: dict[str, Any] = {"checkpoint": case.checkpoint} if case.checkpoint else {}
            s = cssp.select(A, case.k, case.method, rng=SEED, **options)
            record |= {"passes": s.passes, "picks": s.indices.tolist(), "rank": s.rank}
            record |= {"seconds": time.perf_counter() - begun, "cpu_seconds": busy(client) - before}
            if case.errors:
                record["error"] = s.relative_error
        if "seconds" not in record:
            record |= {"seconds": time.perf_counter() - begun, "cpu_seconds": busy(client) - before}
        peaks = list(client.run(_peak).values())
        return record | {"client_mb": _peak(), "workers_mb": peaks}


def _total(block: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(block, dtype=np.float64, keepdims=True))


def _peak() -> float:
    """Return the peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def busy(client: Any) -> float:
    """Return the processor seconds of the client and its workers so far."""
    return time.process_time() + sum(client.run(time.process_time).values())


def _kill(state: Path, victims: list[int], record: dict[str, Any]) -> None:
    """Kill these processes as soon as there is a state."""
    while not state.exists():
        time.sleep(0.002)
    record["killed"] = True
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def sparse(m: int, n: int, density: float, k: int) -> dict[str, Any]:
    """Measure residual on a sparse matrix that would not fit as a dense one."""
    import scipy.sparse

    import cssp

    rng = np.random.default_rng(SEED)
    per_column = rng.poisson(m * density, n)
    indptr = np.concatenate([[0], np.cumsum(per_column)])
    places = rng.integers(0, m, indptr[-1])
    # a few rows are popular, as words are, so that columns overlap
    places = (m * (places / m) ** 3).astype(np.int64)
    A = scipy.sparse.csc_array((rng.standard_exponential(indptr[-1]), places, indptr), shape=(m, n))
    A.sum_duplicates()
    record: dict[str, Any] = {"method": f"residual, sparse {m} x {n}", "n": n, "workers": 0, "k": k}
    begun = time.perf_counter()
    s = cssp.select(A, k)
    record |= {
        "seconds": time.perf_counter() - begun,
        "passes": s.passes,
        "picks": s.indices.tolist(),
        "rank": s.rank,
    }
    return record | {
        "error": s.relative_error,
        "client_mb": _peak(),
        "nonzeros": int(A.nnz),
        "dense_gb": m * n * 8 / 1e9,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Return the records as a Markdown table."""
    head = "| columns | method | workers | passes | seconds | plain passes | relative error | peak MB, client / workers |\n"
    lines, plain = [head + "|--:|---|--:|--:|--:|--:|--:|---|\n"], {}
    for r in records:
        if r["method"] == "plain pass":
            plain[r["n"]] = r["seconds"]
        share = f"{r['seconds'] / plain[r['n']]:.1f}" if r["n"] in plain and r["workers"] == 2 else ""
        peaks = " / ".join([f"{r['client_mb']:.0f}", *(f"{x:.0f}" for x in r.get("workers_mb", []))])
        what = r["method"] + (
            "" if r.get("same") is None else ": same picks" if r["same"] else ": OTHER PICKS"
        )
        error = f"{r['error']:.5f}" if "error" in r else ""
        passes = f"{r['passes']:.2f}".rstrip("0").rstrip(".") if "passes" in r else ""
        lines.append(
            f"| {r['n']:,} | {what} | {r['workers'] or ''} | {passes} | {r['seconds']:.1f} | {share} | {error} | {peaks} |\n"
        )
    return "".join(lines)


def _line(record: dict[str, Any]) -> str:
    return "  " + ", ".join(
        f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in record.items()
        if key
        in (
            "method",
            "n",
            "workers",
            "passes",
            "seconds",
            "error",
            "client_mb",
            "workers_mb",
            "same",
            "died",
            "state_mb",
        )
    )
