"""Pretrained models: their files are read, and their decoder and encoder compute what their definitions say, on tiny weights."""

from __future__ import annotations

import math
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from analysis.real import cases, checkpoint_bundle, decimer, decoder, encoder, lite0, symbols, weights
from analysis.real.efficientnet import Block, Convolution

# ---- the checkpoint


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def block(entries, kind=0):
    """One block of a LevelDB table: keys repeat only what differs from the one before."""
    body, before = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b),
            min(len(key), len(before)),
        )
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return body + struct.pack("<II", 0, 1), bytes([kind]) + bytes(4)


def entry(array, start, size=None, kind=None):
    """One `BundleEntryProto`."""
    axes = b"".join(b"\x12" + varint(len(v := b"\x08" + varint(n))) + v for n in array.shape)
    kind = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}[array.dtype.name] if kind is None else kind
    size = array.nbytes if size is None else size
    return (
        b"\x08"
        + varint(kind)
        + b"\x12"
        + varint(len(axes))
        + axes
        + b"\x20"
        + varint(start)
        + b"\x28"
        + varint(size)
    )


def write(folder, arrays, compressed=0, shards=1, **wrong):
    """A checkpoint of two data blocks; returns its prefix."""
    data, entries = b"", [(b"", b"\x08" + varint(shards))]
    for name, array in sorted(arrays.items()):
        entries.append((name.encode(), entry(array, len(data), **wrong)))
        data += array.tobytes()
    table, index = b"", []
    for part in (entries[:2], entries[2:]):
        body, trailer = block(part, compressed)
        index.append((part[-1][0], varint(len(table)) + varint(len(body))))
        table += body + trailer
    body, trailer = block(index)
    footer = varint(0) * 2 + varint(len(table)) + varint(len(body))
    table += body + trailer + footer.ljust(40, b"\0") + checkpoint_bundle.MAGIC
    (folder / "variables.index").write_bytes(table)
    (folder / "variables.data-00000-of-00001").write_bytes(data)
    return folder / "variables"


ARRAYS = {
    "model/0/kernel": np.arange(300, dtype="float32").reshape(2, 150, 1),
    "model/0/kernel_of_another": np.array([1.5, -2.5]),
    "model/1/step": np.array(7, "int64"),
    "other": np.arange(5, dtype="int32"),
}


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    found = checkpoint_bundle.load(write(tmp_path, ARRAYS))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()


def test_what_is_no_number_is_left_out(tmp_path):
    assert checkpoint_bundle.load(write(tmp_path, ARRAYS, kind=7)) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"compressed": 1}, "expected an uncompressed index"),
        ({"shards": 2}, "one data file, got 2"),
        (
            {"size": 4},
            "'model/0/kernel' of shape .2, 150, 1. does not fit: expected 1200 bytes at 0 of 1244, got 4",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_refused(tmp_path, wrong, message):
    prefix = write(tmp_path, ARRAYS, **wrong)
    with pytest.raises(ValueError, match=message):
        checkpoint_bundle.load(prefix)


def test_a_file_that_is_cut_short_or_another_is_refused(tmp_path):
    prefix = write(tmp_path, ARRAYS)
    table = prefix.with_name("variables.index")
    whole = table.read_bytes()
    for text in (whole[:-1], b"", b"text" * 20):
        table.write_bytes(text)
        with pytest.raises(ValueError, match="not the index of a TensorFlow checkpoint"):
            checkpoint_bundle.load(prefix)
    table.write_bytes(whole[-48:])
    with pytest.raises(ValueError, match="cut short"):
        checkpoint_bundle.load(prefix)
    table.write_bytes(whole)
    data = prefix.with_name("variables.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match="'other'"):
        checkpoint_bundle.load(prefix)


# ---- the tokenizer


def pickled(tmp_path, monkeypatch, module="keras.preprocessing.text", **state):
    """A pickle of a Keras tokenizer, without Keras."""
    for name in (module.split(".")[0], module):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    kind = type("Tokenizer", (), {"__module__": module})
    sys.modules[module].Tokenizer = kind
    thing = kind()
    thing.__dict__.update(state)
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(thing))
    monkeypatch.undo()
    return path


WORDS = {1: "<start>", 2: "<end>", 3: "C", 4: "!", 5: "§", 6: "Cl"}


def test_symbols_become_a_string_up_to_the_end(tmp_path, monkeypatch):
    found = symbols.Symbols(pickled(tmp_path, monkeypatch, index_word=WORDS))
    assert (found.start, found.end) == (1, 2)
    assert found.text([1, 3, 4, 6, 5, 2, 3]) == "C1Cl0"


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return print, ("it ran",)

    for path in (
        pickled(tmp_path, monkeypatch, "keras.other", index_word=WORDS),
        pickled(tmp_path, monkeypatch, index_word=Trap()),
    ):
        with pytest.raises(
            pickle.UnpicklingError, match=r"refused (keras\.other\.Tokenizer|builtins\.print)"
        ):
            symbols.Symbols(path)


# ---- the networks


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_batch_normalisation_is_folded_and_the_odd_pixel_comes_last():
    x, weight = randn(2, 4, 7, 7), randn(6, 4, 3, 3, seed=1)
    scale, shift, mean = randn(3, 6, seed=2)
    variance = randn(6, seed=3).square()
    for stride, (before, after) in ((1, (1, 1)), (2, (1, 1))):
        plain = F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride)
        wanted = F.silu(F.batch_norm(plain, mean, variance, scale, shift, eps=1e-3))
        found = Convolution.folded(weight, (scale, shift, mean, variance), stride, F.silu)(x)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    wanted = F.conv2d(F.pad(x[..., :6, :6], (0, 1, 0, 1)), weight, stride=2)
    torch.testing.assert_close(Convolution(weight, torch.zeros(6), 2)(x[..., :6, :6]), wanted)


