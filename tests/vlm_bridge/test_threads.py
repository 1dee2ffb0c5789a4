"""One lent model, many calls at a time: each answers as if it were alone, or is refused."""

import asyncio
import copy
import gc
import pickle
import sys
import threading
from functools import partial
from types import MethodType

import numpy as np
import pytest
import thread_patterns as patterns
import torch
from test_robustness import together, untouched
from thread_patterns import (
    PATTERNS,
    Meddling,
    by_hand,
    equal,
    forward,
    generate,
    inputs_of,
    text,
    words_of,
)

from vlm_bridge import BridgeError, prune, prune_inputs
from vlm_bridge.live.session import Session

image = generate()
LOANS = [{"keep": 5, "fold": True}, {"keep": 0.5, "method": "fastv"}]
LOAN_IDS = ["before the LLM", "inside the LLM"]


@pytest.fixture
def model():
    """A LLaVA of one's own, warmed up."""
    patterns.shared.cache_clear()
    patterns.inputs_of.cache_clear()
    return patterns.shared("deep_llava")


@pytest.mark.parametrize("name", PATTERNS)
def test_threads_answer_as_if_alone(name):
    found = patterns.run(name, threads=4, calls=2)
    assert found == {"right": 8}, found


# calls within calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
@pytest.mark.parametrize("outer", [inputs_of, words_of], ids=["images", "text"])
@pytest.mark.parametrize(
    ("place", "inner"),
    [
        ("processor", image),
        ("processor", forward),
        ("criterion", forward),
        ("streamer", by_hand),
        ("prefix", text),
        ("prefix", image),
    ],
)
def test_a_callback_may_call_the_model(model, asked, outer, inner, place):
    """Whatever `generate` calls of the caller's: both the inner call and the outer one are right."""
    with prune(model, **asked) as report:
        alone = inner(model, 5)
        images = len(report.kept)
        plain = patterns.meddling(place, lambda *_: [], outer)(model, 1)
        kept = len(report.kept) - images
        got = patterns.meddling(place, inner, outer)(model, 1)
    told = got[len(plain) :]
    assert equal(got[: len(plain)], plain)
    assert told
    for start in range(0, len(told), len(alone)):
        assert equal(told[start : start + len(alone)], alone)
    assert len(report.kept) == images + 2 * kept + images * len(told) // len(alone), "all of them were pruned"


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_callback_of_a_prompt_without_ids(model, asked):
    """The prompt cannot be shown in full, and still the callback's own call is pruned."""
    inputs = dict(inputs_of(model, 0))
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    options = {"max_new_tokens": 2, "do_sample": False}
    with prune(model, **asked):
        alone, plain = forward(model, 1), model.generate(**inputs, **options)
        meddler = Meddling(lambda: forward(model, 1))
        assert torch.equal(model.generate(**inputs, **options, logits_processor=[meddler]), plain)
    assert equal(meddler.said, alone + alone)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
@pytest.mark.parametrize("inner", [forward, image, text], ids=lambda work: getattr(work, "__name__", "?"))
def test_a_hook_may_call_the_model(model, asked, inner):
    """A call in the midst of a step of `generate` is a call of its own."""
    said, busy = [], []

    def ask(*_):
        if not busy:
            busy.append(True)
            said.append(inner(model, 1))
            busy.clear()

    with prune(model, **asked):
        alone, want = inner(model, 1), image(model, 0)
        handle = model.model.language_model.layers[1].register_forward_pre_hook(ask)
        try:
            got = image(model, 0)
        finally:
            handle.remove()
    assert equal(got, want)
    assert len(said) == patterns.STEPS
    assert all(equal(one, alone) for one in said)


# coming and going ---------------------------------------------------------------------------------


class Paused:
    """A `generate` that is stopped at a step until it may go on."""

    def __init__(self, step):
        self.step, self.reached, self.go_on = step, threading.Event(), threading.Event()

    def put(self, value):
        self.step -= 1
        if self.step == 0:
            self.reached.set()
            assert self.go_on.wait(60)

    def end(self):
        pass


