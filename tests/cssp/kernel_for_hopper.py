"""Compiles variants of the Triton kernels for sm_90, without a device; started by test_kernels.py."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cssp.kernels import _triton, rules

OPTIONAL = ("norms", "live", "include", "k", "W")
POINTERS = {"live": "*i8", "safe": "*i8", "include": "*i64", "k": "*i64", "indices": "*i64", "rank": "*i64"}
INTEGERS = ("n", "m", "start", "stop", "kmax", "c", "a0", "a1", "a2")
VARIANTS = {
    "plain": ("fp32", 576, {"FIRST": True}, ("norms",)),
    "everything": ("fp32", 576, {"FIRST": True}, OPTIONAL),
    "later panel": ("fp32", 2880, {"FIRST": False}, ("norms",)),
    "double": ("fp64", 576, {"FIRST": True, "AGAIN": True, "EXACT": True}, OPTIONAL[1:]),
    "gram": ("fp64", 576, {}, OPTIONAL),
}


def compiled(variant):
    number, n, switches, present = VARIANTS[variant]
    kernel = _triton._gram if variant == "gram" else _triton._panel
    block = triton.next_power_of_2(n)
    constants = {
        "SEEN": rules.SEEN,
        "RESOLVED": rules.RESOLVED,
        "LOW": 2.0**-60,
        "HIGH": 2.0**100,
        "EXACT": False,
        "AGAIN": False,
        "BLOCK": block,
        "KBLOCK": 64,
        "TILE": _triton.TILE,
        "DEPTH": _triton.DEPTH,
    } | switches
    constants |= {name: None for name in OPTIONAL if name not in present}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in INTEGERS:
            signature[name] = "i32"
        elif name in ("band", "slack", "refresh", "least", "reach", "added"):
            signature[name] = "fp32"
        else:
            signature[name] = POINTERS.get(name, "*bf16" if name == "A" else f"*{number}")
    places = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    aligned = [name for name, kind in signature.items() if kind.startswith("*") or name == "n"]
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[name]: value for name, value in constants.items() if name in places},
        attrs={places[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    warps = 4 if variant == "gram" else _triton.warps(block)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def resources(variant, folder):
    """Bytes of machine code, and what it takes of registers, stack and shared memory."""
    cubin = compiled(variant).asm["cubin"]
    found = {"bytes": len(cubin), "stack": 0}
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if tool.exists():
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool, "--dump-resource-usage", path]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found |= {
            name: int(re.search(rf"{name.upper()}:(\d+)", said)[1]) for name in ("reg", "stack", "shared")
        }
    return found


with tempfile.TemporaryDirectory() as folder:
    print(json.dumps({variant: resources(variant, folder) for variant in VARIANTS}))
