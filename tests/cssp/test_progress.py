"""Progress and limits of time: what is told, what is returned, and what is then no longer promised."""

import io
import itertools
import logging
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import cssp
from cssp import METHODS, CsspError, TimeLimitWarning, select
from cssp.progress import Deadline

A = np.random.default_rng(0).standard_normal((30, 40))
TOLD = ["residual", "greedy", "random_pivot", "adaptive", "volume_derandomized", "exact"]
LIMITED = [name for name, row in METHODS.items() if "time_limit" in row.options]


def told(X, k, method="residual", **arguments):
    steps = []
    sel = select(X, k, method, rng=0, progress=lambda done, total: steps.append((done, total)), **arguments)
    return sel, steps


@pytest.mark.parametrize("method", METHODS)
def test_progress_changes_nothing_and_never_goes_back(method):
    X = A[:, :14] if method == "exact" else A
    sel, steps = told(X, 5, method)
    np.testing.assert_array_equal(sel.indices, select(X, 5, method, rng=0).indices)
    done = [d for d, _ in steps]
    assert done == sorted(done)
    assert all(total is None or 0 < d <= total for d, total in steps)
    if method in TOLD:
        assert steps


def test_batches_count_items_and_passes_count_picks():
    _, steps = told(np.stack([A, A, A]), 4, "greedy")
    assert steps == [(1, 3), (2, 3), (3, 3)]
    for method in ("residual", "greedy", "random_pivot", "sketched_qr"):
        assert told(sp.csc_array(A), 6, method)[1][-1] == (6, 6)


def test_a_bar_or_lines_on_stderr(monkeypatch):
    pytest.importorskip("tqdm")
    for lines in (False, True):
        stream = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            if lines:
                patch.setitem(sys.modules, "tqdm", None)
            select(A, 20, "greedy", progress=True)
        assert "select greedy" in stream.getvalue()
        assert ("20 of 20" if lines else "/20") in stream.getvalue()


@pytest.mark.parametrize("bad", [1, "yes", [True], 0.5])
def test_other_kinds_of_progress_are_refused(bad):
    with pytest.raises(CsspError, match=r"progress = .*expected True, False or a function.*progress=True"):
        select(A, 3, progress=bad)


def test_the_three_long_methods_have_a_limit():
    assert set(LIMITED) == {"exact", "local_search", "strong_rrqr"}


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by one second whenever it is looked at."""
    clock = itertools.count(1.0)
    monkeypatch.setattr("cssp.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("method", LIMITED)
def test_the_best_so_far_comes_back_with_one_warning(method):
    hard = np.random.default_rng(1).standard_normal((40, 60)) @ np.diag(np.linspace(1, 2, 60))
    with pytest.warns(TimeLimitWarning, match=r"time_limit = 0.5 s is over: .+") as heard:
        sel = select(hard, 12, method, time_limit=0.5)
    assert len(heard) == 1
    assert heard[0].filename == __file__
    assert len(set(sel.indices.tolist())) == sel.rank == 12
    certificate = sel.certificate()
    if method == "strong_rrqr":  # the swaps were not all made: gu1996 says nothing
        assert (certificate.factor, certificate.spectral_factor, certificate.source) == (None, None, None)
    elif method == "exact":  # the incumbent is no worse than derandomised volume sampling
        assert certificate.factor == 13
        assert certificate.ratio <= 13
    else:  # the error never rises
        assert certificate.squared_error <= select(hard, 12).squared_error * (1 + 1e-9)


@pytest.mark.parametrize("method", LIMITED)
def test_a_limit_that_is_not_reached_changes_nothing(method):
    X = A[:, :12]
    whole, limited = select(X, 4, method), select(X, 4, method, time_limit=1e9)
    np.testing.assert_array_equal(whole.indices, limited.indices)
    assert whole.certificate() == limited.certificate()


@pytest.mark.usefixtures("ticking")
def test_more_time_is_never_worse():
    X = np.random.default_rng(2).standard_normal((20, 24))
    errors = []
    for seconds in (0.5, 3.5, 20.5, 1e9):
        with pytest.warns(TimeLimitWarning) if seconds < 1e9 else nullcontext():
            errors.append(select(X, 6, "exact", time_limit=seconds).error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == select(X, 6, "exact").error


def test_a_limit_is_looked_at_before_every_long_step(monkeypatch):
    module, relaxation = sys.modules["cssp.methods.exact"], sys.modules["cssp.methods._relaxation"]
    over, begun, tangents = [False], [], []

    def relaxed(M, *arguments, steps=module.relaxed):
        begun.append(len(M))
        over[0] = True  # the time is up as soon as this has begun
        return steps(M, *arguments)

    monkeypatch.setattr(module, "relaxed", relaxed)
    monkeypatch.setattr(module, "BOUNDED", 8)
    monkeypatch.setattr(relaxation._Problem, "tangent", lambda *_: tangents.append(1))
    monkeypatch.setattr(Deadline, "over", lambda self: over[0])
    hard = np.random.default_rng(1).standard_normal((40, 60))
    assert select(hard, 8, "exact", time_limit=1e9).rank == 8
    assert (begun, tangents) == ([8], [])


@pytest.mark.parametrize("bad", [0, -1, True, "1", float("nan"), [1]])
def test_wrong_limits(bad):
    with pytest.raises(CsspError, match=r"time_limit = .*expected seconds above 0 or None"):
        Deadline(bad, "")
    with pytest.raises(CsspError, match="time_limit"):
        select(A, 3, "exact", time_limit=bad)


def test_a_long_search_is_announced(caplog, monkeypatch):
    module = sys.modules["cssp.methods.exact"]
    X = A[:20, :24]
    with caplog.at_level(logging.WARNING, logger="cssp"):
        select(X[:, :8], 3, "exact")
        assert not caplog.records
        monkeypatch.setattr(module, "LONG", 0.0)
        select(X, 8, "exact")
        select(X, 8, "exact", time_limit=1e9)  # whoever sets a limit knows
    (record,) = caplog.records
    assert "s a node" in record.getMessage()
    assert "time_limit=" in record.getMessage()


def test_progress_does_not_import_tqdm_where_it_is_off():
    code = "import sys, cssp; cssp.select([[1.0, 2.0], [0.0, 1.0]], 1); print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert cssp.TimeLimitWarning is TimeLimitWarning
