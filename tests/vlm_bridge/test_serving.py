"""What a server of vLLM is asked for: settings, budgets, questions and positions, without vLLM."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_qwen import qwen_inputs, tiny_qwen

from vlm_bridge import BridgeError, prune_inputs, select_tokens
from vlm_bridge.vllm.architectures import pruned_architecture
from vlm_bridge.vllm.choice import Asked, choose, question_of, seed_of
from vlm_bridge.vllm.features import FeatureCache, some_images
from vlm_bridge.vllm.positions import CHANNELS, Grid, Placed, prompt_positions, settle, with_places
from vlm_bridge.vllm.settings import Serving, parse, served


@pytest.mark.parametrize(
    ("given", "kept"),
    [({"keep": 64}, 64), ({"keep": 0.25}, 144), ({"keep": 1.0}, 576), ({"keep": "at-most-800"}, 576)],
)
def test_budgets(given, kept):
    assert parse(given).kept(576) == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": 0}, "at least one token"),
        ({"keep": 1.5}, "share in"),
        ({"keep": None}, "expected a token count"),
        ({"keep": True}, "expected a token count"),
        ({"keep": [64, 32]}, "one budget for all its images"),
        ({"keep": {"energy": 0.9}}, "fixed before the image is encoded"),
        ({"keep": "sixty"}, "at-most-64"),
        ({"keep": 64, "method": "sparse"}, "Did you mean"),
        ({"keep": 64, "method": "visionzip"}, "merges tokens.*spare"),
        ({"keep": 64, "method": "fastv"}, "inside the LLM.*spare"),
        ({"keep": 64, "method": "cdpruner"}, "clip_patches.*divprune"),
        ({"keep": 64, "method": "vispruner"}, "cls_attention.*divprune"),
        ({"keep": 64, "relevance": "anti"}, "clip_text"),
        ({"keep": 64, "method": "auto", "relevance": [0.5]}, "'anti' or 'normal'"),
        ({"keep": 64, "tol": 0.1}, "tol is not served"),
        ({"keep": 64, "fold": True}, "fold is not served"),
        ({"keep": 64, "llm_text": [[1.0]]}, "is a signal"),
        ({"keep": 64, "alfa": 2}, "no option 'alfa'"),
        ({"keep": 64, "positions": "kept"}, "expected one of keep, compact"),
        ({"keep": 64, "on_error": "ignore"}, "expected one of refuse, full"),
        ({"keep": 64, "rng": -1}, "0 or more"),
        ({"method": "divprune"}, "without keep"),
        (64, "expected an object of settings"),
    ],
)
def test_a_wrong_setting_is_refused_in_the_words_of_prune(given, said):
    with pytest.raises(BridgeError, match=said):
        parse(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": 600}, "has 576 tokens.*at-most-600"),
        ({"keep": 64, "method": "auto", "task": "guess"}, "'answer' or 'transcribe'"),
        ({"keep": 64, "method": "greedy", "beta": 1}, "'beta' is unknown"),
        ({"keep": 64, "method": "uniform_grid", "grid": [3, 3]}, "9 cells"),
        ({"keep": 64, "method": "uniform_grid", "grid": 24}, "failed with options"),
    ],
)
def test_what_an_image_makes_wrong_is_refused_or_keeps_all_tokens(given, said, caplog):
    """The engine would end by an error of the pruner, so that it is tried before."""
    with pytest.raises(BridgeError, match=said):
        parse(given).kept(576)
    assert parse({**given, "on_error": "full"}).kept(576) == 576
    assert "keeps all its 576 tokens" in caplog.text


def test_a_request_goes_over_the_engine():
    engine = {"keep": 64, "method": "auto", "task": "transcribe", "on_error": "full"}
    assert parse(None, engine).options == {"task": "transcribe"}
    assert parse({"keep": 32}, engine) == Serving(
        keep=32, method="auto", on_error="full", options={"task": "transcribe"}
    )
    other = parse({"method": "divprune"}, engine)
    assert (other.keep, other.options, other.on_error) == (64, {}, "full"), (
        "options belong to the engine's method"
    )
    assert parse(None, None) is None
    assert parse(None, {"positions": "compact"}) is None
    with pytest.raises(BridgeError, match="started with 'compact'"):
        parse({"keep": 32, "positions": "keep"}, {"positions": "compact"})


def test_an_engine_may_list_its_methods():
    """A slow method delays all requests of a step."""
    engine = {"methods": ["spare", "auto"], "keep": 9}
    assert parse(engine) == parse({"keep": 9}, engine) == Serving(keep=9)
    assert parse({"method": "auto"}, engine).method == "auto"
    assert parse(None, {"methods": ["auto"]}) is None
    for own, over, said in (
        ({"method": "exact"}, engine, "'exact': this engine serves spare, auto"),
        ({"keep": 3}, {"methods": ["auto"]}, "'spare': this engine serves auto"),
        ({"feature_cache": 9}, engine, "of the engine, not of a request"),
        ({"feature_cache": -1}, None, "expected a number of MiB"),
        ({"methods": ["exact"]}, engine, "of the engine, not of a request"),
        ({"methods": ["no such"]}, None, "no such"),
        ({"methods": "spare"}, None, "a list of pruners"),
    ):
        with pytest.raises(BridgeError, match=said):
            parse(own, over)


class Tower:
    """Encodes images by their names, and remembers which."""

    def __init__(self, sizes):
        self.sizes, self.encoded = sizes, []

    def rows(self, cache, names, keys=None):
        """Rows of images, whose first entry tells them apart."""

        def encode(some):
            self.encoded += [names[i] for i in some]
            batch = torch.cat([torch.full((self.sizes[names[i]], 2), float(ord(names[i]))) for i in some])
            return batch.split([self.sizes[names[i]] for i in some])

        found = cache.rows(keys or names, encode)
        assert [(len(one), float(one[0, 0])) for one in found] == [(self.sizes[n], ord(n)) for n in names]
        return found


def test_the_features_of_an_image_serve_further_questions():
    """The latest images stay, in bounded memory; equal images of one step are encoded once."""
    tower, cache = Tower({"a": 2, "b": 3, "c": 4, "d": 9}), FeatureCache(8 * 8)
    tower.rows(cache, ["a", "b", "a"])
    assert (tower.encoded, cache.bytes) == (["a", "b"], 5 * 8)
    tower.rows(cache, ["c", "a"])  # b, used before a, has to go
    assert (tower.encoded, cache.bytes) == (["a", "b", "c"], 6 * 8)
    tower.rows(cache, ["d", "c", "a"])  # more than all the memory
    assert (tower.encoded[3:], cache.bytes) == (["d"], 6 * 8)
    tower.rows(cache, ["d", "b"])
    assert (tower.encoded[4:], cache.bytes) == (["d", "b"], 5 * 8)
    assert cache.reused == 4
    cache.clear()
    tower.rows(cache, ["a", "a", "b"], ["a", "", ""])  # no question is read of the others
    assert (tower.encoded[6:], cache.bytes) == (["a", "a", "b"], 2 * 8)
    tower.rows(FeatureCache(0), ["a", "b", "a"])
    assert tower.encoded[9:] == ["a", "b"]


def test_kept_features_hold_no_more_memory_than_they_count():
    """Rows of one image are a part of those of a batch."""
    cache = FeatureCache(1000)
    Tower({"a": 2, "b": 30}).rows(cache, ["a", "b"], ["a", ""])
    (rows,) = cache.rows(["a"], None)
    assert rows.untyped_storage().nbytes() == cache.bytes == 16


def test_some_images_of_a_batch():
    grids = torch.tensor([(1, 2, 2), (1, 1, 3), (1, 2, 1)])
    arguments = {
        "pixel_values": torch.arange(9)[:, None],
        "image_grid_thw": grids,
        "tiles": [torch.zeros(i, 3) for i in range(3)],
        "token": torch.tensor(7),
        "name": "image",
    }
    found = some_images(arguments, [0, 2], 3, {"pixel_values": "image_grid_thw", "other": "grid"})
    assert found["pixel_values"][:, 0].tolist() == [0, 1, 2, 3, 7, 8]
    assert found["image_grid_thw"].tolist() == grids[[0, 2]].tolist()
    assert [len(one) for one in found["tiles"]] == [0, 2]
    assert (int(found["token"]), found["name"]) == (7, "image")


@pytest.mark.parametrize("method", served())
def test_what_is_served_is_as_many_tokens_as_promised(method):
    """Whatever the tokens are: of rank one, all alike, or zero."""
    g = torch.Generator().manual_seed(0)
    embed = torch.nn.Embedding(9, 12)
    asked = Asked(Serving(keep=5, method=method), (1, 2), seed=3)
    for rows in (
        torch.randn(16, 12, generator=g),
        torch.randn(16, 1, generator=g).expand(16, 12),
        torch.ones(16, 12),
    ):
        kept = choose(rows, asked, embed)
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == 5


def test_features_that_are_not_finite_do_not_end_the_engine(caplog):
    rows = torch.full((16, 12), float("nan"))
    assert choose(rows, Asked(Serving(keep=4)), None).tolist() == [0, 4, 8, 12]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "NaN" in caplog.text


def test_the_choice_is_that_of_select_tokens():
    g = torch.Generator().manual_seed(1)
    rows, embed = torch.randn(40, 12, generator=g), torch.nn.Embedding(9, 12)
    asked = Asked.unpack(Asked(Serving(keep=6, method="auto"), (4, 7), 3, Grid((5, 8))).pack())
    assert (asked.grid.shape, asked.seed) == ((5, 8), 3)
    want = select_tokens(rows, 6, "auto", llm_text=embed(torch.tensor([4, 7])).detach())
    assert choose(rows, asked, embed).tolist() == want.tolist()
    assert choose(rows, Asked(Serving(keep=6, method="auto"), (1, 2)), embed).tolist() != want.tolist()


RANK = """
import json, torch
from vlm_bridge.vllm.choice import Asked, choose, seed_of
from vlm_bridge.vllm.settings import Serving, served

