"""The command line on saved checkpoints, and the picture of kept tokens."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_vlm
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlm_bridge import PRUNERS, BridgeError, prune
from vlm_bridge.cli import main
from vlm_bridge.reporting import picture

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "analysis" / "reference"
CHAT = "{% for m in messages %}{% for c in m.content %}{{ c.text if c.type == 'text' else '<image> ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %} w42{% endif %}"


def processor_of(model, chat=None):
    """Image processor and tokenizer of a tiny model."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_vlm.tiny_tokenizer().backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": tiny_vlm.SIDE, "width": tiny_vlm.SIDE}
    common = {
        "tokenizer": tokenizer,
        "patch_size": tiny_vlm.PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": chat,
    }
    if model.config.model_type == "llava":
        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False), **common
        )
    found = LlavaNextImageProcessorPil(
        size=side, crop_size=side, image_grid_pinpoints=model.config.image_grid_pinpoints
    )
    return LlavaNextProcessor(image_processor=found, **common)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, models):
    """Folders of checkpoints: without and with a chat template, in tiles, and with what is wrong."""
    top = tmp_path_factory.mktemp("checkpoints")
    for name, family, chat in (
        ("plain", "llava", None),
        ("chat", "llava", CHAT),
        ("tiles", "llava_next", None),
    ):
        model = models[family]
        model.save_pretrained(top / name)
        processor_of(model, chat).save_pretrained(top / name)
    (top / "pickled").mkdir()
    for file in (top / "plain").iterdir():
        if file.suffix != ".safetensors":
            (top / "pickled" / file.name).write_bytes(file.read_bytes())
    torch.save(models["llava"].state_dict(), top / "pickled" / "pytorch_model.bin")
    (top / "bare").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (top / "bare" / name).write_bytes((top / "plain" / name).read_bytes())
    (top / "text").mkdir()
    (top / "text" / "config.json").write_text('{"model_type": "llama"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        settings = (top / "plain" / name).read_text().replace("LlavaProcessor", "")
        (top / "text" / name).write_text(settings)
    (top / "own_code").mkdir()
    (top / "own_code" / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoProcessor": "mine.Processor", '
        '"AutoModelForImageTextToText": "mine.Model"}}'
    )
    (top / "own_code" / "processor_config.json").write_bytes((top / "own_code" / "config.json").read_bytes())
    (top / "own_code" / "mine.py").write_text('raise SystemExit("code of the checkpoint has run")\n')
    tiny_vlm.tiny_clip()[0].save_pretrained(top / "clip")
    tiny_vlm.tiny_tokenizer().save_pretrained(top / "clip")
    return top


def opened(path):
    """The picture in a file, which is closed again."""
    with Image.open(path) as found:
        found.load()
        return found


@pytest.fixture
def image(tmp_path):
    """A file with a random picture."""
    values = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def run(capsys, *arguments):
    """Exit code, lines of stdout, lines of stderr; in this process."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    return SimpleNamespace(code=code, out=out.splitlines(), err=err.splitlines())


def answered(folder, images, text, new_tokens, **settings):
    """The same by hand."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=images, text=[text], return_tensors="pt")
    with prune(model, **settings, processor=processor) as report:
        output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True), report


# generate -----------------------------------------------------------------------------------------


def test_the_shipped_model_as_a_program(image, tmp_path):
    command = [sys.executable, "-m", "vlm_bridge", "generate", "--model", str(SHIPPED), "--image", str(image)]
    command += ["--prompt", "what is behind ?", "--keep", "36", "--picture", str(tmp_path / "kept.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer, report = answered(
        SHIPPED, [opened(image)], "<image> what is behind ?", 128, keep=36, method="spare"
    )
    lines = done.stdout.splitlines()
    assert lines[0] == answer
    assert lines[1] == "kept: 36 of 144 visual tokens, by spare"
    assert lines[2] == f"relative reconstruction error: {report.errors[0]:.4f}"
    assert lines[3].startswith("seconds: ")
    assert lines[4].startswith(
        "cost: prompt 149 -> 41 tokens, KV cache 1.22 MB -> 336 kB, prefill 1.05 GFLOP -> "
    )
    assert lines[5] == "prompt: as it is, without a chat template"
    assert lines[6] == f"picture: {tmp_path / 'kept.png'}"
    assert len(lines) == 7
    shown = np.asarray(opened(tmp_path / "kept.png").convert("L"), dtype=float)
    cell = shown.shape[0] // 12
    lit = shown.reshape(12, cell, 12, cell).mean((1, 3)).ravel()
    assert set(np.argsort(lit)[-36:]) == set(report.kept[0].tolist())


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--keep", "9"], {"keep": 9, "method": "spare"}),
        (["--keep", "0.25", "--method", "divprune"], {"keep": 9, "method": "divprune"}),
        (["--keep", "at-most-9"], {"keep": 9}),
        (["--keep", "at-most-50"], {"keep": 36}),
        (["--keep", "9", "--positions", "compact"], {"keep": 9, "positions": "compact"}),
        (["--keep", "9", "--fold"], {"keep": 9, "fold": True}),
        (["--keep", "9", "--fold", "interpolation"], {"keep": 9, "fold": "interpolation"}),
        (
            ["--keep", "9", "--method", "resprune", "--relevance", "anti"],
            {"keep": 9, "method": "resprune", "relevance": "anti"},
        ),
        (["--keep", "1.0", "--dtype", "float32", "--device", "cpu"], {"keep": 1.0}),
    ],
    ids=lambda o: " ".join(o) if isinstance(o, list) else "",
)
def test_options_reach_the_pruner(saved, image, capsys, options, settings):
    got = run(capsys, "generate", "--model", saved / "plain", "--image", image, "--prompt", "w30 w31", *options, "--max-new-tokens", 5)  # fmt: skip
    answer, report = answered(saved / "plain", [opened(image)], "<image> w30 w31", 5, **settings)
    assert (got.code, got.err) == (0, [])
    assert got.out[0] == answer
    assert got.out[1].startswith(f"kept: {len(report.kept[0])} of 36 ")
    assert len(got.out) == 6


