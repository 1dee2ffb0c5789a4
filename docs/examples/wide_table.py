"""
A wide table: more features than samples
========================================

Expression arrays and spectra have thousands of columns and few rows. Here are 80 patients with all products of up to
three of their 30 measurements: 5,455 features, many of them nearly parallel. Twenty of them are chosen.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import cssp

X = StandardScaler().fit_transform(load_breast_cancer().data)[:80]
A = StandardScaler().fit_transform(PolynomialFeatures(3, include_bias=False).fit_transform(X))
k = 20
optimum = np.sum(np.linalg.svd(A, compute_uv=False)[k:] ** 2)
print(f"{A.shape[0]} x {A.shape[1]}")

methods = ["residual", "greedy", "osinsky", "qdeim", "arp", "random_pivot", "leverage", "uniform"]
ratios, seconds = {}, {}
for name in methods:
    start = time.perf_counter()
    runs = [cssp.select(A, k, name, rng=seed) for seed in range(1 if cssp.METHODS[name].deterministic else 5)]
    seconds[name] = (time.perf_counter() - start) / len(runs)
    ratios[name] = [float(sel.errors[-1]) / optimum for sel in runs]

# %%
# Every dot is a run. Some matrices leave no twenty columns with a ratio below k + 1, the dotted line; ``osinsky`` promises
# to reach it in every run, ``greedy`` promises nothing.

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for row, name in enumerate(methods):
    ax.plot(ratios[name], np.full(len(ratios[name]), row), "o", color="C0", alpha=0.7)
ax.axvline(k + 1, color="0.5", linestyle=":", label=f"k + 1 = {k + 1}")
ax.set_yticks(range(len(methods)), [f"{name}  {1e3 * seconds[name]:.0f} ms" for name in methods])
ax.set(xscale="log", xlabel="squared error / best rank-20 error")
ax.set_xticks([1, 2, 5, 10, 20], [1, 2, 5, 10, 20])
ax.minorticks_off()
ax.invert_yaxis()
ax.legend(loc="lower right", bbox_to_anchor=(0.93, 0))
plt.show()
