"""
Sensors with costs, regions and distances
=========================================

A temperature field over a square has hot spots that come and go. Sensors in the north are dear, a lake in the middle takes
none, and two of them must not stand side by side. Each condition is an argument; what it costs in accuracy is seen at once.
"""

import matplotlib.pyplot as plt
import numpy as np

import cssp

side, times = 24, 300
rng = np.random.default_rng(0)
y, x = np.divmod(np.arange(side * side), side)
places = np.column_stack([x, y]) / (side - 1)

centres, widths = rng.uniform(0, 1, (14, 2)), rng.uniform(0.12, 0.3, 14)
bumps = np.exp(-(((places[None] - centres[:, None]) ** 2).sum(axis=2)) / (2 * widths[:, None] ** 2))
field = rng.standard_normal((times, 14)) @ bumps + 0.02 * rng.standard_normal((times, side * side))
past, future = field[:200], field[200:]

lake = np.linalg.norm(places - [0.5, 0.45], axis=1) < 0.2
price = 1.0 + 3.0 * (places[:, 1] > 0.6)
north = places[:, 1] > 0.6
k = 12

# %%
# One call for each condition. ``include`` would keep sensors that are built in already.
choices = {
    "anywhere": cssp.select(past, k),
    "no lake": cssp.select(past, k, exclude=np.flatnonzero(lake)),
    "at most 2 in the north": cssp.select(past, k, constraint=cssp.AtMost(north, {True: 2})),
    "0.25 apart": cssp.select(past, k, constraint=cssp.MinDistance(places, 0.25)),
    "no more than 15 spent": cssp.select(past, costs=price, budget=15.0),
    "all of these": cssp.select(
        past,
        costs=price,
        budget=15.0,
        exclude=np.flatnonzero(lake),
        constraint=[cssp.AtMost(north, {True: 2}), cssp.MinDistance(places, 0.25)],
    ),
}


def error(sel):
    """Relative error of the future, rebuilt from the sensors."""
    return np.linalg.norm(future - future[:, sel.indices] @ sel.coefficients()) / np.linalg.norm(future)


for name, sel in choices.items():
    print(f"{name:24} {sel.k:2} sensors, cost {price[sel.indices].sum():4.0f}, error {error(sel):.3f}")

# %%
fig, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
for ax, (name, sel) in zip(axes.flat, choices.items(), strict=True):
    ax.imshow(past.std(axis=0).reshape(side, side), origin="lower", extent=(0, 1, 0, 1), cmap="YlOrRd")
    ax.axhspan(0.6, 1, color="white", alpha=0.35, lw=0)
    ax.add_patch(plt.Circle((0.5, 0.45), 0.2, color="tab:blue", alpha=0.5, lw=0))
    ax.scatter(*places[sel.indices].T, c="black", s=25, zorder=3, clip_on=False)
    ax.set(title=f"{name}\nerror {error(sel):.3f}, cost {price[sel.indices].sum():.0f}", xticks=[], yticks=[])
plt.show()

# %%
# The certificate compares a choice with the best that any twelve patterns could do.
print(choices["anywhere"].certificate())
