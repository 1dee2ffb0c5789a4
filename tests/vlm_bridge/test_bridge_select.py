"""`select_tokens` without a model: official outputs, equality with cssp, budgets and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

import cssp
from vlm_bridge import PRUNERS, BridgeError, Relevance, select_tokens
from vlm_bridge.pruners.uniform_grid import spread

DATA = Path(__file__).parent / "data"
KINDS = ("gaussian", "cone", "duplicates", "bfloat16")
PUBLISHED = ("spare", "resprune", "cdpruner", "divprune", "residual", "greedy", "uniform_grid", "random")


@pytest.fixture(params=KINDS)
def vectors(request):
    with np.load(DATA / f"{request.param}.npz") as stored:
        return dict(stored)


@pytest.fixture
def tokens():
    g = torch.Generator().manual_seed(5)
    return {
        "features": torch.randn(40, 24, generator=g) * torch.rand(40, 1, generator=g),
        "clip_patches": torch.randn(40, 16, generator=g),
        "clip_text": torch.randn(3, 16, generator=g),
        "llm_text": torch.randn(2, 24, generator=g),
    }


def distinct(features, indices):
    """The vectors chosen: where tokens are repeated exactly, which copy is taken does not matter."""
    return [features[j].tobytes() for j in indices]


# official outputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [18, 36])
def test_cdpruner_conforms(vectors, count):
    features = vectors["features"]
    got = select_tokens(
        features, count, "cdpruner", clip_patches=vectors["clip_patches"], clip_text=vectors["clip_text"]
    )
    assert got.tolist() == sorted(got.tolist())
    assert set(distinct(features, got)) == set(distinct(features, vectors[f"cdpruner_{count}"]))


def test_cdpruner_conforms_over_tiles(vectors):
    features = vectors["batch_features"]
    got = select_tokens(
        features, 18, "cdpruner", clip_patches=vectors["batch_clip_patches"], clip_text=vectors["clip_text"]
    )
    for tile in range(3):
        want = distinct(features[tile], vectors["cdpruner_batch_18"][tile])
        assert set(distinct(features[tile], got[tile])) == set(want)


def test_tiles_share_one_scale():
    """The batch vectors can tell a scale per tile from a common one."""
    per_tile = Relevance(space="clip", sign="anti", scope="image")
    differ = []
    for kind in KINDS:
        with np.load(DATA / f"{kind}.npz") as z:
            signals = {"clip_patches": z["batch_clip_patches"], "clip_text": z["clip_text"]}
            got = select_tokens(z["batch_features"], 18, "cdpruner", per_tile, **signals)
            differ.append(not np.array_equal(got.numpy(), z["cdpruner_batch_18"]))
    assert sum(differ) >= 2


@pytest.mark.parametrize("count", [18, 36])
def test_divprune_conforms_in_order(vectors, count):
    features = vectors["features"]
    got = select_tokens(features, count, "divprune", order="chosen")
    assert distinct(features, got) == distinct(features, vectors[f"divprune_order_{count}"])


@pytest.mark.parametrize("k", [1, 2, 12, 39])
def test_divprune_is_k_center_on_unit_columns(tokens, k):
    """From the most isolated token on, as cssp's `farthest` has it; in double precision nothing is rounded away."""
    x = tokens["features"].double()
    unit = x / x.norm(dim=-1, keepdim=True)
    distances = (1 - unit @ unit.T).fill_diagonal_(np.inf)
    seed = int(distances.min(0).values.argmax())
    want = cssp.select(unit.mT, k, method="farthest", include=[seed], deficient="truncate").indices.tolist()
    got = select_tokens(x, k, "divprune", order="chosen").tolist()
    assert got[: len(want)] == want
    assert len(want) >= min(k, 24)


# the bridge chooses what cssp chooses -------------------------------------------------------------


def cssp_set(columns, k, weights=None, method="residual", **options):
    chosen = cssp.select(columns, k, method=method, weights=weights, **options)
    return sorted(int(j) for j in chosen.indices)


