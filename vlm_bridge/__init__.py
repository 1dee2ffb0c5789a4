"""Pruning the live visual tokens of vision-language models.

The bridge knows where a model keeps its visual tokens and how to give it fewer; `cssp` knows which to choose.

>>> with vlm_bridge.prune(model, keep=64) as report:  # doctest: +SKIP
...     model.generate(**inputs)
"""

from vlm_bridge.budget import AtMost, PerTile, Shared, Spectral
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune, prune_inputs
from vlm_bridge.live.verify import Verification, verify
from vlm_bridge.pruners import PRUNERS
from vlm_bridge.pruners.relevance import Relevance
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.merge import Merged, merge_tokens
from vlm_bridge.selection.prompts import clean_prompt, content_words
from vlm_bridge.selection.tokens import select_tokens

__all__ = [
    "PRUNERS",
    "AtMost",
    "BridgeError",
    "Merged",
    "PerTile",
    "Relevance",
    "Report",
    "Shared",
    "Spectral",
    "Verification",
    "clean_prompt",
    "content_words",
    "merge_tokens",
    "prune",
    "prune_inputs",
    "select_tokens",
    "verify",
]
