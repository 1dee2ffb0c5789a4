"""Pruners that rank tokens before the LLM: official outputs, plain oracles, and edges.

`official_<name>.npz` holds what each system's own selection code (the commit named in the pruner's file)
returned on seeded inputs: places kept, ascending, and merged rows in the official order.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pruner_inputs import cls_attention, one_head, rows

from vlm_bridge import BridgeError, select_tokens
from vlm_bridge.pruners import ranking
from vlm_bridge.pruners.holov import ROW as HOLOV
from vlm_bridge.pruners.holov import crop_scores
from vlm_bridge.pruners.prumerge import ROW as PRUMERGE
from vlm_bridge.pruners.relevance import unit_rows
from vlm_bridge.pruners.trim import ROW as TRIM
from vlm_bridge.pruners.visionzip import ROW as VISIONZIP
from vlm_bridge.pruners.vispruner import ROW as VISPRUNER
from vlm_bridge.selection.merge import merge_tokens

DATA = Path(__file__).parent / "data"
ROWS = (VISPRUNER, VISIONZIP, PRUMERGE, TRIM, HOLOV)
MERGING = (VISIONZIP, PRUMERGE, TRIM)


def official(name):
    with np.load(DATA / f"official_{name}.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


def inputs(seed, n, row, d=12):
    """Features (n, d) and the signals that the row reads, CLS among them."""
    rng = np.random.default_rng(seed)
    signals = {
        "cls_attention": cls_attention(rng, 4, n),
        "vision_keys": rows(rng, 4 * n, 6).view(4, n, 6),
        "vision_cls": rows(rng, 1, d)[0],
        "clip_patches": rows(rng, n, 10),
        "clip_text": 0.3 * rows(rng, 2, 10),
    }
    return rows(rng, n, d), {name: signals[name] for name in row.reads if name != "vision_clip"}


def planned(row, features, k, **signals):
    """The plan's places, checked to be distinct tokens, and the rows that it makes of `features`."""
    plan = row.plan(features, k, None, **signals)
    n = features.shape[0]
    assert 0 < len(set(plan.indices)) == len(plan.indices) <= k
    assert all(isinstance(j, int) and 0 <= j < n for j in plan.indices)
    if plan.merge is None:
        return plan.indices, features[list(plan.indices)]
    cls = "vision_cls" in signals
    assert plan.merge.shape == (len(plan.indices), n + cls)
    assert torch.isfinite(plan.merge).all()
    tokens = torch.cat([features, signals["vision_cls"][None]]) if cls else features
    return plan.indices, plan.merge.to(tokens.dtype) @ tokens


def best_first(scores):
    """Places by descending score, the lowest first among equals."""
    return sorted(range(len(scores)), key=lambda j: (-float(scores[j]), j))


# VisPruner ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "cone", "duplicates", "bfloat16"])
@pytest.mark.parametrize(("count", "ratio"), [(36, 0.5), (20, 0.5), (36, 1.0)])
def test_vispruner_conforms(kind, count, ratio):
    with np.load(DATA / f"{kind}.npz") as z:
        x, want = z["features"], z[f"vispruner_{count}_{ratio}"]
        got = select_tokens(x, count, "vispruner", cls_attention=z["cls_attention"], important_ratio=ratio)
    assert {x[j].tobytes() for j in got} == {x[j].tobytes() for j in want}


def slow_vispruner(x, attention, k, ratio):
    order = best_first(attention.mean(0))
    kept, pool = order[: int(k * ratio)], order[int(k * ratio) :]
    wanted = k - len(kept)
    unit = [v / v.norm() for v in x.double()]
    while wanted and len(pool) > wanted:
        even = [pool[p] for p in range(0, len(pool), 2)]
        odd = [pool[p] for p in range(1, len(pool), 2)]
        nearest = [max(float(unit[i] @ unit[j]) for j in odd) for i in even]
        ranked = [even[p] for p in best_first(nearest)]
        pool = ranked[min(8, len(pool) - wanted, len(even)) :] + odd
    return kept + (pool if wanted else [])


@pytest.mark.parametrize(
    ("n", "k", "ratio"), [(40, 10, 0.5), (41, 10, 0.5), (47, 9, 0.3), (30, 2, 0.5), (23, 1, 0)]
)
def test_vispruner_is_its_definition(n, k, ratio):
    """Also where the pool is odd or holds fewer than eight even places, as the official code cannot."""
    for seed in range(3):
        x, signals = inputs(seed, n, VISPRUNER)
        got, _ = planned(VISPRUNER, x, k, important_ratio=ratio, **signals)
        assert list(got) == slow_vispruner(x, signals["cls_attention"], k, ratio)


