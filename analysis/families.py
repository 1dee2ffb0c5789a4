"""The table of model families: every feature on every family, run against the masking oracle.

``python -m analysis families --docs docs`` writes it. The cells are those of the tests, on tiny random models: a pruned
run must equal the unpruned model with the dropped tokens masked out where they are, token for token.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

from .benchmarks.tables import table

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


def main(out: Path, docs: Path | None, names: list[str] | None = None) -> int:
    """Run all cells, print and write the table; 1 where a cell is wrong."""
    sys.path.insert(0, str(TESTS))
    from tiny_families import FAMILIES

    torch.set_num_threads(1)
    text, wrong = page([name for name in FAMILIES if names is None or name in names])
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "families.md").write_text(text)
    if docs is not None:
        (docs / "families.inc").write_text(text)
    return int(wrong)


def page(families: list[str]) -> tuple[str, bool]:
    """The table as Markdown, what refusals say, and whether a cell is wrong."""
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
    """``ok``, ``refused``, ``wrong`` or ``–`` (no oracle in this release), and the difference of logits."""
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
    """What the bridge says when it refuses."""
    from family_cells import CELLS
    from tiny_families import shared_model

    from vlm_bridge import BridgeError

    try:
        CELLS[cell](shared_model(family))
    except BridgeError as error:
        return str(error)
    return None