def test_a_block_adds_its_input_where_it_has_the_same_shape():
    x = randn(1, 4, 4, 4)
    same, other = (Convolution(torch.zeros(n, 4, 1, 1), torch.ones(n)) for n in (4, 5))
    torch.testing.assert_close(Block((same,))(x), x + 1)
    torch.testing.assert_close(Block((other,))(x), torch.ones(1, 5, 4, 4))


def test_the_encoder_takes_its_variables_in_the_order_of_the_checkpoint(monkeypatch):
    """One block of every kind against the definition, written out."""
    monkeypatch.setattr(encoder, "STAGES", ((1, 1, False, True), (1, 2, True, True), (1, 2, True, False)))
    kernels = [
        (3, 3, 4, 4),
        (3, 3, 4, 8),
        (1, 1, 8, 6),
        (1, 1, 6, 12),
        (3, 3, 12, 1),
        (1, 1, 12, 3),
        (1, 1, 3, 12),
        (1, 1, 12, 5),
    ]
    gates = (5, 6)
    trained, moving, names = [], [], []
    for i, shape in enumerate(kernels):
        weight = randn(*shape, seed=i)
        width = shape[3] if shape[3] > 1 else shape[2]
        if i in gates:
            trained += [weight, randn(width, seed=20 + i)]
        else:
            trained += [weight, *(parts := (randn(width, seed=20 + i), randn(width, seed=40 + i)))]
            moving += (more := [randn(width, seed=60 + i), randn(width, seed=80 + i).square() + 0.5])
            names.append((i, [*parts, *more]))
    stem = [
        randn(3, 3, 3, 4, seed=99),
        *randn(3, 4, seed=98),
        torch.rand(4, generator=torch.Generator().manual_seed(1)),
    ]
    norms = dict(names)
    found = encoder.Encoder([v.numpy() for v in [*trained, *moving, *stem]])(
        x := randn(1, 3, 16, 16, seed=97)
    )

    def convolve(x, kernel, stride, norm, groups=1, pad=(1, 1)):
        kernel = kernel.permute(2, 3, 0, 1) if groups > 1 else kernel.permute(3, 2, 0, 1)
        x = F.conv2d(F.pad(x, pad * 2), kernel, stride=stride, groups=groups)
        scale, shift, mean, variance = norm
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    kernel = {i: randn(*shape, seed=i) for i, shape in enumerate(kernels)}
    x = F.silu(convolve(x, stem[0], 2, stem[1:], pad=(0, 1)))
    x = x + F.silu(convolve(x, kernel[0], 1, norms[0]))
    x = convolve(F.silu(convolve(x, kernel[1], 2, norms[1], pad=(0, 1))), kernel[2], 1, norms[2], pad=(0, 0))
    y = F.silu(convolve(x, kernel[3], 1, norms[3], pad=(0, 0)))
    y = F.silu(convolve(y, kernel[4], 2, norms[4], groups=12, pad=(0, 1)))
    mean = y.mean((2, 3))
    gate = torch.sigmoid(
        F.silu(mean @ kernel[5][0, 0] + randn(3, seed=25)) @ kernel[6][0, 0] + randn(12, seed=26)
    )
    x = convolve(y * gate[:, :, None, None], kernel[7], 1, norms[7], pad=(0, 0))
    torch.testing.assert_close(found, x.flatten(2).mT, rtol=1e-3, atol=1e-4)


