"""Whatever breaks off while a model is pruned, the model comes back as it was; nothing leaks; threads stay apart."""

import copy
import gc
import sys
import threading
import tracemalloc
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest
import torch
from tiny_qwen import deep_llava
from tiny_vlm import tiny_inputs
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import vlm_bridge
from vlm_bridge import PRUNERS, BridgeError, prune

METHODS = ("spare", "fastv")
STEPS = 3
PACKAGE = str(Path(vlm_bridge.__file__).parent)


class Broken(RuntimeError):
    pass


@pytest.fixture(scope="module")
def model():
    found = deep_llava()
    tiny_inputs(found)  # transformers hooks the vision tower on first use, and leaves it so
    return found


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, (1,), (4,))


@pytest.fixture(scope="module")
def expected(model, inputs):
    """Answers of every method, and of the model itself."""
    return {method: answer(model, inputs, method) for method in (*METHODS, None)}


def answer(model, inputs, method=None, **options):
    """Tokens and logits of a short answer."""

    def run():
        return model.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )

    if method is None:
        out = run()
    else:
        with prune(model, 9, method):
            out = run()
    return out.sequences, torch.stack(out.logits, 1)


def same(got, want):
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


SLOTS = [slot for slot in vars(torch.nn.Module()) if "hooks" in slot]


def state(model):
    """Weights, hooks, attributes of every module, methods of their classes, and the configs."""
    modules = dict(model.named_modules())
    classes = {base for module in modules.values() for base in type(module).__mro__}
    hooks = {(name, slot): list(getattr(module, slot)) for name, module in modules.items() for slot in SLOTS}
    attributes = {
        name: set(vars(module)) - {"_previous_max_cache_length"} for name, module in modules.items()
    }
    own = {name: {k: v for k, v in vars(module).items() if callable(v)} for name, module in modules.items()}
    methods = {base: {k: v for k, v in vars(base).items() if callable(v)} for base in classes}
    configs = (model.config.to_dict(), model.generation_config.to_dict(), model.training)
    return hooks, attributes, own, methods, configs


@contextmanager
def untouched(model):
    """The model behind the block is the one before it, to the last weight."""
    before, weights = state(model), copy.deepcopy(model.state_dict())
    yield
    for one, other in zip(state(model), before, strict=True):
        assert one == other
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


# exceptions at named places -----------------------------------------------------------------------

PLACES = (
    "encoder",
    "projector",
    "selection",
    "embedding",
    "first layer",
    "middle layer in decoding",
    "last layer",
    "head",
    "logits processor",
    "streamer",
    "stopping criterion",
    "block",
)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_given_back(model, inputs, expected, monkeypatch, method, place, error):
    """And the same call works again, in the same block and behind it."""

    def fail(*args, **kwargs):
        raise error

    layers, options = model.model.language_model.layers, {}
    where = {
        "encoder": model.model.vision_tower,
        "projector": model.model.multi_modal_projector,
        "embedding": model.model.language_model.embed_tokens,
        "first layer": layers[0].mlp,
        "last layer": layers[-1].self_attn,
        "head": model.lm_head,
    }.get(place)

    class Processor(LogitsProcessor):
        __call__ = fail

    class Criterion(StoppingCriteria):
        __call__ = fail

    class Streamer:
        put = end = fail

    with untouched(model):
        with pytest.raises(error), monkeypatch.context() as patch, prune(model, 9, method):  # noqa: PT012
            if place == "block":
                fail()
            if where is not None:
                patch.setattr(where, "forward", fail)
            elif place == "selection":
                row = PRUNERS[method]
                patch.setitem(PRUNERS, method, replace(row, plan=wraps(row.plan)(fail)))
            elif place == "middle layer in decoding":
                forward = layers[2].forward
                patch.setattr(
                    layers[2], "forward", lambda h, **kw: fail() if h.shape[1] == 1 else forward(h, **kw)
                )
            elif place == "logits processor":
                options["logits_processor"] = LogitsProcessorList([Processor()])
            elif place == "stopping criterion":
                options["stopping_criteria"] = StoppingCriteriaList([Criterion()])
            elif place == "streamer":
                options["streamer"] = Streamer()
            with pytest.raises(error):
                model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, **options)
            patch.undo()
            again = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
            assert torch.equal(again, expected[method][0]), "the next call in the block"
            fail()
        assert same(answer(model, inputs), expected[None]), "the model itself"
        assert same(answer(model, inputs, method), expected[method]), "the next block"


