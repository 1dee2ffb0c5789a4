"""A self-check for any checkpoint: does this model, pruned, compute what it should?

The judge is the unpruned model itself. What its decoder is given (rows and positions) is seen from outside, by a hook;
nothing that the bridge knows of the family goes into the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedConfig

from vlm_bridge.chat import prepare, question
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.prune import prune
from vlm_bridge.live.rewrite import Settings, rewrite
from vlm_bridge.live.session import Replaced
from vlm_bridge.model.families import decoder_of, find_family, recurrent_layers
from vlm_bridge.model.layout import Layout
from vlm_bridge.model.prompt import has_visuals
from vlm_bridge.model.wrappers import model_inside
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting.report import Report

Outcome = Literal["right", "wrong", "refused", "cannot tell"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes
    ----------
    name : str
    outcome : {"right", "wrong", "refused", "cannot tell"}
    said : str
        In words, with the numbers.
    difference : float, optional
        Largest absolute difference of a logit.
    """

    name: str
    outcome: Outcome
    said: str
    difference: float | None = None


@dataclass(frozen=True)
class Verification:
    """What `verify` found; printed, it is a report in words.

    Attributes
    ----------
    model : str
        The model's class.
    checks : tuple of Check
    effect : float
        How far pruning moves a logit of the first answered token.
    tolerance : float
        Differences up to here are rounding.
    recurrent : tuple of str
        Types of the decoder's layers that carry a state; with any, a dropped token is one that is never fed.
    """

    model: str
    checks: tuple[Check, ...]
    effect: float = 0.0
    tolerance: float = 0.0
    recurrent: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was tried is right."""
        return all(check.outcome == "right" for check in self.checks)

    def __str__(self) -> str:
        meaning = (
            f"Its layers of type {', '.join(self.recurrent)} carry a state from token to token: a dropped token is one "
            "that is never fed, and the judge is the model given the shorter sequence."
            if self.recurrent
            else "A dropped token is one that nothing looks at: the judge is the model with those tokens masked out."
        )
        lines = [f"{self.model}: {'right' if self.ok else 'not right'}.", meaning]
        if self.effect:
            lines.append(
                f"Pruning moves logits by {self.effect:.2g}; up to {self.tolerance:.1g} is rounding."
            )
        return "\n".join(
            [*lines, *(f"  {check.outcome:11s} {check.name}: {check.said}" for check in self.checks)]
        )


def verify(
    model: Any,
    processor_or_inputs: Any,
    keep: Any = 0.5,
    method: str = "spare",
    *,
    steps: int = 4,
    **options: Any,
) -> Verification:
    """Check on this very model that pruning computes what it should. Run it first on a checkpoint that is new to you.

    Checked are: ``keep=1.0`` changes nothing, in `forward` and `generate`; the pruned `forward` equals the unpruned
    model with the dropped tokens masked out at their original positions (or, with recurrent layers, given the
    shorter sequence); `generate` equals `forward`, token by token; and nothing is left on the model.

    Parameters
    ----------
    model : PreTrainedModel
        Best in float32: rounding in half precision hides small faults, and the report then says so.
    processor_or_inputs : processor, or mapping
        With a processor two drawn images and questions are used, as a batch; or give the inputs of a call of yours.
    keep, method, **options
        As of `prune`, `positions` and `rng` aside; a method that merges tokens or acts inside the LLM has another right
        answer, and is refused.
    steps : int
        Tokens to answer.

    Returns
    -------
    Verification
        ``print`` it; `ok` says whether all is right. A refusal of the bridge is a check of its own, not an error.

    Raises
    ------
    BridgeError
        The inputs show no image or video; a method with another right answer.

    Examples
    --------
    >>> print(vlm_bridge.verify(model, processor))  # doctest: +SKIP
    Qwen2_5_VLForConditionalGeneration: right.
    ...
    """
    row = find_pruner(method)
    if row.inside is not None or row.merges or options.get("fold"):
        raise BridgeError(
            f"method = {method!r}{', fold' if options.get('fold') else ''}: expected a pruner that chooses tokens in "
            "front of the LLM and leaves them as they are, such as 'spare', 'divprune' or 'uniform_grid'."
        )
    if options.get("positions", "keep") != "keep":
        raise BridgeError(
            f"positions = {options['positions']!r}: expected 'keep', since the judge has the dropped tokens masked out at "
            "their original positions; leave it out."
        )
    name = type(model).__name__
    try:
        model = model_inside(model)
        name = type(model).__name__
        inputs = _inputs(model, processor_or_inputs)
        return _Trial(model, inputs, {"keep": keep, "method": method, **options}, steps).run()
    except BridgeError as error:
        return Verification(name, (Check("this model", "refused", str(error)),))


class _Trial:
    """One model, one call, and what the unpruned model makes of it."""

    def __init__(self, model: Any, inputs: dict[str, Any], asked: dict[str, Any], steps: int) -> None:
        self.model, self.inputs, self.asked, self.steps = model, inputs, asked, steps
        self.decoder = decoder_of(model, find_family(model))
        self.recurrent = recurrent_layers(model)
        self.checks: list[Check] = []

    @torch.no_grad()
    def run(self) -> Verification:
        """Try everything, in plain greedy decoding, whatever the model's own generation config asks for."""
        with prune(self.model, **self.asked):
            pass  # is refused now, where it is refused at all
        own = getattr(self.model, "generation_config", None)
        plain = GenerationConfig(pad_token_id=getattr(own, "pad_token_id", None), use_cache=True)
        plainly = Replaced(self.model, "generation_config", plain)
        try:
            return self._run()
        finally:
            plainly.remove()

    def _run(self) -> Verification:
        try:
            with self._watched() as seen:
                plain = self._generate()
        except Exception as error:
            raise BridgeError(
                f"the unpruned model does not answer these inputs: {type(error).__name__}: {error}"
            ) from error
        before = _marks(self.model)  # transformers leaves hooks of its own on its first use
        self.seen = [{k: v.clone() if isinstance(v, Tensor) else v for k, v in one.items()} for one in seen]
        full = self.model(**self.inputs).logits
        lowest = torch.finfo(full.dtype).min / 2  # of tokens that are never to be said
        scale = float(full[full > lowest].abs().max())
        wide = full.dtype in (torch.float32, torch.float64)
        self.tolerance = (64 if wide else 16) * torch.finfo(full.dtype).eps * scale
        mask = self._mask().bool().to(full.device)
        again = float((self.model(**self.inputs).logits - full)[mask].abs().max())
        if not again <= self.tolerance:
            raise BridgeError(
                f"the unpruned model answers the same call differently from one time to the next, by {again:.1e} in a "
                f"logit, expected up to {self.tolerance:.1e}: call model.eval(), which switches dropout off, and look for "
                "random numbers and NaN in it."
            )

        def forward(**changes: Any) -> Tensor:
            with prune(self.model, **{**self.asked, "rng": 0, **changes}):
                return self.model(**self.inputs).logits

        def generate(**changes: Any) -> Any:
            with prune(self.model, **{**self.asked, "rng": 0, **changes}):
                return self._generate()

        def all_forward() -> Tensor:
            return (forward(keep=1.0, tol=None) - full)[mask]

        def all_generate() -> Tensor:
            return _logits(generate(keep=1.0, tol=None)) - _logits(plain)

        self._check("forward with keep=1.0 equals the unpruned model", all_forward)
        self._check("generate with keep=1.0 equals the unpruned model", all_generate)
        effect = 0.0
        try:
            answer, logits = generate(), forward()
            tokens = answer.sequences[:, -self.steps :]
            first, later = self._judge(self._layout(), tokens)
            effect = float((_logits(answer)[:, 0] - _logits(plain)[:, 0]).abs().max())
            self._check("the pruned forward equals " + self._judged_by(), lambda: first(logits), effect)
            self._check("generate equals forward, token by token", lambda: _logits(answer) - later, effect)
        except BridgeError as error:
            self.checks.append(Check("pruning", "refused", str(error)))
        after = _marks(self.model)
        left = sorted(name for name in before | after if before.get(name) != after.get(name))
        word: Outcome = "wrong" if left else "right"
        said = f"changed: {', '.join(left)}" if left else "no hook and no attribute"
        self.checks.append(Check("nothing is left on the model", word, said))
        return Verification(
            type(self.model).__name__, tuple(self.checks), effect, self.tolerance, self.recurrent
        )

    def _check(self, name: str, differences: Callable[[], Tensor], effect: float | None = None) -> None:
        """Run one check, and say what came out."""
        try:
            found = float(differences().abs().max())
        except BridgeError as error:
            self.checks.append(Check(name, "refused", str(error)))
            return
        said = f"largest difference of a logit {found:.1e}"
        outcome: Outcome = "right" if found <= self.tolerance else "wrong"
        if outcome == "right" and effect is not None and effect < 4 * self.tolerance:
            outcome = "cannot tell"
            said += (
                f", but pruning itself moves logits by {effect:.1e} only, and {self.tolerance:.1e} may be rounding: "
                "load the model in float32, keep less, or use an image that matters to the question"
            )
        self.checks.append(Check(name, outcome, said, found))

    def _generate(self) -> Any:
        return self.model.generate(
            **self.inputs,
            max_new_tokens=self.steps,
            min_new_tokens=self.steps,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )

    @contextmanager
    def _watched(self) -> Iterator[list[dict[str, Any]]]:
        """What the decoder is called with, call by call."""
        seen: list[dict[str, Any]] = []
        handle = self.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True
        )
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def _fed(self, row: int, columns: Tensor) -> Iterator[None]:
        """In its next prompt the decoder is given the rows that it was given in some columns of the full one."""
        rows = {name: self.seen[0].get(name) for name in ("inputs_embeds", "per_layer_inputs")}
        rows = {name: whole[row : row + 1, columns] for name, whole in rows.items() if whole is not None}

        def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            handle.remove()
            return args, {**kwargs, **rows}

        handle = self.decoder.register_forward_pre_hook(swap, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _mask(self) -> Tensor:
        given = self.inputs.get("attention_mask")
        return torch.ones_like(self.inputs["input_ids"]) if given is None else given

    def _layout(self) -> Layout:
        """Which columns of the prompt are left."""
        known = {field.name for field in fields(Settings)}
        own = {name: value for name, value in self.asked.items() if name in known}
        given = {name: value for name, value in self.asked.items() if name not in known}
        settings = Settings(**own, given=given)
        done = rewrite(self.model, self.inputs, settings, np.random.default_rng(0), Report("verify"))
        assert done is not None
        return done.layout

    def _judged_by(self) -> str:
        return (
            "the model given the shorter sequence"
            if self.recurrent
            else "the model with dropped tokens masked out"
        )

    def _judge(self, layout: Layout, tokens: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The right logits: a function that compares those of the pruned prompt, and those behind each token."""
        there = layout.source >= 0
        if not self.recurrent:
            stay = torch.zeros_like(self._mask(), dtype=torch.bool)
            rows = torch.arange(len(stay), device=stay.device)[:, None].expand_as(there)
            stay[rows[there], layout.source[there]] = True
            inputs = {**self.inputs, "attention_mask": stay.long()}
            prompt, later = self._decoded(inputs, tokens, stay, lambda kept: kept)
            want = prompt[rows[there], layout.source[there]]
            return lambda logits: logits[there] - want, later
        prompts, laters = [], []
        for row, columns in enumerate(layout.source):
            columns = columns[columns >= 0]
            ids = self.inputs["input_ids"][row : row + 1, columns]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            cut = partial(_of_row, row=row, columns=columns)
            with self._fed(row, columns):
                prompt, later = self._decoded(inputs, tokens[row : row + 1], inputs["attention_mask"], cut)
            prompts.append(prompt[0])
            laters.append(later)
        return lambda logits: logits[there] - torch.cat(prompts), torch.cat(laters)

    def _decoded(
        self, inputs: dict[str, Any], tokens: Tensor, stay: Tensor, cut: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits of the prompt, and those behind each of `tokens`, which are fed one after the other."""
        cache = DynamicCache(config=self.model.config.get_text_config())
        whole = {**inputs, **self._positions(0, cut)}
        answer = self.model(**whole, past_key_values=cache, use_cache=True)
        prompt, found, mask = answer.logits, [answer.logits[:, -1]], stay.long()
        for step in range(1, self.steps):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            answer = self.model(
                input_ids=tokens[:, step - 1 : step],
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **self._positions(step, cut),
            )
            found.append(answer.logits[:, -1])
        return prompt, torch.stack(found, dim=1)

    def _positions(self, step: int, cut: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Positions as the unpruned model's decoder was given them at this step; none where it counts itself."""
        given = self.seen[step].get("position_ids")
        if given is None and not self.recurrent:
            return {}
        if given is None:
            length = self.seen[0]["inputs_embeds"].shape[1]
            batch = len(self._mask())
            start = 0 if step == 0 else length + step - 1
            given = torch.arange(start, start + (length if step == 0 else 1)).expand(batch, -1)
        return {"position_ids": cut(given.to(self._mask().device))}


def _of_row(positions: Tensor, row: int, columns: Tensor) -> Tensor:
    """One row's positions, of some columns where there are as many as in the prompt."""
    own = positions[..., row : row + 1, :] if positions.shape[-2] > 1 else positions
    return own[..., columns] if own.shape[-1] > 1 else own


def _logits(answer: Any) -> Tensor:
    """(B, steps, vocabulary)."""
    return torch.stack(tuple(answer.logits), dim=1)


def _marks(model: Any) -> dict[str, Any]:
    """Numbers of hooks of all modules, and which functions and configurations are attributes of theirs."""
    slots = ("_forward_pre_hooks", "_forward_hooks")
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        where = name or "the model"
        found[f"hooks of {where}"] = tuple(len(getattr(module, slot)) for slot in slots)
        for attribute, value in vars(module).items():
            if callable(value) or isinstance(value, PreTrainedConfig):
                found[f"{attribute} of {where}"] = id(value)
    return found


def _inputs(model: Any, given: Any) -> dict[str, Any]:
    """The call to be tried."""
    if isinstance(given, Mapping):
        inputs = dict(given)
    else:
        y, x = np.mgrid[0:224, 0:320] / 224
        waves = np.stack([np.sin(9 * x + 3 * y), np.cos(12 * y * x), np.sin(20 * y)], axis=-1)
        rings = np.stack([np.sin(40 * np.hypot(x - c, y - 0.5)) for c in (0.4, 0.7, 1.0)], axis=-1)
        images = [np.uint8(127 * (one + 1)) for one in (waves, rings[:, :224])]
        texts = ("What is shown here?", "Describe the picture in one short sentence.")
        inputs = dict(
            prepare(given, [question([image], text) for image, text in zip(images, texts, strict=True)])
        )
    if not has_visuals(inputs) or inputs.get("input_ids") is None:
        raise BridgeError(
            "verify: expected inputs with input_ids and an image or video, as a processor gives them."
        )
    dtype, device = model.dtype, model.device
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }
