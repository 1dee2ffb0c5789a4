"""The rules that act inside the LLM, as pure functions, and the budgets of their stages.

``official_inside.npz`` holds what the systems' own selection code returned (FastV d1659729, SparseVLM 26a5f488,
DART as ported in LightCompress 9701d03) on inputs drawn by `drawn`; PyramidDrop's is FastV's with other rows.
"""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from inside_oracle import largest

from vlm_bridge import PRUNERS, BridgeError, select_tokens
from vlm_bridge.pruners import dart, fastv, pyramiddrop, sparsevlm
from vlm_bridge.pruners.inside import (
    average_tokens,
    counts_for_average,
    scaled_stages,
    tokens_per_layer,
    widths,
)

DATA = Path(__file__).parent / "data"
OFFICIAL = np.load(DATA / "official_inside.npz")
CASES = [
    (0, 576, 35, 20, 0, 192),
    (1, 330, 12, 7, 1, 192),
    (2, 576, 35, 30, 0, 64),
    (3, 144, 5, 3, 2, 96),
    (4, 250, 9, 12, 2, 96),
    (5, 576, 1, 1, 2, 64),
]


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """The systems' rows are in the table."""
    for module in (dart, fastv, pyramiddrop, sparsevlm):
        monkeypatch.setitem(PRUNERS, module.ROW.name, module.ROW)


def drawn(seed, n, start, text, d=16, heads=4):
    """Attention of `text` tokens to all, rows that enter the LLM, hidden states, keys, rotary gravity."""
    rng = np.random.default_rng(seed)
    length = start + n + text
    logits = rng.standard_normal((heads, text, length)).astype(np.float32) * 2
    return {
        "attention": torch.tensor(logits).softmax(-1)[..., start : start + n],
        "entered": torch.tensor(rng.standard_normal((length, d)).astype(np.float32) * 0.7),
        "hidden": torch.tensor(rng.standard_normal((length, d)).astype(np.float32)),
        "keys": torch.tensor(rng.standard_normal((heads, length, 8)).astype(np.float32)),
        "gravity": torch.tensor(rng.uniform(1, 2, (text, length)).astype(np.float32))[:, start : start + n],
    }


def same_rows(a, b, atol=1e-5):
    """Whether two matrices hold the same rows in any order."""
    distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return bool((distance.amin(0) < atol).all() and (distance.amin(1) < atol).all())


