"""Evaluate any checkpoint by lmms-eval, pruned or not.

``python -m lmms_eval --model vlm_bridge --model_args pretrained=PATH,keep=64,method=spare --tasks ...``

`Chat` takes whole messages from the task and is what lmms-eval prefers. `Simple`, chosen by ``--force_simple``, takes text
and images separately, and is what tasks of likelihoods need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from loguru import logger
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from vlm_bridge.budget import read_keep
from vlm_bridge.chat import Conversation, prepare
from vlm_bridge.cli import load, load_clip
from vlm_bridge.errors import BridgeError
from vlm_bridge.harness.tally import Tally
from vlm_bridge.live.prune import prune

NEW_TOKENS = 1024
"""Longest answer, in tokens, of tasks that set no length."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


class Pruned(lmms):
    """A model for lmms-eval, without the form in which a task passes its data.

    Parameters
    ----------
    pretrained : str
        Folder of a checkpoint, or its name on the hub.
    keep, method, relevance, positions, fold, **options
        As in `vlm_bridge.prune`. ``keep=at-most-64`` stands for ``AtMost(64)``, and ``method="none"`` does not prune.
    clip : str, optional
        A CLIP checkpoint with the model's own vision tower.
    dtype, device, trust_remote_code
        As on the command line of `vlm_bridge`.
    batch_size : int
    seed : int
        For pruners that draw random numbers.
    max_batch_size : optional
        Not used; the harness passes it to every model.
    """

    def __init__(
        self,
        pretrained: str,
        keep: int | float | str = 64,
        method: str = "spare",
        relevance: str | None = None,
        positions: str = "keep",
        fold: bool | str = False,
        clip: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        seed: int = 0,
        trust_remote_code: bool = False,
        max_batch_size: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise BridgeError(
                "vlm_bridge in lmms-eval runs in one process: start it without `accelerate launch`."
            )
        if not str(batch_size).isdigit():
            raise BridgeError(f"batch_size = {batch_size!r}: expected a number.")
        self.batch_size = int(batch_size)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.processor = load(str(pretrained), str(self.device), dtype, trust_remote_code)
        self.method = method
        self.tally = Tally()
        self.options: dict[str, Any] = {
            "keep": read_keep(keep) if isinstance(keep, str) else keep,
            "method": method,
            "relevance": relevance,
            "positions": positions,
            "fold": fold,
            "processor": self.processor,
            "rng": np.random.default_rng(seed),
            **options,
        }
        if clip:
            self.options["clip"] = load_clip(clip, str(self.device))
        with self.pruned():  # so that a wrong option is named before the data are read
            pass

    @contextmanager
    def pruned(self) -> Iterator[None]:
        """Prune the model inside the block, and add what was done to the tally."""
        if self.method == "none":
            yield
            return
        with prune(self.model, **self.options) as report, torch.no_grad():
            yield
        self.tally.add(report)

    def document(self, task: str, split: str, doc_id: int) -> Any:
        """Return one document of a task's data."""
        return self.task_dict[task][split][doc_id]

    def conversation(self, args: tuple[Any, ...]) -> Conversation:
        """Return the conversation that a request asks to continue."""
        raise NotImplementedError

    def settings(self, args: tuple[Any, ...]) -> Mapping[str, Any]:
        """Return the generation settings of a request."""
        raise NotImplementedError

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer requests, in batches of equal settings; return the answers in the order of the data."""
        order = Collator([r.args for r in requests], lambda args: args[3], self.settings, grouping=True)
        found: list[GenerationResult] = []
        start = perf_counter()
        with tqdm(total=len(requests), desc="vlm_bridge", disable=self.rank != 0) as bar:
            for batch in order.get_batched(n=self.batch_size):
                given = self.settings(batch[0])
                with self.pruned():
                    answers = self.answers([self.conversation(args) for args in batch], given)
                for args, answer in zip(batch, answers, strict=True):
                    self.cache_hook.add_partial("generate_until", (args[0], given), answer.text)
                found += answers
                bar.update(len(batch))
        self.log(found, perf_counter() - start)
        return order.get_original(found)

    def answers(self, conversations: list[Conversation], given: Mapping[str, Any]) -> list[GenerationResult]:
        """Answer a batch; answers are cut before the first of the strings in ``given["until"]``."""
        inputs = prepare(self.processor, conversations).to(device=self.device, dtype=self.model.dtype)
        new = self.model.generate(**inputs, **generation(given))[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        ends = [i for i in (self.processor.tokenizer.pad_token_id,) if i is not None]
        counts = [sum(int(i) not in ends for i in row) for row in new]
        return [
            GenerationResult(cut(text, given.get("until")), TokenCounts(output_tokens=count))
            for text, count in zip(texts, counts, strict=True)
        ]

    def log(self, found: Sequence[GenerationResult], seconds: float) -> None:
        """Log speed, kept tokens and cost among the harness's own metrics."""
        tokens = sum(one.token_counts.output_tokens or 0 for one in found if one.token_counts)
        log_metrics(seconds, tokens, tokens / seconds, self.tally.numbers() if self.tally.images else None)
        logger.info(f"vlm_bridge, {self.method}: {self.tally}")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answer all rounds of every request, in one block, so that an image that comes back is chosen from once."""
        found = []
        for request in tqdm(requests, desc="vlm_bridge, rounds", disable=self.rank != 0):
            with self.pruned():
                found.append(self.rounds(*self.first_round(request.args), self.settings(request.args)))
        logger.info(f"vlm_bridge, {self.method}: {self.tally}")
        return found

    def first_round(self, args: tuple[Any, ...]) -> tuple[Conversation, Callable[..., Any]]:
        """Return the first conversation, and a function that gives (conversation, done, outputs, note) of later ones."""
        raise NotImplementedError

    def rounds(
        self, conversation: Conversation, follow: Callable[..., Any], given: Mapping[str, Any]
    ) -> list[str]:
        """Answer round by round, with what the task makes of the answers, until it says that it is done."""
        outputs: list[str] = []
        note = None
        while True:
            outputs.append(self.answers([conversation], given)[0].text)
            payload = follow(round_idx=len(outputs), previous_output=list(outputs), previous_round_info=note)
            conversation, done, changed, note = payload
            outputs = outputs if changed is None else list(changed)
            if done:
                return outputs

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Return the mean negative log-likelihood of each continuation, and whether greedy decoding gives it.

        Sign and scale are those by which the harness compares choices. The choices of a document are scored in one block
        of `prune`, and pruning reads the question, never the continuation.
        """
        if any(len(request.args) < 6 for request in requests):
            raise NotImplementedError("likelihoods without a question (acc_mutual_info) are not supported.")
        found: list[Any] = []
        with tqdm(total=len(requests), desc="vlm_bridge, likelihoods", disable=self.rank != 0) as bar:
            for _, group in groupby((request.args for request in requests), key=lambda args: args[3:]):
                choices = list(group)
                with self.pruned():
                    for first in range(0, len(choices), self.batch_size):
                        found += self.losses(choices[first : first + self.batch_size])
                bar.update(len(choices))
        logger.info(f"vlm_bridge, {self.method}: {self.tally}")
        # lmms-eval 0.7 turns any other pair into a string before it compares choices.
        return [GenerationResult(pair) for pair in found]

    def losses(self, batch: list[tuple[Any, ...]]) -> list[tuple[float, bool]]:
        """Score continuations by a `generate` that is forced to follow them."""
        questions, targets = [], []
        for context, target, visuals, doc_id, task, split in batch:
            doc = self.document(task, split, doc_id)
            questions.append(turn(visuals(doc), context))
            targets.append(target(doc) if callable(target) else target)
        ids = [self.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]
        if not all(ids):
            raise BridgeError(
                f"the continuation {targets[ids.index([])]!r} has no tokens: expected at least one."
            )
        longest = max(map(len, ids))
        words = torch.tensor([row + row[-1:] * (longest - len(row)) for row in ids], device=self.device)
        inputs = prepare(self.processor, questions).to(device=self.device, dtype=self.model.dtype)
        out = self.model.generate(
            **inputs,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([_Forced(words, inputs["input_ids"].shape[1])]),
            output_logits=True,
            return_dict_in_generate=True,
        )
        logs = torch.stack(out.logits, 1).float().log_softmax(-1)
        steps = logs.shape[1]
        losses = -logs.gather(2, words[:, :steps, None])[..., 0]
        greedy = logs.argmax(-1) == words[:, :steps]
        return [
            (float(loss[: len(row)].mean()), bool(same[: len(row)].all()))
            for loss, same, row in zip(losses, greedy, ids, strict=True)
        ]


class Chat(Pruned):
    """A model that takes whole messages: ``(context, messages of a document, settings, document, task, split)``."""

    is_simple = False

    def settings(self, args: tuple[Any, ...]) -> Mapping[str, Any]:
        """Return the generation settings of a request."""
        return args[2]

    def conversation(self, args: tuple[Any, ...]) -> Conversation:
        """Return the task's messages."""
        _, messages, _, doc_id, task, split = args
        return _read(messages(self.document(task, split, doc_id)))

    def first_round(self, args: tuple[Any, ...]) -> tuple[Conversation, Callable[..., Any]]:
        """Return the first conversation; the task's messages say when to stop."""
        _, messages, _, doc_id, task, split = args
        doc = self.document(task, split, doc_id)

        def follow(**round_: Any) -> tuple[Any, ...]:
            payload = messages(doc, **round_)
            if not (isinstance(payload, tuple) and len(payload) == 4):
                return None, True, None, None  # a task of one round
            return payload[0] and _read(payload[0]), *payload[1:]

        return _read(messages(doc)), follow


class Simple(Pruned):
    """A model that takes text and images separately: ``(context, settings, images of a document, document, task, split)``."""

    is_simple = True

    def settings(self, args: tuple[Any, ...]) -> Mapping[str, Any]:
        """Return the generation settings of a request."""
        return args[1]

    def conversation(self, args: tuple[Any, ...]) -> Conversation:
        """Put the images in front of the context."""
        context, _, visuals, doc_id, task, split = args
        return turn(visuals(self.document(task, split, doc_id)), context)

    def first_round(self, args: tuple[Any, ...]) -> tuple[Conversation, Callable[..., Any]]:
        """Return the first conversation; the task's text says when to stop."""
        context, _, visuals, text_of, doc_id, task, split = args
        doc = self.document(task, split, doc_id)

        def follow(**round_: Any) -> tuple[Any, ...]:
            shown, text, done, outputs, note = text_of(doc, **round_)
            return turn(shown, text), done, outputs, note

        return turn(visuals(doc), context), follow


class _Forced(LogitsProcessor):
    """Force the given words (B, T) to follow a prompt of `length` tokens."""

    def __init__(self, words: Tensor, length: int) -> None:
        self.words, self.length = words, length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.length
        return torch.full_like(scores, -torch.inf).scatter(1, self.words[:, step : step + 1], 0)


def turn(visuals: Sequence[Any] | None, text: str) -> Conversation:
    """Make a conversation of one message: images, and files of videos, then text."""
    content = [
        {"type": "image", "image": one.convert("RGB")}
        if isinstance(one, Image.Image)
        else {"type": "video", "video": one}
        for one in visuals or ()
    ]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _read(messages: Any) -> Conversation:
    """Convert the harness's messages to the form that processors read."""
    found = ChatMessages(messages=messages).to_hf_messages()
    for item in (item for message in found for item in message["content"]):
        if isinstance(item.get("image"), Image.Image):
            item["image"] = item["image"].convert("RGB")
    return found


def generation(given: Mapping[str, Any]) -> dict[str, Any]:
    """Select the arguments of `generate` among a task's settings; greedy unless a temperature is set."""
    known = GenerationConfig()
    found = {name: value for name, value in given.items() if hasattr(known, name) and value is not None}
    if found.get("max_new_tokens") is None:
        found["max_new_tokens"] = given.get("max_gen_toks", NEW_TOKENS)
    sample = found.get("do_sample", "temperature" in found) and found.get("temperature") != 0
    if not sample:
        found = {name: value for name, value in found.items() if name not in _SAMPLING}
    return {**found, "do_sample": bool(sample)}


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Cut a text before the first of some strings."""
    for end in [until] if isinstance(until, str) else until or ():
        if end:
            text = text.split(end)[0]
    return text
