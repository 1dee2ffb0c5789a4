"""Damaged checkpoints and states of streams: refused or harmless; and the command tells when they are not."""

from unittest import mock

import numpy as np
import pytest

pytest.importorskip("dask")

from analysis import corruptions, damage
from analysis.__main__ import main


@pytest.fixture(scope="module")
def kept():
    return damage.states()


def test_no_damage_makes_a_result_wrong_or_escapes(kept):
    counts = damage.damaged(kept, 8 * len(corruptions.CORRUPTIONS), seed=1)
    assert set(counts) == {name for name, _ in corruptions.CORRUPTIONS}
    for name, line in counts.items():
        assert line["wrong"] == line["escaped"] == 0, name
        assert line["harmless"] == 0 or name not in (
            "crafted",
            "noise",
            "changed entry",
            "sealed without the key",
        )
    assert (
        counts["appended bytes"]["harmless"] == 8
    )  # an archive is read from its end, junk behind it is skipped


def test_every_field_that_is_crafted_is_refused(kept, tmp_path):
    """Each craft of each field once, on the longest run of its kind."""
    for crafts, keyed in ((corruptions.RESIDUAL, True), (corruptions.STREAM, False)):
        one = max((k for k in kept if bool(k.key) is keyed), key=lambda k: len(k.content))
        arrays = corruptions.unpacked(one.content)
        names = {name.rstrip("0123456789") for name in arrays} - set(corruptions.ABOUT)
        assert names == set(crafts)
        for name, x in arrays.items():
            for i, craft in enumerate(crafts.get(name.rstrip("0123456789"), ())):
                made = np.asarray(craft(x))
                if made.dtype == x.dtype and np.array_equal(made, x):
                    continue
                content = corruptions.sealed({**arrays, name: made}, one.kind, one.key)
                outcome, why = one.outcome(content, tmp_path / "state.npz")
                assert outcome == "refused", (name, i, outcome, why)
                assert "state.npz" in why
                assert "remove it to begin anew, or give another path" in why


def test_runs_are_kept_in_every_precision_and_doubled(kept, monkeypatch, tmp_path):
    kinds = {corruptions.unpacked(k.content)["Q"].dtype.name for k in kept if k.key}
    assert kinds == {"float32", "float64", "complex64", "complex128"}
    monkeypatch.setattr(damage, "DTYPES", (np.float32,))
    runs = damage.residual_runs(tmp_path / "state.npz")
    assert {corruptions.unpacked(k.content)["Q"].dtype.name for k in runs} == {"float32", "float64"}


def test_no_pair_is_confused_and_a_weak_fingerprint_confuses_all():
    assert damage.confusions(3 * len(damage.PAIRS)) == []
    with mock.patch("cssp.passes.checkpoint.fingerprint", return_value=b"the same for all"):
        assert len(damage.confusions(len(damage.PAIRS))) >= 10  # the state itself tells some apart


def test_the_command(kept, capsys, monkeypatch):
    monkeypatch.setattr(damage, "states", lambda: kept)
    assert main(["damage", "--cases", "22", "--pairs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["damage", "refused", "harmless", "wrong", "escaped"]
    assert sum(map(int, lines[-3].split()[1:])) == 22
    assert lines[-1] == "2 pairs alike in sums of column norms: 0 confused "
