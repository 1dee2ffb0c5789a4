"""
A table with groups and costs, from installation to a saved choice
==================================================================

Ten properties of cell nuclei are measured from an image, each as three columns: its mean, its standard error, and its worst
value. Measuring takes minutes, and only so many are to be spent on a patient. Which properties are worth it?

Everything needed comes with ``pip install "cssp[sklearn,plot]" pandas``.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cssp

table, malignant = load_breast_cancer(return_X_y=True, as_frame=True)
print(table.shape)
table.iloc[:3, :4]

# %%
# A first look
# ------------
# How redundant are the columns? Ten of thirty explain most of the table, and some methods do better than others.
Z = (table - table.mean()) / table.std()
looks = cssp.compare(Z, 10, ["residual", "greedy", "local_search", "uniform"], rng=0)
print(looks)
print(cssp.independent_columns(Z))

# %%
# Radius, perimeter and area say the same thing: where every column must be explained to R² = 0.9, each one dropped has a kept
# one that stands for it.
sel = cssp.select(Z, tol_each=np.sqrt(0.1))
near = sel.representatives()
print(sel.k, "of", table.shape[1], "columns;", [table.columns[near[j]] for j in (0, 2, 3)])

# %%
# Groups and costs
# ----------------
# The three columns of a property come together, and have a price in minutes.
properties = [name.removeprefix("mean ").removeprefix("worst ").removesuffix(" error") for name in table]
minutes = {"radius": 1, "texture": 1, "perimeter": 2, "area": 2, "smoothness": 3, "compactness": 3}
minutes |= {"concavity": 4, "concave points": 4, "symmetry": 3, "fractal dimension": 5}
cost = np.array([minutes[name] / 3 for name in properties])

sel = cssp.select(Z, groups=properties, costs=cost, budget=10)
print(sel.groups, f"{sel.cost:.0f} minutes, {1 - sel.relative_error**2:.0%} of the variance")

# %%
# In a pipeline
# -------------
# The same conditions are parameters of the transformer. How many minutes does the diagnosis need?
train, test, y_train, y_test = train_test_split(table, malignant, random_state=0, stratify=malignant)
chooser = cssp.ColumnSubsetSelector(
    method="greedy", target="classification", groups=properties, costs=cost, budget=10
)
pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), chooser, LogisticRegression())
start = time.perf_counter()
budgets = [2, 4, 6, 10, 16, 28]
search = GridSearchCV(pipe, {"columnsubsetselector__budget": budgets}, cv=5).fit(train, y_train)
print(f"{len(budgets) * 5 + 1} fits in {time.perf_counter() - start:.1f} s")
found = search.best_estimator_.named_steps["columnsubsetselector"]
print(search.best_params_, f"{search.score(test, y_test):.3f} on patients not seen")
print(found.selection_.groups)

# %%
# Save, load, draw
# ----------------
# The choice is a small file without the data. Its error is that of the indicators of the two classes, without an intercept.
path = Path(tempfile.mkdtemp()) / "properties.json"
found.selection_.save(path)
again = cssp.Selection.load(path)
print(path.stat().st_size, "bytes;", again.names[:3])
print(again.summary())

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
scores = search.cv_results_
left.errorbar(budgets, scores["mean_test_score"], scores["std_test_score"], marker="o", capsize=3)
left.set(xlabel="minutes for each patient", ylabel="accuracy, cross-validated")
looks.plot(right)
right.set_title("without groups and costs")
plt.show()
