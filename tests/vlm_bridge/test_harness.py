"""The harnesses themselves, once from end to end on local data; skipped where they are not installed.

Every harness runs in a process of its own and must give the answers that the bridge gives without it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import reference

HERE = Path(__file__).parent
MODEL = f"pretrained={reference.HERE}"
SCENES, BATCH = 3, 8
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


def needs(harness):
    """A mark: skip, with the reason, without the harness."""
    found = importlib.util.find_spec(harness)
    return pytest.mark.skipif(found is None, reason=f"{harness} is not installed: see docs/harnesses.md")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Folder of tasks, and the questions in it."""
    harness_tasks = pytest.importorskip("harness_tasks")
    folder = tmp_path_factory.mktemp("tasks")
    return folder, harness_tasks.write(folder, SCENES)


@pytest.fixture(scope="module")
def ours(tasks):
    """Answers of the bridge alone, by (keep, which question)."""
    import harness_tasks

    cases = [(keep, ask) for keep in (18, None) for ask in ("question", "second")]
    return {(keep, ask): harness_tasks.answers(tasks[1], BATCH, keep, ask=ask) for keep, ask in cases}


def run(script, folder, runs, cwd):
    """What the runs print, one record each."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), str(folder), str(BATCH)],
        input="\n".join(map(json.dumps, runs)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **OFFLINE, "HF_HOME": str(cwd)},
        timeout=900,
    )
    lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("RUN ")]
    assert len(lines) == len(runs), done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in lines]


@needs("lmms_eval")
def test_lmms_eval(tasks, ours, tmp_path):
    folder, rows = tasks
    both = ["scenes", "rounds"]
    runs = run(
        "run_lmms.py",
        folder,
        [
            {"model_args": f"{MODEL},keep=18,method=spare", "tasks": both},
            {"model_args": f"{MODEL},keep=18", "tasks": both, "simple": True},
            {"model_args": f"{MODEL},keep=1.0", "tasks": both},
            {"model_args": f"{MODEL},method=none", "tasks": both},
            {"model_args": f"{MODEL},keep=18", "tasks": ["colours"], "simple": True},
            {"model_args": f"{MODEL},method=none", "tasks": ["colours"], "simple": True},
        ],
        tmp_path,
    )
    assert ours[18, "question"] != ours[None, "question"], "pruning must be seen in the answers"
    for found, keep in zip(runs, (18, 18, None, None), strict=False):
        own, second = ours[keep, "question"], ours[keep, "second"]
        assert [one[0] for one in found["samples"]["scenes"]] == own
        assert [one[0] for one in found["samples"]["rounds"]] == [
            list(pair) for pair in zip(own, second, strict=True)
        ]
        right = [word == row["answer"] for word, row in zip(own, rows, strict=True)]
        assert found["metrics"]["scenes"]["exact_match,none"] == pytest.approx(sum(right) / len(rows))
    images = 3 * len(rows)  # a question, and two rounds
    for found, kept in zip(runs, (18, 18, 144), strict=False):
        assert found["logged"]["avg_images"] == images
        assert found["logged"]["avg_visual_tokens"] == 144 * images
        assert found["logged"]["avg_visual_tokens_kept"] == kept * images
    assert runs[0]["logged"]["avg_choices_reused"] >= len(rows), "at least every second round"
    assert "avg_images" not in runs[3]["logged"]
    for found, keep in zip(runs[4:], (18, None), strict=True):
        colours = [(i, row) for i, row in enumerate(rows) if row["skill"] == "colour"]
        for choices, (i, _) in zip(found["samples"]["colours"], colours, strict=True):
            best = min(range(len(choices)), key=lambda j: choices[j][0])
            from harness_tasks import CHOICES

            assert ours[keep, "question"][i] == CHOICES[best]
            assert [same for _, same in choices] == [j == best for j in range(len(choices))]


@needs("lm_eval")
def test_lm_eval(tasks, ours, tmp_path):
    folder, rows = tasks
    runs = run(
        "run_lm.py",
        folder / "lm",
        [
            {"pretrained": str(reference.HERE), "keep": keep, "tokens": tokens}
            for keep, tokens in ((18, 1), (1.0, 1), (None, 1), (18, 3), (None, 3))
        ],
        tmp_path,
    )
    for found, keep in zip(runs, (18, None, None), strict=False):
        assert found["answers"] == ours[keep, "question"]
        right = [word == row["answer"] for word, row in zip(found["answers"], rows, strict=True)]
        assert found["accuracy"] == pytest.approx(sum(right) / len(rows))
    calls = -(-len(rows) // BATCH)
    assert [found["lengths"] for found in runs] == [[n] * calls for n in (1, 1, 1, 3, 3)], (
        "max_length counts the prompt"
    )
    assert f"kept {18 * len(rows)} of {144 * len(rows)} tokens" in runs[0]["report"]
