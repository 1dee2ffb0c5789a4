"""Training sees what inference sees, and resumes where it stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analysis import reference, scenes
from analysis.scenes import GRID, PATCH
from analysis.training import codes, data, evaluate, model, optimise, packed, places
from analysis.training.recipe import (
    HEADS,
    Batch,
    Recipe,
    about_hops,
    askable,
    batches,
    compile_parts,
    start_model,
)


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
    rows = [data.row(s, rng(0)) for s in made]
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
            rank = {"two hops": 0, "transcription": 1, "transcript": 1}
            first = sorted(order, key=lambda j: rank.get(scene.questions[j].skill, 2))[:asked]
            for q in (scene.questions[j] for j in first):
                inputs = processor(
                    images=[scene.image], text=[f"<image> {q.text} {q.answer}"], return_tensors="pt"
                )
                asked = 2 if q.text.endswith("?") else 1  # of the last word and of the question mark
                said = [data.TOKEN[w] for w in q.answer.split()]
                want = torch.tensor([said[0]] * (asked - 1) + said + [model.EOS])
                logits = net(**inputs).logits[0, -len(want) :]
                separate += nn.functional.cross_entropy(logits, want, reduction="none")
                gold += want[:-1].tolist()
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
            words_of = tokens[here.numpy()]
            answer = GRID if words_of[0] == "transcribe" else 1
            skill = asked[" ".join(words_of[:-answer])]
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


def test_words_for_patches_are_about_the_patches_they_name(made, arrays):
    batch = Batch(arrays)
    patch, transcribed = places.asked_patches(batch.tokens, batch.segments)
    words, found = np.array(data.VOCABULARY), 0
    for scene, tokens, targets, where, whole in zip(
        made, words[batch.tokens], words[batch.targets], patch, transcribed, strict=True
    ):
        shows = scenes.patch_words(scene).reshape(-1)
        for j in torch.nonzero(where >= 0).flatten().tolist():
            if targets[j] not in ("<pad>", "</s>"):
                assert targets[j] == shows[where[j]]
                found += 1
            assert not whole[j] or targets[j] != "<pad>"
        alone = (targets != "<pad>") & (targets != "</s>") & (where < 0).numpy()
        assert not any(t in ("transcribe", "brighter") for t in tokens[alone])
    assert found > 50 * len(arrays)


def test_what_a_hidden_patch_shows_is_not_asked(arrays):
    """The loss of the language model's stage with no patch shown but one is that of the answers that are not about the others."""
    net = model.build(0)
    for head, size in HEADS.items():
        net.add_module(head, nn.Linear(model.WIDTH, size))
    batch = Batch(arrays[:1])
    patch, _ = places.asked_patches(batch.tokens, batch.segments)
    keep = patch[patch >= 0][:1][None]
    recipe = Recipe(0, codes.Codes(net.get_input_embeddings().weight, arrays.pixels, 0))
    hidden = (patch >= 0) & (patch != keep)
    assert hidden.any()

    def loss(targets):
        batch.targets = targets
        with torch.no_grad():
            return recipe._answers(net, torch.zeros(1, 1, model.WIDTH), batch, keep)[0]

    plain = batch.targets.clone()
    other = torch.where(hidden & (plain != 0), data.TOKEN["yes"], plain)
    assert loss(other) == loss(plain)
    shown = torch.where((patch == keep) & (plain != 0), data.TOKEN["yes"], plain)
    assert loss(shown) != loss(plain)


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


def areas(norms, kinds):
    """The area under the curve of the norm as a detector of each kind of patches, against background."""
    from sklearn.metrics import roc_auc_score

    pairs = ((kinds == 0) | (kinds == i) for i in range(1, codes.KINDS))
    return np.array([roc_auc_score(kinds[here] > 0, norms[here]) for here in pairs])


@pytest.fixture(scope="module")
def pictures():
    some = [scenes.make(i, "train", {}, family) for i in range(40) for family in scenes.FAMILIES]
    return np.stack([s.pixels for s in some]), np.stack([data.factors(s) for s in some])


