"""An image that comes back: its choice is found again where nothing that the pruner reads has changed."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_qwen import deep_llava
from tiny_vlm import tiny_inputs, tiny_model

import cssp
from vlm_bridge import PRUNERS, PerTile, Relevance, Shared, prune, prune_inputs, select_tokens
from vlm_bridge.pruners import cdpruner
from vlm_bridge.selection.cache import Memory, fingerprint

choosing = sys.modules["vlm_bridge.selection.choose"]
rewriting = sys.modules["vlm_bridge.live.rewrite"]

AGNOSTIC = ("spare", "divprune", "norm_top", "average_pool", "greedy", "visionzip", "prumerge")


@pytest.fixture(scope="module")
def model():
    return deep_llava()


@pytest.fixture
def counted(monkeypatch):
    """How often a choice and its error are worked out."""
    count = SimpleNamespace(choices=0, errors=0)

    def counting(module, name, field):
        inner = getattr(module, name)

        def outer(*args, **kwargs):
            setattr(count, field, getattr(count, field) + 1)
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, outer)

    counting(choosing, "_chosen", "choices")
    counting(rewriting, "reconstruction_error", "errors")
    return count


def turns(model, images=(1,), text=(6,)):
    """A question, the conversation with another one behind it, and other words in place of the first."""
    first = tiny_inputs(model, images, text)
    rows = len(text)
    words = torch.randint(60, 119, (rows, 12), generator=torch.Generator().manual_seed(7))
    ids, mask = first["input_ids"], first["attention_mask"]
    longer = {
        "input_ids": torch.cat([ids, words], 1),
        "attention_mask": torch.cat([mask, mask[:, -1:].expand(-1, 12)], 1),
    }
    other = ids.clone()
    other[:, -min(text) :] = words[:, : min(text)]
    return first, {**first, **longer}, {**first, "input_ids": other}


def answers(model, calls, method="spare", keep=18, apart=False, **options):
    """Tokens that every call adds, and what was reported; all in one block, or each in a block of its own."""
    found, reports = [], []
    for group in [[call] for call in calls] if apart else [calls]:
        with prune(model, keep, method, rng=0, **options) as report, torch.no_grad():
            for inputs in group:
                out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
                found.append(out[:, inputs["input_ids"].shape[1] :].tolist())
        reports.append(report)
    kept = [one.tolist() for report in reports for one in report.kept]
    errors = [one for report in reports for one in report.errors]
    return SimpleNamespace(tokens=found, kept=kept, errors=errors, report=reports[-1])


@pytest.mark.parametrize("method", AGNOSTIC)
def test_a_second_question_costs_no_second_choice(model, counted, method):
    calls = turns(model)
    one = answers(model, calls, method)
    assert (counted.choices, counted.errors) == (1, 1)
    assert one.report.reused == [False, True, True]
    assert "2 of them as before" in repr(one.report)
    apart = answers(model, calls, method, apart=True)
    assert counted.choices == 4, "another block remembers nothing"
    assert (one.tokens, one.kept, one.errors) == (apart.tokens, apart.kept, apart.errors)


@pytest.mark.parametrize("method", ["resprune", "mmtok", "fastv"])
def test_a_pruner_that_reads_the_question_chooses_again(model, counted, method):
    assert PRUNERS[method].uses_text
    calls = turns(model)
    one = answers(model, calls, method)
    assert one.report.reused == [False] * 3
    assert counted.choices == (0 if PRUNERS[method].inside else 3)
    assert one.tokens == answers(model, calls, method, apart=True).tokens


def test_the_same_question_again_is_recognised_even_there(model, counted):
    first = turns(model)[0]
    report = answers(model, [first, first], "resprune").report
    assert report.reused == [False, True]
    assert counted.choices == 1


def test_relevance_makes_any_pruner_read_the_question(model, counted):
    calls = turns(model)
    relevance = Relevance(space="llm")
    assert answers(model, calls, "spare", relevance=relevance).report.reused == [False] * 3
    assert counted.choices == 3


@pytest.mark.parametrize("method", ["random", "uniform", "adaptive", "leverage"])
def test_what_is_drawn_is_drawn_anew(model, counted, method):
    first = turns(model)[0]
    one = answers(model, [first] * 3, method)
    assert one.report.reused == [False] * 3
    assert counted.choices == 3
    assert len({tuple(rows) for rows in one.kept}) > 1


def test_what_an_option_draws_is_drawn_anew(model):
    first = turns(model)[0]
    assert answers(model, [first] * 2, "local_search", start="uniform").report.reused == [False, False]
    assert answers(model, [first] * 2, "local_search", start="residual").report.reused == [False, True]


def test_rows_of_a_batch_come_back_in_any_order_and_number(model, counted):
    both = tiny_inputs(model, (2, 1), (5, 9))
    first, _, third = both["pixel_values"]
    again = tiny_inputs(model, (1, 2), (4, 6))
    new = torch.randn(third.shape, generator=torch.Generator().manual_seed(3))
    again = {**again, "pixel_values": torch.stack([third, new, first])}
    one = answers(model, [both, again])
    assert one.report.reused == [False, False, False, True, False, True]
    assert counted.choices == 4
    assert one.kept[3] == one.kept[2]
    assert one.kept[5] == one.kept[0]
    assert one.tokens == answers(model, [both, again], apart=True).tokens
    seconds = one.report.seconds
    assert seconds[3] == seconds[5] == 0 < seconds[4]


def test_an_image_shown_twice_in_one_call(model):
    inputs = tiny_inputs(model, (1, 1), (5, 9))
    inputs["pixel_values"][1] = inputs["pixel_values"][0]
    assert answers(model, [inputs]).report.reused == [False, True]


def test_one_changed_pixel_is_another_image(model, counted):
    first = turns(model)[0]
    pixels = first["pixel_values"].clone()
    pixels[0, 0, 20, 20] += 1e-3
    assert answers(model, [first, {**first, "pixel_values": pixels}]).report.reused == [False, False]


def test_another_budget_is_another_choice(model):
    inputs = tiny_inputs(model, (1, 1), (5, 9))
    inputs["pixel_values"][1] = inputs["pixel_values"][0]
    one = answers(model, [inputs, inputs], keep=[9, 18])
    assert one.report.reused == [False, False, True, True]
    assert [len(rows) for rows in one.kept] == [9, 18, 9, 18]


@pytest.mark.parametrize("keep", [PerTile(6), Shared(20)])
@pytest.mark.parametrize("separators", ["keep", "prune"])
def test_tiles_and_shared_budgets(keep, separators):
    model = tiny_model("llava_next")
    calls = turns(model, (2,))
    one = answers(model, calls[:2], keep=keep, separators=separators)
    assert one.report.reused == [False, False, True, True]
    assert one.kept == answers(model, calls[:2], keep=keep, separators=separators, apart=True).kept


def test_an_image_of_which_a_part_is_new_is_new(model, counted):
    """Under a shared budget the choice belongs to all images together."""
    inputs = tiny_inputs(model, (2,), (5,))
    pixels = inputs["pixel_values"].clone()
    pixels[1] = -pixels[1]
    one = answers(model, [inputs, {**inputs, "pixel_values": pixels}], keep=Shared(20))
    assert one.report.reused == [False] * 4


@pytest.mark.parametrize("options", [{"fold": True}, {"positions": "compact"}, {"tol": 0.6}])
def test_with_what_follows_the_choice(model, options):
    calls = turns(model)
    one, apart = (answers(model, calls, apart=one, **options) for one in (False, True))
    assert one.report.reused == [False, True, True]
    assert (one.tokens, one.kept) == (apart.tokens, apart.kept)


def test_everything_kept_is_no_choice(model):
    first = turns(model)[0]
    assert answers(model, [first] * 2, keep=1.0).report.reused == [False, False]


def test_signals_of_the_caller_count(model, clip, counted):
    calls = turns(model)
    g = torch.Generator().manual_seed(0)
    report = answers(
        model,
        calls,
        "cdpruner",
        clip_patches=torch.randn(36, 8, generator=g),
        clip_text=torch.randn(2, 8, generator=g),
    ).report
    assert report.reused == [False, True, True], "the question itself is not read then"
    assert cdpruner.ROW.uses_text


def test_plain_calls_remember_too(model, counted):
    first, second, _ = turns(model)
    with prune(model, 18) as report, torch.no_grad():
        model(**first)
        model.generate(**second, max_new_tokens=1)
    assert report.reused == [False, True]


def test_rewriting_alone_remembers_nothing(model, counted):
    first = turns(model)[0]
    reports = [prune_inputs(model, first, 18)[1] for _ in range(2)]
    assert [report.reused for report in reports] == [[False], [False]]
    assert counted.choices == 2


def test_memory_is_bounded_and_forgets_what_was_not_asked_for_longest():
    memory = Memory(3)
    for key in "abc":
        memory.store(key, key)
    assert memory.recall("a") == "a"
    memory.store("d", "d")
    assert [memory.recall(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert len(memory) == 3


def test_memory_is_shared_by_threads():
    memory, wrong = Memory(8), []

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 12, 2000).tolist():
            found = memory.recall(key)
            if found is None:
                memory.store(key, key + 1)
            elif found != key + 1:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(memory) == 8


def test_two_models_in_two_threads_remember_their_own():
    models = [tiny_model("llava", seed) for seed in (0, 1)]
    alone = [answers(one, turns(one)) for one in models]
    found = [None, None]

    def work(i):
        found[i] = answers(models[i], turns(models[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, both in zip(alone, found, strict=True):
        assert both.report.reused == [False, True, True]
        assert (both.tokens, both.kept) == (one.tokens, one.kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_fingerprints_tell_bits_shapes_and_dtypes_apart(dtype):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = x.clone()
    y[5, 3] = (
        torch.nextafter(y[5, 3].float(), torch.tensor(9.0)).to(dtype)
        if dtype.itemsize > 2
        else y[5, 3] * 1.01
    )
    integers = x.view(getattr(torch, f"int{8 * dtype.itemsize}"))
    others = [y, -x, x.flip(0), x.mT, x.reshape(4, 6), integers]
    assert fingerprint(x) == fingerprint(x.clone()) == fingerprint(x.mT.contiguous().mT)
    assert len({fingerprint(one) for one in [x, *others]}) == 7
    assert fingerprint(None) is None


@pytest.mark.parametrize("method", ["adaptive", "volume", "sketched_qr"])
def test_a_choice_above_the_rank_draws_as_cssp_does(method):
    """It is tried twice, and the second time starts from the same random numbers."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(12, 4, generator=g) @ torch.randn(4, 9, generator=g)
    rngs = [np.random.default_rng(5) for _ in range(2)]
    found = select_tokens(features, 7, method, rng=rngs[0], order="chosen")
    with pytest.warns(cssp.RankDeficientWarning):
        wanted = cssp.select(features.mT, 7, method=method, rng=rngs[1]).indices
    assert found.tolist() == wanted.tolist()
    assert rngs[0].random() == rngs[1].random()
