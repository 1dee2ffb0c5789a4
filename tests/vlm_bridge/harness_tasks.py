"""Scenes of the study as local tasks of lmms-eval and lm-eval, and our own answers to them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image

from analysis import reference, scenes
from vlm_bridge import prune

CHOICES = tuple(scenes.drawing.COLOURS)

_LMMS = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.visuals
doc_to_text: {text}
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata: [{{version: 1}}]
"""

_UTILS = """\
from PIL import Image


def visuals(doc):
    return [Image.open(doc["image"])]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def choices(doc):
    return {choices}


def target(doc):
    return choices(doc).index(doc["answer"])


def rounds(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    if round_idx == 2:
        return None, None, True, previous_output, None
    return visuals(doc), doc["second"], False, previous_output, None


def both(doc, results):
    words = results[0]
    return {{"exact_match": float(words == [doc["answer"], doc["second_answer"]])}}
"""

_LM = """\
task: scenes_lm
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_image: !function utils.visuals
doc_to_text: "<image> {{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 1}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1}}
"""


def write(folder: Path, count: int) -> list[dict]:
    """Pictures, questions and task files for the first `count` test scenes; returns the questions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(count):
        scene = scenes.make(seed, "test")
        path = folder / f"{seed}.png"
        scene.image.save(path)
        asked = [q for q in scene.questions if q.skill != "spatial"]
        for one, other in zip(asked, asked[1:] + asked[:1], strict=True):
            rows.append(
                {
                    "image": str(path),
                    "question": one.text,
                    "answer": one.answer,
                    "second": other.text,
                    "second_answer": other.answer,
                    "skill": one.skill,
                }
            )
    _lines(folder / "questions.jsonl", rows)
    (folder / "utils.py").write_text(_UTILS.format(choices=list(CHOICES)))
    generate = "generation_kwargs: {max_new_tokens: 1, temperature: 0}"
    files = {
        "scenes": ("generate_until", "!function utils.text", "answer", generate, "exact_match", "questions"),
        "rounds": (
            "generate_until_multi_round",
            "!function utils.rounds",
            "answer",
            f"{generate}\nprocess_results: !function utils.both",
            "exact_match",
            "questions",
        ),
        "colours": (
            "multiple_choice",
            "!function utils.text",
            "!function utils.target",
            "doc_to_choice: !function utils.choices",
            "acc",
            "colours",
        ),
    }
    _lines(folder / "colours.jsonl", [row for row in rows if row["skill"] == "colour"])
    for name, (kind, text, target, more, metric, data) in files.items():
        body = _LMMS.format(
            name=name, folder=folder, kind=kind, text=text, target=target, more=more, metric=metric
        )
        (folder / f"{name}.yaml").write_text(body.replace("questions.jsonl", f"{data}.jsonl"))
    lm = folder / "lm"
    lm.mkdir(exist_ok=True)
    (lm / "utils.py").write_text((folder / "utils.py").read_text())
    (lm / "scenes_lm.yaml").write_text(_LM.format(folder=folder))
    return rows


def _lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(rows: list[dict], batch: int, keep, method: str = "spare", ask: str = "question") -> list[str]:
    """The reference model's words, without any harness; ``keep=None`` leaves the model alone."""
    model, processor = reference.load()
    words = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        inputs = processor(
            images=[Image.open(row["image"]) for row in part],
            text=[f"<image> {row[ask]}" for row in part],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        block = nullcontext() if keep is None else prune(model, keep, method, processor=processor)
        with block, torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        words += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return words
