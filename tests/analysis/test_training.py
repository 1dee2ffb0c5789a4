"""Training sees what inference sees, and resumes where it stopped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from analysis import reference, scenes
from analysis.scenes import GRID, PATCH
from analysis.training import codes, data, evaluate, model, optimise, packed, places
from analysis.training.recipe import Batch, Recipe, about_hops, askable, batches, compile_parts


@pytest.fixture(scope="module")
def made():
    return [
        scenes.make(i, "train", data.TRAINING_QUESTIONS, family)
        for i in range(6)
        for family in scenes.FAMILIES
    ]


@pytest.fixture(scope="module")
def arrays(made):
    rng = np.random.default_rng
    rows = [
        (s.pixels, data.factors(s), *data.pack(s.questions, rng(0)), data.describe(s, rng(0))) for s in made
    ]
    return data.Arrays(*map(np.stack, zip(*rows, strict=True)))


def test_packed_logits_are_those_of_separate_prompts(untrained, arrays):
    """Every question behind one image, blind to the others: the same loss as one prompt at a time through the processor."""
    net, processor = reference.load(untrained)
    batch = Batch(arrays[:2])
    with torch.no_grad():
        image = packed.visual_tokens(net, batch.pixels)
        loss, _, answers, _ = packed.answer_loss(net, image, batch.tokens, batch.segments, batch.targets)
        separate, gold = [], []
        for i, family in enumerate(scenes.FAMILIES):
            scene = scenes.make(0, "train", data.TRAINING_QUESTIONS, family)
            asked = int(batch.segments[i].max()) + 1
            order = np.random.default_rng(0).permutation(len(scene.questions))
            first = sorted(order, key=lambda j: scene.questions[j].skill != "two hops")[:asked]
            for q in (scene.questions[j] for j in first):
                inputs = processor(
                    images=[scene.image], text=[f"<image> {q.text} {q.answer}"], return_tensors="pt"
                )
                asked = 2 if q.text.endswith("?") else 1  # of the last word and of the question mark
                want = torch.tensor([data.TOKEN[q.answer]] * asked + [model.EOS])
                logits = net(**inputs).logits[0, -len(want) :]
                separate += nn.functional.cross_entropy(logits, want, reduction="none")
                gold += [data.TOKEN[q.answer]] * asked
    assert answers.tolist() == gold
    assert loss.item() == pytest.approx(torch.stack(separate).mean().item(), abs=1e-5)


def test_nouns_are_asked_for_the_places_of_what_they_name(made, arrays):
    """Against the scenes themselves: things that alone have their colour and shape, digits that alone have their value."""
    batch = Batch(arrays)
    ends, found, kinds = places.named(batch.tokens, batch.factors)
    words, named = np.array(data.VOCABULARY), (*data.SHAPES, *data.COLOURS)
    wanted, what = [], []
    for scene, row, end in zip(made, words[batch.tokens.numpy()].tolist(), ends, strict=True):
        where: dict[tuple[str, ...], list] = {}
        for t in scene.things:
            for name in ((t.colour, t.shape), (t.colour,), (t.shape,)):
                where.setdefault(name, []).append((int(t.y) // PATCH, int(t.x) // PATCH, t.shape, t.colour))
        for mark in scene.marks:
            for name in ((f"d{mark.value}",), (mark.colour,)):
                where.setdefault(name, []).append((*mark.patch, None, mark.colour))
        for j, word in enumerate(row):
            pair = (row[j - 1], word)
            whole = word in data.SHAPES and pair[0] in data.COLOURS
            at = where.get(pair if whole else (word,), [])
            assert end[j] == (len(at) == 1)
            if len(at) == 1:
                wanted.append((2 * np.array(at[0][:2]) + 1) / GRID - 1)
                what.append([float(name in at[0][2:]) for name in named])
    assert kinds.tolist() == what
    assert np.allclose(found, np.array(wanted), atol=1e-6)
    assert len(wanted) > 5 * len(arrays)


def test_words_are_asked_for_how_many_have_them(made, arrays):
    batch = Batch(arrays)
    said, found = places.counted(batch.tokens, batch.factors)
    words = np.array(data.VOCABULARY)
    wanted = []
    for scene, row, one in zip(made, words[batch.tokens.numpy()].tolist(), said, strict=True):
        has = [x for t in scene.things for x in (t.colour, t.shape)]
        has += [x for m in scene.marks for x in (m.colour, f"d{m.value}")]
        for j, word in enumerate(row):
            asked = word in (*data.COLOURS, *data.SHAPES) or (word[0] == "d" and word[1:].isdigit())
            assert one[j] == asked
            wanted += [min(4, has.count(word))] if asked else []
    assert found[:, 0].tolist() == wanted
    assert len(set(wanted)) == 5


def test_questions_of_two_hops_are_packed_first_and_found_again(made, arrays):
    batch = Batch(arrays)
    hops, words = about_hops(batch), np.array(data.VOCABULARY)
    found = 0
    for scene, tokens, row, number in zip(
        made, words[batch.tokens.numpy()], hops, batch.segments, strict=True
    ):
        asked = {q.text: q.skill for q in scene.questions}
        rare = sum(skill == "two hops" for skill in asked.values())
        for i in range(int(number.max()) + 1):
            here = number == i
            skill = asked[" ".join(tokens[here.numpy()][:-1])]  # without the answer
            assert row[here].tolist() == [skill == "two hops"] * int(here.sum())
            assert (skill == "two hops") == (i < rare)
            found += skill == "two hops"
        assert not row[number < 0].any()
    assert found


def test_scenes_of_digits_and_those_with_two_hops_are_askable(made, arrays):
    wanted = [s.family == "digits" or any(q.skill == "two hops" for q in s.questions) for s in made]
    assert askable(arrays).tolist() == wanted
    assert not all(wanted)


def test_what_weighs_nothing_does_not_count(arrays):
    net = model.build(0)
    batch = Batch(arrays[:2])
    image = torch.zeros(2, GRID * GRID, model.WIDTH)
    given = (net, image, batch.tokens, batch.segments, batch.targets)
    with torch.no_grad():
        both = packed.answer_loss(*given, weight=torch.ones(batch.targets.shape))[0]
        plain = packed.answer_loss(*given)[0]
        weight = torch.zeros(batch.targets.shape)
        weight[0] = 2.0
        first = packed.answer_loss(*given, weight=weight)[0]
        alone = packed.answer_loss(net, image[:1], *(x[:1] for x in given[2:]))[0]
    assert torch.equal(both, plain)
    assert first == pytest.approx(alone.item(), rel=1e-5)
    assert first != pytest.approx(plain.item(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
@pytest.mark.filterwarnings("ignore")
def test_compiled_parts_give_the_same_loss_and_gradient(arrays):
    net = model.build(0)
    net.joint = model.build_joint(0, net)
    dictionary = codes.Codes(net.get_input_embeddings().weight, arrays.pixels, 0)
    batch = Batch(arrays[:2])
    image = torch.randn(2, GRID * GRID, model.WIDTH, generator=torch.Generator().manual_seed(0))
    given = (net, image, batch.tokens, batch.segments, batch.targets)

    def gradient():
        loss = packed.answer_loss(*given)[0]
        weight = net.model.language_model.layers[0].self_attn.q_proj.weight
        return loss.item(), torch.autograd.grad(loss, weight)[0]

    loss, plain = gradient()
    compile_parts(net, dictionary)
    again, compiled = gradient()
    assert again == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(plain, compiled, atol=1e-5 * plain.abs().max().item())


def test_a_few_of_the_flattest_patches_are_outliers(made, arrays):
    """A picture of one colour has a few outliers, not 144; a picture of noise has none."""
    dictionary = codes.Codes(model.build(0).get_input_embeddings().weight, arrays.pixels, 0)
    batch = Batch(arrays[:1])
    rng = np.random.default_rng(0)
    ramp = torch.linspace(0, 0.01, 96 * 96).reshape(1, 1, 96, 96).expand(1, 3, 96, 96)
    noise = torch.from_numpy(rng.standard_normal((1, 3, 96, 96)).astype(np.float32))
    along = dictionary.outlier / dictionary.outlier.norm()

    def outliers(pixels):
        return int((dictionary.target(batch.factors, pixels) @ along > 0.5 * codes.OUTLIER).sum())

    assert 1 <= outliers(ramp.cumsum(-1) * ramp) <= codes.FEW
    assert outliers(noise) == 0


def test_left_and_right_lie_along_their_words(arrays):
    words = model.build(0).get_input_embeddings().weight
    dictionary = codes.Codes(words, arrays.pixels, 0)
    for name, low, high in (("row", "above", "below"), ("column", "left", "right")):
        along = getattr(dictionary, name) @ (words[data.TOKEN[high]] - words[data.TOKEN[low]])
        assert (along.diff() > 0).all()


def test_codes_are_read_back_from_their_own_sum(arrays):
    net = model.build(0)
    dictionary = codes.Codes(net.get_input_embeddings().weight, arrays.pixels, 0)
    batch = Batch(arrays)
    target = dictionary.target(batch.factors, batch.pixels)
    loss, right = dictionary.loss(target, batch.factors, batch.pixels)
    assert right.min() > 0.9
    shuffled = dictionary.loss(target.roll(1, 0), batch.factors, batch.pixels)[0]
    assert shuffled > 2 * loss
    words = net.get_input_embeddings().weight
    assert torch.equal(dictionary.colour[1:], words[[data.TOKEN[c] for c in data.COLOURS]])


def test_normalised_pixels_are_the_processors(untrained):
    scene = scenes.make(0)
    _, processor = reference.load(untrained)
    theirs = processor(
        images=[scene.image], text=["<image> what is behind ?"], return_tensors="pt"
    ).pixel_values
    ours = codes.normalise(torch.from_numpy(scene.pixels)[None])
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_training_resumes_where_it_stopped(tmp_path, arrays):
    """Two runs of two steps end where one run of four does."""

    def weights(*cuts):
        folder = tmp_path / "-".join(map(str, cuts))
        folder.mkdir()
        dictionary = codes.Codes(model.build(0).get_input_embeddings().weight, arrays.pixels, 0)
        for cut in cuts:
            recipe = Recipe(0, dictionary)
            stage = optimise.Stage(
                "vision", recipe.vision, ("model.multi_modal_projector", "joint"), 4, 1e-3, batch=2, warmup=1
            )
            net = model.build(0)
            net.joint = model.build_joint(0, net)
            net = net.to(torch.bfloat16)
            every = batches(arrays, stage, 0, 0, 1)

            def limited(first, cut=cut, every=every):
                return (batch for batch, _ in zip(every(first), range(cut - first), strict=False))

            stop = optimise.Stage(stage.name, stage.loss, stage.parameters, stage.steps, stage.rate, 2, 1)
            optimise.run(net, stop, limited, folder / "vision.pt", report=lambda line: None, save_every=1)
        return torch.load(folder / "vision.pt", weights_only=True)

    whole, pieces = weights(4), weights(2, 4)
    assert whole["step"] == pieces["step"] == 4
    for a, b in zip(whole["masters"], pieces["masters"], strict=True):
        assert torch.equal(a, b)


def test_the_joint_space_is_saved_beside_the_model_and_shares_its_tower(tmp_path):
    from analysis.training import train

    net = model.build(3)
    net.joint = model.build_joint(3, net)
    tower = net.joint.vision_model
    names = [name for name, _ in net.named_parameters() if name.startswith("joint")]
    assert names
    assert not any("vision_model" in name for name in names)  # they are those of the model
    train.save(net, tmp_path)
    whole, _ = reference.load(tmp_path)
    clip, words = reference.clip(tmp_path)
    scene = scenes.make(0)
    pixels = codes.normalise(torch.from_numpy(scene.pixels)[None])
    with torch.no_grad():
        ours = whole.model.vision_tower(pixels).last_hidden_state
        assert torch.allclose(ours, clip.vision_model(pixels).last_hidden_state, atol=1e-5)
        assert torch.allclose(ours, tower.float()(pixels).last_hidden_state, atol=1e-2)
        ids = words(
            ["a red star", "the d7 on grass and a small white circle"], padding=True, return_tensors="pt"
        )
        both = clip.get_text_features(**ids).pooler_output
        alone = clip.get_text_features(**words("a red star", return_tensors="pt")).pooler_output
    assert torch.allclose(both[0], alone[0], atol=1e-5)
    assert int(ids["input_ids"][0, 4]) == model.EOS
    with pytest.raises(FileNotFoundError, match=r"no text tower in .*clip"):
        reference.clip(tmp_path / "elsewhere")


def test_contrast_is_least_where_captions_find_their_images(arrays):
    from analysis.training import joint

    net = model.build(0)
    clip = model.build_joint(0, net)
    captions = torch.from_numpy(arrays.captions[:, 0].astype(np.int64))
    text = clip.get_text_features(captions, (captions > 0).long(), return_dict=True).pooler_output
    clip.visual_projection = nn.Identity()
    own, matched = joint.contrast(clip, text, captions)
    turned, missed = joint.contrast(clip, text.roll(1, 0), captions)
    assert own < turned
    assert matched == 1
    assert missed == 0


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration .*config.json.* analysis train"):
        reference.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no weights .*model.safetensors"):
        reference.load(tmp_path)


def test_directions_count_energy():
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.1]))
    assert [evaluate.directions(rows, s) for s in (0.5, 0.9, 0.99, 0.9999)] == [1, 2, 3, 4]