@pytest.mark.parametrize("family", ["gaussian", "cone", "duplicates", "bfloat16"])
def test_dart_equals_the_port(family):
    data = np.load(DATA / f"{family}.npz")
    start, n = int(data["image_start"]), len(data["features"])
    got = select_tokens(
        data["features"],
        36,
        "dart",
        hidden=data["hidden"],
        keys=data["keys"],
        image_start=data["image_start"],
    )
    want = data["dart_4_4_0.75"] - start
    vectors = data["hidden"][start : start + n]
    assert len(set(got.tolist())) == 36
    assert np.array_equal(np.unique(vectors[got], axis=0), np.unique(vectors[want], axis=0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_official_outputs(case):
    seed, n, start, text, _, _ = case
    given = drawn(seed, n, start, text)
    features = given["entered"][start : start + n]
    behind = given["entered"][start + n :]
    for reduction in (0.5, 0.78, 0.889):
        want = OFFICIAL[f"dart_{seed}_{reduction}"].tolist()
        got = select_tokens(
            features, len(want), "dart", hidden=given["hidden"], keys=given["keys"], image_start=start
        )
        assert got.tolist() == want
    want = OFFICIAL[f"fastv_{seed}"].tolist()
    for method in ("fastv", "pyramiddrop"):
        assert select_tokens(features, len(want), method, attention=given["attention"]).tolist() == want

    common = {"attention": given["attention"], "llm_text": behind}
    want, merged = OFFICIAL[f"v1_{seed}_kept"].tolist(), torch.tensor(OFFICIAL[f"v1_{seed}_merged"])
    plan = sparsevlm.sparsevlm(
        features,
        len(want) + len(merged),
        None,
        **common,
        hidden=given["hidden"],
        image_start=start,
        recycled=len(merged),
    )
    assert sorted(plan.indices[: len(want)]) == want
    hidden = given["hidden"][start : start + n]
    assert same_rows(plan.merge[len(want) :] @ hidden, merged)
    assert torch.equal(plan.merge[: len(want)] @ hidden, hidden[list(plan.indices[: len(want)])])
    assert sparsevlm.recycled_count(n - len(want)) == len(merged)

    want = OFFICIAL[f"v2_{seed}_kept"].tolist()
    got = select_tokens(
        features, len(want), "sparsevlm", **common, version=2, heads=2, gravity=given["gravity"]
    )
    assert got.tolist() == want


@pytest.mark.parametrize("seed", range(8))
def test_slow_definitions(seed):
    rng = np.random.default_rng(seed)
    n, start, text, k = int(rng.integers(8, 40)), int(rng.integers(0, 5)), int(rng.integers(2, 9)), 6
    given = drawn(seed, n, start, text)
    features = given["entered"][start : start + n]
    attention = given["attention"]
    score = [sum(float(attention[h, -1, j]) for h in range(4)) for j in range(n)]
    for method in ("fastv", "pyramiddrop"):
        got = select_tokens(features, k, method, attention=attention, order="chosen")
        assert got.tolist() == largest(score, k)
    assert slow_dart(given, n, start, k, 2, 3) == (
        select_tokens(
            features,
            k,
            "dart",
            hidden=given["hidden"],
            keys=given["keys"],
            image_start=start,
            image_pivots=2,
            text_pivots=3,
        ).tolist()
    )
    rating = slow_raters(features, given["entered"][start + n :])
    assert sparsevlm.text_raters(features, given["entered"][start + n :]).nonzero()[:, 0].tolist() == rating
    score = [sum(float(attention[h, t, j]) for h in range(4) for t in rating) for j in range(n)]
    got = select_tokens(
        features,
        k,
        "sparsevlm",
        attention=attention,
        llm_text=given["entered"][start + n :],
        recycled=0,
        order="chosen",
    )
    assert got.tolist() == largest(score, k)


def slow_dart(given, n, start, k, image_pivots, text_pivots):
    length = [
        float(sum(abs(x) for x in given["keys"][:, p].flatten().tolist()))
        for p in range(len(given["hidden"]))
    ]
    images = [start + j for j in largest(length[start : start + n], min(image_pivots, k))]
    texts = [start + n + j for j in largest(length[start + n :], text_pivots)]
    chosen, turns = list(images), list(set(images + texts))
    for turn, pivot in enumerate(turns):
        left = [p for p in range(start, start + n) if p not in chosen]
        cosine = [torch.cosine_similarity(given["hidden"][pivot], given["hidden"][p], dim=0) for p in left]
        share = (k - len(images)) // len(turns) + (turn < (k - len(images)) % len(turns))
        chosen += [left[j] for j in largest([-c for c in cosine], share)]
    return sorted(p - start for p in chosen)


def slow_raters(features, text):
    share = np.zeros(len(text))
    for v in features.double().numpy():
        weight = np.exp([v @ t for t in text.double().numpy()])
        share += weight / weight.sum()
    return [j for j in range(len(text)) if share[j] > share.mean()]


def test_rank_adaptive_counts():
    """Of n tokens round(scale · (n − rank)) go."""
    g = torch.Generator().manual_seed(0)
    table = torch.rand(3, 5, generator=g)[:, :, None] * torch.rand(5, 12, generator=g)
    assert sparsevlm.adaptive_count(table, 1.0) == 5
    assert sparsevlm.adaptive_count(table, 0.5) == 12 - round(0.5 * 7)
    assert sparsevlm.adaptive_count(table, 0.0) == 12
    assert sparsevlm.adaptive_count(table, 9.0) == 1
    low = torch.rand(1, 5, 2, generator=g) @ torch.rand(1, 2, 12, generator=g)
    assert sparsevlm.adaptive_count(low, 1.0) == 2
    plan = sparsevlm.sparsevlm(torch.zeros(12, 3), 11, None, attention=low, version=2, scale=1.0)
    assert len(plan.indices) == 2
    with pytest.raises(BridgeError, match="scale = -1"):
        sparsevlm.adaptive_count(low, -1)


def test_density_peaks_finds_clusters():
    """Three tight groups: their densest members are the centres, everybody goes home."""
    g = torch.Generator().manual_seed(1)
    middles = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    groups = torch.arange(30) % 3
    rows = middles[groups] + 0.3 * torch.randn(30, 2, generator=g)
    centres, owners = sparsevlm.density_peaks(rows, 3)
    assert sorted(groups[centres].tolist()) == [0, 1, 2]
    assert [int(groups[centres[o]]) for o in owners] == groups.tolist()
    assert all(owners[c] == j for j, c in enumerate(centres))
    centres, owners = sparsevlm.density_peaks(torch.ones(6, 4), 2)
    assert centres == [0, 1]
    assert owners == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "dart", "sparsevlm"])
