"""Recent pruners in front of the LLM: official outputs, plain definitions, equivalences.

`data/official_recent.npz` holds what each system's own selection code (the commit named in the pruner's file) kept on
the inputs that `pruner_inputs.recent` draws, ascending: IDPruner's with attention in place of its trained scorer,
PruneSID's with exact singular vectors in place of random ones.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from pruner_inputs import recent

from vlm_bridge import PRUNERS, select_tokens

SEEDS = range(24)

with np.load(Path(__file__).parent / "data" / "official_recent.npz") as stored:
    OFFICIAL = {name: stored[name].tolist() for name in stored}


def options_of(name, seed):
    """The options with which the official code ran."""
    if name == "anchorprune":
        return {"least": 5 if seed % 2 else 2, "novelty": (0.2, 0.5, 0.8)[seed % 3]}
    return {"balance": (0.5, 0.8, 0.2)[seed % 3]} if name == "idpruner" else {}


def kept(name, given, k=None, **options):
    """What the pruner keeps of the tokens, ascending, with the signals among `given` that it takes."""
    signals = {key: value for key, value in given.items() if key in PRUNERS[name].accepts}
    return select_tokens(given["features"], k or given["k"], name, **signals, **options).tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "name", ["fastervlm", "otprune", "anchorprune", "idpruner", "script", "prunesid", "evs"]
)
def test_conforms(name, seed):
    given = recent(seed)
    x, want = given["features"], OFFICIAL[f"{name}_{seed}"]
    got = kept(name, given, **options_of(name, seed))
    assert sorted(x[j].numpy().tobytes() for j in got) == sorted(x[j].numpy().tobytes() for j in want)
