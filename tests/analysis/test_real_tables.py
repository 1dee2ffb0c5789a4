"""The trial on real tables sees what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import cssp
from analysis import real_tables


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,x,y,z\nu,1.5,2,1\nv,,3,2\nw,0.5,?,5\nq,1,7,1\nr,2,2,2\n")
    return path


def test_what_the_command_line_reads_is_compared_with_pandas(written):
    pytest.importorskip("pandas")
    X, names = real_tables._as_pandas_reads(written)
    assert names == ["x", "y", "z"]
    np.testing.assert_array_equal(X, [[1.5, 2, 1], [1, 7, 1], [2, 2, 2]])
    words = real_tables.WAYS["--numeric --missing rows"]
    assert real_tables._tried(written, words, X, names)["wrong"] == ""
    assert real_tables._tried(written, [], X, names)["refused"] == "a column of text"
    assert real_tables._tried(written, words, X + 1e-15, names)["wrong"].startswith("numbers")
    answer = {"indices": [0], "relative_error": 0.5}
    assert real_tables._differs(written, words, answer, X, names).startswith("relative error")


def test_what_a_method_answers_is_compared_with_lapack():
    A = np.random.default_rng(0).standard_normal((20, 6))
    sel = cssp.select(A, 3)
    given = [A, sel.indices, sel.coefficients(), sel.rank, sel.errors, sel.relative_error]
    assert not list(real_tables._faults(*given))
    for place, wrong in ((2, given[2] * 1.1), (3, 2), (4, given[4][::-1]), (5, given[5] * 1.01)):
        assert len(list(real_tables._faults(*given[:place], wrong, *given[place + 1 :]))) == 1
