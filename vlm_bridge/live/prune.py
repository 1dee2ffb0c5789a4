"""Prune the calls of a live model (`prune`), or rewrite the inputs of one call (`prune_inputs`).

Inside ``with prune(...)`` the model carries the *instance* attributes ``forward`` and ``generate`` and some hooks. Nothing
is assigned to a class, and everything is taken off in `finally`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.inside.layers import LayerSession, inside_session
from vlm_bridge.live.inside.terms import InsideSettings
from vlm_bridge.live.prompt_session import PromptSession
from vlm_bridge.live.rewrite import rewrite
from vlm_bridge.live.settings import Settings
from vlm_bridge.model.decoder import attention_modules
from vlm_bridge.model.encoding import stacked
from vlm_bridge.model.families import find_family
from vlm_bridge.model.wrappers import model_inside
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.fold import check_attention
from vlm_bridge.selection.given import signals_and_options

_ACTIVE: WeakSet[Any] = WeakSet()
_LOCK = threading.RLock()
"""Reentrant, since the garbage collector may end an abandoned block in a thread that is entering another."""


def _claim(model: Any) -> None:
    """Note that the model is being pruned; a model that is already is refused."""
    with _LOCK:
        if model in _ACTIVE:
            raise BridgeError(
                "this model is being pruned already: leave the other `with prune(...)` block first."
            )
        _ACTIVE.add(model)


def _generator(rng: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise BridgeError(
            f"rng = {rng!r}: expected None, an int of 0 or more, or a numpy.random.Generator, got {type(rng).__name__}."
        ) from error


def prune_inputs(
    model: Any,
    inputs: Mapping[str, Any],
    keep: Any,
    method: str = "spare",
    *,
    relevance: Any = None,
    positions: str = "keep",
    tol: float | None = None,
    processor: Any = None,
    clip: Any = None,
    clean: Callable[[str], str] | None = None,
    separators: str = "prune",
    rng: Any = None,
    **signals: Any,
) -> tuple[dict[str, Any], Report]:
    """Rewrite the inputs of one call so that only the chosen visual tokens remain.

    The result goes to ``model(**new)`` or ``model.generate(**new)``; sequences then start with the *pruned* prompt. Four
    things are the caller's to heed, which `prune` takes care of:

    - Rewrite anew for each call, since `generate` changes ``mm_encoder_outputs`` when it expands beams.
    - With ``positions="keep"`` leave the cache on in `generate`. It drops a mask of ones, and without mask and cache
      transformers reads a gap in the positions as the border of a packed sequence.
    - Where the model takes one tensor for all images (InternVL, PaliGemma, Gemma3) and prompts keep different numbers
      of rows, older releases of transformers mix them up under beams or several answers.
    - `generate` of EXAONE 4.5 and HyperCLOVA X drops the positions it is given: use ``positions="compact"`` there.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        What the processor returned. It is not modified.
    keep, method, relevance, tol, rng
        As in `select_tokens`, with budgets and scores for each image in the order of the placeholders.
    positions : {"keep", "compact"}
        Original positions, with gaps where tokens were dropped, or 0, 1, ... with whole images on their grids.
    processor, clip, clean, separators, **signals
        As in `prune`.

    Returns
    -------
    new : dict
        A copy of `inputs` where there is no image or video.
    report : Report

    Raises
    ------
    BridgeError
        As in `prune`; also folding and pruners inside the LLM, which need hooks on the model.

    Examples
    --------
    >>> new, report = vlm_bridge.prune_inputs(model, inputs, keep=64)  # doctest: +SKIP
    >>> model(**new).logits  # doctest: +SKIP
    """
    if find_pruner(method).inside is not None:
        raise BridgeError(f"pruner {method!r} acts inside the LLM, by hooks on the model; use prune.")
    given, options = signals_and_options(signals)
    if "fold" in options:
        raise BridgeError(
            "prune_inputs cannot fold: the attention bias needs hooks on the model; use prune(fold=True)."
        )
    model = model_inside(model)
    settings = Settings(
        keep=keep,
        method=method,
        relevance=relevance,
        positions=positions,
        tol=tol,
        processor=processor,
        clip=clip,
        clean=clean,
        separators=separators,
        signals=given,
        options=options,
    )
    report = Report(method)
    done = rewrite(model, inputs, settings, _generator(rng), report)
    if done is None:
        return dict(inputs), report
    if "mm_encoder_outputs" not in done.inputs:  # a prompt of embeddings
        return {name: value for name, value in done.inputs.items() if name != "input_ids"}, report
    outputs = stacked(done.inputs["mm_encoder_outputs"], done.stacked)
    return {**done.inputs, "mm_encoder_outputs": outputs}, report


@contextmanager
def prune(
    model: Any,
    keep: Any = 64,
    method: str = "spare",
    *,
    relevance: Any = None,
    positions: str = "keep",
    fold: bool | str = False,
    tol: float | None = None,
    processor: Any = None,
    clip: Any = None,
    clean: Callable[[str], str] | None = None,
    separators: str = "prune",
    rng: Any = None,
    **signals: Any,
) -> Iterator[Report]:
    """Prune the visual tokens of every call to `model` inside the ``with`` block.

    ``model.generate(**inputs)`` looks as without pruning: the full prompt stands in front of the answer, ``max_length``
    counts it, and streamers, logits processors and stopping criteria see it. ``model(**inputs)`` returns the logits of the
    pruned prompt. Inside the block decoding may go on with the cache that it returns, or with a deep copy of it, under the
    full prompt's mask or none; the items of the batch must stay in their order. A call without image or video is left
    alone. When an image comes back with a second question, its earlier choice is used again unless the pruner reads the
    question; see `Report.reused`.

    Any number of threads and tasks may use the model inside the block, each as if it were alone. Functions that `generate`
    calls (processors, criteria, streamers) may call the model, too. Calls that began before the block are not pruned, and
    leaving the block waits for the calls that other threads have begun inside. Refused are two blocks on one model at a
    time, and copies of the model: ``copy.deepcopy``, pickling, replicas of ``torch.nn.DataParallel``.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model of transformers >= 5.18, or one wrapped by ``torch.compile``, PEFT's adapters of weights,
        ``DistributedDataParallel``, or ``DataParallel`` on one device.
    keep : int, float, AtMost, one per image or video of every call, PerTile, Shared, Spectral, or None with `tol`
        Number of tokens to keep of an image, or share of its tokens, in the order of the placeholders. A count above an
        image's number of tokens is refused; ``AtMost(64)`` then keeps them all. See `vlm_bridge.budget` for the others.
        For ``"pyramiddrop"`` and ``"sparsevlm"`` this is the average over the layers.
    method : str
        A name in `PRUNERS`. Those that act inside the LLM (``"fastv"``, ``"dart"``, ``"pyramiddrop"``,
        ``"sparsevlm"``) work by hooks on its layers, and take no `relevance`, `fold`, `tol`, `clip` or `clean`.
    relevance : None, "anti", "normal", Relevance, or scores
        As in `select_tokens`; scores (images, n) or a list of (n_i,).
    positions : {"keep", "compact"}
        ``"keep"`` leaves kept tokens and text at their original positions; ``"compact"`` counts them 0, 1, ..., but an
        image that keeps all its tokens has its grid under either, so that keeping all changes nothing.
    fold : bool, "cluster" or "interpolation"
        Replace each kept token by the mean of the tokens it stands for, and raise attention to it by the logarithm of
        their number. With ``True`` or ``"cluster"`` a dropped token goes to the kept one of largest cosine, with
        ``"interpolation"`` in shares to all kept ones that its interpolation adds.
    tol : float, optional
        Stop once the relative reconstruction error is at most this, in (0, 1], with at most `keep` tokens.
    processor : optional
        The model's processor or tokenizer. It tells words from special tokens, and decodes the prompt for CLIP.
    clip : optional
        A ``CLIPModel``, or a pair (``CLIPModel``, tokenizer), with the same vision tower as the model, for pruners that
        compare text and image in CLIP's joint space.
    separators : {"prune", "keep"}
        Whether rows that only end a line of an image's grid, or a video (``image_newline``), are chosen from like others
        or always kept. They count in `keep` either way, except in `PerTile`, which counts what is in the tiles.
    clean : callable, optional
        Maps the prompt's text to the text that relevance is measured against, such as `clean_prompt` or
        `content_words`. It needs `processor`.
    rng : None, int or numpy.random.Generator
        For pruners that draw random numbers. Image i of a call draws from the i-th generator spawned for that call.
    **signals
        Signals, one for each image or one for all, and the pruner's options.

    Yields
    ------
    Report
        What has been done; it grows with every call.

    Raises
    ------
    BridgeError
        An unsupported model, an unknown pruner or option, a budget out of range, a missing signal, NaN in the features,
        placeholders that do not match, or a `prune` inside another on the same model.

    Examples
    --------
    >>> with vlm_bridge.prune(model, keep=64, method="divprune") as report:  # doctest: +SKIP
    ...     output = model.generate(**inputs, max_new_tokens=32)
    >>> report  # doctest: +SKIP
    Report('divprune', images=1, kept 64 of 576 tokens, calls=1)
    """
    model = model_inside(model)
    _claim(model)
    session: PromptSession | LayerSession | None = None
    try:
        given, options = signals_and_options(signals)
        if find_pruner(method).inside is not None:
            asked = InsideSettings(
                keep=keep, method=method, positions=positions, signals=given, options=options
            )
            others = {"relevance": relevance, "fold": fold, "tol": tol, "clip": clip, "clean": clean}
            session = inside_session(model, asked, **others)
        else:
            family = find_family(model)
            settings = Settings(
                keep=keep,
                method=method,
                relevance=relevance,
                positions=positions,
                fold=fold,
                tol=tol,
                processor=processor,
                clip=clip,
                clean=clean,
                separators=separators,
                signals=given,
                options=options,
            )
            if fold:
                check_attention(model)
            modules = attention_modules(model, family) if fold else []
            session = PromptSession(model, settings, _generator(rng), modules)
        with session.changed:  # calls that other threads begin now wait until everything is in place
            session.attach()
        yield session.report
    finally:
        try:
            if session is not None:
                session.detach()
        finally:
            with _LOCK:
                _ACTIVE.discard(model)
