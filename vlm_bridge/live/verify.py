"""Check that a model, pruned, computes what it should, with the unpruned model as the judge: `verify`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from vlm_bridge.chat import prepare, question
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.judge import Judge
from vlm_bridge.live.prune import prune
from vlm_bridge.live.rewrite import rewrite
from vlm_bridge.live.session import Replaced
from vlm_bridge.live.settings import Settings
from vlm_bridge.model.layout import Layout
from vlm_bridge.model.prompt import has_visuals
from vlm_bridge.model.wrappers import model_inside
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.given import signals_and_options

Outcome = Literal["right", "wrong", "refused", "cannot tell"]


@dataclass(frozen=True)
class Check:
    """One check of `verify` and its outcome.

    Attributes
    ----------
    name : str
    outcome : {"right", "wrong", "refused", "cannot tell"}
    said : str
        The outcome in words, with its numbers.
    difference : float, optional
        Largest absolute difference of a logit.
    """

    name: str
    outcome: Outcome
    said: str
    difference: float | None = None


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`; ``print`` shows it in words.

    Attributes
    ----------
    model : str
        The model's class.
    checks : tuple of Check
    effect : float
        Largest change by pruning of a logit of the first answered token.
    tolerance : float
        Differences of logits up to this are taken for rounding.
    recurrent : tuple of str
        Types of the decoder's layers that carry a state from token to token. Where there are any, a dropped token is
        one that is never fed; else it is one that is masked out.
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
    """Check on a checkpoint that pruning computes what it should; run it first on one that is new to you.

    Checked are: ``keep=1.0`` changes nothing, in `forward` and `generate`; the pruned `forward` equals the unpruned
    model with the dropped tokens masked out at their original positions (or, with recurrent layers, given the
    shorter sequence); `generate` equals `forward`, token by token; and nothing is left on the model.

    Parameters
    ----------
    model : PreTrainedModel
        Best in float32: rounding in half precision hides small faults, and the report then says so.
    processor_or_inputs : processor, or mapping
        With a processor, two synthetic images with questions are used, as a batch; or pass the inputs of a call.
    keep, method, **options
        As in `prune`, without `positions` and `rng`. A pruner that merges tokens or acts inside the LLM has another right
        answer, and is refused.
    steps : int
        Number of tokens to answer.

    Returns
    -------
    Verification
        ``print`` it; `ok` says whether all is right. A model that the bridge refuses is an outcome, not an error.

    Raises
    ------
    BridgeError
        A pruner with another right answer, or positions other than "keep".

    Examples
    --------
    >>> print(vlm_bridge.verify(model, processor))  # doctest: +SKIP
    Qwen2_5_VLForConditionalGeneration: right.
    ...
    """
    pruner = find_pruner(method)
    if pruner.inside is not None or pruner.merges or options.get("fold"):
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
    """One model and one call, tried pruned and judged by the unpruned model."""

    def __init__(self, model: Any, inputs: dict[str, Any], asked: dict[str, Any], steps: int) -> None:
        self.model, self.inputs, self.asked = model, inputs, asked
        self.judge = Judge(model, inputs, steps)
        self.checks: list[Check] = []

    @torch.no_grad()
    def run(self) -> Verification:
        """Run all checks in plain greedy decoding, whatever the model's own generation config asks for."""
        with prune(self.model, **self.asked):
            pass  # raises now where the model is refused
        config = getattr(self.model, "generation_config", None)
        greedy = GenerationConfig(pad_token_id=getattr(config, "pad_token_id", None), use_cache=True)
        replaced = Replaced(self.model, "generation_config", greedy)
        try:
            return self._run()
        finally:
            replaced.remove()

    def _run(self) -> Verification:
        """Answer unpruned, then check what pruning does and what it leaves behind."""
        try:
            self.plain = _logits(self.judge.answer())
        except Exception as error:
            raise BridgeError(
                f"the unpruned model does not answer these inputs: {type(error).__name__}: {error}"
            ) from error
        before = _marks(self.model)  # transformers adds hooks of its own on its first use
        self.full = self.model(**self.inputs).logits
        self.mask = self.judge.mask.bool().to(self.full.device)
        self.tolerance = self._rounding()
        self._check_nothing_dropped()
        effect = self._check_pruned()
        after = _marks(self.model)
        left = sorted(name for name in before | after if before.get(name) != after.get(name))
        outcome: Outcome = "wrong" if left else "right"
        said = f"changed: {', '.join(left)}" if left else "no hook and no attribute"
        self.checks.append(Check("nothing is left on the model", outcome, said))
        name = type(self.model).__name__
        return Verification(name, tuple(self.checks), effect, self.tolerance, self.judge.recurrent)

    def _rounding(self) -> float:
        """Return the difference of logits that may be rounding; refuse a model that does not repeat its answer."""
        dtype = torch.finfo(self.full.dtype)
        scale = float(
            self.full[self.full > dtype.min / 2].abs().max()
        )  # lower: tokens that are never to be said
        tolerance = (64 if dtype.bits >= 32 else 16) * dtype.eps * scale
        again = float((self.model(**self.inputs).logits - self.full)[self.mask].abs().max())
        if not again <= tolerance:
            raise BridgeError(
                f"the unpruned model answers the same call differently from one time to the next, by {again:.1e} in a "
                f"logit, expected up to {tolerance:.1e}: call model.eval(), which switches dropout off, and look for "
                "random numbers and NaN in it."
            )
        return tolerance

    def _forward(self, **changes: Any) -> Tensor:
        """Return the logits (B, L', vocabulary) of a pruned `forward`."""
        with prune(self.model, **{**self.asked, "rng": 0, **changes}):
            return self.model(**self.inputs).logits

    def _generate(self, **changes: Any) -> Any:
        """Return the output of a pruned `generate`."""
        with prune(self.model, **{**self.asked, "rng": 0, **changes}):
            return self.judge.generate()

    def _check_nothing_dropped(self) -> None:
        """Check that keeping all tokens changes nothing."""

        def forward() -> Tensor:
            return (self._forward(keep=1.0, tol=None) - self.full)[self.mask]

        def generate() -> Tensor:
            return _logits(self._generate(keep=1.0, tol=None)) - self.plain

        self._check("forward with keep=1.0 equals the unpruned model", forward)
        self._check("generate with keep=1.0 equals the unpruned model", generate)

    def _check_pruned(self) -> float:
        """Check pruned `forward` and `generate`; return how far pruning moves a logit of the first answered token."""
        effect = 0.0
        try:
            answer, logits, layout = self._generate(), self._forward(), self._layout()
            answered = _logits(answer)
            tokens = answer.sequences[:, -self.judge.steps :]
            prompt, later = self.judge.expected(layout, tokens)
            effect = float((answered[:, 0] - self.plain[:, 0]).abs().max())
            name = f"the pruned forward equals {self.judge.words}"
            self._check(name, lambda: logits[layout.source >= 0] - prompt, effect)
            self._check("generate equals forward, token by token", lambda: answered - later, effect)
        except BridgeError as error:
            self.checks.append(Check("pruning", "refused", str(error)))
        return effect

    def _check(self, name: str, differences: Callable[[], Tensor], effect: float | None = None) -> None:
        """Run one check, and note its outcome."""
        try:
            largest = float(differences().abs().max())
        except BridgeError as error:
            self.checks.append(Check(name, "refused", str(error)))
            return
        said = f"largest difference of a logit {largest:.1e}"
        outcome: Outcome = "right" if largest <= self.tolerance else "wrong"
        if outcome == "right" and effect is not None and effect < 4 * self.tolerance:
            outcome = "cannot tell"
            said += (
                f", but pruning itself moves logits by {effect:.1e} only, and {self.tolerance:.1e} may be rounding: "
                "load the model in float32, keep less, or use an image that matters to the question"
            )
        self.checks.append(Check(name, outcome, said, largest))

    def _layout(self) -> Layout:
        """Return the layout of the pruned prompt."""
        known = {field.name for field in fields(Settings)}
        named = {name: value for name, value in self.asked.items() if name in known}
        signals, options = signals_and_options({k: v for k, v in self.asked.items() if k not in known})
        settings = Settings(**named, signals=signals, options=options)
        done = rewrite(self.model, self.inputs, settings, np.random.default_rng(0), Report("verify"))
        assert done is not None
        return done.layout


def _logits(answer: Any) -> Tensor:
    """Stack the logits of an answer (B, steps, vocabulary)."""
    return torch.stack(tuple(answer.logits), dim=1)


def _marks(model: Any) -> dict[str, Any]:
    """Count the hooks of all modules, and list the functions and configurations among their attributes."""
    slots = ("_forward_pre_hooks", "_forward_hooks")
    marks: dict[str, Any] = {}
    for name, module in model.named_modules():
        where = name or "the model"
        marks[f"hooks of {where}"] = tuple(len(getattr(module, slot)) for slot in slots)
        for attribute, value in vars(module).items():
            if callable(value) or isinstance(value, PreTrainedConfig):
                marks[f"{attribute} of {where}"] = id(value)
    return marks


def _inputs(model: Any, given: Any) -> dict[str, Any]:
    """Return the inputs to try: the caller's, or two synthetic images with questions by the processor."""
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
