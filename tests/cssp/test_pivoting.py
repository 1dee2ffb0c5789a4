"""The rules of pivoting are the same on every backend, and stand in one place."""

import re
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
import scipy.sparse as sp
from optional import torch
from passes_cases import chunked
from scipy.sparse.linalg import aslinearoperator

from cssp import select, select_gram
from cssp.pivoting import SINGLE_REACH, TIE_BAND, floor, noise, stale_level, tie_bar

PACKAGE = Path(__file__).parents[2] / "cssp"
EPS = 2.0**-52


def kernel(batch):
    from cssp.kernels import residual_select  # which needs torch

    return residual_select(batch, 1, path="torch")


FIRST_PICK = {
    "numpy": lambda A: select(A, 1).indices[0],
    "guesses": lambda A: select(A, 4, speculate=True).indices[0],
    "one by one": lambda A: select(A, 4, speculate=False).indices[0],
    "greedy": lambda A: select(A, 1, "greedy").indices[0],
    "farthest": lambda A: select(A, 1, "farthest").indices[0],
    "torch": lambda A: select(torch.tensor(A), 1).indices[0],
    "array API": lambda A: select(array_api_strict.asarray(A), 1).indices[0],
    "dask": lambda A: select(chunked(A, (3, 3)), 4).indices[0],
    "sparse": lambda A: select(sp.csc_array(A), 1).indices[0],
    "sparse greedy": lambda A: select(sp.csc_array(A), 1, "greedy").indices[0],
    "operator": lambda A: select(aslinearoperator(A), 1).indices[0],
    "Gram": lambda A: select_gram(A.T @ A, 1).indices[0],
    "kernel": lambda A: kernel(torch.tensor(A)[None])[0][0, 0],
}


@pytest.mark.parametrize("backend", FIRST_PICK)
def test_columns_tie_within_the_band_and_not_beyond(backend):
    """Squared norms 50 units of rounding below the largest still tie, 100 no longer do."""
    pick = FIRST_PICK[backend]
    for below, wanted in ((50, 0), (100, 1)):
        A = np.diag([1 - below / 2 * EPS, 1.0, 0.5, 0.25, 0.125, 0.0625])
        assert int(pick(A)) == wanted


TWO_PICKS = {
    "numpy": lambda A: select(A, 2),
    "guesses": lambda A: select(A, 2, speculate=True),
    "one by one": lambda A: select(A, 2, speculate=False),
    "torch": lambda A: select(torch.tensor(A), 2),
    "array API": lambda A: select(array_api_strict.asarray(A), 2),
    "dask": lambda A: select(chunked(A, (2, 3)), 2),
    "sparse": lambda A: select(sp.csc_array(A), 2),
    "operator": lambda A: select(aslinearoperator(A), 2),
}


@pytest.mark.parametrize("backend", TWO_PICKS)
def test_a_worn_norm_is_not_believed(backend):
    """Behind column 0 the others keep 1e-9 of their length, in which downdated norms have no digit: the longest one wins."""
    rng = np.random.default_rng(0)
    A = np.zeros((8, 12))
    A[0] = [4.0, *rng.uniform(0.5, 1.5, 11)]
    A[1, 1:] = 1e-9 * np.array([1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 4])
    A = np.linalg.qr(rng.standard_normal((8, 8)))[0] @ A
    assert [int(j) for j in TWO_PICKS[backend](A).indices] == [0, 7]


def test_the_rules_as_numbers():
    assert tie_bar(2.0, EPS) == 2 * (1 - 64 * EPS)
    assert stale_level(1.0, EPS) == 2.0**-26
    assert floor(3, 4, EPS, 2.0) == 20 * EPS
    assert floor(50, 10**6, EPS, 1.0) == 16_384 * EPS
    assert noise(3, 100, EPS, 1.0) == pytest.approx(2 * 3**0.5 * EPS)
    assert noise(1, 1, EPS, 1.0) == EPS
    assert 0 < SINGLE_REACH < 1 < TIE_BAND


def test_no_module_types_a_rule_again():
    """Beside the rules themselves: numbers for Triton, gains of a Gram matrix, smallest p-norms."""
    allowed = {
        "pivoting/exponents.py": 4,
        "kernels/rules.py": 3,
        "cholesky.py": 1,
        "problem.py": 1,
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        uses = len(
            re.findall(r"(?:TIE_BAND|DOWNDATE_SLACK|SINGLE_REACH) ?\*|\* ?(?:TIE_BAND|SINGLE_REACH)", text)
        )
        name = path.relative_to(PACKAGE).as_posix()
        assert uses <= allowed.get(name, 0) or name == "pivoting/__init__.py", name
