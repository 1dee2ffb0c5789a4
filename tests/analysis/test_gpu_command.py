"""The plumbing of ``python -m analysis gpu`` on the CPU with toy sizes, and the published loops it times."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import cssp
from analysis import gpu
from analysis.__main__ import main
from analysis.benchmarks import published
from analysis.benchmarks.speed import tokens
from vlm_bridge import select_tokens


def test_steps_write_their_files_and_are_not_done_twice(tmp_path, monkeypatch, capsys):
    steps = ["speed", "prefill"]
    assert main(["gpu", "--tiny", "--out", str(tmp_path), "--step", *steps]) == 0
    first = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in steps}
    assert all(found["tiny"] and found["device"] == "cpu" for found in first.values())
    row = first["speed"]["48x40 keep 6 batch 2"]
    assert row["share of picks as in double precision"] == 1
    assert row["share safe"] == 1
    assert {"cdpruner loop", "divprune loop", "naive deflation", "residual_select"} <= set(
        row["microseconds"]
    )
    assert set(first["prefill"]) >= {"batch 1", "batch 2"}
    assert set(first["prefill"]["batch 2"]["milliseconds"]) >= {"unpruned", "8 given", "8 selected"}
    done = []
    monkeypatch.setattr(
        gpu, "STEPS", {name: lambda *a, name=name: done.append(name) or {} for name in gpu.STEPS}
    )
    assert main(["gpu", "--tiny", "--out", str(tmp_path)]) == 0
    assert done == ["tests", "bench", "graft", "train"]


def test_an_interrupted_table_goes_on(tmp_path):
    from analysis.benchmarks import device

    found = device.speed(tmp_path, "cpu", True)
    part = tmp_path / "speed_parts.json"
    kept = json.loads(part.read_text())
    last = list(kept)[-1]
    del kept[last]
    kept["48x40 keep 6 batch 1"]["floor"] = "kept"
    part.write_text(json.dumps(kept))
    again = device.speed(tmp_path, "cpu", True)
    assert set(again) == set(found)
    assert again["48x40 keep 6 batch 1"]["floor"] == "kept"


def test_without_a_device_it_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    assert main(["gpu", "--out", str(tmp_path / "out")]) == 1
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["gpu", "--out", str(tmp_path), "--step", "speeed"]) == 2


def test_published_loops_follow_their_rules():
    x = torch.from_numpy(tokens(60, 40).T.copy())
    r = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.1
    unit = torch.nn.functional.normalize(x, dim=1)
    want = cssp.select(unit.mT, 9, weights=r).indices
    assert torch.equal(published.cdpruner(x[None], r[None], 9)[0], want)
    assert torch.equal(published.deflation(x.mT[None], 9)[0], cssp.select(x.mT, 9).indices)
    kept = np.sort(published.divprune(x, 9).numpy())
    np.testing.assert_array_equal(kept, select_tokens(x, 9, "divprune").numpy())


def test_pruned_prefill_reads_the_chosen_tokens():
    """Keeping all tokens changes nothing; keeping few does."""
    from analysis.benchmarks import prefill

    llava = prefill.model("cpu", tiny=True)
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    text = torch.arange(4, 4 + prefill.BEFORE + prefill.AFTER).expand(2, -1)
    with torch.no_grad():
        full = prefill.prefill(llava, pixels, text, None)
        torch.testing.assert_close(
            prefill.prefill(llava, pixels, text, lambda f: prefill.spread(f, 36)), full
        )
        few = prefill.prefill(llava, pixels, text, lambda f: prefill.residual(f, 4))
    assert few.shape == full.shape
    assert not torch.allclose(few, full)
