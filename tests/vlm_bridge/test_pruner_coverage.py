"""Pruners that act before the LLM by coverage, sensitivity, spectrum, pooling or a single score.

`data/official_coverage.npz` holds what the official selection code (ZOO-Prune 159f7f9, LiteLVLM 5896153)
kept on the inputs that `zoo_inputs` and `litelvlm_inputs` draw; MMTok's vectors lie in the common files.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlm_bridge import PRUNERS, BridgeError, Relevance, select_tokens
from vlm_bridge.pruners import (
    average_pool,
    cen_prune,
    family,
    litelvlm,
    lrcp,
    mmtok,
    norm_top,
    svd_prune,
    top_relevance,
    zoo_prune,
)
from vlm_bridge.pruners._greedy import max_min
from vlm_bridge.pruners.relevance import unit_rows
from vlm_bridge.pruners.uniform_grid import spread

DATA = Path(__file__).parent / "data"
KINDS = ("gaussian", "cone", "duplicates", "bfloat16")
MODULES = (
    average_pool,
    cen_prune,
    family,
    litelvlm,
    lrcp,
    mmtok,
    norm_top,
    svd_prune,
    top_relevance,
    zoo_prune,
)
NAMES = tuple(module.ROW.name for module in MODULES)


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for module in MODULES:
        monkeypatch.setitem(PRUNERS, module.ROW.name, module.ROW)


@pytest.fixture(params=KINDS)
def vectors(request):
    with np.load(DATA / f"{request.param}.npz") as stored:
        return dict(stored)


@pytest.fixture
def official():
    with np.load(DATA / "official_coverage.npz") as stored:
        return dict(stored)


class TwoLayers(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = torch.nn.Parameter(first), torch.nn.Parameter(second)

    def forward(self, rows):
        return torch.nn.functional.gelu(rows @ self.first) @ self.second


def draw(seed, *shapes):
    g = np.random.default_rng(seed)
    return [torch.from_numpy(g.standard_normal(shape).astype(np.float32)) for shape in shapes]


def token_rows(seed, n, d):
    """Four kinds of tokens in turn: plain, with a common mean, with copies, rounded to bfloat16."""
    x, mean = draw(seed, (n, d), (d,))
    kind = seed % 4
    if kind == 1:
        x = x * torch.linspace(1, 0.05, d) + 1.5 * mean
    if kind == 2:
        x[n // 2 : n // 2 + 4] = x[:4]
    return x.bfloat16().float() if kind == 3 else x


def zoo_inputs(seed):
    """Rows for the projector, the projector, its rows, and k."""
    n, d = 30 + 7 * (seed % 9), 24
    first, second = draw(1000 + seed, (d, 32), (32, 40))
    projector = TwoLayers(first / 3, second / 3)
    vision = token_rows(seed, n, d)
    with torch.no_grad():
        return vision, projector, projector(vision), (3, 9, n // 2)[seed % 3]


def litelvlm_inputs(seed):
    """Joint-space patches and phrases; CLS query (1, D), keys (n, D), values (n, D); k."""
    n, phrases = 25 + 11 * (seed % 7), 1 + seed % 4
    patches, text, query, keys, values = draw(seed, (n, 24), (phrases, 24), (1, 32), (n, 32), (n, 32))
    return patches, text, query, keys, values, (5, 12, n // 2)[seed % 3]


def litelvlm_signals(seed):
    patches, text, query, keys, values, k = litelvlm_inputs(seed)
    cosines = torch.nn.functional.normalize(query, dim=-1) @ torch.nn.functional.normalize(keys, dim=-1).T
    return k, {
        "clip_patches": patches,
        "clip_text": text,
        "cls_attention": torch.softmax(cosines / 32**0.5, -1),
        "vision_values": values.view(len(values), 4, 8).transpose(0, 1),
    }


@pytest.fixture
def signals():
    """Everything that any of the pruners reads, for 40 tokens with copies and a zero row."""
    x = token_rows(2, 40, 24)
    x[39] = 0
    patches, text, words, vision, first = draw(5, (40, 16), (3, 16), (5, 24), (40, 12), (12, 24))
    attention = torch.rand(4, 40, generator=torch.Generator().manual_seed(1))
    return x, {
        "clip_patches": patches,
        "clip_text": text,
        "llm_text": words,
        "vision_clip": vision,
        "cls_attention": attention,
        "projector": lambda rows: torch.tanh(rows @ first),
    }


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 0 else 0.0


def argmax(values, chosen):
    best = None
    for i, value in enumerate(values):
        if i not in chosen and (best is None or value > values[best] + 1e-11):
            best = i
    return best


def min_max(values):
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 1.0 for v in values]


# MMTok --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [18, 36])
def test_mmtok_conforms(vectors, count):
    x = vectors["features"]
    given = {name: vectors[name] for name in ("llm_text", "vision_clip")}
    got = select_tokens(x, count, "mmtok", **given)
    assert len(set(got.tolist())) == count
    assert {x[j].tobytes() for j in got} == {x[j].tobytes() for j in vectors[f"mmtok_{count}"]}


def covering(x, words, vision, k, text_temperature, vision_temperature, alpha):
    """MMTok by its definition: every gain formed anew, entry by entry."""
    table = []
    for rows, tokens, temperature, weight in (
        (words, x, text_temperature, 1.0),
        (vision, vision, vision_temperature, alpha),
    ):
        for row in rows:
            e = [np.exp((cosine(row, token) - 1) / temperature) for token in tokens]
            table.append([weight * value / sum(e) / len(rows) for value in e])
    chosen, best = [], [0.0] * len(table)
    while len(chosen) < k:
        gains = [sum(max(row[j] - b, 0) for row, b in zip(table, best, strict=True)) for j in range(len(x))]
        j = argmax(gains, chosen)
        chosen.append(j)
        best = [max(b, row[j]) for row, b in zip(table, best, strict=True)]
    return chosen


@pytest.mark.parametrize("options", [(0.02, 0.2, 0.5), (0.01, 0.5, 2.0), (0.3, 0.05, 0.0)])
@pytest.mark.parametrize("seed", range(8))
def test_mmtok_is_greedy_coverage(seed, options):
    x, (words, vision) = token_rows(seed, 26, 12), draw(seed + 50, (1 + seed % 4, 12), (26, 9))
    if seed % 4 == 2:
        vision[13:17] = vision[:4]
    k = (3, 11, 20)[seed % 3]
    names = ("text_temperature", "vision_temperature", "alpha")
    got = mmtok.mmtok(
        x, k, None, llm_text=words, vision_clip=vision, **dict(zip(names, options, strict=True))
    )
    want = covering(x.double().numpy(), words.double().numpy(), vision.double().numpy(), k, *options)
    assert list(got.indices) == want


def test_lazy_gains_change_nothing():
    (table,) = draw(3, (90, 150))
    table = torch.softmax(table.double() * 3, -1)
    best, want = torch.zeros(90, dtype=torch.float64), []
    for _ in range(70):
        gains = (table - best[:, None]).clamp(min=0).sum(0)
        gains[want] = -1
        want.append(int(gains.argmax()))
        best = torch.maximum(best, table[:, want[-1]])
    assert list(mmtok.cover(table, 70)) == want


def test_mmtok_takes_copies_last():
    x, words, vision = draw(0, (12, 8), (2, 8), (12, 6))
    x[6:], vision[6:] = x[:6].clone(), vision[:6].clone()
    got = mmtok.mmtok(x, 8, None, llm_text=words, vision_clip=vision).indices
    assert set(got[:6]) == set(range(6))
    assert got[6:] == (6, 7)


@pytest.mark.parametrize("seed", range(6))
def test_ties_up_to_rounding_go_to_the_lowest_index(seed):
    """Rows that differ by a factor have the same cosines, in exact arithmetic only."""
    x, words, vision, factors = draw(seed, (8, 16), (3, 16), (8, 12), (24, 1))
    factors = factors.double().abs().sqrt()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)) % 8
    x, vision = x.double()[order] * factors, vision.double()[order] * factors
    firsts = {order.tolist().index(j) for j in range(8)}
    copies = [i for i in range(24) if i not in firsts]
    for got in (
        mmtok.mmtok(x, 20, None, llm_text=words, vision_clip=vision).indices,
        max_min(unit_rows(x), torch.linspace(1, 2, 8).double()[order], 20, order.tolist().index(7)),
    ):
        assert set(got[:8]) == firsts
        assert list(got[8:]) == copies[:12]


# ZOO-Prune ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_zoo_prune_conforms(official, seed):
    vision, projector, x, k = zoo_inputs(seed)
    got = select_tokens(
        x, k, "zoo_prune", vision_clip=vision, projector=projector, rng=seed, order="chosen"
    ).tolist()
    want = official[f"zoo_{seed}"].tolist()
    assert [x[j].numpy().tobytes() for j in got] == [x[j].numpy().tobytes() for j in want]


def slow_sensitivity(vision, projector, rng, samples, step):
    directions = rng.standard_normal((samples, vision.shape[1]))
    scores = []
    for x in vision.double():
        total = 0.0
        for u in directions:
            u = torch.from_numpy(u / np.linalg.norm(u))
            total += float((projector((x + step * u)[None]) - projector((x - step * u)[None])).norm()) / 2
        scores.append(total / step / samples)
    return scores


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_zoo_prune_is_sensitivity_times_distance(seed, centered):
    vision, projector, x, k = zoo_inputs(seed)
    options = {"samples": 3 + seed, "step": 0.05}
    got = zoo_prune.zoo_prune(
        x,
        k,
        None,
        vision_clip=vision,
        projector=projector,
        rng=np.random.default_rng(seed),
        centered=centered,
        **options,
    )
    wide = TwoLayers(projector.first.detach().double(), projector.second.detach().double())
    with torch.no_grad():
        quality = min_max(slow_sensitivity(vision, wide, np.random.default_rng(seed), **options))
    rows = x.double().numpy()
    if centered:
        quality = [s * g for s, g in zip(quality, slow_distinctiveness(rows), strict=True)]
        rows = rows - rows.mean(0)
    assert list(got.indices) == slow_max_min(rows, quality, k, int(np.argmax(quality)))


def slow_max_min(rows, quality, k, first):
    chosen = [first]
    while len(chosen) < k:
        scores = [quality[i] * min(1 - cosine(rows[i], rows[j]) for j in chosen) for i in range(len(rows))]
        chosen.append(argmax(scores, chosen))
    return chosen


def test_sensitivity_is_the_jacobian_of_a_linear_map():
    rows, matrix, directions = draw(4, (10, 6), (6, 8), (5, 6))
    got = zoo_prune.sensitivity(rows.double(), lambda r: r @ matrix.double(), directions.double(), 0.01)
    want = (directions.double() @ matrix.double()).norm(dim=-1).mean()
    assert torch.allclose(got, want.expand(10), rtol=1e-10)


def test_a_linear_projector_leaves_only_the_distance():
    """Every token answers alike; min-max must not blow rounding up to a preference."""
    x, vision, matrix = draw(6, (30, 16), (30, 12), (12, 16))
    got = zoo_prune.zoo_prune(
        x, 8, None, vision_clip=vision, projector=lambda r: r @ matrix, rng=np.random.default_rng(0)
    )
    assert list(got.indices) == slow_max_min(x.double().numpy(), [1.0] * 30, 8, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_low_precision_projector_is_run_wide(dtype):
    """At step 0.01 bfloat16 would see nothing of it. The module itself stays as it is."""
    vision, projector, x, k = zoo_inputs(4)
    low = TwoLayers(projector.first.detach().to(dtype), projector.second.detach().to(dtype))
    wide = TwoLayers(low.first.detach().float(), low.second.detach().float())
    kept = [
        zoo_prune.zoo_prune(x, k, None, vision_clip=rows, projector=p, rng=np.random.default_rng(3)).indices
        for rows, p in ((vision.to(dtype), low), (vision.to(dtype).float(), wide))
    ]
    assert kept[0] == kept[1]
    assert low.first.dtype == low.second.dtype == dtype


def test_zoo_prune_follows_its_rng():
    vision, projector, x, _ = zoo_inputs(0)
    a, b, c = (
        select_tokens(x, 12, "zoo_prune", vision_clip=vision, projector=projector, samples=1, rng=s).tolist()
        for s in (1, 1, 2)
    )
    assert a == b
    assert a != c
    state = torch.get_rng_state()
    select_tokens(x, 12, "zoo_prune", vision_clip=vision, projector=projector)
    assert torch.equal(torch.get_rng_state(), state)


# Cen-Prune ----------------------------------------------------------------------------------------


def slow_distinctiveness(rows, scale="minmax"):
    n = len(rows)
    g = [-sum(cosine(rows[i], rows[j]) for j in range(n) if j != i) / (n - 1) for i in range(n)]
    if scale == "minmax":
        return min_max(g)
    return [1 / (1 + np.exp(-(v - np.mean(g)) / np.std(g))) for v in g]


@pytest.mark.parametrize("scale", ["minmax", "sigmoid"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_cen_prune_is_centred_max_min(seed, standardize, scale):
    x = token_rows(seed, 24, 10) * torch.linspace(0.2, 5, 10)
    k = (4, 9, 16)[seed % 3]
    got = cen_prune.cen_prune(x, k, None, scale=scale, standardize=standardize)
    rows = x.double().numpy()
    if standardize:
        rows = rows / rows.std(0)
    quality = slow_distinctiveness(rows, scale)
    rows = rows - rows.mean(0)
    nearest = [min(1 - cosine(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    assert list(got.indices) == slow_max_min(rows, quality, k, argmax(nearest, []))


@pytest.mark.parametrize("scale", ["minmax", "sigmoid"])
def test_a_zero_row_is_like_nothing(scale):
    x = token_rows(1, 12, 6).double()
    x[5] = 0
    got = cen_prune.distinctiveness(x, scale)
    assert np.allclose(got, slow_distinctiveness(x.numpy(), scale), rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_cen_prune_on_cdpruner_is_a_determinant(seed):
    """Greedy MAP: each step takes the token with which the kernel's determinant is largest."""
    x = token_rows(2 * seed + 1, 14, 20)
    weights = torch.rand(14, generator=torch.Generator().manual_seed(seed)) + 0.1
    got = select_tokens(x, 6, "cen_prune", weights, base="cdpruner", order="chosen").tolist()
    rows = x.double().numpy()
    quality = np.array(slow_distinctiveness(rows)) * weights.double().numpy()
    rows = rows - rows.mean(0)
    unit = quality[:, None] * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = []
    while len(chosen) < 6:
        logs = [np.linalg.slogdet(unit[[*chosen, i]] @ unit[[*chosen, i]].T)[1] for i in range(14)]
        chosen.append(argmax(logs, chosen))
    assert got == chosen