# exceptions in the bridge's own code --------------------------------------------------------------


def functions(run):
    """Code objects of the bridge that `run` enters, with the number of the bridge's calls before each."""
    found, count = {}, 0

    def trace(frame, event, _):
        nonlocal count
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            count += 1
            found.setdefault(frame.f_code, count)

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def interrupted(run, code, error):
    """Run until `code` is entered for the first time, and raise there."""

    def trace(frame, event, _):
        if event == "call" and frame.f_code is code:
            sys.settrace(None)
            raise error

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)


GIVING_BACK = ("detach", "remove", "<lambda>")


@pytest.mark.parametrize(
    ("method", "options"),
    [("spare", {"fold": True}), ("resprune", {}), ("vispruner", {}), ("sparsevlm", {})],
    ids=lambda o: o if isinstance(o, str) else "-".join(o),
)
def test_every_function_of_the_bridge_may_fail(model, inputs, method, options):
    """Interrupted at the entry of each function that a pruned call enters, hooks included."""

    def run():
        with prune(model, 18, method, **options):
            return model.generate(**inputs, max_new_tokens=2, do_sample=False)

    want, plain = run(), model.generate(**inputs, max_new_tokens=2, do_sample=False)
    found = [code for code in functions(run) if code.co_name not in GIVING_BACK]
    names = {code.co_name for code in found}
    assert {"prune", "before_forward", "after_forward", "pruned_generate", "attach"} <= names
    assert len(found) > 30
    with untouched(model):
        hooks = state(model)[0]
        for code in found:
            with pytest.raises(KeyboardInterrupt):
                interrupted(run, code, KeyboardInterrupt)
            assert state(model)[0] == hooks, code.co_qualname
            assert "generate" not in vars(model), code.co_qualname
            assert torch.equal(run(), want), code.co_qualname
        assert torch.equal(model.generate(**inputs, max_new_tokens=2, do_sample=False), plain)


# leaks --------------------------------------------------------------------------------------------


