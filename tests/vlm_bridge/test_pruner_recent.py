"""Recent pruners in front of the LLM: official outputs, plain definitions, equivalences.

`data/official_recent.npz` holds what each system's own selection code (the commit named in the pruner's file) kept on
the inputs that `pruner_inputs.recent` draws, ascending: IDPruner's with attention in place of its trained scorer,
PruneSID's with exact singular vectors in place of random ones; ID-Selection's those of a port, with attention from CLS.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from pruner_inputs import cls_attention, recent, rows, two_attentions
from tiny_families import family_call, shared_model

from vlm_bridge import PRUNERS, AtMost, BridgeError, Shared, prune_inputs, select_tokens
from vlm_bridge.model import encoding
from vlm_bridge.model.families import IMAGE, VIDEO, find_family
from vlm_bridge.model.prompt import Prompt

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
    "name", ["fastervlm", "otprune", "anchorprune", "idpruner", "id_selection", "script", "prunesid", "evs"]
)
def test_conforms(name, seed):
    given = recent(seed)
    x, want = given["features"], OFFICIAL[f"{name}_{seed}"]
    got = kept(name, given, **options_of(name, seed))
    assert sorted(x[j].numpy().tobytes() for j in got) == sorted(x[j].numpy().tobytes() for j in want)


@pytest.mark.parametrize("seed", range(4))
def test_prunesid_conforms_where_groups_reach_their_limit(seed):
    rng = np.random.default_rng(seed)
    x = rows(rng, 300, 24)
    got = select_tokens(x, 40, "prunesid", cls_attention=cls_attention(rng, 4, 300)).tolist()
    assert got == OFFICIAL[f"prunesid_limits_{seed}"]


@pytest.mark.parametrize("seed", range(12))
def test_hiprune_conforms(seed):
    got = kept("hiprune", two_attentions(seed), (64, 128, 192)[seed % 3], share=(0.1, 0.4)[seed % 2])
    assert got == OFFICIAL[f"hiprune_{seed}"]


def test_hiprune_takes_neighbours_in_a_line_where_there_is_no_grid_and_never_too_many():
    x, late, early = torch.eye(10), torch.linspace(0, 1, 10)[None], torch.zeros(1, 10)
    early[0, 4] = 1
    signals = {"received": late, "received_early": early}
    assert select_tokens(x, 5, "hiprune", share=1.0, **signals).tolist() == [3, 4, 5, 8, 9]
    assert select_tokens(x, 5, "hiprune", share=1.0, grid=(2, 5), **signals).tolist() == [0, 3, 4, 5, 9]
    assert select_tokens(x, 3, "hiprune", share=1.0, grid=(2, 5), **signals).tolist() == [3, 4, 5]
    assert select_tokens(x, 5, "hiprune", share=0.0, **signals).tolist() == [5, 6, 7, 8, 9]


def framed(indices, given):
    """Divide places into frames."""
    size = len(given["features"]) // given["frames"]
    return [{j for j in indices if j // size == f} for f in range(given["frames"])]


@pytest.mark.parametrize("seed", SEEDS)
def test_vidcom2_conforms_up_to_the_sum_of_rounded_counts(seed):
    """In every frame the same tokens, or one more or fewer of the same order; in all exactly k."""
    given = recent(seed)
    want, got = OFFICIAL[f"vidcom2_{seed}"], kept("vidcom2", given)
    for a, b in zip(framed(want, given), framed(got, given), strict=True):
        assert a <= b or b <= a
    assert len(set(want) ^ set(got)) == abs(len(want) - given["k"])
    assert len(got) == given["k"]


# points of other rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_fastervlm_is_a_point_of_vispruner_and_of_idpruner(seed):
    given = recent(seed)
    mean = given["cls_attention"].double().mean(0)
    want = sorted(sorted(range(len(mean)), key=lambda j: -mean[j])[: given["k"]])
    assert kept("fastervlm", given) == want
    assert kept("vispruner", given, important_ratio=1.0) == want
    assert kept("idpruner", given, balance=1.0) == want


@pytest.mark.parametrize("seed", [0, 1, 3])
@pytest.mark.parametrize("gamma", [0.01, 1.0])
def test_otprune_is_greedy_on_a_determinant(seed, gamma):
    """Each pick makes det K_SS largest, K = I + γ (Z Zᵀ)²."""
    given = recent(seed)
    z = given["features"].double()
    z = z / z.norm(dim=0)
    kernel = torch.eye(len(z)).double() + gamma * (z @ z.mT) @ (z @ z.mT)
    want: list[int] = []
    for _ in range(6):
        gains = [
            kernel[[*want, j]][:, [*want, j]].logdet() if j not in want else -torch.inf for j in range(len(z))
        ]
        want.append(int(torch.tensor(gains).argmax()))
    assert kept("otprune", given, 6, gamma=gamma) == sorted(want)


def test_otprune_without_the_kernel_has_no_preference_and_takes_a_dead_coordinate():
    given = recent(1)
    given["features"][:, 3] = 0
    assert kept("otprune", given, 5, gamma=0.0) == [0, 1, 2, 3, 4]
    assert len(kept("otprune", given, 5)) == 5


@pytest.mark.parametrize("seed", range(6))
def test_anchorprune_between_relevance_and_max_min(seed):
    """All of the budget for the anchor: the most relevant tokens. An anchor of one and even attention: max-min distance."""
    given = recent(seed)
    assert kept("anchorprune", given, least=given["k"]) == kept("relevance", given)
    assert kept("anchorprune", given, most=1.0, novelty=2.0) == kept("relevance", given)
    even = {**given, "cls_attention": torch.ones_like(given["cls_attention"])}
    unit = torch.nn.functional.normalize(given["vision_clip"].double(), dim=-1)
    want = kept("relevance", given, 1)
    while len(want) < 8:
        distance = (1 - unit @ unit[want].mT).amin(1).clamp(max=1)
        distance[want] = -1
        want.append(int(distance.argmax()))
    assert kept("anchorprune", even, 8, least=1, most=0.0) == sorted(want)


def test_anchorprune_ends_the_anchor_with_the_last_novel_token():
    """Relevance falls with the index; tokens 4, 6 and 7 are novel beside token 0, 1 and 2 are not."""
    n = 12
    patches = torch.zeros(n, 4)
    patches[:, 0] = 1
    patches[[4, 6, 7], 0], patches[[4, 6, 7], 1] = 0, 1
    attention = torch.linspace(0, 1, n)[None]
    got = [
        select_tokens(
            torch.eye(n),
            12 - drop,
            "anchorprune",
            torch.linspace(1, 0.1, n),
            clip_patches=patches,
            cls_attention=attention,
            least=1,
            most=1.0,
            patience=patience,
        ).tolist()
        for patience, drop in ((1, 6), (2, 4), (3, 3))
    ]
    assert got == [[0, 1, 2, 3, 4, 11], [0, 1, 2, 3, 4, 5, 6, 11], [0, 1, 2, 3, 4, 5, 6, 7, 11]]


def test_script_is_cdpruners_greedy_only_while_picks_are_orthogonal():
    g = torch.Generator().manual_seed(0)
    signals = {"clip_patches": torch.randn(12, 8, generator=g), "clip_text": torch.randn(1, 8, generator=g)}
    signals["clip_patches"] /= signals["clip_patches"].norm(dim=-1, keepdim=True)
    signals["clip_text"] /= signals["clip_text"].norm()
    orthogonal, skew = torch.eye(12), torch.randn(12, 4, generator=g)
    for k in (2, 5, 9):
        same = [select_tokens(orthogonal, k, name, **signals).tolist() for name in ("script", "cdpruner")]
        assert same[0] == same[1]
    assert any(
        select_tokens(skew, k, "script", **signals).tolist()
        != select_tokens(skew, k, "cdpruner", **signals).tolist()
        for k in (3, 4, 5)
    )


@pytest.mark.parametrize("seed", range(4))
def test_todre_is_greedy_on_the_sum_of_distances(seed):
    given = recent(seed)
    unit = torch.nn.functional.normalize(given["features"].double(), dim=-1)
    distance = 1 - unit @ unit.mT
    want = [int(given["cls_attention"].mean(0).argmax())]
    while len(want) < given["k"]:
        gains = distance[want].sum(0)
        gains[want] = -1
        want.append(int(gains.argmax()))
    assert kept("todre", given) == sorted(want)


def test_id_selection_without_reach_ranks_and_with_all_reach_takes_the_best_then_the_first():
    given = recent(0)
    assert kept("id_selection", given, 9, gamma=1e9) == kept("fastervlm", given, 9)
    best = kept("fastervlm", given, 1)[0]
    assert kept("id_selection", given, 4, gamma=0.0) == sorted(
        [best, *[j for j in range(5) if j != best][:3]]
    )


# videos --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(36, 5), (36, 20), (30, 7)])
def test_evs_spreads_its_choice_over_an_image(n, k):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(n))
    assert select_tokens(x, k, "evs", frames=1).tolist() == select_tokens(x, k, "uniform_grid").tolist()


def test_evs_keeps_what_moves_and_what_ends_the_video():
    """Three frames of five tokens and a separator: the first frame, the separator, the token that changes twice."""
    x = torch.eye(8)[:5].repeat(3, 1)
    x[7], x[12] = torch.eye(8)[5], torch.eye(8)[6]
    x = torch.cat([x, torch.eye(8)[7:]])
    assert select_tokens(x, 8, "evs", frames=3).tolist() == [0, 1, 2, 3, 4, 7, 12, 15]


def test_vidcom2_gives_most_to_the_frame_that_is_unlike_the_others():
    g = torch.Generator().manual_seed(0)
    still = torch.randn(6, 16, generator=g)
    x = torch.cat([still, still, torch.randn(6, 16, generator=g), still])
    counts = np.bincount(select_tokens(x, 8, "vidcom2", frames=4).numpy() // 6, minlength=4)
    assert counts.argmax() == 2
    assert counts[2] > 8 / 4


@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_frames_that_are_none_and_parts_of_a_video_are_refused(name):
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    for frames in (0, 13, 2.5):
        with pytest.raises(BridgeError, match=rf"frames = {frames}: expected a whole number from 1 to 12"):
            select_tokens(x, 4, name, frames=frames)
    with pytest.raises(BridgeError, match="needs the number of frames of a video; missing: frames"):
        select_tokens(x, 4, name)
    model = shared_model("qwen2_vl")
    with pytest.raises(BridgeError, match=f"pruner '{name}' compares the frames of a whole video"):
        prune_inputs(model, family_call(model, (2, 1)).inputs, Shared(6), name)


@pytest.mark.parametrize(("family", "frames"), [("qwen2_vl", 2), ("qwen2_5_vl", 2), ("llava_onevision", 2)])
@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_frames_are_found_on_a_live_model(family, frames, name):
    """An image in one prompt, a video in the other."""
    model = shared_model(family)
    inputs = family_call(model, (1, 0), (4, 9), videos=(0, 1)).inputs
    with torch.no_grad():
        encoded = {kind: encoding.encode(model, inputs, kind) for kind in (IMAGE, VIDEO)}
        _, report = prune_inputs(model, inputs, AtMost(9), name)
    visuals = Prompt.of(model, inputs).visuals(model, find_family(model), encoded)
    want = [
        select_tokens(visual.rows, AtMost(9), name, frames=f).tolist()
        for visual, f in zip(visuals, (1, frames), strict=True)
    ]
    assert [kept.tolist() for kept in report.kept] == want
