"""The tables of model families: every feature on every family, run against the masking oracle.

``python -m analysis families --docs docs`` writes them: twelve families in depth, and all that transformers has. The cells are those of the tests, on tiny random models: a pruned
run must equal the unpruned model with the dropped tokens masked out where they are, token for token.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from analysis.benchmarks.tables import table
from vlm_bridge import prune

TESTS = Path(__file__).parents[1] / "tests" / "vlm_bridge"
NAMES = {
    "llava": "LLaVA-1.5",
    "llava_interleave": "LLaVA-NeXT-Interleave",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "internvl": "InternVL3",
    "smolvlm": "SmolVLM",
    "idefics3": "Idefics3",
    "paligemma": "PaliGemma",
    "gemma3": "Gemma3",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--names", nargs="+", help="only these")
    parser.add_argument("--docs", type=Path, help="put the table into this folder, too")
    parser.add_argument("--out", type=Path, default=Path("out/families"))


def main(arguments: argparse.Namespace) -> int:
    """Run all cells, print and write the table; 1 where a cell is wrong."""
    sys.path.insert(0, str(TESTS))
    from tiny_families import FAMILIES

    names, docs, out = arguments.names, arguments.docs, arguments.out
    torch.set_num_threads(1)
    text, wrong = page([name for name in FAMILIES if names is None or name in names])
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "families.md").write_text(text)
    if docs is not None:
        (docs / "families.inc").write_text(text)
    if names is None:
        every, failed = every_page()
        print(every)
        (out / "every_family.md").write_text(every)
        if docs is not None:
            (docs / "every_family.inc").write_text(every)
        wrong = wrong or failed
    return int(wrong)


def every_page() -> tuple[str, bool]:
    """Return all classes of the installed transformers, a line each, as Markdown; and whether a cell is wrong."""
    import every_family
    from family_matrix import FEATURES, NotThere, families, refused_on_entry, scale

    from vlm_bridge import BridgeError

    lines, reasons, failed = [("", *FEATURES)], {}, False
    worst = 0.0
    for name in tqdm(families(), desc="families", disable=None):
        model = every_family.build(name)
        size, line = scale(model), [short(name)]
        for feature, run in FEATURES.items():
            try:
                found = run(model) / size
            except NotThere:
                line.append("")
            except BridgeError as error:
                line.append("no")
                said = str(error).replace(name, "*model*")
                reasons.setdefault((feature, said), []).append(short(name))
            except Exception as error:  # whatever a model raises is shown as a fault
                line.append(f"**{type(error).__name__}**")
                failed = True
            else:
                worst, right = max(worst, found), found <= 1e-5
                failed = failed or not right
                line.append("ok" if right else "**wrong**")
        lines.append(tuple(line))
    entry = []
    for name in refused_on_entry():
        try:
            with prune(every_family.build(name), 5):
                entry.append(f"- {short(name)}: **taken**")
        except Exception as error:  # also those of which no tiny model can be built
            entry.append(f"- {short(name)}: {error if isinstance(error, BridgeError) else 'not built'}")
    grouped: dict[str, list[str]] = {}
    for (feature, said), names in reasons.items():
        grouped.setdefault(feature, []).append(f"{', '.join(names)}: *{said}*")
    said = "\n".join(f"- {feature}: " + "; ".join(texts) for feature, texts in grouped.items())
    rows = list(lines[1:])
    counts = {word: sum(line.count(word) for line in rows) for word in ("ok", "no", "")}
    return (
        f"transformers {transformers.__version__}, float32: {len(rows)} classes, {counts['ok']} cells right (largest "
        f"difference {worst:.1e} of the logits' spread), {counts['no']} refused, {counts['']} empty, where the family or "
        f"its own unpruned model does not have the feature.\n\n{table(lines)}\n\nWhat refusals say:\n\n{said}\n\nRefused "
        "on entry:\n\n" + "\n".join(entry) + "\n"
    ), failed


def short(name: str) -> str:
    """Return a class's name without what all have."""
    return name.removesuffix("ForConditionalGeneration").removesuffix("ForCausalLM").rstrip("_")


def page(families: list[str]) -> tuple[str, bool]:
    """Return the table as Markdown, what refusals say, and whether a cell is wrong."""
    from family_cells import CELLS

    lines, reasons, wrong, worst = [("", *(NAMES[name] for name in families))], {}, False, 0.0
    for cell in CELLS:
        line = [cell]
        for name in families:
            word, found = run(cell, name)
            worst, wrong = max(worst, found), wrong or word == "wrong"
            if word == "refused":
                reasons.setdefault(cell, str(reason(cell, name)))
            line.append("refused" if word == "refused" else word)
        lines.append(tuple(line))
    said = "\n".join(f"- {cell}: *{text}*" for cell, text in reasons.items())
    return (
        f"transformers {transformers.__version__}, float32. Largest difference of a logit: {worst:.1e}, where pruning "
        f"itself moves logits by 0.4 to 3.\n\n{table(lines)}\n\nWhat refusals say:\n\n{said}\n"
    ), wrong


def run(cell: str, family: str) -> tuple[str, float]:
    """Return ``ok``, ``refused``, ``wrong`` or ``–`` (no oracle in this release), and the difference of logits."""
    from family_cells import CELLS, REFUSED, UNJUDGED
    from tiny_families import shared_model

    from vlm_bridge import BridgeError

    if (cell, family) in UNJUDGED:
        return "–", 0.0
    try:
        found = CELLS[cell](shared_model(family))
    except BridgeError:
        return ("refused" if (cell, family) in REFUSED else "wrong"), 0.0
    except (AssertionError, RuntimeError, ValueError):
        return "wrong", 0.0
    return ("ok" if found <= 1e-5 else "wrong"), found


def reason(cell: str, family: str) -> str | None:
    """Return what the bridge says when it refuses."""
    from family_cells import CELLS
    from tiny_families import shared_model

    from vlm_bridge import BridgeError

    try:
        CELLS[cell](shared_model(family))
    except BridgeError as error:
        return str(error)
    return None
