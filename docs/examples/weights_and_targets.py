"""
What the columns are for: weights and targets
=============================================

Without a wish, columns are chosen to rebuild all columns equally. ``weights`` say how much each counts, ``target`` that
something else is to be rebuilt, ``include`` and ``exclude`` what must or must not be among them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import cssp

data = load_diabetes()
expand = PolynomialFeatures(2, include_bias=False)
A = StandardScaler().fit_transform(expand.fit_transform(data.data))
names = expand.get_feature_names_out(data.feature_names)
y = (data.target - data.target.mean())[:, None]

for what, arguments in {
    "all features": {},
    "the blood serum counts tenfold": {
        "weights": np.where(["s" in n and "x" not in n for n in names], 10.0, 1.0)
    },
    "disease progression": {"target": y},
    "progression, given age and sex": {"target": y, "include": [0, 1]},
}.items():
    sel = cssp.select(A, 6, "greedy", **arguments)
    print(f"{what:32s}", ", ".join(names[sel.indices]))

# %%
# Features that rebuild the table are not those that predict the outcome.

ks = np.arange(1, 16)
for label, sel in {
    "chosen for the outcome": cssp.select(A, 15, "greedy", target=y),
    "chosen for the table": cssp.select(A, 15, "greedy"),
}.items():
    explained = []
    for k in ks:
        C = A[:, sel.indices[:k]]
        explained.append(1 - np.sum((y - C @ np.linalg.lstsq(C, y)[0]) ** 2) / np.sum(y**2))
    plt.plot(ks, explained, "o-", label=label)
plt.xlabel("features")
plt.ylabel("variance of the outcome explained")
plt.legend()
plt.show()