def paused(model, step, run, **options):
    """What `generate` answers when `run` was called with it stopped at `step`."""
    streamer = Paused(step)

    def second():
        assert streamer.reached.wait(60)
        try:
            return run(streamer)
        finally:
            streamer.go_on.set()

    first = partial(generate(streamer=streamer, **options), model, 0)
    answer, said = together(first, second)
    assert not isinstance(answer, Exception), answer
    assert not isinstance(said, Exception), said
    return answer


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=["cache", "no cache"])
@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_leaving_waits_for_calls_of_other_threads(model, asked, options):
    with prune(model, **asked):
        want = generate(**options)(model, 0)
    block, left = prune(model, **asked), []

    def leave(streamer):
        thread = threading.Thread(target=lambda: (block.__exit__(None, None, None), left.append(True)))
        thread.start()
        thread.join(0.2)
        assert not left, "the call is running"
        with pytest.raises(BridgeError, match="being pruned already"):
            prune(model).__enter__()
        assert "generate" not in vars(model), "new calls are as behind the block"
        assert equal(forward(model, 1), plain)
        streamer.go_on.set()
        thread.join(60)
        assert left

    plain = forward(model, 1)
    with untouched(model):
        block.__enter__()
        assert equal(paused(model, 2, leave, **options), want)
        assert equal(forward(model, 1), plain)
        with prune(model, **asked):
            assert equal(generate(**options)(model, 0), want)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=["cache", "no cache"])
