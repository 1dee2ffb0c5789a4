"""The tiny models from Kimi to VipLlava: they run as their users run them, and what they see matters."""

import every_family as families
import pytest
import torch
from recipes_k_to_z import NOT_TEXT, RECIPES, with_soundtrack

NAMES = sorted(name for name in families.classes() if name[0].upper() >= "K" and name not in NOT_TEXT)
PIXELS = (
    "pixel_values",
    "pixel_values_images",
    "pixel_values_videos",
    "pixel_values_local",
    "image_pixel_values",
)
SOUNDS = ("input_features", "input_values")


def moved(model, inputs, names):
    """How far the last logits of each prompt move when what `names` hold is replaced; padding stays."""
    g = torch.Generator().manual_seed(9)
    other = {k: torch.randn(v.shape, generator=g) * (v != 0) if k in names else v for k, v in inputs.items()}
    with torch.no_grad():
        return float((model(**inputs).logits - model(**other).logits)[:, -1].abs().amax(-1).min())


def forms(model):
    """Calls with images of every prompt, several of one, videos, and sounds, where the family takes them."""
    own = families.recipe(model)
    yield families.call(model), PIXELS
    yield families.call(model, images=(2, 1)), PIXELS
    if own.clips or hasattr(families.base_of(model), "get_video_features"):
        yield families.call(model, images=(0, 0), videos=(1, 1)), PIXELS
    if own.sound:
        yield families.call(model, sound=True), SOUNDS
    if "Omni" in type(model).__name__:
        yield with_soundtrack(model, families.call(model, images=(0, 0), videos=(1, 1))), SOUNDS


def check_spans(made):
    """Spans are all placeholders of a call, each once."""
    places = [(row, column) for _, row, columns in made.spans for column in columns]
    visual = torch.isin(made.inputs["input_ids"], torch.tensor([families.IMAGE, families.VIDEO]))
    assert sorted(places) == [tuple(place) for place in visual.nonzero().tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_answers_and_looks_at_what_it_is_shown(name):
    model = families.build(name)
    assert sum(weight.numel() for weight in model.parameters()) < 1_000_000
    for made, names in forms(model):
        check_spans(made)
        assert moved(model, made.inputs, names) > 0.05
        answer = model.generate(**made.inputs, max_new_tokens=2, do_sample=False)
        assert answer.shape[0] == made.inputs["input_ids"].shape[0]


def test_every_class_has_a_recipe_or_a_reason():
    unknown = [name for name in NAMES if name not in RECIPES]
    assert not unknown, f"write a recipe for {', '.join(unknown)}, or say in NOT_TEXT why there is none"
    assert not set(NOT_TEXT) - set(families.classes())