def test_centring_ignores_a_common_offset_and_distinctiveness_does_not():
    x = token_rows(0, 30, 12)
    moved = x + 4
    assert torch.allclose(
        cen_prune.centred_rows(x.double()), cen_prune.centred_rows(moved.double()), atol=1e-6
    )
    assert cen_prune.cen_prune(x, 8, None).indices != cen_prune.cen_prune(moved, 8, None).indices


@pytest.mark.parametrize("options", [{}, {"base": "cdpruner"}, {"scale": "sigmoid"}, {"standardize": True}])
def test_equal_tokens_have_no_centred_direction(options):
    x = torch.tensor([[0.1, -0.7, 1 / 3, 3.3, 1e-5]], dtype=torch.float64).expand(9, -1)
    assert (x.mean(0) != x[0]).any(), "the mean is rounded"
    assert (cen_prune.centred_rows(x.double()) == 0).all()
    assert select_tokens(x, 4, "cen_prune", **options).tolist() == [0, 1, 2, 3]


# SVD-Prune and LRCP -------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [0.05, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_svd_prune_is_top_leverage_at_the_energys_rank(seed, energy):
    shape = ((30, 12), (12, 40))[seed % 2]
    x = token_rows(seed, *shape) * torch.linspace(2, 0.1, shape[1])
    k = 7
    U, s, _ = np.linalg.svd(x.double().numpy(), full_matrices=False)
    rank = 1
    while sum(s[:rank] ** 2) < energy * sum(s**2) - 1e-9:
        rank += 1
    assert svd_prune.rank_of(x, energy) == rank
    leverage = (U[:, :rank] ** 2).sum(1)
    if rank == shape[0]:
        return  # all scores are one
    got = select_tokens(x, k, "svd_prune", energy=energy).tolist()
    assert got == sorted(np.argsort(-leverage, kind="stable")[:k].tolist())


