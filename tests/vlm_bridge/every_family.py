"""A tiny random model of every vision-language family that transformers has, made from the family's own defaults.

The registry is walked, and sizes are cut down by name, so that a family of the next release is tried without a line
here. `RECIPES` says what cannot be guessed: sizes that depend on one another, and the pixels that an encoder reads.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

PAD, BOS, EOS, START, END, IMAGE, VIDEO, AUDIO, VOCAB = 0, 1, 2, 5, 6, 7, 8, 9, 120
WORDS = (20, VOCAB)
_SIZES = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "embed_dim", "out_hidden_size", "hidden_dim", "projection_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(
        ("num_key_value_heads", "linear_num_key_heads", "spatial_merge_size", "num_experts_per_tok"), 2
    ),
    **dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("intermediate_size", "mlp_dim"), 48),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "patch_size"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 4),
    "image_size": 24,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
}
_IDS = (
    (r"pad_", PAD),
    (r"bos_", BOS),
    (r"eos_", EOS),
    (r"(start|boi|begin|bov)", START),
    (r"(end|eoi|eov)", END),
    (r"image", IMAGE),
    (r"video", VIDEO),
    (r"audio", AUDIO),
)


@dataclass(frozen=True)
class Recipe:
    """What cannot be guessed of a family.

    Attributes
    ----------
    config : dict
        Nested values that go over the cut-down defaults; of None the default is dropped.
    pixels : callable, optional
        ``pixels(model, images, g)``: what a processor gives for `images` images (tiles where there are `tiles`), as
        keyword arguments.
    clips : callable, optional
        The same for videos.
    wrap : callable, optional
        ``wrap(ids, kind)``: the tokens that the processor writes for the placeholders `ids` of one image or video.
    write : callable, optional
        ``write(model, kind, groups, made)``: in place of `wrap`, the tokens of every image or video, where they depend
        on the rows of its entries, ``groups[i]``, or on what `pixels` or `clips` made.
    rows : callable, optional
        ``rows(model, kind, made)``: rows of each entry, where the encoder's ``pooler_output`` does not tell.
    finish : callable, optional
        ``finish(model, inputs)``: what the processor adds once the prompt is written, as keyword arguments;
        of None they are taken out.
    sound : callable, optional
        ``sound(model, inputs, g)``: a sound in every prompt, in place of some of the last words, as keyword arguments.
    by_prompt : bool
        Pixels are grouped by prompt, padded with zeros: (prompts, most, ...); an entry is all that a prompt shows.
    tiles : tuple of int
        Entries of the encoder's answer for the first image, the second, and so on, over and over.
    """

    config: dict[str, Any] = field(default_factory=dict)
    pixels: Callable[..., dict[str, Any]] | None = None
    clips: Callable[..., dict[str, Any]] | None = None
    wrap: Callable[[list[int], str], list[int]] | None = None
    write: Callable[..., list[list[int]]] | None = None
    rows: Callable[..., list[int]] | None = None
    finish: Callable[..., dict[str, Any]] | None = None
    sound: Callable[..., dict[str, Any]] | None = None
    by_prompt: bool = False
    tiles: tuple[int, ...] = (1,)


RECIPES: dict[str, Recipe] = {}


@cache
def classes() -> dict[str, type]:
    """Every class of transformers that generates from images, by its name.

    It stands in a file that knows how to encode images for a prompt, or in the table of models from images to text; of
    a family the text model is left out.
    """
    root = Path(transformers.__file__).parent / "models"
    listed = {
        name
        for names in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
        for name in ([names] if isinstance(names, str) else names)
    }
    found = {}
    for file in sorted(root.glob("*/modeling_*.py")):
        text = file.read_text()
        own = {name for name in listed if f"\nclass {name}(" in text}
        if not own and not any(word in text for word in ("get_image_features", "image_token", "IMAGE_TOKEN")):
            continue
        module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        able = {
            name: kind
            for name, kind in vars(module).items()
            if isinstance(kind, type)
            and issubclass(kind, GenerationMixin)
            and kind.__module__ == module.__name__
        }
        texts = {name for name in able if name.endswith("ForCausalLM")} - own
        found |= {name: kind for name, kind in able.items() if name not in texts or texts == set(able)}
    return found


def small(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the sizes cut down, nested ones alike."""
    found = {}
    for name, value in config.items():
        if name == "per_layer_config":
            continue  # of layers that are cut
        if isinstance(value, dict) and "model_type" in value:
            value = small(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = _SIZES.get(name, value)
            if name.endswith(("_token_id", "_token_index")):
                value = next((token for pattern, token in _IDS if re.search(pattern, name)), 3)
        elif name in ("layer_types", "mlp_layer_types") and isinstance(value, list):
            kinds = list(dict.fromkeys(value))
            value = kinds if len(kinds) > 1 else value[:2]
        found[name] = value
    if isinstance(found.get("layer_types"), list):
        found["num_hidden_layers"] = len(found["layer_types"])
    return found


def _over(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = dict(config)
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict) and isinstance(found.get(name), dict) and found[name]:
            found[name] = _over(found[name], value)
        else:
            found[name] = value
    return found


def recipe(model: Any) -> Recipe:
    """The recipe of a model or class."""
    name = (model if isinstance(model, type) else type(model)).__name__
    return RECIPES.get(name, Recipe())


def build(name: str, seed: int = 0) -> Any:
    """A random model of the class `name`, in float32 and eval mode, in which all tokens count."""
    own = classes()[name]
    config = own.config_class(**_over(small(own.config_class().to_dict()), recipe(own).config))
    torch.manual_seed(seed)
    return awake(own(config))


def awake(model: Any) -> Any:
    """Weights large enough for every token to count, and for which no placeholder is ever the answer."""
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if part.endswith("image_newline"):
                weight.normal_(0, 0.5)
            elif weight.ndim >= 2 and weight.is_floating_point():
                weight.normal_(0, 0.5 if "embed" in part else 1 / weight.shape[-1] ** 0.5)
        head = (
            None
            if model.__class__.__name__ == "PPFormulaNetForConditionalGeneration"
            else model.get_output_embeddings()
        )
        if isinstance(head, nn.Linear):
            if head.weight is model.get_input_embeddings().weight:
                head.weight = nn.Parameter(head.weight.detach().clone())
            head.weight[: WORDS[0]] = 0
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model.eval()


@dataclass(frozen=True)
class Call:
    """Inputs as a processor gives them, and where their images and videos stand.

    Attributes
    ----------
    inputs : dict
    spans : list of (str, int, list of int)
        Kind, row and columns of every entry of the encoders' answers, in placeholder order.
    """

    inputs: dict[str, Any]
    spans: list[tuple[str, int, list[int]]]


def call(model: Any, images=(1, 1), text=(4, 9), videos=None, *, sound: bool = False, seed: int = 2) -> Call:
    """A left-padded batch: row b has `images[b]` images, `videos[b]` videos, `text[b]` words, some of them a `sound`."""
    g = torch.Generator().manual_seed(seed)
    own, videos = recipe(model), videos or (0,) * len(images)
    tiles = [own.tiles[i % len(own.tiles)] for i in range(sum(images))]
    extra, written, counts = {}, {}, {}
    for kind, wanted, parts, given in (
        ("image", images, tiles, own.pixels or pixels),
        ("video", videos, [1] * sum(videos), own.clips or clips),
    ):
        if sum(wanted):
            made = given(model, sum(parts), g)
            if own.by_prompt:
                shown = [sum(group.tolist()) for group in torch.tensor(parts).split(list(wanted))]
                made = {name: _by_prompt(value, shown) for name, value in made.items()}
            sizes = rows_of(model, kind, made)
            if own.by_prompt:
                sizes = [n // tiles for n, tiles in zip(sizes, shown, strict=True) for _ in range(tiles)]
            elif len(sizes) < sum(parts):  # one entry a prompt
                parts, wanted = [1] * len(sizes), [min(n, 1) for n in wanted]
            elif len(sizes) > sum(parts):  # several entries each, such as the frames of a video
                parts = [len(sizes) // len(parts)] * len(parts)
            groups = [group.tolist() for group in torch.tensor(sizes).split(parts)]
            pieces = (own.write or write)(model, kind, groups, made)
            written[kind] = zip(groups, pieces, strict=True)
            extra, counts[kind] = extra | made, wanted
    rows, spans = [], []
    for row, words in enumerate(text):
        ids = [BOS]
        for kind, wanted in counts.items():
            for sizes, piece in [next(written[kind]) for _ in range(wanted[row])]:
                columns = [len(ids) + i for i, token in enumerate(piece) if token in (IMAGE, VIDEO)]
                spans += [(kind, row, part.tolist()) for part in torch.tensor(columns).split(sizes)]
                ids += piece + torch.randint(*WORDS, (2,), generator=g).tolist()
        rows.append(ids + torch.randint(*WORDS, (words,), generator=g).tolist())
    width = max(map(len, rows))
    if own.by_prompt:
        joined: dict[tuple[str, int], list[int]] = {}
        for kind, row, columns in spans:
            joined.setdefault((kind, row), []).extend(columns)
        spans = [(kind, row, columns) for (kind, row), columns in joined.items()]
    spans = [(kind, row, [width - len(rows[row]) + c for c in columns]) for kind, row, columns in spans]
    inputs = {
        "input_ids": torch.tensor([[PAD] * (width - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
        **extra,
    }
    if sound:
        inputs |= own.sound(model, inputs, g)
    inputs |= (own.finish or finish)(model, inputs)
    return Call({name: value for name, value in inputs.items() if value is not None}, spans)


def write(model: Any, kind: str, groups: list[list[int]], made: dict[str, Any]) -> list[list[int]]:
    """One unbroken run of placeholders an image, between two markers."""
    wrap, token = recipe(model).wrap or (lambda ids, kind: [START, *ids, END]), placeholder(model, kind)
    return [wrap([token] * sum(sizes), kind) for sizes in groups]


def _by_prompt(value: Tensor, counts: list[int]) -> Tensor:
    """Rows (n, ...), `counts` of them a prompt, padded with zeros: (prompts, most, ...)."""
    found = value.new_zeros(len(counts), max(counts), *value.shape[1:])
    for own, rows in zip(found, value.split(counts), strict=True):
        own[: len(rows)] = rows
    return found


def placeholder(model: Any, kind: str) -> int:
    """The id of a kind in the config."""
    names = (f"{kind}_token_id", f"{kind}_token_index")
    return next(v for v in (getattr(model.config, name, None) for name in names) if v is not None)


def base_of(model: Any) -> Any:
    """What encodes images."""
    return model.model if hasattr(getattr(model, "model", None), "get_image_features") else model


@torch.no_grad()
def rows_of(model: Any, kind: str, made: dict[str, Any]) -> list[int]:
    """How many rows each entry of the encoder's answer has."""
    if recipe(model).rows is not None:
        return recipe(model).rows(model, kind, made)
    encoder = getattr(base_of(model), f"get_{kind}_features")
    names = inspect.signature(encoder).parameters
    output = encoder(**{name: value for name, value in made.items() if name in names}, return_dict=True)
    return [len(rows) for rows in output.pooler_output]


def vision_of(model: Any) -> Any:
    """The configuration of the vision tower."""
    return getattr(model.config, "vision_config", model.config)


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _frames_of(vision: Any) -> int:
    return getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", None) or 1


def _patches(model: Any, grids: Tensor, g: torch.Generator) -> Tensor:
    vision = vision_of(model)
    width = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    return torch.randn(
        int(grids.prod(1).sum()),
        width * _frames_of(vision) * _side(vision.patch_size) ** 2,
        generator=g,
    )


def pixels(model: Any, images: int, g: torch.Generator) -> dict[str, Any]:
    """Images as most processors give them: patches of a grid, or squares."""
    names = inspect.signature(base_of(model).get_image_features).parameters
    if "image_grid_thw" in names:
        grids = torch.tensor([(1, 8, 8), (1, 4, 12), (1, 8, 4)])[torch.arange(images) % 3]
        return {"pixel_values": _patches(model, grids, g), "image_grid_thw": grids}
    side = _side(vision_of(model).image_size)
    extra = {"pixel_values": torch.randn(images, 3, side, side, generator=g)}
    if "image_sizes" in names:
        extra["image_sizes"] = torch.full((images, 2), side)
    if "pixel_attention_mask" in names:
        extra["pixel_values"] = extra["pixel_values"][:, None]
        extra["pixel_attention_mask"] = torch.ones(images, 1, side, side, dtype=torch.bool)
    return extra


def clips(model: Any, videos: int, g: torch.Generator) -> dict[str, Any]:
    """Videos alike."""
    names = inspect.signature(base_of(model).get_video_features).parameters
    if "video_grid_thw" in names:
        grids = torch.tensor([(2, 8, 4), (3, 4, 4)])[torch.arange(videos) % 2]
        return {"pixel_values_videos": _patches(model, grids, g), "video_grid_thw": grids}
    side = _side(vision_of(model).image_size)
    return {"pixel_values_videos": torch.randn(videos, 2, 3, side, side, generator=g)}


def finish(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Token types, where the model takes them."""
    names, ids = inspect.signature(model.forward).parameters, inputs["input_ids"]
    image = ids == placeholder(model, "image")
    found = {}
    if "mm_token_type_ids" in names:
        found["mm_token_type_ids"] = image.int() + 2 * (ids == VIDEO).int() + 3 * (ids == AUDIO).int()
    if "token_type_ids" in names:
        found["token_type_ids"] = image.long()
    return found
