"""Gradients of coefficients and reconstructions, the chosen columns being fixed."""

import gc
import warnings
import weakref

import numpy as np
import pytest
from optional import torch

import cssp
from cssp import METHODS, select

RESULTS = ["coefficients", "reconstruct"]
full_gradcheck, gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck


def gaussian(*shape, seed=0, dtype=torch.float64):
    x = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_()


def gradcheck(f, inputs):
    """Along random directions: all entries one by one only where said."""
    return full_gradcheck(f, inputs, fast_mode=True)


def of(result, *arguments, **keywords):
    return getattr(select(*arguments, **keywords), result)()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("result", RESULTS)
def test_of_the_matrix_once_and_twice(result, dtype):
    A = gaussian(4, 3, dtype=dtype)
    assert full_gradcheck(lambda A: of(result, A, 2), (A,))
    assert gradgradcheck(lambda A: of(result, A, 2), (A,), fast_mode=True)


@pytest.mark.parametrize("result", RESULTS)
def test_of_weights_and_target(result):
    A, B, w = gaussian(6, 5), gaussian(6, 2, seed=1), gaussian(5, seed=2).detach().abs() + 0.5
    w.requires_grad_()
    assert gradcheck(lambda A, w: of(result, A, 3, weights=w), (A, w))
    assert gradcheck(lambda A, w, B: of(result, A, 3, "greedy", weights=w, target=B), (A, w, B))
    only = of(result, A.detach(), 3, weights=w)
    only.sum().backward()
    assert w.grad.abs().max() > 0.01
    plain = of(result, A, 3, weights=w.detach().numpy())  # weights from elsewhere
    torch.testing.assert_close(plain, only)


@pytest.mark.parametrize("result", RESULTS)
def test_of_a_ragged_batch(result):
    A, w, B = gaussian(2, 6, 5), gaussian(2, 5, seed=1).detach().abs() + 0.5, gaussian(6, 2, seed=2)
    valid = torch.tensor([[True] * 5, [True, False, True, True, True]])
    w.requires_grad_()
    assert gradcheck(lambda A, w: of(result, A, [3, 2], weights=w, valid=valid), (A, w))
    assert gradcheck(lambda A, B: of(result, A, 2, "greedy", target=B), (A, B))
    own = gaussian(2, 6, 2, seed=3)
    assert gradcheck(lambda A, B: of(result, A, 2, "greedy", target=B), (A, own))
    plain = of(result, A.detach(), 2, "greedy", target=own.detach())
    torch.testing.assert_close(of(result, A, 2, "greedy", target=own), plain)
    of(result, A, 2, valid=valid).sum().backward()
    assert not A.grad[1, :, 1].any()  # padding
    assert A.grad[0, :, 1].any()


@pytest.mark.parametrize("result", RESULTS)
def test_dependent_columns_have_the_derivative_of_constant_rank(result):
    U, V = gaussian(6, 2), gaussian(2, 5, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        assert gradcheck(lambda U, V: of(result, U @ V, 4), (U, V))
        Z = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
        of(result, Z, 2).sum().backward()
        assert torch.equal(Z.grad, torch.zeros_like(Z))
        U.requires_grad_(False), V.requires_grad_(False)
        A = (U @ V).requires_grad_()
        torch.testing.assert_close(of(result, A, 4), of(result, A.detach(), 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_values_are_those_without_gradients(method):
    A, w = gaussian(8, 12), torch.linspace(0.5, 2, 12, dtype=torch.float64)
    for scale in (1.0, 1e-150, 1e150):
        X = (A.detach() * scale).requires_grad_()
        live, plain = (select(x, 4, method, weights=w, rng=0) for x in (X, X.detach()))
        assert torch.equal(live.indices, plain.indices)
        torch.testing.assert_close(live.coefficients(), plain.coefficients(), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(
            live.reconstruct() / scale, plain.reconstruct() / scale, rtol=0, atol=1e-12
        )
        assert live.coefficients().requires_grad
        assert live.reconstruct().requires_grad


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_targets_of_any_size(scale):
    A, B = gaussian(8, 12), (gaussian(8, 3, seed=1).detach() * scale).requires_grad_()
    live, plain = select(A, 4, "greedy", target=B), select(A.detach(), 4, "greedy", target=B.detach())
    for result in RESULTS:
        x, y = (getattr(s, result)() for s in (live, plain))
        torch.testing.assert_close(x / scale, y / scale, rtol=0, atol=1e-12)
    live.reconstruct().sum().backward()
    assert 0 < B.grad.abs().max() < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_get_gradients_of_their_own(dtype):
    A = gaussian(8, 12).detach().to(dtype).requires_grad_()
    s = select(A, 4)
    torch.testing.assert_close(s.reconstruct(), select(A.detach(), 4).reconstruct())
    s.reconstruct().square().sum().backward()
    assert A.grad.dtype == dtype
    wide = A.detach().double().requires_grad_()
    select(wide, 4).reconstruct().square().sum().backward()
    torch.testing.assert_close(A.grad, wide.grad.to(dtype), rtol=1e-2, atol=1e-2)


def test_no_graph_is_kept_where_none_is_wanted():
    A = gaussian(8, 12)
    leaves = [A.detach(), A.detach().numpy()]
    with torch.no_grad():
        assert not select(A, 4).reconstruct().requires_grad
        selections = [select(A, 4)]
    selections += [select(x, 4) for x in leaves]
    assert all(part.live is None for s in selections for part in s._parts)
    s = select(A, 4)
    assert not s.errors.requires_grad
    assert isinstance(s.error, float)
    assert isinstance(s.certificate().error, float)
    hidden = A.exp()
    watch = weakref.ref(hidden)
    s = select(hidden, 4)
    del hidden
    gc.collect()
    assert watch() is not None  # held: a gradient may still be asked for
    del s
    gc.collect()
    assert watch() is None


def test_a_training_loop():
    """Features are learned in which four columns rebuild the rest: select, reconstruct, back-propagate."""
    X = gaussian(20, 30, seed=3).detach()
    net = torch.nn.Linear(20, 10, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(gaussian(10, 20, seed=4).detach() / 20**0.5)
    descent = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        F = net(X.T).T  # (features, items)
        F = F / F.norm()
        loss = (F - select(F, 4).reconstruct()).square().sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_reconstruction_is_insensitive_to_the_scale_of_chosen_columns():
    """P_S depends on the span alone: the gradient along a chosen column, through C, is that of its own entry in B."""
    A, B = gaussian(6, 5), gaussian(6, 3, seed=1).detach()
    s = select(A, 3, "greedy", target=B)
    s.reconstruct().square().sum().backward()
    j = int(s.indices[0])
    assert abs(float(A.grad[:, j] @ A[:, j].detach())) < 1e-12
    assert np.all(np.isfinite(A.grad.numpy()))
