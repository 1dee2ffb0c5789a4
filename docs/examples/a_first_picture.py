"""
A first picture
===============

Ten of the thirty measurements of a breast-cancer study say nearly all that the thirty say. How near, is
compared with the best that any ten numbers could do: the truncated SVD.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

import cssp

data = load_breast_cancer()
A = StandardScaler().fit_transform(data.data)  # 569 patients x 30 measurements
sel = cssp.select(A, 10)

for rank, j in enumerate(sel.indices, 1):
    print(f"{rank:2d}. {data.feature_names[j]}")
print(f"\nrelative error {sel.relative_error:.3f}")

# %%
# ``errors`` holds the squared error after 0, 1, ..., k picks; no set of t columns can be below the curve of the SVD.

s2 = np.linalg.svd(A, compute_uv=False) ** 2
picks = np.arange(11)
optimum = [s2[t:].sum() for t in picks]

fig, ax = plt.subplots()
ax.semilogy(picks, sel.errors / sel.errors[0], "o-", label="chosen columns")
ax.semilogy(picks, optimum / s2.sum(), "k--", label="SVD: no columns can do better")
ax.set(xlabel="columns", ylabel="share of the squared norm left")
ax.legend()
plt.show()
