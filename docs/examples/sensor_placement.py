"""
Where to put the sensors
========================

A field is known at many past times, and from now on will be measured at twelve places only. Which ones, and what is the
rest? Places are columns, times are rows: the least-squares coefficients of the past rebuild the future. The fields here
are digits of 8 x 8 pixels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import cssp

X = load_digits().data / 16
past, future = X[:1200], X[1200:]
mean = past.mean(axis=0)
k = 12


def rebuilt(sel):
    """The future from its values at the chosen places."""
    return mean + (future - mean)[:, sel.indices] @ sel.coefficients()


def error(Y):
    return np.linalg.norm(Y - future) / np.linalg.norm(future)


chosen = cssp.select(past - mean, k, "greedy")
random = [cssp.select(past - mean, k, "uniform", rng=seed) for seed in range(20)]
chance = sorted(error(rebuilt(sel)) for sel in random)
V = np.linalg.svd(past - mean, full_matrices=False)[2][:k]
patterns = mean + (future - mean) @ V.T @ V
print(f"chosen {error(rebuilt(chosen)):.3f}, random {np.median(chance):.3f} (best of 20: {chance[0]:.3f})")
print(f"all pixels, {k} principal components: {error(patterns):.3f}")

# %%
rows = {
    "digit": future,
    "chosen": rebuilt(chosen),
    "random": rebuilt(random[0]),
}
fig, axes = plt.subplots(3, 9, figsize=(8, 2.9), layout="constrained")
for line, (title, Y) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(title)
    for ax, y in zip(line, Y, strict=False):
        ax.imshow(y.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
for line, sel in ((axes[1], chosen), (axes[2], random[0])):
    for ax in line:
        ax.plot(sel.indices % 8, sel.indices // 8, "o", markersize=3, markerfacecolor="none", color="tab:red")
plt.show()

# %%
# Red circles are the places measured. With patterns given beforehand, as columns of a basis, ``cssp.select(basis.T, k)`` is
# Q-DEIM: pivoted QR of the basis.
#
# More sensors than patterns
# --------------------------
#
# Noise of the sensors is magnified by at most 1/σ_min, the smallest singular value of the rows of the basis where they stand. Q-DEIM
# ends at as many sensors as there are patterns; ``gappypod_e`` goes on, and each sensor is the one with the largest guaranteed rise of
# σ_min. Here, ten polynomials on a line, and up to four times as many sensors.
r = 10
basis = np.linalg.qr(np.vander(np.linspace(-1, 1, 1000), r, increasing=True))[0]


def magnified(places):
    return 1 / np.linalg.svd(basis[places], compute_uv=False)[-1]


counts = range(r, 4 * r + 1)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for criterion, label in (
    ("bound", "largest guaranteed rise"),
    ("determinant", "largest determinant"),
    ("random", "drawn"),
):
    sel = cssp.select(basis.T, 4 * r, "gappypod_e", rank=r, criterion=criterion, rng=0)
    values = [magnified(sel.indices[:p]) for p in counts]
    ax.plot(counts, values, label=label)
    print(
        f"{label}: {values[0]:.2f} with {r} sensors, {values[r]:.2f} with {2 * r}, {values[-1]:.2f} with {4 * r}"
    )
ax.set(xlabel="sensors", ylabel="noise magnified by at most")
ax.legend(frameon=False)
plt.show()

# %%
# The first ten are those of Q-DEIM in all three. Sensors that are there already go into ``include``.
