"""
Selection inside a training loop
================================

The choice of columns is discrete, but once it is made, ``coefficients`` and ``reconstruct`` are smooth functions of the matrix,
and torch differentiates them. Here a linear layer learns features of handwritten digits of which eight rebuild all the others:
select, reconstruct, back-propagate.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import cssp

torch.manual_seed(0)
X = torch.as_tensor(load_digits().data[:300] / 16, dtype=torch.float32)
layer = torch.nn.Linear(64, 24)
descent = torch.optim.Adam(layer.parameters(), lr=0.01)

trace = []
for _ in range(150):
    features = layer(X)  # (images, features): columns are selected
    sel = cssp.select(features, 8)
    lost = (features - sel.reconstruct()).square().sum() / features.square().sum()
    spread = (
        torch.linalg.matrix_norm(features.T @ features / len(X) - torch.eye(24)) / 24
    )  # keeps them from vanishing
    descent.zero_grad()
    (lost + 0.1 * spread).backward()
    descent.step()
    trace.append(lost.item())

print(f"share of the squared norm not rebuilt: {trace[0]:.1e} at first, {trace[-1]:.1e} in the end")

# %%
# The indices are taken as fixed in each step, and chosen anew in the next.

fig, ax = plt.subplots(layout="constrained")
ax.semilogy(trace, color="black")
ax.set(xlabel="step", ylabel="share of the squared norm not rebuilt")
plt.show()

# %%
# A selection on tensors that require gradients holds their graph. Where only the indices are needed, select under
# ``torch.no_grad()``.

with torch.no_grad():
    print(cssp.select(layer(X), 8).indices)