def live():
    """Tensors and bridge objects alive."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(o), torch.Tensor) for o in objects)
    return tensors, sum(str(type(o).__module__).startswith("vlm_bridge") for o in objects)


@pytest.mark.parametrize("method", METHODS)
def test_two_hundred_cycles_leave_nothing_behind(model, inputs, method):
    def cycle():
        with prune(model, 9, method) as report:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
        assert report.calls == 1

    for _ in range(5):
        cycle()
    with untouched(model):
        before = live()
        for _ in range(150):
            cycle()
        tracemalloc.start()
        try:
            for n in range(50):
                if n == 10:
                    gc.collect()
                    first = tracemalloc.get_traced_memory()[0]
                cycle()
            gc.collect()
            last = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert live() == before
        assert last - first < 100_000, "bytes in 40 cycles; the model alone takes about half of it"


def test_a_report_grows_by_what_it_lists(model, inputs):
    """Many calls in one block: the loan keeps nothing of a call whose cache is gone."""
    with prune(model, 9, "fastv") as report:
        for _ in range(3):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        before = live()
        for _ in range(20):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        tensors, objects = live()
    assert report.calls == 23
    assert tensors - before[0] == 20, "the kept rows of each call"
    assert objects - before[1] <= 20, "one cut each"


# threads ------------------------------------------------------------------------------------------


def together(*works, timeout=60):
    """Run in threads; what each returned or raised."""
    results = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(i, work):
        start.wait(timeout)
        try:
            results[i] = work()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive()
    return results


@pytest.mark.parametrize(
    "pair", [("spare", "spare"), ("spare", "fastv"), ("fastv", "fastv"), ("random", "random")]
)
def test_two_models_in_two_threads(model, pair):
    other = deep_llava(seed=1)
    calls = [tiny_inputs(model, (1, 1), (4, 9)), tiny_inputs(other, (2,), (6,), seed=5)]

    def work(one, inputs, method, fold):
        def run():
            found = []
            for _ in range(6):
                with prune(one, 9, method, fold=fold, rng=3) as report:
                    out = one.generate(**inputs, max_new_tokens=4, do_sample=False)
                found.append((out, *report.kept))
            return found

        return run

    works = [
        work(one, inputs, method, method == "spare" and i == 1)
        for i, (one, inputs, method) in enumerate(zip((model, other), calls, pair, strict=True))
    ]
    with untouched(model), untouched(other):
        alone = [run() for run in works]
        for got, want in zip(together(*works), alone, strict=True):
            assert not isinstance(got, Exception), got
            assert all(same(a, b) for a, b in zip(got, want, strict=True))


@pytest.fixture
def lent(inputs):
    """A model of one's own, in case it does not come back."""
    found = deep_llava()
    tiny_inputs(found)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_one_model_is_pruned_by_one_thread(lent, inputs, expected, method, monkeypatch):
    """Two blocks at the same time, which meet between the check and the hooks, and would meet again inside."""
    module, before, inside = sys.modules["vlm_bridge.live.prune"], threading.Barrier(2), threading.Barrier(2)
    slow = "PromptSession" if method == "spare" else "inside_session"
    made, met = getattr(module, slow), []

    def lingering(*args, **kwargs):
        with suppress(threading.BrokenBarrierError):
            before.wait(20)
        return made(*args, **kwargs)

    monkeypatch.setattr(module, slow, lingering)

    def work():
        try:
            with prune(lent, 9, method):
                with suppress(threading.BrokenBarrierError):
                    inside.wait(20)
                    met.append(threading.get_ident())
                return answer(lent, inputs)
        except BridgeError:
            before.abort()
            inside.abort()
            raise

    with untouched(lent):
        found = together(work, work)
        assert not met, "two blocks on one model at the same time"
        refused = [one for one in found if isinstance(one, BridgeError)]
        done = [one for one in found if not isinstance(one, Exception)]
        assert len(refused) == len(done) == 1, found
        assert "being pruned already" in str(refused[0])
        assert same(done[0], expected[method])
        assert same(answer(lent, inputs), expected[None])


@pytest.mark.parametrize(
    ("method", "place"),
    [
        ("spare", "tower"),
        ("spare", "before the prompt"),
        ("fastv", "tower"),
        ("fastv", "before the prompt"),
    ],
)
def test_two_calls_at_the_same_time_in_one_block(lent, inputs, expected, method, place, monkeypatch):
    """Refused or right, never wrong: both meet somewhere, and one goes on when the other is done."""
    meeting, done, seen = threading.Barrier(2), threading.Event(), threading.local()
    where, name = (
        (lent.model.vision_tower, "forward") if place == "tower" else (lent, "prepare_inputs_for_generation")
    )
    original = getattr(where, name)

    def waiting(*args, **kwargs):
        if not hasattr(seen, "here"):
            seen.here = True
            with suppress(threading.BrokenBarrierError):  # the other call was refused
                if meeting.wait(20) == 1:
                    done.wait(20)
        return original(*args, **kwargs)

    def work():
        try:
            return answer(lent, inputs)
        except BridgeError:
            meeting.abort()
            raise
        finally:
            done.set()

    with untouched(lent):
        with prune(lent, 0.5, method):
            want = answer(lent, inputs)
            with monkeypatch.context() as patch:
                patch.setattr(where, name, waiting)
                found = together(work, work)
            again = answer(lent, inputs)
        got = [one for one in found if not isinstance(one, BridgeError)]
        assert got, found
        assert all(not isinstance(one, Exception) and same(one, want) for one in got), found
        assert same(again, want)
        assert same(answer(lent, inputs), expected[None])
