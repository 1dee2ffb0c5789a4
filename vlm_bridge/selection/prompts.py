"""Cut a prompt down to the question, against which relevance is measured.

Evaluation scripts clean a prompt before they measure relevance, each in its own way, which changes the tokens that are
kept. Here the caller chooses the function: ``prune(..., clean=clean_prompt)``.
"""

from __future__ import annotations

import re

INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "Please answer yes or no.",
)
"""Instructions that benchmarks put after the question; CDPruner's evaluation removes the first one."""

_ROLES = re.compile(
    r"<\|[^|>]*\|>(?:system|user|assistant)?"
    r"|\b(?:SYSTEM|USER|HUMAN|ASSISTANT|GPT)\s*:"
    r"|^\s*(?i:system|user|human|assistant|gpt)\s*:",
    re.MULTILINE,
)
_SYSTEM = re.compile(
    r"(?i)^\s*(?:a chat between a curious (?:human|user) and an artificial intelligence assistant\..*?"
    r"questions\.|you are a helpful assistant\.)\s*"
)

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before being between both but by can
    could did do does doing done for from had has have having he her here hers him his how i if in into
    is it its itself just me more most my no nor not of off on once only or other our out over own same
    she should so some such than that the their them then there these they this those through to too
    under until up very was we were what when where which while who whom whose why will with would yes
    you your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words, which name nothing that could be seen."""


def clean_prompt(text: str) -> str:
    """Remove the system sentence, role marks and answering instructions from a prompt.

    >>> clean_prompt("USER: What is left of the cup?\\nAnswer the question using a single word or phrase. ASSISTANT:")
    'What is left of the cup?'
    """
    text = _SYSTEM.sub("", text)
    text = _ROLES.sub(" ", text)
    for instruction in INSTRUCTIONS:
        text = re.sub(re.escape(instruction), " ", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip()


def content_words(text: str) -> str:
    """Remove function words from the cleaned prompt; keep all words where nothing else would be left.

    This approximates the nouns that ResPrune reads, without a part-of-speech tagger.

    >>> content_words("USER: What is the colour of the small cup? ASSISTANT:")
    'colour small cup'
    """
    cleaned = clean_prompt(text)
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", cleaned)
    return " ".join(word for word in words if word.lower() not in FUNCTION_WORDS) or cleaned