def test_rank_of_an_image_without_energy():
    assert svd_prune.rank_of(torch.zeros(5, 3), 0.9) == 1
    assert svd_prune.rank_of(torch.full((5, 3), 1e200, dtype=torch.float64), 0.9) == 1


@pytest.mark.parametrize("rank", [0, 1, 4, 9])
@pytest.mark.parametrize("seed", range(4))
def test_lrcp_is_the_distance_to_the_principal_subspace(seed, rank):
    x = token_rows(seed, 25, 12)
    rows = x.double().numpy()
    rows = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    leading = vectors[:, np.argsort(-values)[:rank]]
    distances = [np.linalg.norm(row - leading @ (leading.T @ row)) for row in rows]
    want = []
    while len(want) < 8:
        want.append(argmax(distances, want))
    assert lrcp.lrcp(x, 8, None, rank=rank).indices == tuple(want)


def test_lrcp_beyond_the_rank_takes_the_first():
    (a, b) = draw(1, (20, 3), (3, 9))
    assert lrcp.lrcp(a @ b.double().float(), 4, None, rank=20).indices == (0, 1, 2, 3)
    assert lrcp.lrcp((a.double() @ b.double()), 4, None, rank=3).indices == (0, 1, 2, 3)


# LiteLVLM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_litelvlm_conforms(official, seed):
    k, given = litelvlm_signals(seed)
    x = torch.ones(len(given["clip_patches"]), 4)
    assert sorted(litelvlm.litelvlm(x, k, None, **given).indices) == official[f"litelvlm_{seed}"].tolist()


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_litelvlm_takes_the_lowest_then_the_attended(seed, with_values):
    k, given = litelvlm_signals(seed)
    given["cls_attention"] = torch.rand(3, given["cls_attention"].shape[1], generator=torch.Generator())
    if not with_values:
        del given["vision_values"]
    patches, text = given["clip_patches"].double().numpy(), given["clip_text"].double().numpy()
    n, chosen = len(patches), set()
    for phrase in text:
        chosen |= set(sorted(range(n), key=lambda i: float(phrase @ patches[i]))[: k // len(text)])
    context = given["cls_attention"].double().numpy().mean(0)
    if with_values:
        heads = given["vision_values"].double().numpy()
        context = [context[i] * np.sqrt(sum((head[i] ** 2).sum() for head in heads)) for i in range(n)]
    for i in sorted(range(n), key=lambda i: -context[i]):
        if len(chosen) < k:
            chosen.add(i)
    got = litelvlm.litelvlm(torch.ones(n, 4), k, None, **given).indices
    assert len(got) == k
    assert set(got) == chosen


def test_litelvlm_with_fewer_tokens_than_phrases_is_context():
    patches, text = draw(0, (6, 4), (3, 4))
    attention = torch.tensor([[0.1, 0.5, 0.2, 0.9, 0.9, 0.0]])
    given = {"clip_patches": patches, "clip_text": text, "cls_attention": attention}
    assert select_tokens(torch.ones(6, 4), 2, "litelvlm", order="chosen", **given).tolist() == [3, 4]


def test_litelvlm_gives_separators_the_mean_patch():
    text = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[1.0, 0], [2.0, 0], [0.0, 0], [9.0, 0]])
    given = {"clip_patches": patches, "clip_text": text, "cls_attention": torch.ones(1, 4)}
    assert select_tokens(torch.ones(4, 3), 2, "litelvlm", order="chosen", **given).tolist() == [0, 1]


