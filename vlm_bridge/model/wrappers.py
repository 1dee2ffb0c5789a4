"""Find the model of transformers inside a wrapper that calls it, such as ``torch.compile`` or PEFT's."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import check_contract

_WHAT = "expected a vision-language model of transformers, such as AutoModelForImageTextToText.from_pretrained gives"
_NO_MODELS = {
    "Pipeline": "Pass its model: prune(pipe.model, ...); calls of the pipeline inside the block are then pruned.",
    "ProcessorMixin": "A processor goes into processor=, the model comes first.",
    "PreTrainedTokenizerBase": "A tokenizer goes into processor=, the model comes first.",
    "str": "Load the model of this name first and pass it.",
}


def model_inside(model: Any) -> Any:
    """Return the model of transformers that `model` is, or wraps.

    Wrappers are ``torch.compile``, ``DataParallel`` on one device, ``DistributedDataParallel`` and PEFT's models. They call
    the model inside by its ``forward`` and ``generate``.

    Raises
    ------
    BridgeError
        `model` is no model, a part of one, a model of text alone, or a wrapper whose adapters or copies on other devices
        would not see the pruned prompt.
    """
    while True:
        inner = _inner(model)
        if inner is None:
            break
        model = inner
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        bases = {base.__name__ for base in type(model).__mro__}
        fix = next((text for base, text in _NO_MODELS.items() if base in bases), "")
        raise BridgeError(f"model = {_short(model)}: {_WHAT}, got {_article(name)}. {fix}".rstrip())
    check_contract(model)
    return model


def _inner(model: Any) -> Any:
    """Return what `model` wraps; None where it is no wrapper."""
    if not isinstance(model, nn.Module):
        return None
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise BridgeError(
            f"DataParallel on {len(model.device_ids)} devices calls copies of the model, which are not pruned: pass "
            "model.module and call that, or use DistributedDataParallel."
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return model.module
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return model._orig_mod
    if callable(getattr(type(model), "get_base_model", None)):
        if getattr(model, "_is_prompt_learning", False):
            raise BridgeError(
                f"{type(model).__name__}: its adapter puts virtual tokens in front of the prompt, which moves what is "
                "pruned. Adapters of weights (LoRA and its kin) work; for others use prune_inputs on the model inside."
            )
        inner: Any = model
        return inner.get_base_model()
    return None


def _short(value: Any) -> str:
    """Cut a value's repr to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _article(name: str) -> str:
    """Put "a" or "an" in front of a name."""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