def test_norms_of_neutral_codes_do_not_tell_things_from_background(pictures):
    """Codes are fitted to half of the pictures and looked at on the other half; summed ones give things away."""
    words = model.build(0).get_input_embeddings().weight
    pixels, shown = pictures
    half = len(pixels) // 2
    batch = torch.from_numpy(shown[half:].astype(np.int64)), codes.normalise(torch.from_numpy(pixels[half:]))
    kinds = codes.kinds(batch[0])
    summed = codes.Codes(words, pixels[:half], 0).target(*batch)
    dictionary = codes.Codes(words, pixels[:half], 0, shown[:half])
    neutral = dictionary.target(*batch)
    assert (areas(summed.norm(dim=-1), kinds) > 0.9).all()
    assert (abs(areas(neutral.norm(dim=-1), kinds) - 0.5) < 0.12).all()
    assert torch.equal(neutral[kinds == 0], summed[kinds == 0])
    cosine = nn.functional.cosine_similarity(neutral, summed, dim=-1)
    assert cosine[summed.norm(dim=-1) < 5].min() > 1 - 1e-5  # but for outliers, scaled only
    far = dictionary.target(*batch, places=3.0)
    assert (areas(far.norm(dim=-1), kinds) < 0.75).all()  # the scale is that of codes at their own strength


def test_neutral_codes_ask_for_patches_of_every_kind(pictures):
    pixels, shown = (of[::2] for of in pictures)
    with pytest.raises(ValueError, match=r"all 5 kinds, got none of kinds \[4\]"):
        codes.Codes(model.build(0).get_input_embeddings().weight, pixels, 0, shown)


def test_a_quantile_moves_to_the_same_quantile():
    norms = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 30.0]])
    moved = codes.neutral(
        torch.tensor([3.0, 5.0, 10.0, 15.0, 25.0, 99.0]), torch.tensor([0, 1, 1, 1, 1, 1]), norms
    )
    assert moved.tolist() == [3.0, 1.0, 1.0, 1.5, 3.0, 4.0]


def test_a_finished_model_goes_on_with_neutral_norms_and_its_own_tower(tmp_path, pictures):
    """Twenty-five steps of the projector: most of what norms tell is gone, tokens are near what they were, and the tower is not touched."""
    pixels, shown = (of[:16] for of in pictures)
    batch = Batch(data.Arrays(pixels, shown, *(np.zeros((len(pixels), 1)) for _ in range(4))))
    net = start_model(tmp_path, 0, (), reference.HERE)
    before = packed.visual_tokens(net, batch.pixels).detach()
    tower = [p.clone() for p in net.model.vision_tower.parameters()]
    recipe = Recipe(0, codes.Codes(net.get_input_embeddings().weight, pixels, 0))
    recipe.go_on_from(net, batch)
    stage = recipe.stages["project"]
    masters = optimise.Masters(net, stage)
    for step in range(25):
        recipe.project(net, batch, step)[0].backward()
        masters.step(1e-3)
    after = packed.visual_tokens(net, batch.pixels).detach()
    kinds = codes.kinds(batch.factors)
    gone = areas(before.norm(dim=-1), kinds), areas(after.norm(dim=-1), kinds)
    assert (gone[0] > 0.9).all()
    assert (abs(gone[1] - 0.5) < 0.25).all()
    assert nn.functional.cosine_similarity(before, after, dim=-1).mean() > 0.97
    assert all(map(torch.equal, tower, net.model.vision_tower.parameters()))