# plain baselines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (7, 1), (6, 6), (5, 9), (9, 2), (4, 13)])
def test_cells_tile_the_grid(h, w):
    for k in range(1, h * w + 1):
        seen = np.zeros((h, w), dtype=int)
        found = average_pool.cells(k, h, w)
        assert len(found) == k
        for top, bottom, left, right in found:
            assert top < bottom
            assert left < right
            seen[top:bottom, left:right] += 1
        assert (seen == 1).all()
        widths = [right - left for _, _, left, right in found]
        heights = [bottom - top for top, bottom, _, _ in found]
        assert max(heights) - min(heights) <= 1
        assert k < h or max(widths) <= 2 * min(widths) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_average_pool_is_the_mean_of_each_cell(dtype):
    x = draw(0, (45, 6))[0].to(dtype)
    for k in (1, 4, 7, 20, 44):
        plan = average_pool.average_pool(x, k, None, grid=(5, 9))
        assert plan.merge.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.allclose(plan.merge.sum(-1), torch.ones(k, dtype=plan.merge.dtype))
        pooled = plan.merge @ x.to(plan.merge.dtype)
        for (top, bottom, left, right), place, got in zip(
            average_pool.cells(k, 5, 9), plan.indices, pooled, strict=True
        ):
            members = [r * 9 + c for r in range(top, bottom) for c in range(left, right)]
            assert place in members
            assert torch.allclose(got, x[members].to(got.dtype).mean(0), atol=1e-6)
            assert abs(place // 9 - (top + bottom - 1) / 2) <= 0.5
            assert abs(place % 9 - (left + right - 1) / 2) <= 0.5


def test_average_pool_stands_where_uniform_grid_samples():
    x = torch.zeros(144, 2)
    for k in (1, 4, 9, 16, 36):
        assert average_pool.average_pool(x, k, None).indices == spread(k, 12, 12)
    with pytest.raises(BridgeError, match=r"grid = \(3, 4\) has 12 cells, the image has 144"):
        select_tokens(x, 4, "average_pool", grid=(3, 4))


def test_merges_are_declared():
    assert PRUNERS["average_pool"].merges
    assert all(not module.ROW.merges for module in MODULES if module is not average_pool)


def test_norm_top_takes_the_longest(signals):
    x, _ = signals
    lengths = [float(np.linalg.norm(row)) for row in x.double().numpy()]
    want = sorted(range(40), key=lambda i: -lengths[i])[:9]
    assert select_tokens(x, 9, "norm_top", order="chosen").tolist() == want
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0))
    want = sorted(range(40), key=lambda i: -lengths[i] * float(scores[i]))[:9]
    assert select_tokens(x, 9, "norm_top", scores, order="chosen").tolist() == want
    far = torch.tensor([[1e200, 1e200], [3e200, 0], [0, 1e-300]], dtype=torch.float64)
    assert select_tokens(far, 2, "norm_top", order="chosen").tolist() == [1, 0]