def cosines(a, b):
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T


def min_max(score):
    return (score - score.min() + 1e-6) / (score.max() - score.min())


@pytest.mark.parametrize("k", [1, 7, 20])
def test_spare_is_residual_on_raw_columns(tokens, k):
    x = tokens["features"]
    assert select_tokens(x, k).tolist() == cssp_set(x.mT, k)


@pytest.mark.parametrize("sign", ["anti", "normal"])
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_spare_with_relevance_is_weighted_residual(tokens, sign, alpha):
    x = tokens["features"]
    score = cosines(tokens["clip_patches"], tokens["clip_text"]).mean(-1)
    weights = min_max(-score if sign == "anti" else score) ** alpha
    assert select_tokens(x, 12, "spare", sign, alpha=alpha, **_signals(tokens)).tolist() == cssp_set(
        x.mT, 12, weights
    )


def test_cdpruner_is_weighted_residual_on_unit_columns(tokens):
    x = tokens["features"]
    weights = min_max(-cosines(tokens["clip_patches"], tokens["clip_text"]).mean(-1))
    unit = x / x.norm(dim=-1, keepdim=True)
    assert select_tokens(x, 12, "cdpruner", **_signals(tokens)).tolist() == cssp_set(unit.mT, 12, weights)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_resprune_is_weighted_residual(tokens, alpha):
    x = tokens["features"]
    best = cosines(x, tokens["llm_text"]).amax(-1)
    assert (best < 0).any(), "some token has no friend among the words"
    weights = best.clamp(min=1e-6) ** (alpha / 2)
    assert select_tokens(x, 12, "resprune", alpha=alpha, **_signals(tokens)).tolist() == cssp_set(
        x.mT, 12, weights
    )


@pytest.mark.parametrize(
    ("k", "alpha"), [(1, 1.0), (2, 1.0), (4, 5 / 9), (8, 5 / 18), (10, 0.25), (20, 0.25)]
)
def test_auto_counts_relevance_the_more_the_fewer_tokens_stay(tokens, k, alpha):
    """Of 40 tokens; the exponents by hand from min(1, max(1/4, 40/(18 k)))."""
    x = tokens["features"]
    weights = cosines(x, tokens["llm_text"]).amax(-1).clamp(min=1e-6) ** alpha
    assert select_tokens(x, k, "auto", **_signals(tokens)).tolist() == cssp_set(x.mT, k, weights)
    if k == 4:  # the exponent shows
        picks = {tuple(cssp_set(x.mT, k, weights ** (a / alpha))) for a in (0.25, alpha, 1.0)}
        assert len(picks) > 1


def test_auto_told_to_transcribe_lowers_the_error_and_does_not_read_the_question(tokens):
    x = tokens["features"]
    found = select_tokens(x, 8, "auto", task="transcribe", **_signals(tokens)).tolist()
    assert found == select_tokens(x, 8, "greedy").tolist()
    assert found != select_tokens(x, 8, "auto", task="answer", **_signals(tokens)).tolist()
    other = {**_signals(tokens), "llm_text": tokens["llm_text"].flip(0) * -1}
    assert select_tokens(x, 8, "auto", task="transcribe", **other).tolist() == found


@pytest.mark.parametrize("task", ["caption", "", None, 1, ["answer"]])
def test_auto_refuses_other_tasks(tokens, task):
    with pytest.raises(BridgeError, match=r"task = .*: expected 'answer' or 'transcribe'"):
        select_tokens(tokens["features"], 8, "auto", task=task, **_signals(tokens))


def test_scores_are_weights(tokens):
    x, scores = tokens["features"], torch.rand(40, generator=torch.Generator().manual_seed(1))
    assert select_tokens(x, 12, "spare", scores).tolist() == cssp_set(x.mT, 12, scores)
    assert select_tokens(x, 12, "greedy", scores).tolist() == cssp_set(x.mT, 12, scores, "greedy")


