"""`prune` gives a live model a shorter prompt; `prune_inputs` only rewrites the inputs.

Inside ``with prune(...)`` the model carries *instance* attributes ``forward`` and ``generate`` and hooks; nothing
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
from vlm_bridge.live.prompt_session import PromptSession
from vlm_bridge.live.rewrite import Settings, rewrite
from vlm_bridge.model.encoding import stacked
from vlm_bridge.model.families import attention_modules, find_family
from vlm_bridge.model.wrappers import model_inside
from vlm_bridge.pruners import find_pruner
from vlm_bridge.reporting.report import Report
from vlm_bridge.selection.fold import check_attention

_ACTIVE: WeakSet[Any] = WeakSet()
_LOCK = threading.RLock()
"""The garbage collector may leave a forgotten block in a thread that is entering another."""


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
    """Rewrite a call's inputs so that only the chosen visual tokens remain.

    The result goes to ``model(**new)`` or ``model.generate(**new)``; sequences then start with the *pruned*
    prompt. Call it again for each call: `generate` changes ``mm_encoder_outputs`` when it expands beams.
    With ``positions="keep"`` leave the cache on in `generate`, which drops a mask of ones: without mask and
    cache, transformers reads a gap in the positions as the border of a packed sequence. Where the model takes
    one tensor for all images (InternVL, PaliGemma, Gemma3) and prompts keep different numbers of rows, older
    releases mix them up under beams or several answers. `generate` of EXAONE 4.5 and HyperCLOVA X drops the
    positions it is given: there only ``positions="compact"`` may go to it. `prune` takes care of all four.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        What the processor gave. Not modified.
    keep, method, relevance, tol, rng
        As in `select_tokens`; budgets and scores per image, in placeholder order.
    positions : {"keep", "compact"}
        Original positions with gaps, or 0, 1, ...
    processor, clip, separators, **signals
        As in `prune`.

    Returns
    -------
    new : dict
        `inputs` themselves where there is no image.
    report : Report

    Raises
    ------
    BridgeError
        As in `prune`. Folding needs attention hooks: use `prune`.
    """
    if find_pruner(method).inside is not None:
        raise BridgeError(f"pruner {method!r} acts inside the LLM, by hooks on the model; use prune.")
    if "fold" in signals:
        raise BridgeError(
            "prune_inputs cannot fold: the attention bias needs hooks on the model; use prune(fold=True)."
        )
    model = model_inside(model)
    settings = Settings(
        keep, method, relevance, positions, False, tol, processor, clip, clean, separators, signals
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

    ``model.generate(**inputs)`` stays as it is: the full prompt stands in front of the answer,
    ``max_length`` counts it, streamers and processors see it. ``model(**inputs)`` gives the logits of the
    pruned prompt; decoding on with the cache it returns, or a deep copy of it, works inside the block, with the full
    prompt's mask or none; its rows must stay in their order. A call without image and video passes through untouched. The image of a second question is not
    chosen from again, unless the pruner reads the question: see `Report.reused`.

    Any number of threads and tasks may use the model inside the block, each as if it were alone; functions that
    `generate` calls (processors, criteria, streamers) may call the model, too. Calls that began before the block are
    not pruned. Leaving it waits for the calls that other threads have begun inside. Two blocks on one model at a time
    are refused, as are copies of the model: ``copy.deepcopy``, pickling, replicas of ``torch.nn.DataParallel``.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model of transformers >= 5.18, or such a model inside of ``torch.compile``, PEFT's adapters of
        weights, ``DistributedDataParallel`` or ``DataParallel`` on one device.
    keep : int, float, AtMost, one per image or video of every call, PerTile, Shared, Spectral, or None with `tol`
        Tokens, or share of an image's tokens, to keep, in the order of the placeholders; a count above an image's
        tokens is refused, and ``AtMost(64)`` then keeps them all. See `vlm_bridge.budget` for the others. Of ``"pyramiddrop"`` and ``"sparsevlm"`` the average over layers.
    method : str
        A name in `PRUNERS`. Systems inside the LLM (``"fastv"``, ``"dart"``, ``"pyramiddrop"``,
        ``"sparsevlm"``) work by hooks on its layers, and take no `relevance`, `fold`, `tol`, `clip`, `clean`.
    relevance : None, "anti", "normal", Relevance, or scores
        As in `select_tokens`; scores (images, n) or a list of (n_i,).
    positions : {"keep", "compact"}
        ``"keep"``: kept tokens and all text stay at their original positions. ``"compact"``: 0, 1, ...
    fold : bool, "cluster" or "interpolation"
        Kept tokens become means over the tokens they stand for, and draw the attention of as many. A dropped
        token goes to the nearest kept one by cosine (``True`` and ``"cluster"``), or to all that its
        interpolation adds.
    tol : float, optional
        Stop at this relative reconstruction error, with at most `keep` tokens.
    processor : optional
        The model's processor or tokenizer, to tell words from special tokens and to read the prompt for CLIP.
    clip : optional
        ``CLIPModel``, or (``CLIPModel``, tokenizer), with the model's own vision tower: CLIP's joint space.
    separators : {"prune", "keep"}
        Rows that only end a row of an image's grid, or a video (``image_newline``): tokens like others, or kept
        always. They count in `keep` either way, except in `PerTile`, which counts what is in the tiles.
    clean : callable, optional
        From the prompt's text to the text that relevance is measured against, such as `clean_prompt` or
        `content_words`; it needs `processor`.
    rng : None, int or numpy.random.Generator
        Image i of a call draws from the i-th generator spawned for that call.
    **signals
        Signals (one per image, or one for all) and the pruner's options.

    Yields
    ------
    Report

    Raises
    ------
    BridgeError
        An unsupported model, unknown pruner or option, budget out of range, missing signal, NaN features,
        placeholders that do not match; also a `prune` inside another on the same model.
    """
    model = model_inside(model)
    with _LOCK:
        if model in _ACTIVE:
            raise BridgeError("this model is being pruned already; leave that block first.")
        _ACTIVE.add(model)
    session: PromptSession | LayerSession | None = None
    try:
        if find_pruner(method).inside is not None:
            others = {"relevance": relevance, "fold": fold, "tol": tol, "clip": clip, "clean": clean}
            session = inside_session(model, keep, method, positions, signals, **others)
        else:
            family = find_family(model)
            settings = Settings(
                keep, method, relevance, positions, fold, tol, processor, clip, clean, separators, signals
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
