"""
A photograph from some of its columns
=====================================

Forty of 451 pixel columns, and every other column a combination of those. Chosen columns show what a low-rank
approximation cannot: they are parts of the data, and say where in the picture its information lies.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import color, data

import cssp

A = color.rgb2gray(data.chelsea())
k = 40
sel = cssp.select(A, k, "greedy")
U, s, Vh = np.linalg.svd(A, full_matrices=False)
svd = U[:, :k] * s[:k] @ Vh[:k]
equal = np.linspace(0, A.shape[1] - 1, k).astype(int)
C = A[:, equal]
spaced = C @ np.linalg.lstsq(C, A)[0]


def error(B):
    return np.linalg.norm(A - B) / np.linalg.norm(A)


shown = {
    "photograph": A,
    f"{k} chosen columns\nerror {sel.relative_error:.4f}": sel.reconstruct(),
    f"{k} equally spaced columns\nerror {error(spaced):.4f}": spaced,
    f"{k} singular vectors\nerror {error(svd):.4f}": svd,
}
fig, axes = plt.subplots(2, 2, figsize=(7, 5.6), layout="constrained")
for ax, (title, picture) in zip(axes.flat, shown.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
axes[0, 0].vlines(sel.indices, 0, A.shape[0] - 1, color="tab:orange", linewidth=0.8)
plt.show()

# %%
# The orange lines are the columns kept: many across the eyes and the fur, few where the picture is smooth.
