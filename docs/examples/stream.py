"""
Columns that arrive one block at a time
=======================================

A camera scans a picture from left to right, and never comes back. ``StreamingSelector`` keeps few columns in memory,
knows the energy of all it has seen, and at any time says which columns it would keep and how large the error can be.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import color, data

import cssp

A = color.rgb2gray(data.coffee())  # 400 x 600
k = 30
stream = cssp.StreamingSelector(k)
seen, bounds, errors = [], [], []
for start in range(0, 600, 20):
    stream.partial_fit(A[:, start : start + 20])
    if stream.n_seen_ > k:
        sel = stream.selection()
        seen.append(stream.n_seen_)
        bounds.append(sel.bound / sel.norm)
        part = A[:, : stream.n_seen_]
        Q, _ = np.linalg.qr(sel.columns)
        errors.append(np.linalg.norm(part - Q @ (Q.T @ part)) / sel.norm)

whole = cssp.select(A, k, "greedy")
print(f"one pass {errors[-1]:.4f}, all columns at hand {whole.relative_error:.4f}")

# %%
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6), layout="constrained", height_ratios=[2, 1])
top.imshow(A, cmap="gray")
top.vlines(stream.indices_, 0, 399, color="tab:orange", linewidth=1)
top.set_axis_off()
bottom.plot(seen, bounds, "k--", label="bound, known in one pass")
bottom.plot(seen, errors, label="error, known with all columns")
bottom.axhline(whole.relative_error, color="0.6", linestyle=":", label="greedy on all columns")
bottom.set(xlabel="columns seen", ylabel="relative error", ylim=(0, None))
bottom.legend()
plt.show()
