"""A second question about the same image: the conversation is passed whole again."""

import pytest
import torch
from tiny_qwen import deep_llava
from tiny_vlm import IMAGE, masked_reference, tiny_inputs

from vlm_bridge import PRUNERS, prune

AGNOSTIC = ("spare", "divprune", "svd_prune", "cen_prune", "lrcp", "norm_top", "uniform_grid", "average_pool")
CONDITIONED = ("resprune", "fastv", "pyramiddrop", "sparsevlm")


@pytest.fixture(scope="module")
def model():
    return deep_llava()


@pytest.fixture(scope="module")
def turns(model):
    """The first question, and the conversation with the answer and a second one; the other words differ."""
    first = tiny_inputs(model, (1,), (6,))
    words = torch.randint(60, 119, (1, 12), generator=torch.Generator().manual_seed(7))
    ids = torch.cat([first["input_ids"], words], 1)
    other = {**first, "input_ids": first["input_ids"].clone()}
    asked = (first["input_ids"] > IMAGE).nonzero()[:, 1]
    other["input_ids"][0, asked] = words[0, : len(asked)]
    second = {**first, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return first, second, other


def kept(model, method, *calls, **options):
    """Rows that every call kept, all in one block."""
    with prune(model, 18, method, rng=0, **options) as report, torch.no_grad():
        for inputs in calls:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert report.calls == len(calls)
    return [one.tolist() for one in report.kept]


@pytest.mark.parametrize("method", AGNOSTIC)
def test_without_the_question_the_same_rows_again(model, turns, method):
    assert not PRUNERS[method].uses_text
    rows = kept(model, method, *turns)
    assert rows[0] == rows[1] == rows[2]
    assert rows[:2] == [kept(model, method, one)[0] for one in turns[:2]], "nor on what came before"


@pytest.mark.parametrize("method", CONDITIONED)
def test_with_the_question_they_are_chosen_anew(model, turns, method):
    assert PRUNERS[method].uses_text
    rows = kept(model, method, *turns)
    assert rows[2] != rows[0], "another question, other rows"
    assert rows == [kept(model, method, one)[0] for one in turns], "each call by its own question alone"


def test_every_row_says_whether_it_reads_the_question(model, turns):
    """`uses_text` against behaviour, of all pruners that need nothing but the model; those that draw start anew."""
    tried = 0
    for name, row in PRUNERS.items():
        own = set(row.needs) - {"llm_text", "attention", "hidden", "keys", "image_start", "projector"}
        if own or row.open_options:
            continue
        one, other = (kept(model, name, inputs) for inputs in (turns[0], turns[2]))
        assert row.uses_text or one == other, name
        tried += 1
    assert tried > 10


def test_the_second_answer_is_that_of_the_masked_model(model, turns):
    second = turns[1]
    with prune(model, 18) as report:
        model.generate(**turns[0], max_new_tokens=2, do_sample=False)
        got = model.generate(**second, max_new_tokens=5, do_sample=False)
    tokens, _ = masked_reference(model, second, report.kept[1:], report.sizes[1:], 5)
    assert torch.equal(got[:, -5:], tokens)
