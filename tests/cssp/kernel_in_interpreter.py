"""The Triton kernel against the torch path, case by case; started by test_kernels.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import json

import numpy as np
import torch
from kernel_cases import arguments, matrix, near_ties

from cssp.kernels import _triton, residual_select

torch.use_deterministic_algorithms(True)  # memory that nothing wrote reads as NaN
rows = []


def case(name, A, **given):
    want = residual_select(A, **given, path="torch")
    got = residual_select(A, **given, path="triton")
    same = [torch.equal(x, y) for x, y in zip(got, want, strict=True)]
    rows.append({"case": name, "same": all(same), "fields": same, "safe": want[2].tolist()})


def batch(family, m, n, B, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return torch.stack([matrix(family, m, n, rng) for _ in range(B)]).to(dtype)


for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    case(f"noise {dtype}", batch("noise", 40, 21, 2, dtype), k=9)
for seed in range(4):
    case(f"arguments {seed}", *arguments(seed, torch.float32)[:1], **arguments(seed, torch.float32)[1])
case("arguments, half", *arguments(7, torch.bfloat16)[:1], **arguments(7, torch.bfloat16)[1])
case("k per item", batch("decay", 30, 18, 3, torch.float32), k=[0, 11, 4])
case("ties", torch.eye(12).expand(2, 12, 12), k=12)
case("duplicates", batch("duplicates", 20, 12, 2, torch.float32), k=8)
case("rank", torch.cat([batch("low rank", 20, 12, 1, torch.float32), torch.zeros(1, 20, 12)]), k=8)
case("strides", batch("noise", 18, 25, 2, torch.bfloat16).mT, k=6)
A = torch.eye(4, 6)
A[0, 0] = 0.5
A[:, 4] = A[:, 0]
include = torch.tensor([[0, 4, -1], [5, 1, -1], [2, -1, -1]])
case("dependent and zero includes", A.expand(3, 4, 6).contiguous(), k=4, include=include)
case("one column", torch.ones(1, 3, 1), k=1)
spoiled = batch("noise", 20, 12, 3, torch.float32)
spoiled[1, 2, 3] = torch.nan
case("NaN in a neighbour", spoiled, k=5)
for kind in ("large common part", "steep pivot"):
    case(f"doubt, {kind}", near_ties(kind, 8, np.random.default_rng(1), 24, 8).float(), k=6, repair=False)
# Too small for single precision: done again in double, weights included.
weights = torch.linspace(0.5, 1.5, 12)
case("repair", torch.cat([spoiled[:1] * 1e-20, spoiled[2:]]), k=5, weights=weights)
A, w = (
    batch("noise", 21, 50, 2, torch.bfloat16),
    torch.rand(2, 50, generator=torch.Generator().manual_seed(0)),
)
weighted = A.double() * w.double().unsqueeze(1)
found = _triton.gram(A, w, torch.tensor([True, False]))[1]
rows.append(
    {"case": "gram", "same": torch.allclose(found, (weighted.mT @ weighted)[1], rtol=1e-12, atol=1e-12)}
)
for family in ("decay", "graded"):
    _triton.PANEL_BYTES = 0  # panels of 16 steps
    case(f"panels, {family}", batch(family, 60, 50, 2, torch.float32), k=[40, 18])
case("panels, low rank", batch("low rank", 60, 40, 2, torch.float64), k=36)
print(json.dumps(rows))