@pytest.mark.parametrize("sign", [None, "anti", "normal"])
def test_relevance_alone(signals, sign):
    x, given = signals
    patches, text = given["clip_patches"].double().numpy(), given["clip_text"].double().numpy()
    score = [np.mean([cosine(p, t) for t in text]) for p in patches]
    want = sorted(range(40), key=lambda i: score[i] if sign != "normal" else -score[i])[:11]
    assert PRUNERS["relevance"].needs == ("clip_patches", "clip_text")
    assert select_tokens(x, 11, "relevance", sign, order="chosen", **given).tolist() == want


# one family ---------------------------------------------------------------------------------------


def test_the_family_contains_spare(signals):
    x, given = signals
    for k in (1, 6, 17):
        assert select_tokens(x, k, "family").tolist() == select_tokens(x, k, "spare").tolist()
        for alpha in (0.0, 0.5, 2.0):
            got = select_tokens(x, k, "family", "anti", beta=1, alpha=alpha, **given)
            assert torch.equal(got, select_tokens(x, k, "spare", "anti", alpha=alpha, **given))


def test_the_family_contains_cdpruner(vectors):
    given = {name: vectors[name] for name in ("clip_patches", "clip_text")}
    relevance = PRUNERS["cdpruner"].relevance
    for count in (18, 36):
        got = select_tokens(vectors["features"], count, "family", relevance, beta=0, alpha=1, **given)
        assert torch.equal(got, select_tokens(vectors["features"], count, "cdpruner", **given))
    tiles = {"clip_patches": vectors["batch_clip_patches"], "clip_text": vectors["clip_text"]}
    got = select_tokens(vectors["batch_features"], 18, "family", relevance, beta=0, **tiles)
    assert torch.equal(got, select_tokens(vectors["batch_features"], 18, "cdpruner", **tiles))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_the_family_contains_resprune(vectors, alpha):
    x, text = vectors["features"], vectors["llm_text"]
    relevance = PRUNERS["resprune"].relevance
    got = select_tokens(x, 24, "family", relevance, beta=1, alpha=alpha / 2, llm_text=text)
    assert torch.equal(got, select_tokens(x, 24, "resprune", alpha=alpha, llm_text=text))


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.7])
def test_the_family_by_its_formula(beta, alpha):
    x = (
        token_rows(1, 20, 12)
        * torch.linspace(0.1, 9, 20)[torch.randperm(20, generator=torch.Generator())][:, None]
    )
    w = torch.rand(20, generator=torch.Generator().manual_seed(3)) + 0.05
    columns = [r * np.linalg.norm(r) ** (beta - 1) for r in x.double().numpy()]
    residual = np.array([c * float(v) ** alpha for c, v in zip(columns, w, strict=True)])
    chosen = []
    while len(chosen) < 7:
        j = argmax([float(r @ r) for r in residual], chosen)
        q = residual[j] / np.linalg.norm(residual[j])
        residual = residual - np.outer(residual @ q, q)
        chosen.append(j)
    assert select_tokens(x, 7, "family", w, beta=beta, alpha=alpha, order="chosen").tolist() == chosen


