"""Coverage-guided fuzzing of `cssp`: arrays, frames, matrices read in passes, kept state and command lines, right and wrong ones.

Atheris (libFuzzer) mutates bytes towards new branches of ``cssp``; Hypothesis turns the bytes into one of the kinds of
input of `analysis.inputs`. Nothing may come out but a result that keeps the contract, the one the property tests check,
or a `CsspError`; no call may take longer than the watchdog allows. Each failure is kept as a script that shows it and as
the bytes that led there.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib.util
import inspect
import json
import random
import re
import resource
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LENGTH = 1024  # bytes of an input, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--watchdog", type=int, default=60, help="seconds a call may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path, help="run one kept input instead")
    parser.add_argument("--only", nargs="+", help="only these kinds of input, see analysis/inputs.py")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))


def main(arguments: argparse.Namespace) -> int:
    """Fuzz every kind for an equal part of the time, and report; 1 where anything was found.

    ``--replay`` runs one kept input instead, whose name begins with its kind.
    """
    out, watchdog, seed, replay = arguments.out, arguments.watchdog, arguments.seed, arguments.replay
    if replay is not None:
        _target(_Finds(out, replay.name.partition("-")[0]))(replay.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris: pip install -c constraints.txt -e '.[fuzz]' (Linux)", file=sys.stderr)
        return 2
    from analysis.inputs import KINDS

    kinds = arguments.only or list(KINDS)
    source = random.Random(seed)
    (out / "finds").mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        corpus = out / "corpus" / kind
        corpus.mkdir(parents=True, exist_ok=True)
        for i in range(64):
            (corpus / f"seed{i:02d}").write_bytes(source.randbytes(LENGTH))
    start, end = time.time(), time.time() + 60 * arguments.minutes
    totals: collections.Counter[str] = collections.Counter()
    rounds: list[str] = []
    while (
        left := int(end - time.time())
    ) > 5:  # libFuzzer ends where a call hangs or kills the process: go on
        turn = len(rounds) % len(kinds)
        kind, part = kinds[turn], max(10, left // (len(kinds) - turn))
        command = [sys.executable, "-m", "analysis.fuzz", "--out", str(out), "--kind", kind]
        command += ["--seconds", str(min(left, part))]
        command += ["--watchdog", str(watchdog), "--seed", str(seed + len(rounds))]
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        (out / f"round{len(rounds)}.txt").write_text(done.stderr[-200_000:])
        rounds.append(done.stderr)
        status = out / "status.json"
        if status.exists():
            totals.update(json.loads(status.read_text()))
            status.unlink()
        if time.time() - start < 30 and done.returncode and len(rounds) > 3:
            print(done.stderr[-3000:], file=sys.stderr)
            return 2
    return _report(out, kinds, rounds, totals, watchdog, (time.time() - start) / 60)


def _report(
    out: Path,
    kinds: list[str],
    rounds: list[str],
    totals: collections.Counter[str],
    watchdog: int,
    minutes: float,
) -> int:
    """Print what the rounds, given as their output, reached and found; return 1 where anything was found."""
    finds = out / "finds"
    for path in finds.glob("*-timeout-*"):
        if _ends(path, watchdog):  # the clock on the wall had run out on a busy machine
            path.rename(path.with_name(path.name.replace("timeout", "late")))
    found = sorted(p.name for p in finds.iterdir() if re.search(r"\.py$|-(timeout|crash|oom)-", p.name))
    late = len(list(finds.glob("*-late-*")))
    executed = [
        int(n) for text in rounds for n in re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)
    ]
    edges = [int(n) for text in rounds for n in re.findall(r"cov: (\d+)", text)]
    inputs = [path for kind in kinds for path in sorted((out / "corpus" / kind).iterdir())]
    print(f"{sum(executed) or totals['executed']} executions in {minutes:.1f} min, {len(rounds)} round(s)")
    for name in sorted(totals):
        print(f"{totals[name]:9d}  {name}")
    print(f"branch counters reached: {max(edges, default=0)}; corpus: {len(inputs)} inputs")
    print(_coverage(inputs, out))
    if late:
        print(
            f"{late} inputs were late by the wall clock, yet end within {watchdog} s of processor time when run again"
        )
    print(f"{len(found)} findings" + "".join(f"\n  {finds / name}" for name in found))
    return 1 if found else 0


def _ends(path: Path, watchdog: int) -> bool:
    """Return whether the input, run again, ends within ``watchdog`` seconds of processor time, and 20 times that in all."""
    command = [sys.executable, "-m", "analysis", "fuzz", "--replay", str(path)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (watchdog, watchdog))

    try:
        return (
            subprocess.run(command, cwd=ROOT, timeout=20 * watchdog, preexec_fn=limit, check=False).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


# --- one input ------------------------------------------------------------------------------------------


def _target(finds: _Finds) -> Any:
    """Return the bytes -> None: Hypothesis makes a case of them, which is tried and judged."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from analysis.inputs import KINDS

    kind = KINDS[finds.kind]

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data: Any) -> None:
        finds.last = case = kind.draw(data.draw)
        finds.outcomes[f"{finds.kind}: {kind.judge(case)}"] += 1

    return one.hypothesis.fuzz_one_input


