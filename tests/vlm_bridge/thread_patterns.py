"""Calls of one model from several threads at a time, each compared with the same call made alone.

A pattern is a model, what is asked of `prune`, and one or more works, which the threads share out; each thread has
images, sizes and words of its own. ``python -m analysis threads`` runs all patterns and prints the table.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from tiny_families import family_call, family_model
from tiny_qwen import deep_llava
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from vlm_bridge import BridgeError, prune, prune_inputs

STEPS = 4
Answer = list[Tensor]
Work = Callable[[Any, int], Answer]
_DICT = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False, "max_new_tokens": STEPS}


@cache
def inputs_of(model: Any, thread: int) -> dict[str, Any]:
    """What a thread asks: one or two prompts of one or two images."""
    images, words = (((1,), (4,)), ((1, 1), (9, 5)), ((2,), (6,)), ((1, 2), (3, 7)))[thread % 4]
    return family_call(model, images, words, seed=20 + thread).inputs


def words_of(model: Any, thread: int) -> dict[str, Any]:
    """A prompt without images."""
    g = torch.Generator().manual_seed(60 + thread)
    ids = torch.randint(10, 100, (1 + thread % 2, 5 + thread), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# works --------------------------------------------------------------------------------------------


def _answer(out: Any) -> Answer:
    return [out.sequences, *out.logits]


def generate(**options: Any) -> Work:
    """`generate` with images and these options."""
    return lambda model, thread: _answer(model.generate(**inputs_of(model, thread), **{**_DICT, **options}))


def text(model: Any, thread: int) -> Answer:
    """`generate` without images."""
    return _answer(model.generate(**words_of(model, thread), **_DICT))


@torch.no_grad()
def forward(model: Any, thread: int) -> Answer:
    """One call with images."""
    return [model(**inputs_of(model, thread)).logits]


@torch.no_grad()
def text_forward(model: Any, thread: int) -> Answer:
    """One call without images."""
    return [model(**words_of(model, thread)).logits]


@torch.no_grad()
def by_hand(model: Any, thread: int) -> Answer:
    """Decoding on the cache that a call with images returns."""
    out = model(**inputs_of(model, thread))
    found = [out.logits[:, -1]]
    for _ in range(STEPS):
        best = found[-1].argmax(-1, keepdim=True)
        out = model(input_ids=best, past_key_values=out.past_key_values)
        found.append(out.logits[:, -1])
    return found


class _Draw(LogitsProcessor):
    """Leaves one token, drawn with a generator of its own: sampling with a seed per thread."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        drawn = torch.multinomial(scores.softmax(-1), 1, generator=self.generator)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def sampling(model: Any, thread: int) -> Answer:
    """Sampled answers, with a seed per thread."""
    draw = LogitsProcessorList([_Draw(seed=thread)])
    return generate(do_sample=True, top_k=0, num_return_sequences=2, logits_processor=draw)(model, thread)


class _Words:
    """A tokenizer of numbers."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(f"{int(i)} " for i in ids)


def streamer(model: Any, thread: int) -> Answer:
    """`generate` in a thread of its own, read here while it goes on."""
    said, failed = TextIteratorStreamer(_Words(), timeout=60), []
    inputs = family_call(model, (1,), (4 + thread % 4,), seed=20 + thread).inputs

    def run() -> None:
        try:
            model.generate(**inputs, **_DICT, streamer=said)
        except Exception as error:
            failed.append(error)
            said.end()

    inner = threading.Thread(target=run)
    inner.start()
    words = "".join(said).split()
    inner.join()
    if failed:
        raise failed[0]
    return [torch.tensor([int(word) for word in words])]


class Meddling(LogitsProcessor, BaseStreamer):
    """A processor, criterion, streamer and function of prefixes that asks the model something else at each step."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self.ask, self.said = ask, []

    def __call__(self, ids: Any, scores: Any) -> Any:
        self.said += self.ask()
        return scores

    def put(self, value: Tensor) -> None:
        self.said += self.ask()

    def end(self) -> None:
        self.said += self.ask()

    def allowed(self, prompt: int, ids: Tensor) -> list[int]:
        self.said += self.ask()
        return list(range(10, 100))


class _Never(Meddling):
    """The stopping criterion, which never stops."""

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Tensor:
        self.said += self.ask()
        return torch.zeros(len(ids), dtype=torch.bool)


PLACES = ("processor", "criterion", "streamer", "prefix")


def meddling(place: str, inner: Work, outer: Callable[[Any, int], dict[str, Any]] = inputs_of) -> Work:
    """`generate` of what `outer` gives, whose callback at `place` makes calls of its own, `inner`, on another image."""

    def work(model: Any, thread: int) -> Answer:
        meddler = (_Never if place == "criterion" else Meddling)(lambda: inner(model, thread + 4))
        options = {
            "processor": {"logits_processor": LogitsProcessorList([meddler])},
            "criterion": {"stopping_criteria": [meddler]},
            "streamer": {"streamer": meddler},
            "prefix": {"prefix_allowed_tokens_fn": meddler.allowed},
        }[place]
        return _answer(model.generate(**outer(model, 0), **_DICT, **options)) + meddler.said

    return work


