"""What pruners read of a vision tower, seen while the encoder runs.

Rows before the projector, the CLS row, keys, and the attention from CLS to the patches, all at the layer
whose output the projector is given. Of the attention only the rows that are needed are formed, from the
layer's own projections, so that any attention kernel will do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlm_bridge.errors import BridgeError
from vlm_bridge.families import Family, base_of

CAPTURED = ("vision_clip", "vision_cls", "vision_keys", "cls_attention")
"""Signals that are had by watching the tower."""

_WATCHING: ContextVar[Any] = ContextVar("the tower that is watched in this thread", default=None)
"""Hooks see the calls of all threads, and look at their own only."""

_REGISTERING = threading.Lock()
"""PyTorch numbers hooks without a lock: of two with one number, one is lost."""


@dataclass
class Tower:
    """What was seen, tile by tile.

    Attributes
    ----------
    rows : list of Tensor (T, n, d)
        What the projector was given.
    states : list of Tensor (T, 1 + n, d)
        Input of the feature layer's self-attention.
    outputs : list of Tensor (T, 1 + n, d)
        Output of the feature layer.
    """

    attention: Any = None
    rows: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def see_rows(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook on the projector."""
        if _WATCHING.get() is self:
            self.rows.append(args[0])

    def see_state(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
        """Hook on the self-attention; without `kwargs` where another call is just taking its own off."""
        if _WATCHING.get() is self:
            self.states.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    def see_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hook on the feature layer."""
        if _WATCHING.get() is self:
            self.outputs.append(output[0] if isinstance(output, tuple) else output)

    def tiles(self, name: str) -> Tensor:
        """Signal `name` of every tile, with tokens along axis 1; of `vision_cls` (T, d)."""
        rows = torch.cat(self.rows) if self.rows else None
        if rows is None or rows.ndim != 3:
            raise BridgeError(f"no vision rows were seen: pass {name}=.")
        if name == "vision_clip":
            return rows
        n = rows.shape[1]
        if not self.states or self.states[0].shape[1] != n + 1:
            raise BridgeError(f"the vision tower has no CLS token in front of its patches: pass {name}=.")
        if name == "vision_cls":
            return torch.cat(self.outputs)[:, 0]
        found = [self._of_attention(states, name) for states in self.states]
        return torch.cat(found)

    @torch.no_grad()
    def _of_attention(self, states: Tensor, name: str) -> Tensor:
        module = self.attention
        width = module.head_dim
        keys = module.k_proj(states).unflatten(-1, (-1, width)).transpose(1, 2)
        if name == "vision_keys":
            return keys[:, :, 1:].permute(0, 2, 1, 3)
        query = module.q_proj(states[:, :1]).unflatten(-1, (-1, width)).transpose(1, 2)
        table = (query.float() @ keys.float().mT * module.scale).softmax(-1)
        return table[:, :, 0, 1:].mT


@contextmanager
def watched(
    model: Any, family: Family, inputs: Mapping[str, Any], wanted: tuple[str, ...]
) -> Iterator[Tower]:
    """Watch the tower, as far as the signals `wanted` need it, while the encoder runs inside the block."""
    tower, handles = Tower(), []
    base = base_of(model)
    projector = getattr(base, family.projector, None)
    needs = set(wanted)
    token = _WATCHING.set(tower)
    try:
        with _REGISTERING:
            if needs & {*CAPTURED, "clip_patches"} and isinstance(projector, nn.Module):
                handles.append(projector.register_forward_pre_hook(tower.see_rows))
            layer = (
                feature_layer(base, inputs)
                if needs & {"vision_cls", "vision_keys", "cls_attention"}
                else None
            )
            if layer is not None:
                tower.attention = layer.self_attn
                handles.append(layer.register_forward_hook(tower.see_output))
                handles.append(layer.self_attn.register_forward_pre_hook(tower.see_state, with_kwargs=True))
        yield tower
    finally:
        _WATCHING.reset(token)
        for handle in handles:
            handle.remove()


def feature_layer(base: Any, inputs: Mapping[str, Any]) -> Any:
    """The encoder layer whose output the projector is given (the last, of several); None where unknown."""
    tower = getattr(base, "vision_tower", None)
    tower = getattr(tower, "vision_model", tower)
    layers = getattr(getattr(tower, "encoder", None), "layers", None)
    at = inputs.get("vision_feature_layer")
    at = getattr(base.config, "vision_feature_layer", None) if at is None else at
    at = at[-1] if isinstance(at, (list, tuple)) else at
    if layers is None or at is None:
        return None
    found = layers[at if at < 0 else at - 1]
    parts = ("q_proj", "k_proj", "head_dim", "scale")
    return found if all(hasattr(getattr(found, "self_attn", None), part) for part in parts) else None


def projection(model: Any, family: Family) -> Callable[[Tensor], Tensor] | None:
    """Rows (n, d) of the vision tower to rows of the LLM; None where there is no such module."""
    projector = getattr(base_of(model), family.projector, None)
    if not isinstance(projector, nn.Module):
        return None
    weight = next(projector.parameters(), None)  # none where its layers are quantised

    @torch.no_grad()
    def project(rows: Tensor) -> Tensor:
        return projector((rows if weight is None else rows.to(weight))[None])[0]

    return project