def test_a_chat_template_and_several_images(saved, image, capsys, tmp_path):
    got = run(capsys, "generate", "--model", saved / "chat", "--image", image, image, "--prompt", "w30", "--keep", 9, "--max-new-tokens", 4, "--picture", tmp_path / "two.png")  # fmt: skip
    answer, _ = answered(saved / "chat", [opened(image)] * 2, "<image> <image> w30 w42", 4, keep=9)
    assert got.code == 0
    assert got.out[0] == answer
    assert got.out[1] == "kept: 18 of 72 visual tokens, by spare"
    assert got.out[2].count(", ") == 1
    one = tiny_vlm.SIDE * 13
    assert opened(tmp_path / "two.png").size == (2 * one + picture.GAP, one)


def test_a_prompt_that_places_its_image_itself(saved, image, capsys):
    common = ("generate", "--model", saved / "plain", "--image", image, "--keep", 9, "--max-new-tokens", 4)
    got = run(capsys, *common, "--prompt", "w30 <image> w31")
    answer, _ = answered(saved / "plain", [opened(image)], "w30 <image> w31", 4, keep=9)
    assert got.out[0] == answer


def test_every_image_of_a_folder_beside_all_tokens(saved, image, capsys, tmp_path):
    """With ``--each --json`` a line for every image, and with ``--compare`` the answer from all tokens."""
    other = tmp_path / "pictures" / "y.jpg"
    other.parent.mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(other)
    (other.parent / "notes.txt").write_text("no image")
    command = [
        "generate",
        "--model",
        saved / "plain",
        "--prompt",
        "w30 w31",
        "--keep",
        9,
        "--max-new-tokens",
        3,
    ]
    got = run(capsys, *command, "--image", image, other.parent, "--each", "--json", "--compare")
    assert got.code == 0, got.err
    records = [json.loads(line) for line in got.out]
    assert [record["images"] for record in records] == [[str(image)], [str(other)]]
    for record, path in zip(records, (image, other), strict=True):
        few, report = answered(saved / "plain", [opened(path)], "<image> w30 w31", 3, keep=9)
        everything, _ = answered(saved / "plain", [opened(path)], "<image> w30 w31", 3, keep=1.0)
        assert (record["answer"], record["answer_from_all_tokens"]) == (few, everything)
        assert (record["kept"], record["tokens"]) == ([9], [36])
        assert record["errors"] == pytest.approx(report.errors)
        assert record["chat_template"] is False
    text = run(capsys, *command, "--image", image, other, "--each", "--compare").out
    assert [line for line in text if line.startswith("image: ")] == [f"image: {image}", f"image: {other}"]
    assert sum(line.startswith("from all tokens: ") for line in text) == 2


def test_options_of_the_pruner(saved, image, capsys):
    command = [
        "generate",
        "--model",
        saved / "plain",
        "--image",
        image,
        "--prompt",
        "w30",
        "--keep",
        9,
        "--max-new-tokens",
        3,
    ]
    command += ["--method", "resprune", "--json"]
    plain, strong = (
        json.loads(run(capsys, *command, *more).out[0]) for more in ([], ["--option", "alpha=9"])
    )
    _, report = answered(
        saved / "plain", [opened(image)], "<image> w30", 3, keep=9, method="resprune", alpha=9
    )
    assert strong["errors"] == pytest.approx(report.errors)
    assert strong["errors"] != pytest.approx(plain["errors"])


