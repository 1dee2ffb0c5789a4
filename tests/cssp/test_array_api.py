"""Arrays of any Array-API namespace, on any device of theirs, also where shapes may not depend on data."""

import warnings

import array_api_strict
import numpy as np
import pytest
from optional import torch

import cssp
from cssp import METHODS, in_memory, linalg, select
from cssp.problem import Problem

NATIVE = [name for name, row in METHODS.items() if "array-api" in row.backends]
FLAGS = {
    "everything": {},
    "no boolean indexing": {"boolean_indexing": False},
    "no shapes from data": {"data_dependent_shapes": False},
    "neither": {"boolean_indexing": False, "data_dependent_shapes": False},
    "standard of 2023": {"api_version": "2023.12"},
}


def matrices():
    rng = np.random.default_rng(0)
    G = rng.standard_normal((12, 20))
    return {
        "Gaussian": G,
        "decaying": rng.standard_normal((30, 24)) * 0.3 ** np.arange(24),
        "rank four": G[:, :4] @ rng.standard_normal((4, 20)),
        "wide": rng.standard_normal((6, 40)),
        "every column thrice": np.repeat(rng.standard_normal((9, 5)), 3, axis=1),
        "zero": np.zeros((4, 6)),
        "negligible": np.where(np.arange(20) == 3, 1e-150, 1.0) * G,
    }


def calls(method, A):
    """Arguments with which the method is called on A."""
    able = METHODS[method].supports
    yield 5 if A.shape[1] > 6 else 3, {}
    yield 4, {"weights": np.linspace(0.5, 1, A.shape[1])}
    yield 4, {"valid": np.arange(A.shape[1]) != 1}
    if "include" in able:
        yield 4, {"include": [3], "exclude": [1]}
    if "tol" in able:
        yield None, {"tol": 0.3}
    if "target" in able:
        yield 4, {"target": A[:, :2] - A[:, 1:3]}


@pytest.fixture(params=FLAGS)
def flags(request):
    array_api_strict.set_array_api_strict_flags(**FLAGS[request.param])
    yield
    array_api_strict.reset_array_api_strict_flags()


def check_same(make, method, A, k, arguments, like):
    """The picks and numbers of NumPy, everything of the caller's kind and on the caller's device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        expected = select(A, k, method, rng=0, **arguments)
        if "target" in arguments:
            arguments = arguments | {"target": make(arguments["target"])}
        X = make(A)
        s = select(X, k, method, rng=0, **arguments)
    found = (s.indices, s.errors, s.mask(), s.coefficients(), s.reconstruct())
    wanted = (
        expected.indices,
        expected.errors,
        expected.mask(),
        expected.coefficients(),
        expected.reconstruct(),
    )
    for x, y in zip(found, wanted, strict=True):
        assert type(x) is type(X)
        assert like(x) == like(X)
        np.testing.assert_allclose(linalg.host(x), y, rtol=1e-6, atol=1e-7 * max(1.0, np.abs(A).max()))
    assert s.certificate().error == pytest.approx(expected.certificate().error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, array_api_strict.asarray])
def test_putting_values_where_a_mask_is_true(make, flags):
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 1.0):
        x, mask = rng.standard_normal(30), rng.random(30) < share
        values = rng.standard_normal(mask.sum())
        y = linalg.put(make(x), make(mask), make(values))
        assert type(y) is type(make(x))
        x[mask] = values
        np.testing.assert_array_equal(linalg.host(y), x)
        np.testing.assert_array_equal(linalg.places(make(mask)), np.flatnonzero(mask))


def test_which_methods_are_native():
    assert set(NATIVE) == {"residual", "greedy", "farthest", "norm", "uniform"}


@pytest.mark.parametrize("method", METHODS)
def test_strict_arrays_on_another_device(method, flags):
    place = array_api_strict.Device("device1")
    for A in matrices().values() if method in NATIVE else [matrices()["Gaussian"]]:
        for k, arguments in calls(method, A):
            check_same(
                lambda x: array_api_strict.asarray(x, device=place),
                method,
                A,
                k,
                arguments,
                lambda x: x.device,
            )


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("method", NATIVE)
def test_other_precisions_without_shapes_from_data(method, dtype):
    if dtype == np.complex128 and "complex" not in METHODS[method].supports:
        pytest.skip("real matrices only")
    rng = np.random.default_rng(1)
    A = (rng.standard_normal((20, 30)) * 0.5 ** np.arange(30)).astype(dtype)
    if dtype == np.complex128:
        A = A + 1j * rng.standard_normal((20, 30)) * 0.5 ** np.arange(30)
    array_api_strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)
    try:
        check_same(array_api_strict.asarray, method, A, 10, {}, lambda x: x.device)
    finally:
        array_api_strict.reset_array_api_strict_flags()


@pytest.mark.parametrize("method", NATIVE)
def test_native_methods_leave_the_matrix_where_it_is(method, monkeypatch):
    """From a foreign device only vectors and k × k factors come to the host; a method that is not native fetches the matrix."""
    place, moved = array_api_strict.Device("device1"), []
    kind, fetch = array_api_strict._array_object.Array, np.from_dlpack

    def spy(x, **options):
        moved.append(x.shape)
        return fetch(x, **options)

    monkeypatch.setattr(np, "from_dlpack", spy)
    A = matrices()["decaying"]
    X = array_api_strict.asarray(A, device=place)
    assert isinstance(X, kind)
    for k, arguments in calls(method, A):
        if "target" not in arguments:
            select(X, k, method, rng=0, **arguments)
    assert moved
    assert all(len(shape) == 1 or (shape != A.shape and max(shape) <= A.shape[1]) for shape in moved)
    select(X, 4, "volume", rng=0)
    assert A.shape in moved


@pytest.mark.parametrize("method", METHODS)
def test_torch(method):
    A = matrices()["Gaussian"]
    for k, arguments in calls(method, A):
        check_same(torch.as_tensor, method, A, k, arguments, lambda x: x.device)


@pytest.mark.parametrize("method", METHODS)
def test_tensors_in_host_memory_are_computed_by_numpy(method, monkeypatch):
    """Threads of torch and of NumPy's BLAS side by side take several times as long."""
    built = []
    monkeypatch.setattr(in_memory, "Problem", lambda **known: built.append(Problem(**known)) or built[-1])
    A = matrices()["Gaussian"]
    for k, arguments in calls(method, A):
        if "target" in arguments:
            arguments = arguments | {"target": torch.as_tensor(arguments["target"])}
        select(torch.as_tensor(A), k, method, rng=0, **arguments)
    assert built
    assert all(isinstance(x, np.ndarray) for p in built for x in (p.A, p.candidates))
    assert all(p.target is None or isinstance(p.target, np.ndarray) for p in built)


@pytest.mark.parametrize("method", METHODS)
def test_jax(method):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    A = matrices()["Gaussian"].astype(np.float32)
    for k, arguments in calls(method, A):
        check_same(jax.numpy.asarray, method, A, k, arguments, lambda x: x.device)


@pytest.mark.parametrize("method", METHODS)
def test_cupy(method):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy sees no device")
    A = matrices()["Gaussian"]
    for k, arguments in calls(method, A):
        check_same(cupy.asarray, method, A, k, arguments, lambda x: x.device)