WIDTH, HEADS, SIDE, VOCABULARY = 16, 2, 3, 7


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """DECIMER with two layers of width 16, 3 x 3 tokens and six symbols, random."""
    for name, value in {"LAYERS": 2, "WIDTH": WIDTH, "HEADS": HEADS, "GRID": SIDE}.items():
        monkeypatch.setattr(decoder, name, value)
    rng = np.random.default_rng(0)

    def matrices(*shapes):
        return [0.5 * rng.standard_normal(shape).astype("float32") for shape in shapes]

    def biases(width, around=0.0):
        return [(around + 0.1 * rng.standard_normal(width)).astype("float32")]

    def linear(rows, columns):
        return [*matrices((rows, columns)), *biases(columns)]

    variables = [0.2 * matrices((VOCABULARY, WIDTH))[0]]  # small, so that the tokens decide what is written
    for _ in range(2):
        for _ in range(8):
            variables += linear(WIDTH, WIDTH)
        variables += linear(WIDTH, 24) + linear(24, WIDTH)
        for _ in range(3):
            variables += biases(WIDTH, around=1.0) + biases(WIDTH)
    variables += linear(WIDTH, VOCABULARY)
    with pytest.MonkeyPatch.context() as patch:
        found = symbols.Symbols(pickled(tmp_path, patch, index_word=WORDS))
    return types.SimpleNamespace(
        model=decimer.Decimer(None, decoder.Decoder(variables), found),
        variables=variables,
        tokens=randn(1, SIDE * SIDE, WIDTH),
    )