@pytest.mark.parametrize("step", [1, 2], ids=["before the prompt", "in decoding"])
@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_call_that_began_before_the_block_is_not_pruned(model, asked, step, options):
    """Neither when the block begins in the midst of it, nor when it also ends."""
    want = generate(**options)(model, 0)
    with prune(model, **asked):
        pruned = image(model, 1)
    block = prune(model, **asked)

    def enter(streamer):
        block.__enter__()
        assert equal(image(model, 1), pruned)

    with untouched(model):
        assert equal(paused(model, step, enter, **options), want)
        block.__exit__(None, None, None)

        def visit(streamer):
            with prune(model, **asked):
                assert equal(image(model, 1), pruned)

        assert equal(paused(model, step, visit, **options), want)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_generate_taken_from_elsewhere_is_refused(model, asked):
    before = model.generate
    inputs = inputs_of(model, 0)
    with prune(model, **asked):
        inside = model.generate
        for taken in (before, MethodType(type(model).generate, model)):
            with pytest.raises(BridgeError, match=r"call model.generate\(...\) inside the block"):
                taken(**inputs, max_new_tokens=2)
        assert before(**words_of(model, 0), max_new_tokens=2).shape[0] == 1
    with pytest.raises(BridgeError, match="block that has been left"):
        inside(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_call_that_begins_while_the_block_does(model, asked, monkeypatch):
    """It waits until the model is lent as a whole."""
    with prune(model, **asked):
        want = image(model, 0)
    attach, got, threads = Session.attach, [], []

    def half(loan, *args, **kwargs):
        attach(loan, *args, **kwargs)
        threads.append(threading.Thread(target=lambda: got.append(image(model, 0))))
        threads[0].start()
        threads[0].join(0.2)

    monkeypatch.setattr(Session, "attach", half)
    with prune(model, **asked):
        threads[0].join(60)
    assert equal(got[0], want)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_block_begun_by_a_callback_is_refused(model, asked):
    """A call inside it could not be told from the steps of the `generate` around it."""
    inputs, plain = inputs_of(model, 0), image(model, 0)

    def begin():
        with prune(model, **asked):
            model(**inputs)

    with untouched(model):
        with pytest.raises(BridgeError, match="begin the block around that `generate`"):
            generate(logits_processor=[Meddling(begin)])(model, 0)
        assert equal(image(model, 0), plain)


def test_a_forgotten_block_is_left_while_another_is_entered(model):
    """The garbage collector may run at any time, also while this thread holds the lock."""

    def forgotten():
        with prune(model, 5):
            yield

    def enter():
        with sys.modules["vlm_bridge.live.prune"]._LOCK:
            gc.collect()

    block = forgotten()
    next(block)
    circle = [block]
    circle.append(circle)
    del block, circle
    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "generate" not in vars(model)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_block_left_by_a_callback(model, asked):
    """It does not wait for itself, and the call, which could not end right, ends with an error."""
    plain, block = image(model, 0), prune(model, **asked)
    with untouched(model):
        block.__enter__()
        leave = Meddling(lambda: [block.__exit__(None, None, None)])
        with pytest.raises(BridgeError, match="was left by a function that `generate` called"):
            generate(logits_processor=[leave])(model, 0)
        assert equal(image(model, 0), plain)


# copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps], ids=["deepcopy", "pickle"])
def test_copies_inside_the_block_are_refused(model, asked, copied):
    plain = image(model, 0)
    refused = pytest.raises(BridgeError, match="cannot be copied or pickled while it is being pruned")
    with untouched(model), prune(model, **asked), refused:
        copied(model)
    assert equal(image(copy.deepcopy(model), 0), plain)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_a_checkpoint_saved_inside_the_block_is_the_model(model, asked, tmp_path):
    plain = image(model, 0)
    with prune(model, **asked):
        model.save_pretrained(tmp_path)
    assert equal(image(type(model).from_pretrained(tmp_path), 0), plain)


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_replicas_are_refused(model, asked):
    """As torch.nn.DataParallel makes them for several devices; with none it calls the model itself."""
    inputs = inputs_of(model, 0)
    with prune(model, **asked):
        want = model(**inputs).logits
        assert torch.equal(torch.nn.DataParallel(model)(**inputs).logits, want)
        with pytest.raises(BridgeError, match="DataParallel"):
            model._replicate_for_data_parallel()(**inputs)
        assert torch.equal(model(**inputs).logits, want)


# tasks, reports, chance, positions ----------------------------------------------------------------


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_tasks_of_asyncio(model, asked):
    """Calls in threads of the loop, and calls of two tasks that take turns."""

    async def turns(thread):
        out = model(**inputs_of(model, thread))
        found = [out.logits[:, -1]]
        for _ in range(patterns.STEPS):
            await asyncio.sleep(0)
            out = model(input_ids=found[-1].argmax(-1, keepdim=True), past_key_values=out.past_key_values)
            found.append(out.logits[:, -1])
        return found

    async def all_of_them():
        threads = [asyncio.to_thread(image, model, thread) for thread in (0, 1)]
        return await asyncio.gather(*threads, turns(2), turns(3))

    with prune(model, **asked), torch.no_grad(), patterns.busy():
        want = [image(model, 0), image(model, 1), by_hand(model, 2), by_hand(model, 3)]
        got = asyncio.run(all_of_them())
    assert all(equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("asked", LOANS, ids=LOAN_IDS)
def test_entries_of_a_call_stand_together_and_say_whose_they_are(model, asked):
    idents, alone = [], []
    for thread in range(4):
        with prune(model, **asked) as report:
            forward(model, thread)
        alone.append(report)

    def work(thread):
        idents.append((threading.get_ident(), thread))
        for _ in range(4):
            forward(model, thread)

    with prune(model, **asked) as report, patterns.busy():
        assert together(*(partial(work, thread) for thread in range(4))) == [None] * 4
    names = ("kept", "sizes", "errors", "seconds", "reused", "merges", "rows", "threads")
    assert {len(getattr(report, name)) for name in names} == {4 * sum(len(one.kept) for one in alone)}
    assert report.calls == 16
    assert report.cost == sum(4 * [one.cost for one in alone], type(report.cost)())
    of, at = dict(idents), 0
    while at < len(report.kept):
        want = alone[of[report.threads[at]]]
        end = at + len(want.kept)
        assert report.rows[at:end] == want.rows
        assert report.sizes[at:end] == want.sizes
        assert all(torch.equal(a, b) for a, b in zip(report.kept[at:end], want.kept, strict=True))
        assert set(report.threads[at:end]) == {report.threads[at]}
        at = end
    assert pickle.loads(pickle.dumps(report)).threads == report.threads


def test_generators_are_spawned_one_call_at_a_time(model):
    """NumPy's own `spawn` may hand the same generators out twice; here a second spawn would meet the first."""
    inside, met = [], []

    class Slow(np.random.Generator):
        def spawn(self, n_children):
            inside.append(True)
            met.append(len(inside))
            threading.Event().wait(0.05)
            inside.pop()
            return super().spawn(n_children)

    rng = Slow(np.random.PCG64(3))
    results = together(*[lambda: prune_inputs(model, inputs_of(model, 0), 5, "random", rng=rng)[1]] * 3)
    assert met == [1, 1, 1]
    assert len({tuple(report.kept[0].tolist()) for report in results}) == 3, "each draws its own"


@pytest.mark.parametrize("asked", [{"keep": 5}, {"keep": 0.5, "method": "fastv"}], ids=LOAN_IDS)
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "deep_llava"])
def test_positions_do_not_hang_on_what_the_model_was_last_called_with(kind, asked):
    """Models of the Qwen2-VL kind keep `rope_deltas` of the last prompt, whoever sent it; prompts are padded here."""
    model = patterns.shared(kind)

    def decoded(deltas):
        out = model(**inputs_of(model, 1))
        found = [out.logits[:, -1]]
        for _ in range(3):
            model.model.rope_deltas = deltas
            out = model(input_ids=found[-1].argmax(-1, keepdim=True), past_key_values=out.past_key_values)
            found.append(out.logits[:, -1])
        return found

    with prune(model, **asked), torch.no_grad():
        want = image(model, 1)[1:]
        for deltas in (None, torch.tensor([[50], [-3]])):
            got = decoded(deltas)
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(got, want, strict=True))
