"""Pruning inside the LLM: hooks on decoder layers, lent to a live model.

The prompt stays whole. From a stage's layer on the decoder works on fewer columns of it, in decoding too, so
that the KV cache is shorter in those layers; behind the last layer hidden states are put back, and logits
have the prompt's full length. What stands at dropped places is the state in which the token left, through the
final norm and head; a merged token stands at the place of its cluster's centre.

Only instance hooks and the instance attribute ``generate`` are set. Nothing is assigned to a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from vlm_bridge.attention import check_layer
from vlm_bridge.budget import PerTile, Shared, Spectral, check_keep
from vlm_bridge.calls import check_generate
from vlm_bridge.cost import Cost, Decoder
from vlm_bridge.errors import BridgeError
from vlm_bridge.families import PIXELS, Family, base_of, decoder_of, placeholder_id
from vlm_bridge.inputs import POSITIONS, Prompt, has_images
from vlm_bridge.passage import Image, Passage
from vlm_bridge.pruners import find_pruner
from vlm_bridge.pruners.inside import Stage, tokens_per_layer
from vlm_bridge.pruners.plan import SIGNALS, Pruner
from vlm_bridge.report import Report
from vlm_bridge.select import check_finite, reconstruction_error

_BIDIRECTIONAL = ("paligemma", "gemma3", "gemma3n")
_KERNELS = ("sdpa", "eager")


@dataclass(frozen=True)
class InsideSettings:
    """What the caller asked for, checked before anything is touched."""

    keep: Any
    method: str
    positions: str = "keep"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise BridgeError(f"positions = {self.positions!r}: allowed are {', '.join(POSITIONS)}.")
        if isinstance(self.keep, (PerTile, Shared, Spectral)):
            raise BridgeError(
                f"keep = {self.keep!r}: pruner {self.method!r} acts inside the LLM, where an image is one piece; "
                "give tokens, a share, or one of these per image."
            )
        if self.keep is not None:
            check_keep(self.keep)
        for name in self.options:
            if name in SIGNALS:
                raise BridgeError(
                    f"{name}: pruner {self.method!r} reads its signals from the model; give them to "
                    "select_tokens instead."
                )
            if name not in self.allowed:
                raise BridgeError(
                    f"pruner {self.method!r} has no option {name!r}. Its options: {', '.join(self.allowed)}."
                )

    @property
    def pruner(self) -> Pruner:
        """The row."""
        return find_pruner(self.method)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Options of the schedule and of the plan."""
        return tuple(dict.fromkeys([*self._of_schedule, *self.pruner.options]))

    @property
    def of_plan(self) -> dict[str, Any]:
        """Options that the plan is given."""
        return {name: value for name, value in self.options.items() if name in self.pruner.options}

    @property
    def _of_schedule(self) -> tuple[str, ...]:
        assert self.pruner.inside is not None
        found = inspect.signature(self.pruner.inside.schedule).parameters.values()
        return tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY)

    def stages(self, layers: int, n: int, keep: Any) -> tuple[Stage, ...]:
        """The schedule of an image of n tokens."""
        assert self.pruner.inside is not None
        own = {name: value for name, value in self.options.items() if name in self._of_schedule}
        return self.pruner.inside.schedule(layers, n, keep, **own)

    def budgets(self, images: int) -> list[Any]:
        """`keep` of each image."""
        keep = self.keep.tolist() if hasattr(self.keep, "tolist") else self.keep
        if not isinstance(keep, (list, tuple)):
            return [keep] * images
        if len(keep) != images:
            raise BridgeError(
                f"keep lists {len(keep)} budgets for {images} images; give one, or one per image."
            )
        return list(keep)


def check_model(model: Any) -> Any:
    """The model's text decoder, if pruning inside it can be made right.

    Raises
    ------
    BridgeError
        With the reason.
    """
    name = type(model).__name__
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    if not callable(getattr(base_of(model), "get_image_features", None)):
        raise BridgeError(f"{name} has no get_image_features: not a vision-language model the bridge knows.")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise BridgeError(f"{name}.forward takes no mm_encoder_outputs; upgrade to transformers >= 5.18.")
    if kind in _BIDIRECTIONAL:
        raise BridgeError(f"{name} is not pruned inside the LLM: tokens of an image see those behind them.")
    placeholder_id(model)
    decoder = decoder_of(model, Family(kind))
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < 2 or not hasattr(decoder, "norm"):
        raise BridgeError(f"{name}: the decoder's layers and final norm cannot be found.")
    for layer in layers:
        check_layer(layer)
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None) is not None):
        raise BridgeError(
            f"{name} has layers with {', '.join(sorted(kinds - {'full_attention'})) or 'a sliding window'}: "
            "windows are counted in tokens of the cache and would reach further after pruning."
        )
    _kernel(model)
    if len({parameter.device for parameter in layers.parameters()}) > 1:
        raise BridgeError(
            f"{name}: the decoder lies on several devices, which pruning inside it does not follow."
        )
    if model.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        raise BridgeError("gradient checkpointing runs layers twice; switch it off to prune inside the LLM.")
    return decoder


