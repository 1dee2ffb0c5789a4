"""
A matrix that is not in memory
==============================

``cssp.select`` takes a dask array and reads it in passes, in chunks. The picks are those of the same matrix in memory; what
is counted is how often all of it was read.
"""

import dask.array
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import cssp

X = load_digits().data / 16
W = np.random.default_rng(0).standard_normal((64, 4000))
A = np.maximum(X @ W - 1, 0)  # 1,797 digits x 4,000 random features
lazy = dask.array.from_array(A, chunks=(300, 1000))

rows = {}
for name in ("residual", "random_pivot", "sketched_qr", "norm"):
    here, there = (cssp.select(B, 40, name, rng=0) for B in (A, lazy))
    same = np.array_equal(np.sort(here.indices), np.sort(there.indices))
    rows[name] = there.passes, there.relative_error
    print(
        f"{name:12s} {there.passes:5.1f} passes, relative error {there.relative_error:.4f}, same as in memory: {same}"
    )

# %%
fig, ax = plt.subplots(layout="constrained")
for name, (passes, error) in rows.items():
    ax.plot(passes, error, "o", label=name)
ax.set(xlabel="passes over the data", ylabel="relative error", title="40 of 4,000 columns")
ax.legend()
plt.show()
