"""Run a task of a folder through lm-eval, one run a line of JSON on stdin, and print answers and metrics.

A process of its own, as with `run_lmms`. One line a run: ``{"pretrained": "...", "keep": 18, "tokens": 1}``;
``"keep": null`` leaves the model alone. With more tokens than one answers do not end by themselves.
"""

import json
import sys
from contextlib import nullcontext

from lm_eval import simple_evaluate
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.tasks import TaskManager

from vlm_bridge import prune
from vlm_bridge.cli import load


class Counting(HFMultimodalLM):
    """Notes how many tokens every call of `generate` adds."""

    def _model_multimodal_generate(self, inputs, max_length, stop, **settings):
        out = super()._model_multimodal_generate(inputs, max_length, stop, **settings)
        lengths.append(out.shape[1] - inputs["input_ids"].shape[1])
        return out


folder, batch = sys.argv[1], int(sys.argv[2])
tasks = TaskManager(include_path=folder, include_defaults=False)
for line in sys.stdin:
    run = json.loads(line)
    model, processor = load(run["pretrained"], "cpu")
    model.generation_config.max_new_tokens = None  # would take precedence over the harness's max_length
    if run["tokens"] > 1:
        model.generation_config.suppress_tokens = [processor.tokenizer.eos_token_id]
    harness, lengths = Counting(model, batch_size=batch), []
    block = nullcontext() if run["keep"] is None else prune(model, run["keep"], processor=processor)
    with block as report:
        found = simple_evaluate(
            harness,
            tasks=["scenes_lm"],
            task_manager=tasks,
            log_samples=True,
            gen_kwargs={"max_gen_toks": run["tokens"]},
        )
    samples = sorted(found["samples"]["scenes_lm"], key=lambda one: one["doc_id"])
    answers = [one["filtered_resps"][0] for one in samples]
    accuracy = found["results"]["scenes_lm"]["exact_match,none"]
    print(
        "RUN",
        json.dumps({"answers": answers, "accuracy": accuracy, "lengths": lengths, "report": repr(report)}),
    )