# what all of them keep to -------------------------------------------------------------------------


def call(name, x, k, given, **options):
    reads = {*PRUNERS[name].reads, *PRUNERS[name].needs}
    return select_tokens(
        x, k, name, rng=0, order="chosen", **{n: v for n, v in given.items() if n in reads}, **options
    ).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_stands_in_its_file(name):
    row = PRUNERS[name]
    assert row.name == name
    assert row.summary
    assert row.citation
    assert not row.open_options


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_exactly_k_distinct(signals, name, dtype):
    x, given = signals
    given = {n: v if callable(v) else v.to(dtype) for n, v in given.items()}
    if dtype in (torch.float16, torch.bfloat16, torch.float64):
        project = given["projector"]
        given["projector"] = lambda rows: project(rows.float())
    before = x.to(dtype).clone()
    for k in (1, 2, 7, 25, 38, 39):
        got = call(name, before, k, given)
        assert len(set(got)) == len(got) == k
        assert 0 <= min(got) <= max(got) < 40
        assert got == call(name, before, k, given)
    assert torch.equal(before, x.to(dtype))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"average_pool"}))
def test_one_more_token_keeps_the_others(signals, name):
    """Greedy rules and single scores are nested; LiteLVLM shares k among the phrases, pooling cuts anew."""
    if name == "litelvlm":
        return
    x, given = signals
    long = call(name, x, 20, given)
    assert call(name, x, 9, given) == long[:9]