def test_vispruner_compares_vision_rows_where_given():
    x, signals = inputs(0, 40, VISPRUNER)
    y = rows(np.random.default_rng(9), 40, 8)
    got = VISPRUNER.plan(x, 10, None, vision_clip=y, **signals).indices
    assert got == VISPRUNER.plan(y, 10, None, **signals).indices
    assert got != VISPRUNER.plan(x, 10, None, **signals).indices


def test_vispruner_drops_duplicates():
    """Of a token that stands in the pool nine times, at most one is left."""
    for seed in range(6):
        x, signals = inputs(seed, 64, VISPRUNER)
        x[8:16] = x[7]
        got, _ = planned(VISPRUNER, x, 20, important_ratio=0.0, **signals)
        assert len(set(got) & set(range(7, 16))) <= 1


# VisionZip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "dominant", "contextual"), [(0, 54, 10), (1, 108, 20), (2, 5, 3)])
def test_visionzip_conforms(seed, dominant, contextual):
    rng, want = np.random.default_rng(seed), official("visionzip")
    x = rows(rng, 577, 16)
    signals = {"cls_attention": cls_attention(rng, 4, 576), "vision_cls": x[0]}
    signals["vision_keys"] = rows(rng, 4 * 576, 8).view(4, 576, 8)
    share = {} if seed < 2 else {"contextual_ratio": contextual / 8}
    got, tokens = planned(VISIONZIP, x[1:], dominant + contextual, **signals, **share)
    kept = got[1:dominant]
    assert sorted(kept) == want[f"dominant_{dominant}_{contextual}"].tolist()
    raster = [0, *(1 + j for j in best_first([-j for j in kept])), *range(dominant, len(got))]
    assert (tokens[raster] - want[f"rows_{dominant}_{contextual}"]).abs().max() < 1e-5


