"""
Keeping patches of an image: weights as relevance
=================================================

Patches of an image are columns; a few are kept. Without weights the rule keeps what is different, with weights what is
different *and* of large weight: the greedy rule on A·diag(w) is the most likely set of a determinantal point process of quality w.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, transform

import cssp

side, cells = 16, 24
image = transform.resize(data.astronaut(), (side * cells, side * cells), anti_aliasing=True)
patches = image.reshape(cells, side, cells, side, 3).swapaxes(1, 2).reshape(cells * cells, -1)
A = (patches - patches.mean(axis=0)).T  # 768 x 576
row, column = np.divmod(np.arange(cells * cells), cells)
near_the_face = np.exp(-((row - 4) ** 2 + (column - 10) ** 2) / 40) + 0.02

fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for ax, (title, weights, method) in zip(
    axes,
    [
        ("largest residual", None, "residual"),
        ("least error", None, "greedy"),
        ("weighted towards the face", near_the_face, "residual"),
    ],
    strict=True,
):
    mask = cssp.select(A, 64, method, weights=weights).mask().reshape(cells, cells)
    shade = np.kron(mask, np.ones((side, side)))[..., None]
    ax.imshow(image * (0.25 + 0.75 * shade))
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
plt.show()