@pytest.mark.parametrize("method", sorted(cssp.METHODS))
def test_every_cssp_method_is_a_pruner(tokens, method):
    x = tokens["features"]
    got = select_tokens(x, 6, method, rng=3).tolist()
    assert got == cssp_set(x.mT, 6, None, method, rng=np.random.default_rng(3))


def test_a_pruner_is_a_row(tokens):
    assert set(PUBLISHED) <= set(PRUNERS)
    for name, row in PRUNERS.items():
        assert row.name == name
        assert row.summary
        assert row.citation or row.open_options
    assert PRUNERS["cdpruner"].needs == ("clip_patches", "clip_text")
    assert PRUNERS["resprune"].needs == ("llm_text",)
    assert PRUNERS["spare"].needs == ()
    assert PRUNERS["spare"].options == ("alpha",)
    assert PRUNERS["resprune"].uses_text
    assert not PRUNERS["divprune"].uses_text


# budgets, shapes, types ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("k", [1, 5, 23, 24, 39, 40])
def test_exactly_k_distinct_ascending(tokens, method, k):
    """Also past the rank, which is 24 here."""
    got = select_tokens(tokens["features"], k, method, rng=0, **_signals(tokens))
    assert got.dtype == torch.int64
    assert got.shape == (k,)
    assert (got.diff() > 0).all()
    assert got.min() >= 0
    assert got.max() < 40


@pytest.mark.parametrize(
    ("keep", "count"),
    [(0.25, 10), (1.0, 40), (1e-9, 1), (0.0625, 2), (0.0375, 2), (np.int64(3), 3), (np.float32(0.5), 20)],
)
def test_keep_is_a_count_or_a_share(tokens, keep, count):
    assert len(select_tokens(tokens["features"], keep)) == count


def test_batches_equal_their_items(tokens):
    batch = torch.stack([tokens["features"], tokens["features"].flip(0), -3 * tokens["features"].roll(5, 0)])
    for method in PUBLISHED[:2] + PUBLISHED[3:]:
        together = select_tokens(batch, 9, method, rng=np.random.default_rng(4), llm_text=tokens["llm_text"])
        streams = np.random.default_rng(4).spawn(3)
        for i in range(3):
            alone = select_tokens(batch[i], 9, method, rng=streams[i], llm_text=tokens["llm_text"])
            assert torch.equal(together[i], alone), method
    nested = select_tokens(batch.reshape(3, 1, 40, 24), 9)
    assert nested.shape == (3, 1, 9)


def test_budgets_per_item_are_filled_with_minus_one(tokens):
    batch = torch.stack([tokens["features"]] * 3)
    got = select_tokens(batch, [2, 0.1, 5])
    assert (got >= 0).sum(-1).tolist() == [2, 4, 5]
    assert torch.equal(got[0, :2], select_tokens(batch[0], 2))


def test_numpy_and_low_precision_are_taken(tokens):
    x = tokens["features"]
    assert torch.equal(select_tokens(x.numpy(), 8), select_tokens(x, 8))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        for method in ("spare", "divprune", "greedy"):
            assert len(set(select_tokens(x.to(dtype), 8, method).tolist())) == 8


def test_features_are_not_modified(tokens):
    before = tokens["features"].clone()
    for method in PUBLISHED:
        select_tokens(tokens["features"], 8, method, **_signals(tokens))
    assert torch.equal(tokens["features"], before)


def test_tol_keeps_the_fewest_tokens_that_reach_it(tokens):
    x = tokens["features"]
    got = select_tokens(x, None, "spare", tol=0.5)
    chosen = cssp.select(x.mT, 40, method="residual", deficient="truncate")
    errors = np.sqrt(np.asarray(chosen.errors) / float(chosen.errors[0]))
    assert len(got) == int((errors <= 0.5).argmax())
    assert len(select_tokens(x, 3, "spare", tol=0.5)) == 3