def defined(variables, tokens, keep, ids):
    """Logits of the last symbol from the definition: everything anew, dropped tokens masked; and attention to tokens."""
    queue = iter(v.astype(float) for v in variables)
    x = next(queue)[ids] * math.sqrt(WIDTH)
    tokens = tokens[0].double().numpy()
    wave = decoder.sinusoid(50, WIDTH)[: len(ids)]
    half = decoder.sinusoid(SIDE, WIDTH // 2)
    grid = np.array([[*half[i], *half[j]] for i in range(SIDE) for j in range(SIDE)])
    received = np.zeros(len(tokens))

    def attend(x, memory, code, allowed, maps):
        q, k, v = (a @ w + b for a, w, b in zip((x, memory, memory), maps[::2], maps[1::2], strict=False))
        q, k, size, out = q + wave, k + code, WIDTH // HEADS, []
        for h in range(HEADS):
            at = slice(h * size, (h + 1) * size)
            score = np.where(allowed, q[:, at] @ k[:, at].T / math.sqrt(size), -np.inf)
            share = np.exp(score - score.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            if memory is tokens:
                received[:] += share.sum(0) / HEADS / 2
            out.append(share @ v[:, at])
        return np.concatenate(out, 1) @ maps[6] + maps[7]

    def normal(x, scale, shift):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * scale + shift

    seen = np.isin(np.arange(len(tokens)), keep)[None]
    for _ in range(2):
        own, visual, wide, scales = ([next(queue) for _ in range(n)] for n in (8, 8, 4, 6))
        x = normal(x + attend(x, x, wave, np.tri(len(ids), dtype=bool), own), *scales[:2])
        x = normal(x + attend(x, tokens, grid, seen, visual), *scales[2:4])
        x = normal(x + np.maximum(x @ wide[0] + wide[1], 0) @ wide[2] + wide[3], *scales[4:])
    return (x @ next(queue) + next(queue))[-1], received


@pytest.mark.parametrize("keep", [range(9), [0, 4, 7], [8, 1]])
def test_the_decoder_writes_what_its_definition_writes(tiny, keep):
    keep = list(keep)
    ids = [1]
    for _ in range(8):
        logits, _ = defined(tiny.variables, tiny.tokens, keep, ids)
        ids.append(int(logits.argmax()))
        if ids[-1] == 2:
            break
    wanted = [i for i in ids[1:] if i != 2]
    found = tiny.model.answers(tiny.tokens, torch.tensor([keep]), limit=8)
    assert found == [wanted]
    ids = [1, 3, 4, 5, 6, 3]
    logits = [defined(tiny.variables, tiny.tokens, keep, ids[: n + 1])[0] for n in range(len(ids))]
    memory = tiny.model.decoder.look(tiny.tokens, torch.tensor([keep]))
    one_by_one = torch.cat([tiny.model.decoder.write(torch.tensor([[i]]), memory) for i in ids], 1)[0]
    memory = tiny.model.decoder.look(tiny.tokens, torch.tensor([keep]))
    together = tiny.model.decoder.write(torch.tensor([ids]), memory)[0]
    np.testing.assert_allclose(one_by_one, logits, atol=1e-4)
    np.testing.assert_allclose(together, logits, atol=1e-4)


def test_answers_of_a_batch_are_those_of_each_row_alone(tiny):
    """Also where one ends before the others."""
    tiny.model.symbols.end = 6
    keep = torch.tensor([[i, j] for i in range(9) for j in range(i)])
    tokens = tiny.tokens.expand(len(keep), -1, -1)
    alone = [tiny.model.answers(tiny.tokens, one[None], limit=12)[0] for one in keep]
    assert len({len(answer) for answer in alone}) > 1
    assert tiny.model.answers(tokens, keep, limit=12) == alone
    assert tiny.model.read(tokens, keep)[0] == tiny.model.symbols.text(tiny.model.answers(tokens, keep)[0])


def test_a_row_says_whether_the_string_from_fewer_tokens_is_the_same(tiny, monkeypatch):
    monkeypatch.setattr(cases.drawings, "canonical", str.lower)
    monkeypatch.setattr(cases.drawings, "tanimoto", lambda text, other: float(text == other))
    tiny.model.symbols.end = 6
    keep = torch.tensor([[i for i in range(9) if i not in (a, b)] for a in range(9) for b in range(a)])
    tokens = tiny.tokens.expand(len(keep), -1, -1)
    fewer = tiny.model.answers(tokens, keep)
    written = max((answer for answer in fewer if len(answer) < decimer.LIMIT), key=fewer.count)
    text = tiny.model.symbols.text(written)
    reading = cases.Reading(tiny.model, tiny.tokens[0], {}, {}, written, text.lower(), strings=True)
    found = reading.answer(keep)
    assert [row["same"] for row in found] == [float(answer == written) for answer in fewer]
    assert 0 < sum(row["same"] for row in found) < len(found)
    for row, answer in zip(found, fewer, strict=True):
        own = tiny.model.symbols.text(answer[: len(written) + 10])
        assert (row["exact"], row["tanimoto"]) == (own.lower() == text.lower(), own == text.lower())
    reading.strings = False
    assert all(row.keys() == {"loss", "accuracy", "same"} for row in reading.answer(keep))


def test_losses_of_a_batch_are_those_of_the_definition(tiny):
    keep, answers = torch.tensor([[0, 4, 7], [1, 2, 3]]), [[3, 4, 5, 3], [6]]
    found = tiny.model.losses(tiny.tokens.expand(2, -1, -1), keep, answers)
    assert found.length.tolist() == [5, 2]
    for row, answer in enumerate(answers):
        loss, right, ids = 0.0, 0, [1]
        for target in [*answer, 2]:
            logits, _ = defined(tiny.variables, tiny.tokens, keep[row].tolist(), ids)
            loss += math.log(np.exp(logits - logits[target]).sum())
            right += logits.argmax() == target
            ids.append(target)
        assert float(found.mean[row]) == pytest.approx(loss / len(ids[1:]), rel=1e-4)
        assert float(found.accuracy[row]) == pytest.approx(right / len(ids[1:]))


def test_attention_received_and_gradients_are_those_of_the_definition(tiny):
    answers = [[3, 4, 5, 3], [6]]
    tokens = tiny.tokens.expand(2, -1, -1)
    received = tiny.model.attention_received(tokens, answers)
    for row, answer in zip(received, answers, strict=True):
        np.testing.assert_allclose(
            row, defined(tiny.variables, tiny.tokens, range(9), [1, *answer])[1], atol=1e-4
        )
    slope = tiny.model.gradients(tokens, answers)
    step = 1e-3 * randn(*tokens.shape, seed=5)

    def total(tokens):
        return tiny.model.losses(tokens, None, answers).loss.sum(1)

    change = (total(tokens + step) - total(tokens - step)) / 2
    torch.testing.assert_close((slope * step).sum((1, 2)), change, rtol=0.02, atol=1e-4)


def test_a_drawing_is_cropped_and_padded_and_a_blank_one_refused():
    page = np.full((300, 300), 255, np.uint8)
    page[10:110, 20:270] = 0
    found = decimer.prepare(Image.fromarray(page))
    dark = found[0] < found[0].max() - 1
    rows, columns = dark.any(1).nonzero()[:, 0], dark.any(0).nonzero()[:, 0]
    assert found.shape == (3, 512, 512)
    for lines, share in ((columns, 1 / 1.2), (rows, 100 / 250 / 1.2)):
        assert len(lines) == pytest.approx(512 * share, abs=8)
        assert (lines[0] + lines[-1]).item() == pytest.approx(511, abs=6)
    with pytest.raises(ValueError, match="without a dark pixel"):
        decimer.prepare(Image.new("L", (300, 300), "white"))


@pytest.fixture
def small():
    """EfficientNet-Lite0's blocks with few channels, random."""
    state, channels, seed = {}, 4, iter(range(1000))

    def add(name, norm, *shape):
        state[f"{name}.weight"] = randn(*shape, seed=next(seed))
        for part in ("weight", "bias", "running_mean"):
            state[f"{norm}.{part}"] = randn(shape[0], seed=next(seed))
        state[f"{norm}.running_var"] = randn(shape[0], seed=next(seed)).square() + 1

    add("_conv_stem", "_bn0", 4, 3, 3, 3)
    for i in range(sum(n for n, _ in lite0.STAGES)):
        wide = channels if i == 0 else 2 * channels
        if i:
            add(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", wide, channels, 1, 1)
        add(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", wide, 1, 3, 3)
        add(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", channels, wide, 1, 1)
    add("_conv_head", "_bn1", 12, channels, 1, 1)
    state |= {"_fc.weight": randn(5, 12, seed=1001), "_fc.bias": randn(5, seed=1002)}
    return lite0.Lite0(state)


def test_kept_tokens_are_pooled(small):
    tokens = small.encode(randn(1, 3, 64, 64))
    assert tokens.shape == (1, 4, 4)
    keep = torch.tensor([[0, 3], [1, 2]])
    found = small.logits(tokens, keep)
    for row, kept in zip(found, keep, strict=True):
        torch.testing.assert_close(row, small.logits(tokens[:, kept])[0])
    torch.testing.assert_close(small.logits(tokens, torch.arange(4)[None]), small.logits(tokens))
    winner = int(small.logits(tokens).argmax())
    share = small.contributions(tokens)[0]
    alone = torch.stack([small.logits(tokens[:, [i]])[0, winner] for i in range(4)])
    torch.testing.assert_close(share, alone - alone.mean(), rtol=1e-4, atol=1e-4)


def test_missing_weights_are_named_with_the_command_that_downloads_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (decimer.load, lite0.load):
        with pytest.raises(FileNotFoundError, match="`make real` downloads the pretrained models"):
            load()


HERE = weights.FOLDER.resolve()
here = pytest.mark.skipif(
    not (HERE / "DECIMER_model").exists(), reason="the pretrained models were not downloaded (`make real`)"
)


@here
@pytest.mark.slow
def test_the_pretrained_model_reads_a_drawing_from_half_of_its_tokens():
    drawings = pytest.importorskip("analysis.real.drawings")
    pytest.importorskip("rdkit", reason="drawings need rdkit (`make real`)")
    from vlm_bridge import select_tokens

    smiles = drawings.molecules()[0]
    model = decimer.load(HERE / "DECIMER_model")
    tokens = model.encode(decimer.prepare(drawings.draw(smiles))[None])
    keep = select_tokens(tokens, 128, "greedy")
    assert [drawings.canonical(text) for text in model.read(tokens) + model.read(tokens, keep)] == [
        smiles
    ] * 2