@pytest.mark.parametrize("n", [2, 5, 40, 203])
def test_edges(method, n):
    """Any k, half precision, equal scores, zero rows, no text behind the image."""
    given = drawn(7, n, 2, 3)
    features = given["entered"][2 : 2 + n]
    reads = {
        "dart": {"hidden": given["hidden"], "keys": given["keys"], "image_start": 2},
        "sparsevlm": {"attention": given["attention"], "llm_text": given["entered"][2 + n :]},
    }.get(method, {"attention": given["attention"]})
    for k in sorted({1, 2, n // 3 or 1, n - 1, n}):
        got = select_tokens(features, k, method, **reads)
        assert len(set(got.tolist())) == k
        flat = {name: x * 0 if isinstance(x, torch.Tensor) else x for name, x in reads.items()}
        assert len(set(select_tokens(features * 0, k, method, **flat).tolist())) == k
        half = {name: x.bfloat16() if isinstance(x, torch.Tensor) else x for name, x in reads.items()}
        assert len(set(select_tokens(features.bfloat16(), k, method, **half).tolist())) == k
    even = {**reads, "attention": torch.ones(2, 3, n)} if method != "dart" else None
    if even is not None and n > 2:
        got = select_tokens(features, 2, method, **even, **({"recycled": 0} if method == "sparsevlm" else {}))
        assert got.tolist() == [0, 1]
    if method == "dart":
        bare = {"hidden": given["hidden"][: 2 + n], "keys": given["keys"][:, : 2 + n], "image_start": 2}
        assert len(select_tokens(features, n - 1, "dart", **bare)) == n - 1


def test_bad_requests():
    x, attention = torch.zeros(6, 4), torch.ones(2, 3, 6)
    hidden, keys = torch.ones(9, 4), torch.ones(2, 9, 3)
    for match, method, options in (
        ("missing: attention", "fastv", {}),
        ("missing: hidden, keys, image_start", "dart", {}),
        ("image_start = 4", "dart", {"hidden": hidden, "keys": keys, "image_start": 4}),
        ("same L tokens", "dart", {"hidden": hidden[1:], "keys": keys, "image_start": 0}),
        ("image_pivots = 0", "dart", {"hidden": hidden, "keys": keys, "image_start": 0, "image_pivots": 0}),
        ("version = 3", "sparsevlm", {"attention": attention, "version": 3}),
        ("recycled = 9", "sparsevlm", {"attention": attention, "recycled": 9}),
        ("recycled = 3", "sparsevlm", {"attention": attention, "recycled": 3}),
        ("heads = 0", "sparsevlm", {"attention": attention, "version": 2, "heads": 0}),
        ("one for each", "sparsevlm", {"attention": attention, "llm_text": torch.ones(2, 4)}),
        ("has no option", "fastv", {"attention": attention, "image_pivots": 1}),
    ):
        with pytest.raises(BridgeError, match=match):
            select_tokens(x, 4, method, **options)


def test_selected_and_recycled_tokens_add_up():
    """Every budget is met, and where the rule has room its own numbers are used."""
    for n in range(1, 120):
        for k in range(1, n + 1):
            count = sparsevlm.selected_count(n, k)
            assert 1 <= count <= k
            assert k - count <= sparsevlm.recycled_pool(n - count)
            assert k - count == min(sparsevlm.recycled_count(n - count), k // 2) or count == k


def test_official_schedules():
    """Shares and lists of the papers, and their true averages over 32 layers."""
    stages = pyramiddrop.schedule(32, 576, None)
    assert [(s.layer, s.keep) for s in stages] == [(8, 288), (16, 144), (24, 72)]
    assert average_tokens(32, (8, 16, 24), 576, (288, 144, 72)) == 270
    assert pyramiddrop.schedule(32, 576, 270) == stages
    assert [s.layer for s in pyramiddrop.schedule(4, 36, None)] == [1, 2, 3]
    stages = sparsevlm.schedule(32, 576, 192, budget="preset")
    assert [s.layer for s in stages] == [3, 7, 16]
    assert [s.keep - s.options["recycled"] for s in stages] == [300, 200, 110]
    assert [s.options["recycled"] for s in stages] == [9, 4, 3]
    stages = sparsevlm.schedule(32, 576, 64, budget="preset", version=2)
    assert [s.keep for s in stages] == [66, 34, 20]
    assert sparsevlm.schedule(32, 576, None) == sparsevlm.schedule(32, 576, 192, budget="preset")
    rank = sparsevlm.schedule(32, 576, None, budget="rank", scale=0.9)
    assert [(s.keep, s.options) for s in rank] == [(576, {"scale": 0.9})] * 3
    assert scaled_stages((8, 16, 24), 28) == (7, 14, 21)
    assert scaled_stages((3, 7, 16), 4) == (1, 2, 3)
    for options, match in (
        ({"scale": 0.5}, "budget='rank'"),
        ({"budget": "preset", "keep": 100}, "official lists"),
        ({"budget": "preset", "keep": 64, "stages": (2, 4)}, "3 stages"),
        ({"budget": "preset", "keep": 64, "shares": (0.5, 0.3, 0.1)}, "belong to"),
        ({"shares": (0.5, 0.3)}, "one in"),
        ({"stages": (0, 2, 4)}, "from 1 to 31"),
    ):
        with pytest.raises(BridgeError, match=match):
            sparsevlm.schedule(32, 576, options.pop("keep", None), **options)


def test_tokens_per_layer():
    assert widths(10, (2, 5)) == [2, 3, 5]
    assert tokens_per_layer(6, (1, 4), 9, (5, 2)) == [9, 5, 5, 5, 2, 2]
    assert average_tokens(6, (1, 4), 9, (5, 2)) == Fraction(28, 6)


@pytest.mark.parametrize(("layers", "stages"), [(32, (8, 16, 24)), (32, (3, 7, 16)), (5, (1, 3)), (4, (2,))])
@pytest.mark.parametrize("n", [9, 36, 577])
def test_counts_for_average(layers, stages, n):
    """Never above the budget, nothing left that could be spent, and exact where it can be."""
    shares = (0.5, 0.25, 0.125)[: len(stages)]
    rest = widths(layers, stages)[1:]
    least = average_tokens(layers, stages, n, [1] * len(stages))
    for average in {*np.linspace(float(least) + 1e-9, n, 23).tolist(), n}:
        counts = counts_for_average(layers, stages, n, shares, average)
        assert n >= counts[0]
        assert list(counts) == sorted(counts, reverse=True)
        assert counts[-1] >= 1
        left = Fraction(average) * layers - sum(tokens_per_layer(layers, stages, n, counts))
        assert left >= 0
        for s, width in enumerate(rest):
            above = n if s == 0 else counts[s - 1]
            assert width > left or counts[s] == above
    assert counts_for_average(layers, stages, n, shares, n) == (n,) * len(stages)
    with pytest.raises(BridgeError, match="is the least"):
        counts_for_average(layers, stages, n, shares, float(least) - 0.01)


def test_counts_follow_the_shares():
    """Within one token of min(n, t · share · n), by brute force over t."""
    layers, stages, n, shares = 12, (2, 5, 9), 50, (0.6, 0.3, 0.1)
    for average in (14, 20.5, 33, 41):
        counts = counts_for_average(layers, stages, n, shares, average)
        rest = widths(layers, stages)[1:]

        def spent(t, rest=rest):
            return sum(w * min(n, t * s * n) for w, s in zip(rest, shares, strict=True)) + 2 * n

        t = min(np.linspace(0, 12, 24001), key=lambda t: abs(spent(t) - average * layers))
        want = [min(n, t * s * n) for s in shares]
        assert all(abs(c - w) < 2 for c, w in zip(counts, want, strict=True))


def test_what_is_left_goes_where_most_was_cut_off():
    """Exact counts 5.1, 3.8 and 1.9, and one token to give."""
    assert counts_for_average(4, (1, 2, 3), 10, (0.51, 0.38, 0.19), 5.2) == (5, 3, 2)


def test_every_count_survives_the_round_trip():
    """counts → average → counts, for counts that are their own shares."""
    layers, stages, n = 8, (2, 4, 6), 12
    for counts in itertools.combinations_with_replacement(range(12, 0, -3), 3):
        shares = [c / n for c in counts]
        average = average_tokens(layers, stages, n, counts)
        assert counts_for_average(layers, stages, n, shares, average) == counts