def _kernel(model: Any) -> str:
    """Form of a mask for the model's attention kernel."""
    used = str(getattr(model.config.get_text_config(), "_attn_implementation", "eager"))
    if used in _KERNELS:
        return "4d"
    if used.startswith("flash_attention"):
        return "2d"
    raise BridgeError(
        f"attn_implementation={used!r} takes masks that cannot be cut; load the model with sdpa, eager or "
        "flash_attention_2."
    )


class LayerLoan:
    """What a model carries while it is pruned inside the LLM, and how it is given back."""

    def __init__(self, model: Any, settings: InsideSettings) -> None:
        self.model, self.settings = model, settings
        self.decoder = check_model(model)
        self.depth = len(self.decoder.layers)
        self.cut_layers = self._stage_layers()
        self._check_positions()
        self.report = Report(settings.method)
        self.passages: WeakKeyDictionary[Any, Passage] = WeakKeyDictionary()
        self.handles: list[Any] = []
        self.own_generate = model.__dict__.get("generate")
        self.generate = getattr(model, "generate", None)
        self.generating = False
        self.prompts: int | None = None
        self.uncached: Passage | None = None
        self.current: Passage | None = None

    def attach(self, modules: Sequence[nn.Module] = ()) -> None:
        """Put generate and hooks on; there are none for `modules` besides the decoder's layers."""
        put = self.handles.append
        put(self.model.register_forward_pre_hook(self.before_forward, with_kwargs=True))
        put(self.model.register_forward_hook(self.after_forward, always_call=True))
        for index, layer in enumerate(self.decoder.layers):
            put(layer.register_forward_pre_hook(partial(self.before_layer, index), with_kwargs=True))
        put(self.decoder.layers[-1].register_forward_hook(self.after_last))
        if self.generate is not None:
            self.model.__dict__["generate"] = self.pruned_generate

    def detach(self) -> None:
        """Take everything off, whatever was on."""
        self.model.__dict__.pop("generate", None)
        if self.own_generate is not None:
            self.model.__dict__["generate"] = self.own_generate
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.passages.clear()
        self.current = self.uncached = None

    def pruned_generate(self, *args: Any, **kwargs: Any) -> Any:
        """The caller's `generate`, watched."""
        assert self.generate is not None
        arguments = named(self.generate, args, kwargs)
        if not has_images(arguments):
            return self.generate(*args, **kwargs)
        if self.generating:
            raise BridgeError("generate was called while this model is generating with images.")
        check_generate(arguments)
        self._check_decoding(arguments)
        prompt = next(
            arguments[name]
            for name in ("input_ids", "inputs", "inputs_embeds")
            if arguments.get(name) is not None
        )
        self.generating, self.prompts = True, prompt.shape[0]
        try:
            return self.generate(*args, **kwargs)
        finally:
            self.generating, self.prompts, self.uncached = False, None, None

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open a passage for a prompt with images, go on with one whose cache comes back, or stand aside."""
        self.current = None
        arguments = named(module.forward, args, kwargs)
        cache = arguments.get("past_key_values")
        filled = cache is not None and cache.get_seq_length() > 0
        if filled and cache in self.passages and not (has_images(arguments) and not self.generating):
            self.current = self.passages[cache]
            self.current.decoding = True
            return None
        if not has_images(arguments):
            return None
        if filled:
            raise BridgeError("a call with images on a filled cache: pruning reads whole prompts; pass none.")
        _check_cache(cache)
        arguments = self._encoded(arguments)
        without = {name: value for name, value in arguments.items() if name != "position_ids"}
        prompt = Prompt.of(self.model, without)
        if self.uncached is None:
            self.current = self._opened(arguments, prompt)
        else:
            self.current = self.uncached
        self.current.begin(prompt)
        return (), arguments

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Enter what was done in the report, and remember the cache it went into."""
        passage, self.current = self.current, None
        if passage is None:
            return
        passage.finish()
        if output is None:
            return
        if not passage.reported:
            self._enter(passage)
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            self.passages[cache] = passage
        elif self.generating:
            self.uncached = passage

    def before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Hand the layer what is left of the prompt."""
        if self.current is None:
            return None
        _check_cache(kwargs.get("past_key_values"))
        rest = dict(kwargs)
        hidden = args[0] if args else rest.pop("hidden_states")
        hidden, rest = self.current.before(index, module, hidden, rest)
        return (hidden, *args[1:]), rest

    def after_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Put hidden states back to full length."""
        if self.current is None:
            return None
        if isinstance(output, tuple):
            return (self.current.after_last(output[0]), *output[1:])
        return self.current.after_last(output)

    def _stage_layers(self) -> tuple[int, ...]:
        """Layers of the stages; they do not depend on the image. Also checks the options."""
        trial = self.settings.keep if self.settings.options.get("budget") == "preset" else 1.0
        return tuple(stage.layer for stage in self.settings.stages(self.depth, 576, trial))

    def _check_positions(self) -> None:
        if self.settings.positions == "keep":
            return
        if callable(getattr(base_of(self.model), "get_rope_index", None)):
            raise BridgeError(
                "positions='compact' would destroy the image grid of multi-dimensional positions."
            )
        if not callable(getattr(self.decoder, "rotary_emb", None)):
            raise BridgeError(f"{type(self.decoder).__name__} has no rotary_emb; use positions='keep'.")

    def _check_decoding(self, arguments: Mapping[str, Any]) -> None:
        """Refuse ways to generate under which layers of different lengths would go wrong."""
        configs = [arguments.get("generation_config"), getattr(self.model, "generation_config", None)]
        for name, reason in (
            ("prompt_lookup_num_tokens", "candidates that are refused are cut off by absolute lengths"),
            ("prefill_chunk_size", "a chunk does not hold the whole prompt"),
            ("assistant_early_exit", "layers are left out"),
        ):
            found = arguments.get(name, next((v for c in configs if (v := getattr(c, name, None))), None))
            if found:
                raise BridgeError(
                    f"generate({name}=...) cannot be used with pruning inside the LLM: {reason}."
                )
        kind = arguments.get("cache_implementation") or next(
            (v for c in configs if (v := getattr(c, "cache_implementation", None))), None
        )
        if kind not in (None, "dynamic", "dynamic_full"):
            raise BridgeError(
                f"cache_implementation={kind!r}: layers then have one length; pruning inside the LLM needs a "
                "dynamic cache."
            )

    def _encoded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The call with the encoder's answer in place of pixels."""
        if (arguments.get("mm_encoder_outputs") or {}).get("image") is not None:
            return dict(arguments)
        encoder = base_of(self.model).get_image_features
        names = [p for p in inspect.signature(encoder).parameters if p != "kwargs" and p in arguments]
        output = encoder(**{name: arguments[name] for name in names}, return_dict=True)
        rest = {name: value for name, value in arguments.items() if name not in PIXELS}
        return {**rest, "mm_encoder_outputs": {**(rest.get("mm_encoder_outputs") or {}), "image": output}}

    def _opened(self, arguments: Mapping[str, Any], prompt: Prompt) -> Passage:
        output = arguments["mm_encoder_outputs"]["image"]
        self._check_deepstack(output)
        pooled = output.pooler_output
        if pooled is None or (isinstance(pooled, Tensor) and pooled.ndim != 3):
            raise BridgeError(
                f"{type(self.model).__name__}.get_image_features gives no list of visual rows per image."
            )
        features = [rows.detach() for rows in pooled]
        places = prompt.places([len(rows) for rows in features], placeholder_id(self.model))
        batch = prompt.mask.shape[0]
        copies = 1 if not self.generating or self.prompts is None else batch // self.prompts
        first = [i for i, (row, _) in enumerate(places) if row % copies == 0]
        budgets = dict(zip(first, self.settings.budgets(len(first)), strict=True))
        images: list[Image] = []
        for i, (rows, (row, columns)) in enumerate(zip(features, places, strict=True)):
            check_finite(rows, f"image {i} (row {row}): ")
            if i in budgets:
                images.append(Image(row, columns, rows, self._scheduled(i, len(rows), budgets[i])))
            else:
                images.append(Image(row, columns))
        settings = self.settings
        return Passage(
            self.decoder,
            settings.pruner,
            settings.of_plan,
            settings.positions,
            _kernel(self.model),
            images,
            copies,
        )

    def _scheduled(self, image: int, n: int, keep: Any) -> tuple[Stage, ...]:
        try:
            return self.settings.stages(self.depth, n, keep)
        except BridgeError as error:
            raise BridgeError(f"image {image}: {error}") from error

    def _check_deepstack(self, output: Any) -> None:
        """Rows that the model adds behind its first layers must still find all visual tokens there."""
        depth = len(getattr(output, "deepstack_features", None) or ())
        if depth > self.cut_layers[0]:
            raise BridgeError(
                f"{type(self.model).__name__} adds visual rows behind layers 0 to {depth - 1}: prune from layer "
                f"{depth} on."
            )

    def _enter(self, passage: Passage) -> None:
        """Write the report, last of all, so that a call that fails leaves no half entry."""
        passage.reported = True
        report = self.report
        images = [image for image in passage.images if image.row % passage.copies == 0]
        for image in images:
            cuts, n = tuple(image.cuts), len(image.columns)
            assert image.features is not None
            kept = cuts[-1].kept
            report.errors.append(reconstruction_error(image.features, kept))
            report.kept.append(kept)
            report.sizes.append(n)
            report.seconds.append(image.seconds)
            report.merges.append(_merged(image))
            report.rows.append(image.row // passage.copies)
            report.cuts.append(cuts)
            counts = [len(cut.kept) for cut in cuts]
            report.layers.append(tuple(tokens_per_layer(self.depth, self.cut_layers, n, counts)))
            image.features = None
        report.calls += 1
        lengths = passage.prompt.mask[:: passage.copies].sum(1).tolist()
        report.cost += cost_of_layers(
            self.model,
            lengths,
            [image.row // passage.copies for image in images],
            report.layers[len(report.layers) - len(images) :],
            sum(len(image.columns) for image in images),
        )


def cost_of_layers(
    model: Any, lengths: list[int], rows: list[int], layers: list[tuple[int, ...]], visual: int
) -> Cost:
    """Cost of one call in which layers work on different numbers of tokens, summed over the layers.

    Parameters
    ----------
    model : PreTrainedModel
    lengths : list of int
        Real tokens of every prompt.
    rows : list of int
        Prompt of each image.
    layers : list of tuples of int
        Tokens of each image in every layer; all of them in the first.
    visual : int
        Tokens of all images before pruning.

    Returns
    -------
    Cost
        "After" for tokens and prompts is what the last layer works on. Reading attention is not counted.
    """
    per_layer = [list(lengths) for _ in layers[0]]
    for row, counts in zip(rows, layers, strict=True):
        for index, count in enumerate(counts):
            per_layer[index][row] -= counts[0] - count
    prompts = (sum(lengths), sum(per_layer[-1]))
    tokens = (visual, sum(counts[-1] for counts in layers))
    decoder = Decoder.of(model)
    if decoder is None:
        return Cost(*tokens, *prompts)
    one = replace(decoder, layers=1)
    depth = len(per_layer)
    kv = (
        depth * sum(map(one.kv_bytes, lengths)),
        sum(one.kv_bytes(n) for layer in per_layer for n in layer),
    )
    flops = (
        depth * sum(map(one.prefill_flops, lengths)),
        sum(one.prefill_flops(n) for layer in per_layer for n in layer),
    )
    return Cost(*tokens, *prompts, *kv, *flops)


def _merged(image: Image) -> Tensor | None:
    """Product of the cuts' merge matrices, (k, n); None where nothing was merged."""
    if all(cut.merge is None for cut in image.cuts):
        return None
    found = torch.eye(len(image.columns))
    for stage, cut in enumerate(image.cuts):
        before = image.alive(stage)
        step = cut.merge
        if step is None:
            step = (before == cut.kept[:, None]).float()
        found = step.to(found) @ found
    return found


def _check_cache(cache: Any) -> None:
    """Only a cache whose layers grow by themselves can have layers of different lengths."""
    layers = getattr(cache, "layers", ()) or ()
    if cache is not None and (
        not hasattr(cache, "layers") or any(type(x) is not DynamicLayer for x in layers)
    ):
        raise BridgeError(
            f"{type(cache).__name__}: pruning inside the LLM needs a DynamicCache without sliding windows or "
            "quantisation."
        )


def named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    signature = inspect.signature(function)
    bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    others = bound.pop(rest, {}) if rest is not None else {}
    return {**bound, **others}


def inside_loan(
    model: Any, keep: Any, method: str, positions: str, options: Mapping[str, Any], **others: Any
) -> LayerLoan:
    """The loan for a pruner that acts inside the LLM; of the `others` none can be asked for."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise BridgeError(
                f"{name} = {value!r}: pruner {method!r} acts inside the LLM, by a rule of its own; leave it out."
            )
    return LayerLoan(model, InsideSettings(keep, method, positions, options))