@pytest.mark.parametrize("name", NAMES)
def test_images_without_content(name):
    """All tokens zero, or all the same: ties go to the lowest index."""
    for x in (torch.zeros(9, 4), torch.full((9, 4), 0.3), torch.full((9, 4), -7e-3, dtype=torch.bfloat16)):
        given = {
            "clip_patches": x,
            "clip_text": torch.ones(1, 4),
            "llm_text": torch.ones(2, 4),
            "vision_clip": x,
            "cls_attention": torch.ones(1, 9),
            "projector": lambda rows: 2 * rows,
        }
        got = call(name, x, 4, given)
        assert len(set(got)) == 4
        if name != "average_pool":
            assert got == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_are_chosen_alone(signals, name):
    x, given = signals
    batch = torch.stack([x, x.flip(0), 2 * x.roll(3, 0)])
    reads = {*PRUNERS[name].reads, *PRUNERS[name].needs}
    shared = {n: v for n, v in given.items() if n in reads}
    if "clip_patches" in shared:
        shared["clip_patches"] = shared["clip_patches"].expand(3, -1, -1)
    together = select_tokens(batch, 9, name, rng=np.random.default_rng(4), **shared)
    streams = np.random.default_rng(4).spawn(3)
    alone = {n: v[0] if n == "clip_patches" else v for n, v in shared.items()}
    for one, row, stream in zip(batch, together, streams, strict=True):
        assert torch.equal(row, select_tokens(one, 9, name, rng=stream, **alone))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mmtok", {"text_temperature": 0}, r"text_temperature = 0: expected a number in \(0, inf\)"),
        ("mmtok", {"vision_temperature": float("nan")}, "vision_temperature = nan"),
        ("mmtok", {"alpha": -1}, r"alpha = -1: expected a number in \[0, inf\)"),
        ("zoo_prune", {"samples": 0}, "samples = 0: expected an integer of at least 1"),
        ("zoo_prune", {"samples": 2.5}, "samples = 2.5"),
        ("zoo_prune", {"step": 0.0}, r"step = 0.0: expected a number in \(0, inf\)"),
        ("zoo_prune", {"projector": lambda rows: rows[:3]}, "projector made 3 rows of 40"),
        ("svd_prune", {"energy": 0}, r"energy = 0: expected a number in \(0, 1\]"),
        ("svd_prune", {"energy": 1.5}, "energy = 1.5"),
        ("lrcp", {"rank": -1}, "rank = -1: expected an integer of at least 0"),
        ("lrcp", {"rank": True}, "rank = True"),
        ("cen_prune", {"base": "zoo"}, "base = 'zoo': expected one of 'divprune', 'cdpruner'"),
        ("cen_prune", {"scale": None}, "scale = None: expected one of 'minmax', 'sigmoid'"),
        ("family", {"beta": 1.1}, r"beta = 1.1: expected a number in \[0, 1\]"),
        ("family", {"alpha": "1"}, "alpha = '1'"),
        ("family", {"alpha": True}, "alpha = True"),
        ("mmtok", {"llm_text": torch.ones(2, 7)}, r"llm_text of shape \(2, 7\): expected \(M, 24\)"),
        ("litelvlm", {"clip_text": torch.ones(2, 7)}, r"clip_text of shape \(2, 7\): expected \(M, 16\)"),
        ("litelvlm", {"vision_values": torch.ones(2, 3, 4)}, r"expected \(heads, 40, dimension\)|axis"),
        ("norm_top", {"beta": 1}, "has no option 'beta'"),
    ],
)
def test_bad_options_are_named(signals, name, options, message):
    x, given = signals
    with pytest.raises(BridgeError, match=message):
        call(name, x, 4, {n: v for n, v in given.items() if n not in options}, **options)


def test_missing_signals_are_named(signals):
    x, given = signals
    with pytest.raises(BridgeError, match=r"missing: vision_clip"):
        select_tokens(x, 4, "mmtok", llm_text=given["llm_text"])
    with pytest.raises(BridgeError, match=r"missing: projector"):
        select_tokens(x, 4, "zoo_prune", vision_clip=given["vision_clip"])
    with pytest.raises(BridgeError, match=r"uses no relevance"):
        select_tokens(x, 4, "lrcp", Relevance(), **given)