class _Finds:
    """Failures by kind, each kept once; outcomes counted."""

    def __init__(self, out: Path, kind: str) -> None:
        self.out, self.kind = out, kind
        self.last: Any = None
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.seen: set[str] = set()

    def record(self, data: bytes, error: BaseException) -> None:
        """Write the call as a script, the bytes beside it."""
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/cssp/" in f.filename or "/analysis/" in f.filename
        ]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        key = hashlib.sha1(f"{type(error).__name__} {where}".encode()).hexdigest()[:12]
        self.outcomes["found"] += 1
        if key in self.seen:
            return
        self.seen.add(key)
        path = self.out / "finds" / f"{self.kind}-{key}"
        path.with_suffix(".bin").write_bytes(data)
        story = "".join(traceback.format_exception(error)).replace('"""', "'''")
        path.with_suffix(".py").write_text(
            f'r"""{type(error).__name__} at {where}; again: python -m analysis fuzz --replay "{path}.bin"\n\n{story}"""\n'
            f"{self.last!r}\n"
        )


def _child(out: Path, kind: str, seconds: int, watchdog: int, seed: int) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["cssp"], enable_loader_override=False):
        import cssp  # noqa: F401
    finds = _Finds(out, kind)
    run = _target(finds)
    status = out / "status.json"

    def one(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:
            finds.record(data, error)
        finds.outcomes["executed"] += 1
        if finds.outcomes["executed"] % 50 == 0:
            status.write_text(json.dumps(finds.outcomes))

    flags = [f"-max_total_time={seconds}", f"-timeout={watchdog}", f"-max_len={LENGTH}", "-len_control=0"]
    flags += [
        f"-artifact_prefix={out / 'finds' / kind}-",
        f"-seed={seed + 1}",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], *flags, str(out / "corpus" / kind)], one)
    atheris.Fuzz()


# --- what was reached -----------------------------------------------------------------------------------


def _coverage(inputs: list[Path], out: Path) -> str:
    """Return the lines of the package that the corpus reaches, file by file."""
    reached: dict[str, set[int]] = collections.defaultdict(set)

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        if f"{ROOT}/cssp/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            reached[frame.f_code.co_filename].add(frame.f_lineno)
        return trace

    targets = {kind: _target(_Finds(out, kind)) for kind in {path.parent.name for path in inputs}}
    for path in inputs:
        sys.settrace(trace)
        with contextlib.suppress(Exception):  # recorded before
            targets[path.parent.name](path.read_bytes())
        sys.settrace(None)
    lines, total, hit = [], 0, 0
    for file in sorted((ROOT / "cssp").rglob("*.py")):
        body = _lines(compile(file.read_text(), str(file), "exec"))
        found = body & reached.get(str(file), set())
        total, hit = total + len(body), hit + len(found)
        missed = sorted(body - found)
        if body:
            lines.append(
                f"{len(found):5d} of {len(body):5d}  {file.relative_to(ROOT)}  not reached: {missed[:12]}"
            )
    (out / "coverage.txt").write_text("\n".join(lines) + "\n")
    return f"lines inside functions of cssp reached: {hit} of {total} ({out / 'coverage.txt'})"


def _lines(code: types.CodeType) -> set[int]:
    """Return the numbers of the lines inside functions."""
    lines = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
    own = lines if code.co_flags & inspect.CO_OPTIMIZED else set()
    return own.union(*(_lines(c) for c in code.co_consts if isinstance(c, types.CodeType)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    for name in ("--seconds", "--watchdog", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--kind", required=True)
    _child(**vars(parser.parse_args()))
