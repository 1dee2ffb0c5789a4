"""The lmms-eval adapter on a tiny model, with the harness itself or with stand-ins for what it imports."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny_vlm
import torch
from PIL import Image
from test_cli import CHAT, processor_of

import vlm_bridge
from vlm_bridge import BridgeError, prune
from vlm_bridge.chat import prepare, question
from vlm_bridge.harness import manifest
from vlm_bridge.harness.tally import Tally

WORDS = ["w10 w11", "w12 w13 w14 w15", "w16", "w17 w18 w19"]


def _stand_ins():
    """The few names of lmms-eval that the adapter imports."""

    class Collator:
        def __init__(self, args, sort_fn, group_fn, grouping):
            self.rows = sorted(enumerate(args), key=lambda pair: (str(group_fn(pair[1])), sort_fn(pair[1])))
            self.group_fn = group_fn

        def get_batched(self, n):
            rows = [args for _, args in self.rows]
            while rows:
                same = [args for args in rows[:n] if self.group_fn(args) == self.group_fn(rows[0])]
                yield same
                rows = rows[len(same) :]

        def get_original(self, found):
            return [
                one
                for _, one in sorted(zip([i for i, _ in self.rows], found, strict=True), key=lambda p: p[0])
            ]

    class Model:
        is_simple = True

        def __init__(self):
            self.rank, self.task_dict = 0, {}
            self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)

    class Messages:
        def __init__(self, messages):
            self.messages = messages

        def to_hf_messages(self):
            def read(item):
                return {"type": "image", "image": item["url"]} if item["type"] == "image" else dict(item)

            return [{**message, "content": list(map(read, message["content"]))} for message in self.messages]

    logged = []
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.api.instance": {
            "GenerationResult": lambda text, token_counts=None: SimpleNamespace(
                text=text, token_counts=token_counts
            ),
            "TokenCounts": lambda output_tokens: SimpleNamespace(output_tokens=output_tokens),
        },
        "lmms_eval.api.model": {"lmms": Model},
        "lmms_eval.models.model_utils.gen_metrics": {"log_metrics": lambda *args: logged.append(args)},
        "lmms_eval.models.registry_v2": {
            "ModelManifest": lambda *args, **kwargs: SimpleNamespace(names=args, **kwargs)
        },
        "lmms_eval.protocol": {"ChatMessages": Messages},
        "lmms_eval.utils": {"Collator": Collator},
        "loguru": {"logger": SimpleNamespace(info=lambda text: logged.append(text))},
    }
    modules = {}
    for name, content in names.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(content)
    return modules


@pytest.fixture(scope="module")
def lmms():
    """The adapter's module."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("lmms_eval") is None:
            for name, module in _stand_ins().items():
                patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "vlm_bridge.harness.lmms", raising=False)
        import vlm_bridge.harness.lmms as found

        yield found
    sys.modules.pop("vlm_bridge.harness.lmms", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    model = tiny_vlm.tiny_model("llava")
    model.generation_config.eos_token_id = tiny_vlm.EOS
    model.save_pretrained(path)
    processor_of(model, CHAT).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def docs():
    """Four documents with one, two, one and one images; the last shows the first one's."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(4)]
    shown = [pictures[:1], pictures[1:3], pictures[3:], pictures[:1]]
    return [{"images": images, "text": text} for images, text in zip(shown, WORDS, strict=True)]


def visuals(doc):
    return doc["images"]


def messages(doc, round_idx=None, previous_output=None, previous_round_info=None):
    """One question; then another on the same image; then the end."""
    content = [{"type": "image", "url": image} for image in doc["images"]]
    if round_idx == 2:
        return None, True, previous_output, None
    turn = [
        {
            "role": "user",
            "content": [*content, {"type": "text", "text": "w30 w31" if round_idx else doc["text"]}],
        }
    ]
    return (turn, False, previous_output, None) if round_idx else turn


def text_of(doc, previous_output, round_idx, previous_round_info):
    if round_idx == 2:
        return None, None, True, [word.upper() for word in previous_output], None
    return doc["images"], "w30 w31", False, previous_output, None


def loaded(lmms, folder, docs, kind, **settings):
    found = getattr(lmms, kind)(str(folder), device="cpu", **settings)
    found.task_dict = {"t": {"test": docs}}
    return found


def asked(kind, given, *, rounds=False):
    """One request a document."""
    for i, text in enumerate(WORDS):
        if kind == "Chat":
            yield SimpleNamespace(args=(text, messages, given, i, "t", "test"))
        else:
            more = (visuals, text_of) if rounds else (visuals,)
            yield SimpleNamespace(args=(text, given, *more, i, "t", "test"))


def own(folder, docs, texts, keep, batch, **settings):
    """The same questions by the bridge alone."""
    from vlm_bridge.cli import load

    model, processor = load(str(folder), "cpu")
    found = []
    for first in range(0, len(docs), batch):
        part = [question(doc["images"], text) for doc, text in zip(docs, texts, strict=True)][
            first : first + batch
        ]
        inputs = prepare(processor, part)
        with prune(model, keep), torch.no_grad():
            out = model.generate(**inputs, do_sample=False, **settings)
        found += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def test_the_harness_finds_both_classes(lmms):
    found = manifest()
    for path, kind in ((found.simple_class_path, "Simple"), (found.chat_class_path, "Chat")):
        assert path == f"vlm_bridge.harness.lmms.{kind}"
        assert getattr(lmms, kind).is_simple == (kind == "Simple")


@pytest.mark.parametrize("kind", ["Chat", "Simple"])
@pytest.mark.parametrize(
    ("keep", "count"), [(9, 9), (1.0, 36), ("9", 9), ("at-most-9", 9), ("at-most-50", 36)]
)
def test_batches_answer_as_the_bridge_alone(lmms, folder, docs, kind, keep, count):
    model = loaded(lmms, folder, docs, kind, keep=keep, batch_size="2")
    got = model.generate_until(list(asked(kind, {"max_new_tokens": 4, "until": ["\n\n"]})))
    assert [one.text for one in got] == own(folder, docs, WORDS, count, 2, max_new_tokens=4)
    assert model.tally.images == 5
    assert model.tally.numbers()["visual_tokens"] == 5 * 36
    assert model.tally.numbers()["visual_tokens_kept"] == 5 * count


def test_without_a_pruner_the_model_is_left_alone(lmms, folder, docs, monkeypatch):
    monkeypatch.setattr(lmms, "prune", None)
    model = loaded(lmms, folder, docs, "Chat", method="none", batch_size=2)
    got = model.generate_until(list(asked("Chat", {"max_new_tokens": 4})))
    assert [one.text for one in got] == own(folder, docs, WORDS, 1.0, 2, max_new_tokens=4)
    assert model.tally.images == 0
    assert str(model.tally) == "no image was pruned"


def test_requests_of_different_settings_keep_their_order(lmms, folder, docs):
    model = loaded(lmms, folder, docs, "Chat", keep=9, batch_size=4)
    requests = list(asked("Chat", {"max_new_tokens": 4}))
    requests[1].args = (*requests[1].args[:2], {"max_new_tokens": 2}, *requests[1].args[3:])
    got = [one.text for one in model.generate_until(requests)]
    one_by_one = [model.generate_until([request])[0].text for request in requests]
    assert got == one_by_one
    assert [len(text.split()) for text in got] == [4, 2, 4, 4]


@pytest.mark.parametrize("kind", ["Chat", "Simple"])
def test_rounds_reuse_what_was_chosen(lmms, folder, docs, kind):
    model = loaded(lmms, folder, docs, kind, keep=9)
    got = model.generate_until_multi_round(list(asked(kind, {"max_new_tokens": 3}, rounds=True)))
    first = own(folder, docs, WORDS, 9, 1, max_new_tokens=3)
    second = own(folder, docs, ["w30 w31"] * 4, 9, 1, max_new_tokens=3)
    pairs = [list(pair) for pair in zip(first, second, strict=True)]
    assert got == (pairs if kind == "Chat" else [[word.upper() for word in pair] for pair in pairs])
    assert (model.tally.images, model.tally.reused) == (10, 5)


def test_a_task_of_one_round_ends(lmms, folder, docs):
    model = loaded(lmms, folder, docs, "Chat", keep=9)
    request = SimpleNamespace(
        args=(WORDS[0], lambda doc, **_: messages(doc), {"max_new_tokens": 3}, 0, "t", "test")
    )
    assert [len(rounds) for rounds in model.generate_until_multi_round([request])] == [1]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("settings", [{"keep": 9}, {"method": "none"}, {"keep": 9, "method": "resprune"}])
def test_likelihoods_are_those_of_reading_the_continuation(lmms, folder, docs, batch_size, settings):
    """Against one forward pass over question and continuation, in which the pruner is given the kept rows."""
    model = loaded(lmms, folder, docs, "Simple", batch_size=batch_size, **settings)
    targets = ["w20", "w21 w22 w23"]
    requests = [
        SimpleNamespace(args=(text, target, visuals, i, "t", "test"))
        for i, text in enumerate(WORDS)
        for target in targets
    ]
    got = [one.text for one in model.loglikelihood(requests)]
    at = 0
    for doc, text in zip(docs, WORDS, strict=True):
        inputs = prepare(model.processor, [question(doc["images"], text)])
        for target in targets:
            loss, greedy = _read_at_once(model, inputs, target, settings)
            assert got[at][0] == pytest.approx(loss, abs=1e-4)
            assert got[at][1] == greedy
            at += 1
    if settings == {"keep": 9}:
        assert model.tally.reused == 5, "each image chosen from once, for two choices"


@torch.no_grad()
def _read_at_once(model, inputs, target, settings):
    """(mean loss, whether greedy) by plain calls: the prompt, pruned or not, and the continuation on its cache."""
    words = torch.tensor([model.processor.tokenizer(target, add_special_tokens=False)["input_ids"]])
    with model.pruned() if settings.get("method") == "none" else prune(model.model, **model.options):
        out = model.model(**inputs, use_cache=True)
        full = torch.ones(1, inputs["input_ids"].shape[1] + words.shape[1], dtype=torch.long)
        after = model.model(input_ids=words, attention_mask=full, past_key_values=out.past_key_values).logits
    logs = torch.cat([out.logits[:, -1:], after[:, :-1]], 1).log_softmax(-1)
    loss = -logs.gather(2, words[..., None]).mean()
    return float(loss), bool((logs.argmax(-1) == words).all())


def test_a_greedy_answer_is_its_own_most_likely_continuation(lmms, folder, docs):
    model = loaded(lmms, folder, docs, "Simple", keep=9, batch_size=3)
    answer = model.generate_until(list(asked("Simple", {"max_new_tokens": 3}))[:1])[0].text
    targets = (answer, answer.split()[0], "w20 w20 w20")  # of different lengths in one batch
    given = [SimpleNamespace(args=(WORDS[0], target, visuals, 0, "t", "test")) for target in targets]
    found = [one.text for one in model.loglikelihood(given)]
    assert [greedy for _, greedy in found] == [True, True, False]
    assert found[0][0] < found[2][0]


def test_what_is_refused(lmms, folder, docs, monkeypatch):
    for settings, words in (
        ({"batch_size": "auto"}, "batch_size"),
        ({"keep": 0}, "at least one token"),
        ({"keep": "many"}, "expected a token count"),
        ({"method": "spaer"}, "spare"),
        ({"alhpa": 2}, "no option 'alhpa'"),
    ):
        with pytest.raises(BridgeError, match=words):
            loaded(lmms, folder, docs, "Chat", **settings)
    model = loaded(lmms, folder, docs, "Simple")
    with pytest.raises(NotImplementedError, match="without a question"):
        model.loglikelihood([SimpleNamespace(args=("", "w20"))])
    with pytest.raises(BridgeError, match="has no tokens"):
        model.loglikelihood([SimpleNamespace(args=("w10", "", visuals, 0, "t", "test"))])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BridgeError, match="one process"):
        loaded(lmms, folder, docs, "Chat")


def test_the_model_comes_back_whole(lmms, folder, docs):
    model = loaded(lmms, folder, docs, "Chat", keep=9)
    model.generate_until(list(asked("Chat", {"max_new_tokens": 2})))
    assert "generate" not in vars(model.model)
    assert not model.model._forward_hooks
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {"max_new_tokens": 5, "temperature": 0, "top_p": 0.9, "until": ["x"]},
            {"max_new_tokens": 5, "do_sample": False},
        ),
        ({"max_gen_toks": 7, "num_beams": 2}, {"max_new_tokens": 7, "num_beams": 2, "do_sample": False}),
        (
            {"temperature": 0.7, "top_p": None},
            {"max_new_tokens": 1024, "temperature": 0.7, "do_sample": True},
        ),
        ({"do_sample": False, "temperature": 0.7}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"do_sample": True, "image_aspect_ratio": "pad"}, {"max_new_tokens": 1024, "do_sample": True}),
    ],
)
def test_settings_of_a_task_become_those_of_generate(lmms, given, wanted):
    assert lmms.generation(given) == wanted


def test_answers_end_before_a_stop_string(lmms):
    assert lmms.cut("one two\n\nthree", ["\n\n", ""]) == "one two"
    assert lmms.cut("one two", "tw") == "one "
    assert lmms.cut("one", None) == "one"


def test_tally_adds_up(llava):
    tally, cost = Tally(), vlm_bridge.reporting.cost.Cost()
    for images in ((1, 1), (2, 1)):
        inputs = tiny_vlm.tiny_inputs(llava, images)
        with prune(llava, 9) as report, torch.no_grad():
            llava(**inputs)
        tally.add(report)
        cost += report.cost
    assert tally.images == 5
    assert tally.cost == cost
    assert "kept 45 of 180 visual tokens in 5 images" in str(tally)