g = torch.Generator().manual_seed(1)
rows, embed = torch.randn(40, 12, generator=g), torch.nn.Embedding.from_pretrained(torch.randn(9, 12, generator=g))
found = {}
for method in served():
    serving = Serving(keep=6, method=method)
    asked = Asked.unpack(Asked(serving, (4, 7), seed_of("image", serving)).pack())
    found[method] = choose(rows, asked, embed).tolist()
print(json.dumps(found))
"""


def test_two_processes_choose_the_same():
    """Ranks that hold a model together choose each by itself: nothing may depend on the process, as hashes of strings do."""
    ranks = [
        subprocess.run(
            [sys.executable, "-c", RANK],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    one, other = (json.loads(rank.stdout) for rank in ranks)
    assert list(one) == served()
    assert one == other


def test_random_tokens_follow_the_image_and_the_seed():
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))

    def drawn(image, rng=0):
        serving = Serving(keep=6, method="random", rng=rng)
        return tuple(choose(rows, Asked(serving, seed=seed_of(image, serving)), None).tolist())

    assert drawn("a") == drawn("a")
    assert len({drawn("a"), drawn("b"), drawn("a", rng=1)}) == 3


def test_the_question_is_what_is_left_of_the_prompt():
    assert question_of([1, 4, 4, 17, 18, 3], {1, 3, 4}) == (17, 18)


def test_settings_have_one_text():
    """It enters the hash of an image: equal settings share what is encoded, others must not."""
    one = parse({"keep": 32, "method": "auto", "task": "answer"})
    assert one.text() == parse({"task": "answer", "keep": 32}, {"method": "auto", "keep": 9}).text()
    assert parse(json.loads(one.text())) == one
    texts = {
        parse({"keep": 32, **more}).text()
        for more in ({}, {"keep": "at-most-32"}, {"alpha": 2}, {"method": "norm_top"}, {"rng": 1})
    }
    assert len(texts) == 5


@pytest.mark.parametrize("shape", [(1, 3, 7), (1, 7, 3), (30,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_settle_in_chunks_in_any_order_of_asking(shape, dtype):
    """A prompt of text, image, image, text is computed five tokens a step; the result is that of the whole."""
    grid, g = Grid(shape), torch.Generator().manual_seed(0)
    kept = [torch.randperm(grid.n, generator=g)[:k].sort().values for k in (4, 9)]
    images = [Placed(3, 4, grid), Placed(7, 9, grid)]
    positions, delta = prompt_positions(20, images, "keep")
    ids = torch.zeros(20, dtype=torch.bool)
    ids[3:16] = True
    rows = [with_places(torch.randn(grid.n, 6).to(dtype)[k], grid, k) for k in kept]
    base = [3, 3 + grid.extent]
    want = [torch.arange(3).expand(3, -1)]
    want += [b + grid.places()[:, k] for b, k in zip(base, kept, strict=True)]
    want += [(base[1] + grid.extent + torch.arange(4)).expand(3, -1)]
    flat = torch.cat(rows)
    for start in range(0, 20, 5):
        here = flat[max(start - 3, 0) : min(max(start + 5 - 3, 0), 13)]
        for _ in range(2):  # a step that is run twice changes nothing
            plain, positions, shift = settle(positions, ids, [here] if len(here) else [], start)
        assert [one.shape[1] for one in plain] in ([], [6])
    assert torch.equal(positions, torch.cat(want, 1))
    assert shift == delta == int(positions.max()) + 1 - 20


def test_places_beyond_256_survive_bfloat16():
    grid = Grid((1, 3, 70_000 // 3))
    kept = torch.tensor([0, 23_000, 69_000])
    rows = with_places(torch.zeros(3, 2, dtype=torch.bfloat16), grid, kept)
    assert rows.shape == (3, 2 + CHANNELS)
    positions, _ = prompt_positions(4, [Placed(0, 3, grid)], "keep")
    _, settled, _ = settle(positions, torch.tensor([True, True, True, False]), [rows], 0)
    assert torch.equal(settled[:, :3], grid.places()[:, kept])


@pytest.mark.parametrize("keep", [3, 1.0, [36, 3, 24], [3, 32, 24]])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_positions_of_qwen_are_those_of_prune(positions, keep):
    """A square image, one in landscape and one in portrait: behind each, text begins after its longer side."""
    model = tiny_qwen("qwen2_5_vl")
    inputs = qwen_inputs(model, (3,), (5,))
    new, report = prune_inputs(model, inputs, keep, "spare", positions=positions)
    image = new["input_ids"][0] == model.config.image_token_id
    grids = [Grid((t, h // 2, w // 2)) for t, h, w in inputs["image_grid_thw"].tolist()]
    kept, places = report.kept, image.nonzero()[:, 0].split([len(one) for one in report.kept])
    placed = [Placed(int(at[0]), len(at), grid) for at, grid in zip(places, grids, strict=True)]
    found, shift = prompt_positions(len(image), placed, positions)
    if positions == "keep":
        rows = [with_places(torch.zeros(grid.n, 4)[k], grid, k) for grid, k in zip(grids, kept, strict=True)]
        _, found, again = settle(found, image, rows, 0)
        assert again == shift
    assert torch.equal(found, new["position_ids"][-3:, 0])


def test_an_image_that_keeps_all_its_tokens_has_its_grid():
    """An engine with compact positions answers a request that drops nothing as vLLM does without the plugin."""
    found, shift = prompt_positions(8, [Placed(1, 6, Grid((1, 2, 3)))], "compact")
    assert found.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]
    assert shift == -3


@pytest.mark.parametrize("names", [["LlavaForConditionalGeneration"], ["PrunedLlava"]])
def test_a_checkpoint_is_served_by_its_architecture(names):
    assert pruned_architecture(names) == "PrunedLlava"


@pytest.mark.parametrize("names", [["Qwen2ForCausalLM"], [], None])
def test_a_checkpoint_that_is_not_served_is_refused_with_those_that_are(names):
    with pytest.raises(BridgeError, match="Gemma3ForConditionalGeneration"):
        pruned_architecture(names)
