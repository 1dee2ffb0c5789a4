"""Run tasks of a folder through lmms-eval, one run a line of JSON on stdin, and print answers and metrics.

A process of its own, since the harness changes logging, warnings and global state. One line a run:
``{"model_args": "pretrained=...,keep=18", "tasks": ["scenes"], "simple": false}``.
"""

import json
import sys

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models.model_utils.gen_metrics import reset_logged_metrics, summarize_logged_metrics
from lmms_eval.tasks import TaskManager

folder, batch = sys.argv[1], int(sys.argv[2])
tasks = TaskManager(include_path=folder, include_defaults=False)
for line in sys.stdin:
    run = json.loads(line)
    reset_logged_metrics()
    found = simple_evaluate(
        "vlm_bridge",
        model_args=run["model_args"],
        tasks=run["tasks"],
        task_manager=tasks,
        batch_size=batch,
        device="cpu",
        force_simple=run.get("simple", False),
        log_samples=True,
    )
    samples = {name: [one["filtered_resps"] for one in rows] for name, rows in found["samples"].items()}
    metrics = {
        name: {k: v for k, v in row.items() if isinstance(v, float)} for name, row in found["results"].items()
    }
    print(
        "RUN",
        json.dumps({"samples": samples, "metrics": metrics, "logged": summarize_logged_metrics()}),
        flush=True,
    )
