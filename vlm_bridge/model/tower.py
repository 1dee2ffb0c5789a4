"""Record what pruners read of a vision tower while the encoder runs.

Recorded are the rows before the projector, the CLS row, and keys and attention of the *feature layer*: the layer whose
output the projector is given, the last one unless the model chooses. Queries and keys are recorded where the layer calls
its attention kernel: after rotary positions and norms, window by window where there are windows, and for any kernel. Of the
attention only the part that is needed is computed.

In a tower without a CLS token no token attends to the whole image. The mean attention that a patch receives from all
patches that see it takes its place, as the authors of VisPruner, VisionZip and HoloV do for Qwen2.5-VL. Where the
projector joins patches, a token has the mean of its patches' attention and of their keys.

What a patch receives on average, from CLS and all patches, is recorded at the feature layer and at an *early* layer: the
layer at 3/8 of the depth in towers with CLS, at half of it in others. That is where HiPrune looks in CLIP (9 of 24) and in Qwen2.5-VL (16 of 32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from operator import attrgetter
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlm_bridge.errors import BridgeError
from vlm_bridge.model.families import IMAGE, Family, Kind, base_of
from vlm_bridge.model.patches import Joined, connector_of, joined, projector_of

CAPTURED = (
    "vision_clip", "vision_mean", "vision_cls", "vision_keys", "cls_attention", "received", "received_early",
)  # fmt: skip
"""Signals that are recorded from the tower."""

_OF_THE_LAYER = {"vision_cls", "vision_keys", "cls_attention", "received", "received_early"}
_TOWERS = ("vision_tower", "visual", "vision_model")
_LAYERS = ("encoder.layers", "encoder.layer", "transformer.layers", "blocks")
_ATTENTION = ("self_attn", "attention", "attn")
_CLS = ("class_embedding", "cls_token")
_SEEN = "vlm_bridge_seen"
_ENTRIES = 2**24
"""Number of entries of attention that are computed at once."""
_ONE_AT_A_TIME = RLock()
"""Held while a tower is recorded, since two threads may share a model."""


@dataclass(frozen=True)
class Attended:
    """A call of the attention kernel: query and key (B, H, L, w), mask (B or 1, 1, L, L), true where a key is seen."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float

    @classmethod
    def of(cls, query: Tensor, key: Tensor, mask: Any, options: Mapping[str, Any]) -> list[Attended]:
        """Read a call of the kernel; packed sequences become calls of their own."""
        scale = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # several queries may share a key
        ends = options.get("cu_seq_lens_k")
        if ends is not None:
            lengths = ends.diff().tolist()
            parts = zip(query.split(lengths, 2), key.split(lengths, 2), strict=True)
            return [cls(q, k, None, scale) for q, k in parts]
        if mask is not None and not isinstance(mask, Tensor):
            raise BridgeError(
                f"the vision tower's attention has a mask of type {type(mask).__name__}, expected a tensor: load the "
                "model with attn_implementation='sdpa'."
            )
        if mask is not None and mask.is_floating_point():
            mask = mask > torch.finfo(mask.dtype).min / 2
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None]
        return [cls(query, key, None if mask is None else mask.bool(), scale)]

    def table(self, start: int, stop: int) -> Tensor:
        """Compute the attention (B, H, stop − start, L) of some queries, in float32."""
        scores = self.query[:, :, start:stop].float() @ self.key.float().mT * self.scale
        if self.mask is not None:
            mask = self.mask if self.mask.shape[-2] == 1 else self.mask[..., start:stop, :]
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(-1)

    def received(self) -> Tensor:
        """Compute the mean attention (B, H, L) that each key receives from the queries that see it, padding aside."""
        length = self.key.shape[2]
        total = torch.zeros_like(self.key[..., 0], dtype=torch.float32)
        seen = self.mask
        if seen is not None:
            seen = seen.expand(-1, -1, length, -1)
            seen = seen & seen.any(-2, keepdim=True).mT
        step = max(1, _ENTRIES // total.numel())
        for start in range(0, length, step):
            table = self.table(start, start + step)
            if seen is not None:
                table = table.masked_fill(~seen[..., start : start + step, :], 0)
            total += table.sum(-2)
        return total / (length if seen is None else seen.sum(-2).clamp(min=1))


@dataclass
class Tower:
    """What was recorded of the images, or the videos, of a call.

    Attributes
    ----------
    given, made : list of Tensor (..., d)
        Inputs and outputs of the projector.
    calls : list of Attended
        Calls of the feature layer's attention kernel.
    early : list of Attended
        Calls of the early layer's.
    outputs : list of Tensor (T, 1 + n, d)
        Outputs of the feature layer.
    prefix : int
        1 where a CLS token stands in front of the patches.
    thread : int
        Identifier of the recording thread; calls of other threads are not recorded.
    """

    base: Any
    family: Family
    inputs: Mapping[str, Any]
    kind: Kind
    prefix: int = 0
    given: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    calls: list[Attended] = field(default_factory=list)
    early: list[Attended] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    thread: int = field(default_factory=get_ident)

    @property
    def tiles(self) -> int:
        """T, the number of tiles that the projector was given."""
        return len(self._given) if self._given.ndim == 3 else 1

    @torch.no_grad()
    def signal(self, name: str) -> Tensor:
        """Return a signal of all M tokens in the LLM's order: rows (M, d), keys (M, H, w) or attention (M, H).

        Raises
        ------
        BridgeError
            What was recorded does not say which patches belong to which token.
        """
        if name in ("vision_clip", "vision_mean"):
            side_by_side, mean = self._rows
            return side_by_side if name == "vision_clip" else mean
        calls = self.early if name == "received_early" else self.calls
        if not calls:
            raise BridgeError("the layers of the vision tower were not found")
        by_patch = torch.cat([self._of_call(call, name) for call in calls])
        tokens = self._joined
        if len(by_patch) != self._patches:
            raise BridgeError(
                f"the vision tower attends to {len(by_patch)} patches, its projector is given {self._patches}: how they "
                "belong together is not known"
            )
        return by_patch[tokens.patches[tokens.order]].mean(1)

    @torch.no_grad()
    def cls_rows(self) -> Tensor:
        """Return the CLS rows (T, d), which the projector can be given.

        Raises
        ------
        BridgeError
            There are none, or the projector cannot take a single one.
        """
        if not self.prefix or not self.outputs:
            raise BridgeError("the vision tower has no CLS token in front of its patches")
        if self._joined.patches.shape[1] > 1:
            raise BridgeError(
                "the projector joins several patches to a token, so that it cannot map a CLS row"
            )
        rows = torch.cat(self.outputs)[:, 0]
        if rows.shape[-1] != self._given.shape[-1]:
            raise BridgeError("the projector is given rows of several layers, the CLS row is one layer's")
        return rows

    def check(self, tokens: Tensor) -> None:
        """Refuse `tokens` (M, D) of the LLM that are not the projector's outputs in this order."""
        made = torch.cat([rows.flatten(0, -2) for rows in self.made])[self._joined.order]
        if made.shape != tokens.shape or not torch.equal(made.to(tokens), tokens):
            raise BridgeError(
                f"the {len(tokens)} visual tokens are not what the projector made of the vision tower's rows, so that "
                "their patches are not known"
            )

    def _of_call(self, call: Attended, name: str) -> Tensor:
        """Return a signal of the patches of one call of the kernel."""
        if name == "vision_keys":
            found = call.key
        else:
            from_cls = name == "cls_attention" and self.prefix
            found = (call.table(0, 1)[:, :, 0] if from_cls else call.received())[..., None]
        found = found[:, :, self.prefix :].transpose(1, 2).flatten(0, 1)
        return found if name == "vision_keys" else found[..., 0]

    @cached_property
    def _given(self) -> Tensor:
        if not self.given:
            raise BridgeError("no rows of the vision tower were recorded")
        if len({rows.shape[1:] for rows in self.given}) > 1:
            raise BridgeError(
                "the projector is given grids of several sizes, one after the other; whose patches they are is not known"
            )
        return torch.cat(self.given)

    @cached_property
    def _joined(self) -> Joined:
        return joined(self.base, self.family, self._given, self.inputs, self.kind)

    @property
    def _patches(self) -> int:
        """Number of patches that the projector was given."""
        count, own = self._given.shape[:-1].numel(), self._joined.patches
        return int(own.numel()) if count == len(own) else count

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Rows of each token's patches as the projector takes them, and their mean."""
        rows, own = self._given.flatten(0, -2), self._joined
        if len(rows) == len(own.patches):  # side by side already
            rows = rows[own.order]
            return rows, rows.unflatten(-1, (own.patches.shape[1], -1)).mean(1)
        apart = rows[own.patches[own.order]]
        mean = apart.mean(1)
        return (mean if connector_of(self.family).pools else apart.flatten(1)), mean


@contextmanager
def watched(
    model: Any, family: Family, inputs: Mapping[str, Any], wanted: tuple[str, ...], kind: Kind = IMAGE
) -> Iterator[Tower]:
    """Record the tower, as far as the signals `wanted` need it, while the encoder runs inside the block."""
    base = base_of(model)
    tower, handles = Tower(base, family, inputs, kind), []
    needs = set(wanted)
    projector = projector_of(base, family) if needs & {*CAPTURED, "clip_patches"} else None
    layer = feature_layer(base, inputs) if needs & _OF_THE_LAYER else None
    early = early_layer(base) if layer is not None and "received_early" in needs else None
    if early is layer:
        early, tower.early = None, tower.calls
    read = [
        (attention_of(one), calls)
        for one, calls in ((layer, tower.calls), (early, tower.early))
        if one is not None
    ]
    with _ONE_AT_A_TIME if needs else nullcontext():
        configs = [attention.config for attention, _ in read]
        try:
            if projector is not None:
                handles.append(projector.register_forward_hook(_ends_of(tower)))
            if layer is not None:
                tower.prefix = cls_tokens(base)
                handles.append(layer.register_forward_hook(_output_of(tower)))
            for attention, calls in read:
                attention.config = _watching(attention.config, tower.thread, calls)
            yield tower
        finally:
            for (attention, _), config in zip(read, configs, strict=True):
                attention.config = config
            for handle in handles:
                handle.remove()


def vision_model(base: Any) -> Any:
    """Return the vision tower below wrappers; None where it is in none of the usual places."""
    tower = next((found for name in _TOWERS if (found := getattr(base, name, None)) is not None), None)
    return getattr(tower, "vision_model", tower)


def feature_layer(base: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the layer whose output the projector is given, the last of several; None where it is unknown."""
    layers = _first(vision_model(base), _LAYERS)
    at = inputs.get("vision_feature_layer")
    at = getattr(base.config, "vision_feature_layer", None) if at is None else at
    at = at[-1] if isinstance(at, (list, tuple)) else at
    at = -1 if at is None else at
    if layers is None or not at:  # 0 means the input of the first layer
        return None
    found = layers[at if at < 0 else at - 1]
    return found if getattr(attention_of(found), "config", None) is not None else None


def early_layer(base: Any) -> Any:
    """Return the early layer of a tower whose layers are known."""
    layers = _first(vision_model(base), _LAYERS)
    return layers[max(1, round(len(layers) * (3 / 8 if cls_tokens(base) else 1 / 2))) - 1]


def attention_of(layer: Any) -> Any:
    """Return the attention module of a layer; None where it has none."""
    return _first(layer, _ATTENTION)


def cls_tokens(base: Any) -> int:
    """Return 1 where the tower puts a CLS token in front of its patches, else 0."""
    embeddings = getattr(vision_model(base), "embeddings", None)
    return int(any(getattr(embeddings, name, None) is not None for name in _CLS))


def _first(module: Any, paths: tuple[str, ...]) -> Any:
    """Return the attribute at the first of the paths that exists; None where none does."""
    for path in paths:
        try:
            return attrgetter(path)(module)
        except AttributeError:
            continue
    return None


def _ends_of(tower: Tower) -> Callable[..., None]:
    """Make a hook that records input and output of the projector."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if get_ident() == tower.thread:
            tower.given.append(args[0].detach())
            tower.made.append((output if isinstance(output, Tensor) else output[0]).detach())

    return hook


def _output_of(tower: Tower) -> Callable[..., None]:
    """Make a hook that records the output of the feature layer."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if get_ident() == tower.thread:
            tower.outputs.append((output[0] if isinstance(output, tuple) else output).detach())

    return hook


def _watching(config: Any, thread: int, calls: list[Attended]) -> Any:
    """Copy a configuration and set a kernel that records its inputs in `calls`, then runs the configured one."""
    own = copy(config)
    own._attn_implementation = _SEEN
    own.vlm_bridge_kernel = config._attn_implementation
    own.vlm_bridge_thread, own.vlm_bridge_calls = thread, calls
    return own


def _see(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
) -> Any:
    """Record a call of the attention kernel, then make it."""
    config = module.config
    if get_ident() == config.vlm_bridge_thread:
        config.vlm_bridge_calls += Attended.of(query.detach(), key.detach(), attention_mask, options)
    eager = import_module(type(module).__module__).eager_attention_forward
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(config.vlm_bridge_kernel, eager)
    return kernel(module, query, key, value, attention_mask, **options)


AttentionInterface.register(_SEEN, _see)
