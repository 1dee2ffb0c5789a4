"""Every kind of input that is fuzzed, on some examples; and the judges tell wrong answers."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("dask")
pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")

import cssp
from analysis import command_lines, inputs


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_every_kind_is_answered_or_refused(kind):
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data):
        case = inputs.KINDS[kind].draw(data.draw)
        assert repr(case)
        assert isinstance(inputs.KINDS[kind].judge(case), str)

    one()


WRONG = {
    "rank": lambda s: s.rank + 1,
    "relative_error": lambda s: s.relative_error / 2,
    "coefficients": lambda s: lambda: 1.1 * np.asarray(s.coefficients()),
    "indices": lambda s: s.indices[[0, 0]],
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("storage", ["sparse", "mapped", "dask", "operator"])
def test_a_wrong_answer_is_told(storage, name):
    A = np.random.default_rng(0).standard_normal((4, 6))
    case = inputs.Stored(inputs.strategies.Call(A, "residual", {"k": 2}), storage=storage)
    assert inputs.judge_stored(case) == "same"
    true = cssp.select

    class Wrong:
        def __init__(self, *arguments, **options):
            self.s = true(*arguments, **options)

        def __getattr__(self, asked):
            return WRONG[name](self.s) if asked == name else getattr(self.s, asked)

    with mock.patch.object(cssp, "select", Wrong), pytest.raises((AssertionError, ValueError)):
        inputs.judge_stored(case)


FAULTS = {
    "a traceback": (1, "Traceback (most recent call last):\n"),
    "a fault of ours": (2, "cssp select: error: unexpected KeyError: 'a'; please report it\n"),
    "two lines": (2, "cssp select: error: one\ntwo\n"),
    "another code": (3, "cssp select: error: one\n"),
    "no result": (0, ""),
    "an error without need": (2, "cssp select: error: one\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_command_line_is_told(fault):
    case = command_lines.CommandLine(
        {"data.csv": b"a,b\n1,2\n3,5\n"},
        ("data.csv", "-k", "1", "--method", "residual", "--rng", "3"),
        table=[[1, 2], [3, 5]],
    )
    assert command_lines.judge(case) == "right answer"
    code, said = FAULTS[fault]
    with (
        mock.patch.object(command_lines, "_run", return_value=(code, "", said)),
        pytest.raises((AssertionError, ValueError)),
    ):
        command_lines.judge(case)