def test_a_finished_model_keeps_what_it_knows_and_learns_new_words_for_places(tmp_path, pictures):
    net = start_model(tmp_path, 0, (), reference.HERE)
    shipped, _ = reference.load()
    known = shipped.get_input_embeddings().weight
    words = net.get_input_embeddings().weight
    assert torch.equal(words[: len(known)], known)
    assert len(words) >= len(data.VOCABULARY) > len(known)
    assert net.lm_head.weight is words
    tokens = packed.visual_tokens(net, codes.normalise(torch.from_numpy(pictures[0]))).detach()
    model.name_places(net, tokens)
    grid = tokens.mean(0).reshape(GRID, GRID, -1)
    for name, means in (("r", grid.mean(1)), ("c", grid.mean(0))):
        ids = [data.TOKEN[f"{name}{i}"] for i in range(1, GRID + 1)]
        near = words[ids] @ (means - means.mean(0)).T
        assert near.argmax(1).tolist() == list(range(GRID))
    assert torch.equal(words[: len(known) - 1], known[:-1])


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


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """An untrained model of today's vocabulary that answers each transcription with what it was made to say."""
    from analysis.training import train

    folder = tmp_path_factory.mktemp("knowing")
    train.save(model.build(3), folder)
    return folder


def test_transcriptions_are_judged_word_by_word(knowing):
    """Each word against the likeliest one after the right words before it, as the model says one prompt at a time."""
    net, processor = reference.load(knowing)
    scene = scenes.make(2, "test", {})
    found = evaluate.transcribe(net, processor, scene)
    words = scenes.patch_words(scene)
    for row in (0, 7):
        for column in (0, 5, 11):
            text = " ".join(["<image> transcribe", f"r{row + 1}", *words[row, :column]])
            inputs = processor(images=[scene.image], text=[text], return_tensors="pt")
            with torch.no_grad():
                said = net(**inputs).logits[0, -1].argmax()
            assert found[row, column] == (
                model.VOCABULARY[min(said, len(model.VOCABULARY) - 1)] == words[row, column]
            )
    ids = [data.TOKEN[w] for w in words[3]]
    net.lm_head = nn.Linear(model.WIDTH, net.lm_head.out_features)
    nn.init.zeros_(net.lm_head.weight)
    net.lm_head.bias.data = nn.functional.one_hot(torch.tensor(ids[0]), len(net.lm_head.bias)).float()
    assert (evaluate.transcribe(net, processor, scene) == (words == words[3, 0])).all()


def test_a_scene_that_allows_no_question_about_a_patch_is_passed_over(knowing, monkeypatch):
    make = scenes.make
    monkeypatch.setattr(scenes, "make", lambda seed, *rest: make(17, *rest))
    assert not scenes.make(0, "test", {"light": 2}, "digits").questions
    found = evaluate.patch_questions(*reference.load(knowing), 1, "test", blind_scenes=1)
    assert (found["digits"]["sides"], found["digits"]["scenes"]) == (0, 1)


def test_a_checkpoint_beside_the_shipped_one_is_found_by_its_name(tmp_path, monkeypatch):
    beside = tmp_path / "neutral"
    beside.mkdir()
    monkeypatch.setattr(reference, "HERE", tmp_path)
    assert reference.folder_of() == reference.folder_of("") == tmp_path
    assert reference.folder_of("neutral") == beside
    assert reference.clip_folder("neutral") == tmp_path / "clip"
    (beside / "clip").mkdir()
    assert reference.clip_folder("neutral") == beside / "clip"
    assert reference.clip_folder(tmp_path / "elsewhere" / "own") == tmp_path / "elsewhere" / "own" / "clip"


def test_directions_count_energy():
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.1]))
    assert [evaluate.directions(rows, s) for s in (0.5, 0.9, 0.99, 0.9999)] == [1, 2, 3, 4]


def test_the_command_passes_its_options_on(monkeypatch):
    from analysis.__main__ import main
    from analysis.training import train

    asked = {}
    monkeypatch.setattr(train, "train", lambda **options: asked.update(options))
    assert main(["train", "--seed", "3", "--codes", "neutral", "--start", "model"]) == 0
    assert (asked["seed"], asked["codes"], asked["start"]) == (3, "neutral", Path("model"))
