"""On a CUDA device: the same picks as on the host, and results that stay on the device. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import cssp

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("method", [name for name, row in cssp.METHODS.items() if row.deterministic])
@pytest.mark.parametrize("shape", [(40, 60), (3, 64, 48)])
def test_same_errors_as_on_the_host(method, shape):
    A = np.random.default_rng(0).standard_normal(shape)
    k = 4 if method == "exact" else 12
    if method == "exact":
        A = A[..., :16]
    host, device = cssp.select(A, k, method=method), cssp.select(torch.from_numpy(A).cuda(), k, method=method)
    assert device.indices.is_cuda
    np.testing.assert_allclose(np.asarray(host.error), torch.as_tensor(device.error).cpu(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precisions(dtype):
    A = torch.from_numpy(np.random.default_rng(1).standard_normal((64, 80))).to(dtype).cuda()
    assert cssp.select(A, 16).indices.tolist() == cssp.select(A.cpu(), 16).indices.tolist()
