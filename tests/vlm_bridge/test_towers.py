"""Signals of every family's vision tower: which patches a token is made of, and what the tower attends to."""

from functools import cache

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, WITH_GRID, family_call
from tiny_vlm import tiny_tokenizer
from tower_oracle import PIXTRAL, attended, encode, made_of, pixtral_call, tower_model, vision_of

from vlm_bridge import PRUNERS, BridgeError, prune, prune_inputs
from vlm_bridge import inputs as bridge_inputs
from vlm_bridge.families import IMAGE, VIDEO, base_of, find_family
from vlm_bridge.inputs import Prompt
from vlm_bridge.patches import CONNECTORS, patches_per_token, projection
from vlm_bridge.signals import Live, Sources
from vlm_bridge.tower import CAPTURED, watched

TOWERS = (*FAMILIES, *PIXTRAL)
OF_THE_TOWER = ("vision_clip", "vision_mean", "vision_keys", "cls_attention")


@cache
def model_of(name):
    return tower_model(name)


def call_of(name, images=(1, 1), **options):
    make = pixtral_call if name in PIXTRAL else family_call
    return make(model_of(name), images, **options)


def looked_at(name, inputs, kind=IMAGE):
    """Signals of the bridge for all images, or videos, of a call: name → one tensor an image, tokens first."""
    model = model_of(name)
    family = find_family(model)
    with torch.no_grad(), watched(model, family, inputs, CAPTURED, kind) as tower:
        encoded = bridge_inputs.encode(model, inputs, kind)
    prompt = Prompt.of(model, inputs)
    visuals = prompt.visuals(model, family, {kind: encoded})
    live = Live(model, family, inputs, prompt, visuals, {kind: tower}, Sources())
    found = {signal: live._signal(signal) for signal in OF_THE_TOWER}
    found["vision_keys"] = [keys.transpose(0, 1) for keys in found["vision_keys"]]
    found["cls_attention"] = [table.mT for table in found["cls_attention"]]
    return found, visuals


@cache
def oracle_patches(name, kind="image"):
    inputs = call_of(name).inputs if kind == "image" else call_of(name, (0, 0), videos=(1, 1)).inputs
    return made_of(model_of(name), inputs, kind)


def expected(name, monkeypatch, kind="image"):
    """Keys and attention of each token by the tower's eager attention and by what tokens are made of."""
    inputs = call_of(name).inputs if kind == "image" else call_of(name, (0, 0), videos=(1, 1)).inputs
    keys, attention = attended(model_of(name), inputs, monkeypatch, kind)
    own = oracle_patches(name, kind)
    return [torch.stack([rows[p].mean(0) if p else torch.zeros_like(rows[0]) for p in own]) for rows in (keys, attention)]


@pytest.mark.parametrize("name", TOWERS)
def test_keys_and_attention_are_those_of_the_patches_a_token_is_made_of(name, monkeypatch):
    """Of images of several sizes in a batch, against the attention weights of the tower itself."""
    own = oracle_patches(name)
    size = patches_per_token(model_of(name), find_family(model_of(name)))
    assert {len(places) for places in own} <= {size, 0}, "the oracle found all patches of a token"
    found, _ = looked_at(name, call_of(name).inputs)
    keys, attention = expected(name, monkeypatch)
    assert (torch.cat(found["vision_keys"]) - keys).abs().max() < 1e-5
    assert (torch.cat(found["cls_attention"]) - attention).abs().max() < 1e-5
    assert attention.std(0).max() > 1e-3, "attention is not flat, so that another order would be seen"


@pytest.mark.parametrize("name", WITH_GRID)
def test_frames_of_videos(name, monkeypatch):
    """Attention within each frame, tokens in the order of the prompt."""
    inputs = call_of(name, (0, 0), videos=(1, 1)).inputs
    found, visuals = looked_at(name, inputs, VIDEO)
    keys, attention = expected(name, monkeypatch, "video")
    assert [len(visual.rows) for visual in visuals] == [len(rows) for rows in found["vision_keys"]]
    assert (torch.cat(found["vision_keys"]) - keys).abs().max() < 1e-5
    assert (torch.cat(found["cls_attention"]) - attention).abs().max() < 1e-5
