"""What relevance is measured against: the question, without what surrounds it.

Evaluation scripts cut a prompt down before they measure relevance, each in its own way, and it changes the
tokens that are kept. Here it is a function of the caller's choice: ``prune(..., clean=clean_prompt)``.
"""

from __future__ import annotations

import re

INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "Please answer yes or no.",
)
"""Instructions that benchmarks put after the question. CDPruner's evaluation cuts the first one off."""

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

FUNCTION_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "between",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "done",
        "for",
        "from",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "yes",
        "you",
        "your",
        "yours",
    ]
)
"""English words that name nothing to look at."""


def clean_prompt(text: str) -> str:
    """The question alone: no system sentence, no role marks, no answering instruction.

    >>> clean_prompt("USER: What is left of the cup?\\nAnswer the question using a single word or phrase. ASSISTANT:")
    'What is left of the cup?'
    """
    text = _SYSTEM.sub("", text)
    text = _ROLES.sub(" ", text)
    for instruction in INSTRUCTIONS:
        text = re.sub(re.escape(instruction), " ", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip()


def content_words(text: str) -> str:
    """The words of the cleaned prompt that may name something to look at; all of them if none does.

    A stand-in for the nouns that ResPrune reads, without a tagger: function words are left out.

    >>> content_words("USER: What is the colour of the small cup? ASSISTANT:")
    'colour small cup'
    """
    cleaned = clean_prompt(text)
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", cleaned)
    return " ".join(word for word in words if word.lower() not in FUNCTION_WORDS) or cleaned