def slow_visionzip(x, attention, keys, cls, k, share):
    """Places and rows: CLS, dominant, contextual."""
    contextual = min(round(k * share), k - (cls is not None))
    dominant = best_first(attention.sum(0))[: k - contextual - (cls is not None)]
    others = [j for j in range(len(x)) if j not in dominant]
    key = {j: keys[:, j].double().mean(0) for j in others}
    anchors = others[:: max(1, len(others) // contextual)][:contextual] if contextual else []
    groups = {a: [] for a in anchors}
    for j in others:
        if anchors and j not in anchors:
            cosine = [float(key[a] @ key[j] / key[a].norm() / key[j].norm()) for a in anchors]
            groups[anchors[cosine.index(max(cosine))]].append(x[j])
    made = [x[j] for j in dominant]
    made += [x[a] + (torch.stack(groups[a]).mean(0) if groups[a] else 0) for a in anchors]
    places = dominant + anchors
    if cls is not None:
        places, made = [next(j for j in range(len(x)) if j not in places), *places], [cls, *made]
    return places, torch.stack(made)


@pytest.mark.parametrize("with_cls", [True, False])
@pytest.mark.parametrize(
    ("n", "k", "share"), [(40, 12, 10 / 64), (41, 13, 0.5), (30, 7, 0.0), (30, 8, 1.0), (9, 8, 0.4)]
)
def test_visionzip_is_its_definition(n, k, share, with_cls):
    for seed in range(3):
        x, signals = inputs(seed, n, VISIONZIP)
        if not with_cls:
            del signals["vision_cls"]
        got, tokens = planned(VISIONZIP, x, k, contextual_ratio=share, **signals)
        places, made = slow_visionzip(
            x, signals["cls_attention"], signals["vision_keys"], signals.get("vision_cls"), k, share
        )
        assert list(got) == places
        torch.testing.assert_close(tokens, made)


def test_visionzip_default_share_is_the_official_one():
    x, signals = inputs(0, 576, VISIONZIP)
    for k, contextual in ((64, 10), (128, 20), (192, 30)):
        merge = VISIONZIP.plan(x, k, None, **signals).merge
        assert int((merge.sum(1) > 1.5).sum()) == contextual


# PruMerge -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "name"), [(0, "fixed"), (1, "adaptive"), (2, "plus_fixed"), (3, "plus_adaptive")]
)
def test_prumerge_conforms(seed, name):
    rng, want = np.random.default_rng(seed), official("prumerge")[name]
    x, q, keys = rows(rng, 576, 16).double(), rows(rng, 577, 16).double(), rows(rng, 577, 16).double()
    if name == "plus_fixed":  # where attention and grid meet, the official code takes a token twice
        keys[1 + torch.arange(4, 575, 8)] *= 0.01
    heads = keys[1:].view(576, 4, 4).transpose(0, 1)
    keep = len(want) if "fixed" in name else 575
    options = {"plus": "plus" in name, "adaptive": "adaptive" in name}
    got, tokens = planned(PRUMERGE, x, keep, cls_attention=one_head(q, keys), vision_keys=heads, **options)
    assert tokens.shape == want.shape
    assert (tokens - want).abs().max() < 1e-5
    assert got[-1] == min(set(range(576)) - set(got[:-1]))


def slow_outliers(scores):
    s = sorted(map(float, scores))

    def quartile(q):
        at = q * (len(s) - 1)
        low = math.floor(at)
        return s[low] + (at - low) * (s[min(low + 1, len(s) - 1)] - s[low])

    fence = quartile(0.75) + 1.5 * (quartile(0.75) - quartile(0.25))
    return sum(v > fence for v in s)


def slow_prumerge_kept(attention, k, plus, adaptive):
    n, order = len(attention), best_first(attention)
    if not plus:
        return order[: min(slow_outliers(attention), k - 1) if adaptive else k - 1]
    if adaptive:
        count = slow_outliers(attention)
        if count == 0:
            return []
        step = int(int(1 / (count / n)) / 3)
        extra = [j for j in range(0, n - 1, step) if j not in order[:count]]
        room = k - 1 - count
        return order[:count] + (
            extra if len(extra) <= room else [extra[i * len(extra) // room] for i in range(room)]
        )
    kept = order[: math.ceil((k - 1) / 2)]
    spaced = (k - 1) // 2
    for i in range(spaced):
        j = int((i + 0.5) * n / spaced)
        while j in kept:
            j = (j + 1) % n
        kept.append(j)
    return kept


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("n", "k", "neighbors"), [(60, 21, 32), (61, 40, 5), (20, 19, 32)])
def test_prumerge_is_its_definition(n, k, neighbors, plus, adaptive):
    options = {"plus": plus, "adaptive": adaptive, "neighbors": neighbors}
    for seed in range(3):
        x, signals = inputs(seed, n, PRUMERGE)
        got, tokens = planned(PRUMERGE, x, k, **signals, **options)
        a = signals["cls_attention"].mean(0)
        kept = slow_prumerge_kept(a, k, plus, adaptive)
        key = signals["vision_keys"].double().transpose(0, 1).reshape(n, -1)
        made = []
        for i in kept:
            cosine = [float(key[i] @ key[j] / key[i].norm() / key[j].norm()) for j in range(n)]
            near = [j for j in best_first(cosine) if j != i][:neighbors]
            made.append(x[i] + sum(a[j] * x[j] for j in near))
        rest = [j for j in range(n) if j not in kept]
        made.append(sum(a[j] * x[j] for j in rest))
        assert list(got) == [*kept, rest[0]]
        torch.testing.assert_close(tokens, torch.stack(made))


def test_prumerge_adaptive_keeps_to_the_budget():
    x, signals = inputs(1, 200, PRUMERGE)
    free = slow_outliers(signals["cls_attention"].mean(0))
    assert free > 6
    for plus in (False, True):
        got, _ = planned(PRUMERGE, x, 6, adaptive=True, plus=plus, **signals)
        assert len(got) == 6
    got, _ = planned(PRUMERGE, x, free + 5, adaptive=True, plus=True, **signals)
    assert len(got) == free + 5
    assert got[free + 3] > 100, "spaced tokens reach the end of the image when there is no room for all"


@pytest.mark.parametrize("plus", [False, True])
def test_prumerge_without_outliers_is_one_sum(plus):
    x, signals = inputs(1, 50, PRUMERGE)
    signals["cls_attention"] = torch.full((4, 50), 0.02)
    got, tokens = planned(PRUMERGE, x, 9, adaptive=True, plus=plus, **signals)
    assert got == (0,)
    torch.testing.assert_close(tokens[0], 0.02 * x.sum(0))


# TRIM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "name"), [(0, "fixed"), (1, "adaptive")])
def test_trim_conforms(seed, name):
    rng, want = np.random.default_rng(seed), official("trim")[name]
    x, patches, text = (
        rows(rng, 576, 16).double(),
        rows(rng, 576, 12).double(),
        rows(rng, 1, 12).double() * 0.3,
    )
    keep = len(want) if name == "fixed" else 575
    got, tokens = planned(TRIM, x, keep, clip_patches=patches, clip_text=text, adaptive=name == "adaptive")
    assert tokens.shape == want.shape
    raster = [*best_first([-j for j in got[:-1]]), len(got) - 1]
    assert (tokens[raster] - want).abs().max() < 1e-5


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("n", "k"), [(60, 13), (61, 60), (20, 1), (40, 3)])
def test_trim_is_its_definition(n, k, mean, adaptive):
    for seed in range(3):
        x, signals = inputs(seed, n, TRIM)
        text = signals["clip_text"].double().mean(0)
        s = [float(v.double() @ text) for v in signals["clip_patches"]]
        total = sum(math.exp(-v) for v in s)
        count = k - mean
        if adaptive:
            count = min(count, max(slow_outliers([math.exp(-v) / total for v in s]), not mean))
        kept = best_first([-v for v in s])[:count]
        rest = [j for j in range(n) if j not in kept]
        got, tokens = planned(TRIM, x, k, mean=mean, adaptive=adaptive, **signals)
        assert list(got) == kept + rest[: int(mean)]
        made = [x[j] for j in kept] + [x[rest].mean(0)] * mean
        torch.testing.assert_close(tokens, torch.stack(made))


def test_trim_without_outliers():
    """The mean of everything; where the mean is not wanted, one token."""
    x, signals = inputs(0, 30, TRIM)
    signals["clip_patches"][:] = 1
    got, tokens = planned(TRIM, x, 9, adaptive=True, **signals)
    assert got == (0,)
    torch.testing.assert_close(tokens[0], x.mean(0))
    got, tokens = planned(TRIM, x, 9, adaptive=True, mean=False, **signals)
    assert got == (0,)
    assert torch.equal(tokens[0], x[0])


def test_trim_orders_tokens_that_softmax_cannot_tell_apart():
    x, signals = inputs(0, 30, TRIM)
    signals["clip_text"] = 1e4 * signals["clip_text"]
    s = signals["clip_patches"] @ signals["clip_text"].mean(0)
    assert (torch.softmax(-s, 0) == 0).sum() > 20
    got, _ = planned(TRIM, x, 15, mean=False, **signals)
    assert list(got) == best_first(-s)[:15]


# HoloV --------------------------------------------------------------------------------------------


LEFTOVERS = 8
"""Seed of the case where the official code leaves places over."""


@pytest.mark.parametrize("name", list(official("holov")))
def test_holov_conforms(name):
    seed, n, keep = map(int, name.split("_"))
    rng = np.random.default_rng(seed)
    x, want = rows(rng, n, 16), official("holov")[name].tolist()
    sharp = 4 if seed > 6 else 1.5
    got = select_tokens(x, keep, "holov", cls_attention=cls_attention(rng, 4, n, sharp)).tolist()
    there = [j for j in want if j >= 0]
    assert set(there) <= set(got)
    assert len(got) == len(want) == keep
    assert (len(there) < keep) == (seed == LEFTOVERS)


def slow_crop_score(x, a):
    size = len(x)
    if size == 1:
        return float(a[0])
    unit = [v / (v.norm() + 1e-6) for v in x]
    variance = []
    for i, u in enumerate(unit):
        cosine = [0.0 if i == j else float(u @ v) for j, v in enumerate(unit)]
        mean = sum(cosine) / (size - 1)
        variance.append(sum((c - mean) ** 2 for c in cosine) / (size - 1))
    big = [1000 * float(b) for b in a]
    factor = (sum(big) / size) / (sum(variance) / size + 1e-6)
    return sum(b + 0.09 * factor * v for b, v in zip(big, variance, strict=True)) / size


def slow_holov(x, attention, k, crops):
    n, a = len(x), attention.mean(0)
    groups, start = [], 0
    for c in range(crops):
        size = n // crops + (c < n % crops)
        groups.append(list(range(start, start + size)))
        start += size
    groups = [g for g in groups if g]
    scores = [slow_crop_score(x[group], a[group]) for group in groups]
    share = [s / (sum(scores) + 1e-6) for s in scores]
    granted = [math.floor(s * k) for s in share]
    for c in best_first(share)[: k - sum(granted)]:
        granted[c] += 1
    kept = []
    for group, count in zip(groups, granted, strict=True):
        kept += [group[p] for p in best_first([a[j] for j in group])[:count]]
    return kept + [j for j in best_first(a) if j not in kept][: k - len(kept)]


@pytest.mark.parametrize(
    ("n", "k", "crops"),
    [(60, 13, 4), (61, 13, 4), (61, 50, 7), (20, 6, 16), (12, 5, 40), (30, 7, 1), (50, 20, 30)],
)
def test_holov_is_its_definition(n, k, crops):
    for seed in range(4):
        x, signals = inputs(seed, n, HOLOV)
        x, signals["cls_attention"] = x.double(), signals["cls_attention"].double()
        signals["cls_attention"][:, -1] += 9 * (seed == 3)  # a crop of one is scored a, not 1000·a
        x[: seed * n // 4] = 0  # crops without variance: elsewhere it scales all scores alike
        got, _ = planned(HOLOV, x, k, crops=crops, **signals)
        assert list(got) == slow_holov(x, signals["cls_attention"], k, crops)


def test_holov_scores_of_near_orthogonal_tokens():
    """Where variances are as small as what is added to them, they tell crops apart."""
    rng = np.random.default_rng(0)
    x = torch.eye(12) + 4e-4 * rows(rng, 36, 12).view(3, 12, 12)
    a = cls_attention(rng, 3, 12)
    want = [slow_crop_score(*crop) for crop in zip(x.double(), a, strict=True)]
    assert (torch.tensor(want) / a.mean(1) / 1090 < 0.97).all()
    torch.testing.assert_close(crop_scores(x, a), torch.tensor(want), rtol=1e-4, atol=0)


def test_holov_chooses_the_official_number_of_crops():
    x, signals = inputs(0, 576, HOLOV)
    assert HOLOV.plan(x, 64, None, **signals) == HOLOV.plan(x, 64, None, crops=16, **signals)
    assert HOLOV.plan(x, 200, None, **signals) == HOLOV.plan(x, 200, None, crops=5, **signals)


# all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_says_what_it_reads(row):
    assert row.merges if row in MERGING else not row.merges
    assert row.before_projector == (row in MERGING)
    assert not row.weighted
    for missing in row.needs:
        x, signals = inputs(0, 20, row)
        del signals[missing]
        with pytest.raises(BridgeError, match=missing):
            select_tokens(x, 4, row.name, **signals)


@pytest.mark.parametrize("row", MERGING, ids=lambda row: row.name)
def test_rows_of_the_tower_are_merged_then_projected(row):
    vision, signals = inputs(1, 30, row)
    weight = rows(np.random.default_rng(5), 12, 7)

    def project(x):
        return torch.tanh(x @ weight)

    (merged,) = merge_tokens(project(vision), 8, row.name, vision_clip=vision, projector=project, **signals)
    got, made = planned(row, vision, 8, **signals)
    order = best_first([-j for j in got])
    assert merged.indices.tolist() == [got[j] for j in order]
    torch.testing.assert_close(merged.rows, project(made[order]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("n", [2, 3, 5, 17])
def test_every_budget(row, n):
    x, signals = inputs(n, n, row)
    for k in range(1, n + 1):
        got = select_tokens(x, k, row.name, **signals).tolist()
        assert len(set(got)) == k
        assert got == sorted(got)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("case", ["duplicates", "zero rows", "all equal", "zero"])
def test_degenerate_images(row, case):
    x, signals = inputs(2, 24, row)
    tables = [x, *(v for name, v in signals.items() if name not in ("vision_cls", "clip_text"))]
    for v in tables:
        at = v.movedim(-1 if v is signals.get("cls_attention") else -2, 0)
        if case == "duplicates":
            at[12:] = at[:12].clone()
        elif case == "zero rows":
            at[5:9] = 0
        else:
            at[:] = at[:1].clone() if case == "all equal" else 0
    for k in (1, 7, 23):
        got, tokens = planned(row, x, k, **signals)
        assert len(got) == k
        assert torch.isfinite(tokens).all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_ties_go_to_the_lowest_index(row):
    """Nothing but ties: whatever is chosen by a score comes in raster order."""
    x, signals = torch.ones(64, 8), inputs(0, 64, row)[1]
    signals |= {k: torch.ones_like(v) for k, v in signals.items()}
    if row is HOLOV:
        assert HOLOV.plan(x, 8, None, crops=1, **signals).indices == tuple(range(8))
        return
    plain = {"important_ratio": 1.0} if row is VISPRUNER else {}
    if row is VISIONZIP:
        plain = {"contextual_ratio": 0.0}
        del signals["vision_cls"]
    assert row.plan(x, 8, None, **signals, **plain).indices == tuple(range(8))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_computed_in_single(row, dtype):
    x, signals = inputs(4, 40, row)
    low = {name: v.to(dtype) for name, v in signals.items()}
    plan = row.plan(x.to(dtype), 11, None, **low)
    if dtype == torch.float64:
        same = row.plan(x, 11, None, **signals)
    else:
        same = row.plan(x.to(dtype).float(), 11, None, **{name: v.float() for name, v in low.items()})
    assert plan.indices == same.indices
    if plan.merge is not None:
        assert plan.merge.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(plan.merge.float(), same.merge)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_batches_are_their_images(row):
    pairs = [inputs(seed, 30, row) for seed in range(3)]
    x = torch.stack([x for x, _ in pairs])
    signals = {name: torch.stack([s[name] for _, s in pairs]) for name in pairs[0][1]}
    got = select_tokens(x, 9, row.name, order="chosen", **signals)
    for i, (one, own) in enumerate(pairs):
        assert got[i].tolist() == select_tokens(one, 9, row.name, order="chosen", **own).tolist()


@pytest.mark.parametrize(
    ("row", "option", "message"),
    [
        (VISPRUNER, {"important_ratio": 1.5}, "important_ratio = 1.5: expected a number from 0 to 1"),
        (VISPRUNER, {"important_ratio": float("nan")}, "important_ratio = nan"),
        (VISPRUNER, {"important_ratio": True}, "important_ratio = True"),
        (VISIONZIP, {"contextual_ratio": -0.1}, "contextual_ratio = -0.1"),
        (PRUMERGE, {"neighbors": 0}, "neighbors = 0: expected a whole number of at least 1"),
        (PRUMERGE, {"neighbors": 2.0}, "neighbors = 2.0"),
        (PRUMERGE, {"plus": 1}, "plus = 1: expected True or False"),
        (PRUMERGE, {"adaptive": "yes"}, "adaptive = 'yes'"),
        (TRIM, {"mean": None}, "mean = None"),
        (TRIM, {"adaptive": 0}, "adaptive = 0"),
        (TRIM, {"clip_text": torch.ones(1, 3)}, "clip_text has dimension 3, clip_patches has 10"),
        (HOLOV, {"crops": 0}, "crops = 0"),
        (HOLOV, {"cls_attention": -torch.ones(20)}, "cls_attention: expected no negative"),
        (HOLOV, {"ratio": 0.5}, "no option 'ratio'"),
    ],
)
def test_wrong_options_are_named(row, option, message):
    x, signals = inputs(0, 20, row)
    with pytest.raises(BridgeError, match=message):
        select_tokens(x, 5, row.name, **(signals | option))


def test_unit_rows_at_any_scale():
    x = rows(np.random.default_rng(0), 6, 5)
    want = x / x.norm(dim=1, keepdim=True)
    for scale in (1.0, 2.0**-100, 2.0**100, 2.0**-120):
        assert torch.equal(unit_rows(x * scale), want)
    assert torch.equal(unit_rows(torch.zeros(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(unit_rows(x * 2.0**-135), want, rtol=0.01, atol=0.01)  # subnormal
    torch.testing.assert_close(unit_rows(x.double() * 1e-300).float(), want)
    torch.testing.assert_close(unit_rows(x.double() * 1e300).float(), want)


@pytest.mark.parametrize("n", [2, 4, 5, 100, 577])
def test_outliers_are_tukeys(n):
    rng = np.random.default_rng(n)
    for scores in (rng.standard_normal(n) ** 3, rng.integers(0, 3, n), np.ones(n)):
        scores = torch.from_numpy(np.asarray(scores, np.float32))
        assert ranking.outliers(scores) == slow_outliers(scores)
