"""
Feature selection in a scikit-learn pipeline
============================================

``ColumnSubsetSelector`` is an ordinary transformer: it works in a ``Pipeline``, its parameters can be searched, and
``target="classification"`` chooses pixels for the classes instead of for the picture.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cssp import ColumnSubsetSelector

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

pipe = make_pipeline(
    StandardScaler(), ColumnSubsetSelector(method="greedy"), LogisticRegression(max_iter=300)
)
grid = {
    "columnsubsetselector__n_features_to_select": [5, 10, 20, 30],
    "columnsubsetselector__target": [None, "classification"],
}
search = GridSearchCV(pipe, grid, cv=3).fit(X_train, y_train)
print(search.best_params_)
print(f"accuracy on held-out digits: {search.score(X_test, y_test):.3f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
scores = search.cv_results_
for target, style in ((None, "o--"), ("classification", "s-")):
    rows = np.equal(scores["param_columnsubsetselector__target"], target)
    k = np.asarray(scores["param_columnsubsetselector__n_features_to_select"][rows], dtype=int)
    left.plot(k, scores["mean_test_score"][rows], style, label=f"target = {target!r}")
left.set(xlabel="pixels", ylabel="accuracy, cross-validated")
left.legend()
chosen = ColumnSubsetSelector(10, method="greedy", target="classification").fit(X_train, y_train)
right.imshow(X_train.mean(axis=0).reshape(8, 8), cmap="gray_r")
for rank, j in enumerate(chosen.indices_, 1):
    right.text(j % 8, j // 8, rank, ha="center", va="center", color="tab:red", weight="bold")
right.set(title="the first ten pixels for the classes", xticks=[], yticks=[])
plt.show()