def test_tol_cuts_a_nested_rule(tokens):
    """DivPrune's order, as far as the raw tokens are not yet reconstructed; other rules refuse."""
    x = tokens["features"]
    order = select_tokens(x, 39, "divprune", order="chosen").tolist()
    for tol in (0.9, 0.5, 0.1):
        got = select_tokens(x, 39, "divprune", tol=tol, order="chosen").tolist()
        assert got == order[: len(got)]
        residual = [
            torch.linalg.matrix_norm(x.T - _onto(x[order[:t]].T, x.T)) for t in (len(got), len(got) - 1)
        ]
        assert residual[0] <= tol * x.norm() * (1 + 1e-5)
        assert len(got) == 1 or residual[1] > tol * x.norm() * (1 - 1e-5)
    assert len(select_tokens(x, None, "divprune", tol=0.5)) < 24
    with pytest.raises(BridgeError, match="cannot honour tol"):
        select_tokens(x, 5, "uniform_grid", tol=0.5)


def _onto(C, X):
    return (
        C @ torch.linalg.lstsq(C.double(), X.double()).solution.float() if C.shape[1] else torch.zeros_like(X)
    )


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (6, 6), (5, 9), (24, 24), (9, 2)])
def test_uniform_grid_is_spread(h, w):
    for k in range(1, h * w + 1):
        cells = spread(k, h, w)
        assert len(set(cells)) == k
        assert min(cells) >= 0
        assert max(cells) < h * w
    assert set(spread(4, 6, 6)) == {7, 10, 25, 28}, "the centres of the quadrants"


def test_uniform_grid_takes_a_grid(tokens):
    assert select_tokens(tokens["features"], 2, "uniform_grid", grid=(2, 20)).tolist() == [25, 35]
    with pytest.raises(BridgeError, match=r"grid = \(3, 4\) has 12 cells, the image has 40"):
        select_tokens(tokens["features"], 2, "uniform_grid", grid=(3, 4))


def test_random_follows_its_rng(tokens):
    x = tokens["features"]
    a, b, c = (select_tokens(x, 8, "random", rng=s) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    state = torch.get_rng_state()
    select_tokens(x, 8, "random")
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_weights_do_not_exclude(tokens):
    scores = torch.zeros(40)
    scores[[3, 30]] = 1
    got = select_tokens(tokens["features"], 6, "spare", scores).tolist()
    assert {3, 30} <= set(got)
    assert len(got) == 6
    assert len(select_tokens(tokens["features"], 6, "spare", torch.zeros(40))) == 6


def test_constant_relevance_weighs_nothing(tokens):
    x = tokens["features"]
    flat = {"clip_patches": torch.ones(40, 16), "clip_text": torch.ones(1, 16)}
    assert torch.equal(select_tokens(x, 9, "spare", "anti", **flat), select_tokens(x, 9, "spare"))


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "keep = 0"),
        (-3, "keep = -3"),
        (41, r"keep = 41, but image 0 has 40 tokens"),
        (0.0, r"expected a share in \(0, 1\]"),
        (1.5, r"expected a share in \(0, 1\]"),
        (float("nan"), "expected a share"),
        (64.0, "an int for a token count"),
        (True, "keep = True"),
        ("all", "keep = 'all'"),
        (None, "keep = None needs tol"),
        ([3, 4], "2 budgets for 1 images"),
    ],
)
def test_bad_keep(tokens, keep, message):
    with pytest.raises(BridgeError, match=message):
        select_tokens(tokens["features"], keep)


def test_nan_names_image_and_token(tokens):
    batch = torch.stack([tokens["features"]] * 2).clone()
    batch[1, 17, 3] = float("nan")
    for method in PUBLISHED:
        with pytest.raises(BridgeError, match="image 1: token 17"):
            select_tokens(batch, 40, method, llm_text=tokens["llm_text"])