def rewritten(method: str) -> Work:
    """`prune_inputs`, and the model's own `generate`."""

    def work(model: Any, thread: int) -> Answer:
        new, report = prune_inputs(model, inputs_of(model, thread), 5, method, rng=3)
        return [*report.kept, *_answer(model.generate(**new, **_DICT))]

    return work


# patterns -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """A model, what `prune` is given, and what the threads do by turns; `lent` says whether there is a block."""

    model: str
    works: tuple[Work, ...]
    asked: dict[str, Any] = field(default_factory=dict)
    lent: bool = True

    def block(self, model: Any) -> Any:
        """The block in which the calls are made."""
        return prune(model, **{"keep": 5, **self.asked}) if self.lent else nullcontext()


def _inside(method: str, *works: Work, model: str = "deep_llava") -> Pattern:
    return Pattern(model, works, {"keep": 0.5, "method": method})


_image = generate()
PATTERNS = {
    "generate with images": Pattern("llava_next", (_image,)),
    "forward with images": Pattern("llava_next", (forward,)),
    "generate with images, and with text": Pattern("llava", (_image, text)),
    "forward with images, and with text": Pattern("llava", (forward, text_forward)),
    "forward beside generate": Pattern("llava", (forward, _image)),
    "decoding by hand": Pattern("llava", (by_hand,)),
    "folded: generate with images, and with text": Pattern("llava", (_image, text), {"fold": True}),
    "folded by interpolation: forward, by hand, text": Pattern(
        "llava", (forward, by_hand, text_forward), {"fold": "interpolation"}
    ),
    "beams": Pattern("llava", (generate(num_beams=3), _image), {"fold": True}),
    "sampling": Pattern("llava", (sampling,)),
    "streamer": Pattern("llava", (streamer,)),
    "static cache": Pattern("llava", (generate(cache_implementation="static"), _image), {"fold": True}),
    "chunked prefill": Pattern("llava", (generate(prefill_chunk_size=8), by_hand)),
    "prompt lookup": Pattern("llava", (generate(prompt_lookup_num_tokens=2, num_return_sequences=1),)),
    "no cache": Pattern("internvl", (generate(use_cache=False), forward)),
    "fastv": _inside("fastv", _image, generate(num_beams=2), text),
    "fastv without cache": _inside("fastv", generate(use_cache=False), forward),
    "dart": _inside("dart", _image, by_hand),
    "pyramiddrop": _inside("pyramiddrop", _image, forward),
    "sparsevlm": _inside("sparsevlm", _image, forward, by_hand),
    "forward and by hand inside the LLM": _inside("fastv", forward, by_hand, text_forward),
    "Qwen2.5-VL": Pattern("qwen2_5_vl", (_image, by_hand, text, forward)),
    "Qwen2.5-VL, fastv": _inside("fastv", _image, by_hand, text, forward, model="qwen2_5_vl"),
    "Qwen3-VL": Pattern("qwen3_vl", (_image, by_hand, text, forward), {"fold": True}),
    "prune_inputs": Pattern("llava", (rewritten("visionzip"), rewritten("spare")), lent=False),
    "the vision tower is watched": Pattern("llava_next", (_image, forward), {"method": "visionzip"}),
    "calls from callbacks": Pattern(
        "llava", (meddling("processor", forward), meddling("criterion", _image)), {"fold": True}
    ),
    "all of it": Pattern("llava", (_image, forward, by_hand, text), {"fold": True, "method": "vispruner"}),
}
ONE_PROMPT = ("prompt lookup",)


@cache
def shared(name: str) -> Any:
    """The model of a pattern."""
    model = deep_llava() if name == "deep_llava" else family_model(name)
    family_call(model, (1,), (4,))
    return model


def _here(pattern: str, thread: int) -> int:
    """Which inputs a thread gets: prompt lookup takes one prompt at a time."""
    return 2 * thread if pattern in ONE_PROMPT else thread


@contextmanager
def busy(interval: float = 1e-5) -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def equal(got: Answer, want: Answer) -> bool:
    """Tokens bit by bit, logits to 1e-5."""
    return len(got) == len(want) and all(
        a.shape == b.shape
        and (torch.allclose(a, b, rtol=0, atol=1e-5) if a.is_floating_point() else torch.equal(a, b))
        for a, b in zip(got, want, strict=True)
    )


def run(name: str, threads: int = 4, calls: int = 50) -> Counter[str]:
    """How many of the calls of `threads` threads were right, wrong, refused, or failed otherwise."""
    pattern = PATTERNS[name]
    model, works = shared(pattern.model), pattern.works

    def one(thread: int) -> Answer:
        return works[thread % len(works)](model, _here(name, thread))

    alone = []
    for thread in range(threads):
        with pattern.block(model):
            alone.append(one(thread))
    found: list[Counter[str]] = [Counter() for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(thread: int) -> None:
        start.wait(60)
        for _ in range(calls):
            try:
                word = "right" if equal(one(thread), alone[thread]) else "wrong"
            except BridgeError:
                word = "refused"
            except Exception:
                word = "failed"
            found[thread][word] += 1

    with pattern.block(model), busy():
        pool = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
    return sum(found, Counter())