def test_pruners_that_need_clip(saved, image, capsys):
    common = ("generate", "--model", saved / "plain", "--image", image, "--prompt", "w30", "--method", "cdpruner", "--keep", 9, "--max-new-tokens", 2)  # fmt: skip
    got = run(capsys, *common, "--clip", saved / "clip")
    assert got.code == 0
    without = run(capsys, *common)
    assert without.code == 2
    assert "CLIPModel" in without.err[0]


def test_tiles_show_the_whole_view(saved, image, capsys, tmp_path):
    got = run(capsys, "generate", "--model", saved / "tiles", "--image", image, "--prompt", "w30", "--keep", 20, "--max-new-tokens", 2, "--picture", tmp_path / "kept.jpg")  # fmt: skip
    assert got.code == 0
    total = int(got.out[1].split()[3])
    assert total > 36
    assert got.out[6].endswith(f"(the view of the whole image: 36 of {total} tokens; tiles and separators are not drawn)")  # fmt: skip
    assert opened(tmp_path / "kept.jpg").format == "JPEG"


def test_the_table_of_pruners(capsys):
    got, again = run(capsys, "pruners"), run(capsys, "generate", "--list")
    assert got.code == again.code == 0
    assert got.out == again.out
    assert [line.split()[0] for line in got.out[1:]] == list(PRUNERS)
    for line, row in zip(got.out[1:], PRUNERS.values(), strict=True):
        assert line.endswith(row.summary)
        assert all(name in line for name in row.needs)
        assert row.merges in line


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--method": "sparse"}, "unknown pruner 'sparse'. Did you mean"),
        ({"--keep": 0}, "keep = 0"),
        ({"--keep": 37}, "keep = 37, but image 0 has 36 tokens"),
        ({"--keep": "many"}, "argument --keep: keep = 'many': expected a token count"),
        ({"--keep": "at-most-0"}, "at least one token"),
        ({"--image": "none.png"}, "none.png: no such file"),
        ({"--image": "text.png"}, "text.png: expected an image file"),
        ({"--model": "./nowhere"}, "./nowhere: no such folder"),
        ({"--model": "clip"}, "Can't load image processor"),
        ({"--model": "pickled"}, "model.safetensors"),
        ({"--model": "bare"}, "Can't load image processor"),
        ({"--model": "text"}, "takes no images"),
        ({"--model": "own_code"}, "trust_remote_code"),
        ({"--option": "alpha"}, "argument --option: 'alpha': expected NAME=VALUE"),
        ({"--option": "keep=3"}, "argument --option: 'keep=3': expected an option of the pruner"),
        ({"--option": "alhpa=3"}, "alhpa"),
        ({"--image": "folder.png"}, "folder.png: this is a folder; --each"),
        ({"--picture": "kept.txt"}, "kept.txt: expected the ending of an image file"),
        ({"--picture": "none/kept.png"}, "there is no folder"),
        ({"--picture": "folder.png"}, "this is a folder"),
        ({"--device": "abacus"}, "abacus"),
        ({"--max-new-tokens": 0}, "max_new_tokens"),
        ({"--relevance": "positive"}, "argument --relevance: invalid choice"),
    ],
    ids=lambda o: " ".join(f"{k} {v}" for k, v in o.items()) if isinstance(o, dict) else "",
)
def test_errors_are_one_line_and_leave_no_file(saved, image, capsys, tmp_path, changes, message):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    given = {"--model": "plain", "--image": "x.png", "--picture": "kept.png", "--prompt": "w30", "--keep": 9, "--max-new-tokens": 2}  # fmt: skip
    given |= changes
    if given["--model"] != "./nowhere":
        given["--model"] = saved / given["--model"]
    for name in ("--image", "--picture"):
        given[name] = tmp_path / given[name]
    before = sorted(tmp_path.rglob("*"))
    got = run(capsys, "generate", *(part for pair in given.items() for part in pair))
    assert got.code == 2
    assert got.out == []
    assert len(got.err) == 1, got.err
    assert message in got.err[0]
    assert "error: " in got.err[0]
    assert "Traceback" not in got.err[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_that_breaks_off_leaves_no_file(tmp_path, monkeypatch):
    def broken(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    old = tmp_path / "kept.png"
    old.write_bytes(b"the one before")
    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        picture.save(old, Image.new("RGB", (2, 2)))
    assert [p.name for p in tmp_path.iterdir()] == ["kept.png"]
    assert old.read_bytes() == b"the one before"


# the picture --------------------------------------------------------------------------------------

PLAIN = SimpleNamespace(image_processor=SimpleNamespace(do_normalize=False))


def config_of(kind, **others):
    return SimpleNamespace(config=SimpleNamespace(model_type=kind, **others))


def test_cells_are_where_their_tokens_are():
    """A tile of 4 x 6 cells, each of its own grey: bright cells keep it, all others are dimmed."""
    grey = torch.arange(24).reshape(4, 6) / 40 + 0.3
    tile = grey.repeat_interleave(5, 0).repeat_interleave(5, 1).expand(1, 3, 20, 30)
    [view] = picture.views(config_of("new"), PLAIN, {"pixel_values": tile}, [], [24])
    assert view.grid == (4, 6)
    kept = torch.tensor([1, 8, 23])
    panel = np.asarray(picture.draw([view], [kept]), dtype=float) / 255
    cell = panel.shape[0] // 4
    inner = panel.reshape(4, cell, 6, cell, 3)[:, cell // 3 : -cell // 3, :, cell // 3 : -cell // 3]
    factor = torch.full((24,), picture.DIMMED).index_fill(0, kept, 1.0).reshape(4, 6, 1)
    assert np.abs(inner.mean((1, 3)) - (grey[..., None] * factor).numpy()).max() < 0.02


def test_normalisation_is_undone():
    values = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    means, deviations = [0.2, 0.4, 0.6], [0.5, 0.25, 0.3]
    prepared = SimpleNamespace(do_normalize=True, image_mean=means, image_std=deviations)
    tile = (values - torch.tensor(means)[:, None, None]) / torch.tensor(deviations)[:, None, None]
    [view] = picture.views(
        config_of("new"), SimpleNamespace(image_processor=prepared), {"pixel_values": tile[None]}, [], [9]
    )
    assert view.grid == (3, 3)
    assert np.abs(np.asarray(view.image) / 255 - values.permute(1, 2, 0).numpy()).max() < 0.01


def test_patches_of_qwen_are_laid_over_the_image():
    vision = SimpleNamespace(spatial_merge_size=2, patch_size=4)
    inputs = {"pixel_values": torch.zeros(96, 96), "image_grid_thw": torch.tensor([[1, 8, 12]])}
    image = Image.new("RGB", (70, 50))
    [view] = picture.views(config_of("qwen2_5_vl", vision_config=vision), PLAIN, inputs, [image], [24])
    assert (view.grid, view.image.size, view.first) == ((4, 6), (48, 32), 0)
    with pytest.raises(BridgeError, match="23 tokens form no grid"):
        picture.views(config_of("qwen2_5_vl", vision_config=vision), PLAIN, inputs, [image], [23])


def test_a_cls_token_in_front_is_no_cell():
    model = config_of("llava", vision_feature_select_strategy="full")
    [view] = picture.views(model, PLAIN, {"pixel_values": torch.zeros(1, 3, 8, 8)}, [], [17])
    assert (view.grid, view.first) == ((4, 4), 1)
    assert not view.kept(torch.tensor([0])).any()
    assert view.kept(torch.tensor([1]))[0, 0]
    assert "16 of 17" in picture.note([view])


def test_padded_pixels_are_left_out():
    """Images of different sizes in one padded tensor, as Pixtral's."""
    inputs = {"pixel_values": torch.zeros(2, 3, 8, 16), "image_sizes": torch.tensor([[8, 16], [8, 4]])}
    found = picture.views(config_of("llava"), PLAIN, inputs, [], [8, 2])
    assert [(v.grid, v.image.size) for v in found] == [((2, 4), (16, 8)), ((2, 1), (4, 8))]


def test_the_last_tile_of_idefics_is_the_whole_view():
    pixels = torch.zeros(1, 5, 3, 8, 8)
    pixels[0, 2] = 1
    model = config_of("idefics3", vision_config=SimpleNamespace(image_size=8, patch_size=1), scale_factor=2)
    [view] = picture.views(model, PLAIN, {"pixel_values": pixels}, [None], [48])
    assert (view.grid, view.first) == ((4, 4), 32)
    assert np.asarray(view.image).min() == 255
    with pytest.raises(BridgeError, match="47 tokens are not tiles of 16"):
        picture.views(model, PLAIN, {"pixel_values": pixels}, [None], [47])


@pytest.mark.parametrize("n", [23, 12, 1])
def test_what_is_no_grid_is_not_drawn(n):
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 20)}
    with pytest.raises(BridgeError, match=f"{n} tokens form no grid over a tile of 20 x 8"):
        picture.views(config_of("new"), PLAIN, inputs, [], [n])
    with pytest.raises(BridgeError, match="is not known"):
        picture.views(config_of("new"), PLAIN, {}, [], [n])
