"""Transforms of torch: coefficients and reconstructions differentiate under all of them, the choice being fixed."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from optional import torch

import cssp
from cssp import METHODS, CsspError, select

RESULTS = ["coefficients", "reconstruct"]
forward_ad = torch.autograd.forward_ad
# torch's own modules warn where torch.func.jvp is first used
pytestmark = [
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def numeric(f, X, h=1e-6):
    """Jacobian by central differences."""
    steps = torch.eye(X.numel(), dtype=X.dtype).reshape(X.numel(), *X.shape) * h
    return torch.stack([(f(X + e) - f(X - e)) / (2 * h) for e in steps], -1).reshape(*f(X).shape, *X.shape)


def dual(f, X, T):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, T))).tangent


def check(f, X, atol=1e-6):
    """Every transform gives the Jacobian of differences, or its products."""
    J, T = numeric(f, X), torch.randn_like(X)
    along = torch.tensordot(J, T, dims=X.ndim)
    value, tangent = torch.func.jvp(f, (X,), (T,))
    _, pull = torch.func.vjp(f, X)
    same = {"rtol": 0, "atol": atol}
    torch.testing.assert_close(value, f(X), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.func.jacrev(f)(X), J, **same)
    torch.testing.assert_close(torch.func.jacfwd(f)(X), J, **same)
    torch.testing.assert_close(tangent, along, **same)
    torch.testing.assert_close(dual(f, X, T), along, **same)
    torch.testing.assert_close(
        pull(torch.ones_like(value))[0], J.flatten(end_dim=value.ndim - 1).sum(0), **same
    )
    gradient = torch.func.grad(lambda X: f(X).square().sum())(X)
    torch.testing.assert_close(gradient, 2 * torch.tensordot(value, J, dims=value.ndim), **same)


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("method", METHODS)
def test_of_the_matrix(method, result):
    check(lambda X: getattr(select(X, 2, method, rng=0), result)(), gaussian(4, 5))


@pytest.mark.parametrize("result", RESULTS)
def test_of_weights_target_batch_and_dependent_columns(result):
    A, valid = gaussian(5, 6), torch.tensor([[True] * 6, [True, False, True, True, True, True]])
    check(lambda w: getattr(select(A, 3, weights=w), result)(), gaussian(6, seed=1).abs() + 0.5)
    check(lambda B: getattr(select(A, 3, "greedy", target=B), result)(), gaussian(5, 2, seed=2))
    check(lambda X: getattr(select(X, [3, 2], valid=valid), result)(), gaussian(2, 5, 6, seed=3))
    units, w = torch.logspace(0, -3, 6, dtype=torch.float64), torch.linspace(0.5, 2, 6, dtype=torch.float64)
    check(lambda X: getattr(select(X * units, 3, weights=w, scale="norm"), result)(), gaussian(5, 6, seed=6))
    scaled, plain = (select(X, 3, scale="norm") for X in ((A * units).requires_grad_(), A * units))
    torch.testing.assert_close(getattr(scaled, result)(), getattr(plain, result)())
    V = gaussian(2, 5, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        check(lambda U: getattr(select(U @ V, 4), result)(), gaussian(5, 2, seed=5))


def test_nested_transforms():
    def f(X):
        return select(X, 2).reconstruct().square().sum()

    A = gaussian(4, 4)
    expected = torch.autograd.functional.hessian(f, A)
    torch.testing.assert_close(torch.func.hessian(f)(A), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(f))(A), expected, rtol=0, atol=1e-10)


def test_all_that_a_selection_tells_is_told_inside():
    A = gaussian(5, 6)
    plain = select(A, 3)
    error, ratio = plain.error, plain.certificate().ratio

    def f(x):
        for X in (A, A * x):  # a constant, too, is no plain tensor to operations in here
            sel = select(X, 3)
            assert sel.indices.tolist() == plain.indices.tolist()
            assert sel.error == pytest.approx(error)
            assert sel.certificate().ratio == pytest.approx(ratio)
            assert repr(sel) == repr(plain)
        return sel.reconstruct().sum()

    derivative = torch.func.grad(f)(torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(derivative, plain.reconstruct().sum())


def test_what_cannot_be_is_refused_by_name():
    A = gaussian(3, 5, 6)
    with pytest.raises(CsspError, match=r"vmap.*pass the batch \(b, m, n\) to select"):
        torch.func.vmap(lambda X: select(X, 2).reconstruct())(A)
    for choose in (
        lambda X: cssp.select_gram(X.T @ X, 2),
        lambda X: cssp.StreamingSelector(2).partial_fit(X),
    ):
        with pytest.raises(CsspError, match=r"(K|columns) is inside a transform of torch\.func"):
            torch.func.grad(lambda X, choose=choose: choose(X) and X.sum())(A[0])


def test_parameters_inference_mode_and_no_grad():
    A = gaussian(5, 6)
    layer = torch.nn.Parameter(A)
    assert type(select(layer, 3).indices) is torch.Tensor
    assert select(layer, 3).coefficients().requires_grad
    with torch.inference_mode():
        inside = select(gaussian(5, 6), 3).coefficients()
    torch.testing.assert_close(inside, select(A, 3).coefficients())
    with torch.no_grad(), forward_ad.dual_level():  # forward mode knows no no_grad
        live = select(forward_ad.make_dual(A, A), 3).reconstruct()
        assert forward_ad.unpack_dual(live).tangent is not None


def test_a_compiled_function_breaks_its_graph_at_select():
    code = """
import warnings
warnings.simplefilter("error")
import torch, cssp
A = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
def f(A):
    B = 2 * A
    return cssp.select(B, 3).indices + 0, B.sum()
compiled, plain = torch.compile(f, backend="eager")(A), f(A)
print(all(torch.equal(x, y) for x, y in zip(compiled, plain)))
"""
    root = Path(cssp.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "True"