def test_missing_signals_are_named(tokens):
    with pytest.raises(BridgeError, match=r"'cdpruner'.*missing: clip_text.*works without: ") as caught:
        select_tokens(tokens["features"], 4, "cdpruner", clip_patches=tokens["clip_patches"])
    working = str(caught.value).split("works without: ")[1].rstrip(".").split(", ")
    assert "spare" in working
    assert "cdpruner" not in working
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, cssp.CsspError)
    with pytest.raises(BridgeError, match="missing: llm_text"):
        select_tokens(tokens["features"], 4, "resprune")
    with pytest.raises(BridgeError, match="missing: clip_patches, clip_text"):
        select_tokens(tokens["features"], 4, "spare", "anti")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sparе"}, "unknown pruner.*Did you mean"),
        ({"method": "spare", "beta": 1}, "'spare' has no option 'beta'. Its options: alpha"),
        ({"method": "divprune", "alpha": 1}, "'divprune' has no option 'alpha'. Its options: none"),
        ({"method": "greedy", "beta": 1}, "beta"),
        ({"method": "divprune", "relevance": "anti"}, "uses no relevance"),
        ({"relevance": "positive"}, "expected 'anti', 'normal'"),
        ({"relevance": torch.ones(39)}, r"expected \(40,\)"),
        ({"relevance": -torch.ones(40)}, "not negative"),
        ({"relevance": torch.full((40,), torch.nan)}, "finite"),
        ({"order": "random"}, "expected 'ascending' or 'chosen'"),
        ({"tol": 0.0}, r"expected a number in \(0, 1\]"),
        ({"method": "uniform_grid", "tol": 0.1}, "cannot honour tol"),
    ],
)
def test_bad_arguments(tokens, arguments, message):
    with pytest.raises(BridgeError, match=message):
        select_tokens(tokens["features"], 4, **arguments)


@pytest.mark.parametrize("shape", [(40,), (0, 4), (40, 0)])
def test_bad_shapes(shape):
    with pytest.raises(BridgeError, match="features of shape"):
        select_tokens(torch.ones(shape), 1)


def test_bad_signal_shapes(tokens):
    x = tokens["features"]
    with pytest.raises(BridgeError, match="clip_patches of shape"):
        select_tokens(x, 4, "cdpruner", clip_patches=torch.ones(39, 16), clip_text=torch.ones(1, 16))
    with pytest.raises(BridgeError, match="clip_text has dimension 5, clip_patches has 16"):
        select_tokens(x, 4, "cdpruner", clip_patches=torch.ones(40, 16), clip_text=torch.ones(1, 5))
    with pytest.raises(BridgeError, match="llm_text holds NaN"):
        select_tokens(x, 4, "resprune", llm_text=torch.full((2, 24), torch.nan))
    with pytest.raises(BridgeError, match="llm_text of shape"):
        select_tokens(x, 4, "resprune", llm_text=torch.ones(0, 24))


@pytest.mark.parametrize(
    "field", [{"space": "vit"}, {"reduction": "sum"}, {"sign": "minus"}, {"scope": "all"}, {"exponent": -1}]
)
def test_bad_relevance(field):
    with pytest.raises(BridgeError, match=next(iter(field))):
        Relevance(**field)


def _signals(tokens):
    return {name: value for name, value in tokens.items() if name != "features"}


def test_settings_are_given_by_name_and_signals_apart_from_options():
    from vlm_bridge.live.settings import Settings
    from vlm_bridge.selection.given import signals_and_options

    signals, options = signals_and_options({"llm_text": torch.ones(1, 2), "clip_text": None, "alpha": 2})
    assert list(signals) == ["llm_text"]
    assert options == {"alpha": 2}
    with pytest.raises(TypeError, match="positional"):
        Settings(64, "spare")
    with pytest.raises(BridgeError, match="no option 'llm_text'"):
        Settings(keep=64, method="spare", options=signals)
