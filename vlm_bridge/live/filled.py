"""Note on a KV cache that a pruned prompt is in it, and refuse what such a cache cannot be used for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ref

from vlm_bridge.errors import BridgeError


@dataclass(eq=False)
class Filled:
    """A note on a cache: the session that pruned the prompt in it, and what decoding has to know of that prompt.

    A deep copy of the cache carries the same note. A cache that was stored and read again carries an empty one, since
    its session is gone.

    Attributes
    ----------
    session : callable, optional
        A weak reference to the session.
    known : object
    """

    session: Any
    known: Any

    def __deepcopy__(self, memo: Any) -> Filled:
        return self

    def __reduce__(self) -> Any:
        return Filled, (None, None)


def remember(cache: Any, session: Any, known: Any, fixed_order: bool = False) -> None:
    """Note on a cache, unless it is None, what decoding has to know of the pruned prompt in it.

    With `fixed_order` the prompts were pruned differently, and the cache refuses to reorder its batch.
    """
    if cache is not None:
        cache.pruned_prompt = Filled(ref(session), known)
        if fixed_order:
            cache.reorder_cache = cache.batch_select_indices = _refuse_order


def remembered(cache: Any, session: Any) -> Any:
    """Return what is known of the pruned prompt in a cache; None where there is no such prompt.

    Raises
    ------
    BridgeError
        The prompt was pruned in another block, or the cache was stored and read again.
    """
    filled = getattr(cache, "pruned_prompt", None)
    if filled is None:
        return None
    if cache.get_seq_length() == 0:  # it was emptied after it had been filled
        for name in ("pruned_prompt", "reorder_cache", "batch_select_indices"):
            vars(cache).pop(name, None)
        return None
    if filled.session is None or filled.session() is not session:
        raise BridgeError(
            "past_key_values holds a prompt that was pruned in another `with prune(...)` block: expected a cache that "
            "was filled in this block, or a copy of it. Pass the whole prompt again."
        )
    return filled.known


def check_cropped(past: int, prompt: int) -> None:
    """Refuse a cache of `past` tokens that has lost some of the `prompt` tokens of the pruned prompt."""
    if past < prompt:
        raise BridgeError(
            f"past_key_values was cropped to {past} tokens, fewer than the {prompt} of the pruned prompt in it: expected a "
            "cache that ends behind the prompt. Crop less, or pass the whole prompt again."
        )


def _refuse_order(indices: Any) -> None:
    """Stand in for the methods that reorder a cache, and raise."""
    raise BridgeError(
        "the rows of this cache hold prompts that were pruned differently, and each continues at positions of its own: "
        "expected them to stay in their order. Let generate(num_beams=...) reorder them, or fill a cache for each prompt."
    )
