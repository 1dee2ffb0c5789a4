"""Other libraries' routines as (picks, numbers): what `bench` times and `edges` tries. Each imports its library itself.

Called with the arguments that their documentation shows; A is (m, n), columns are selected.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ccqr", "cur", "dppy", "fastcan", "fps", "interp_decomp", "pivoted_cholesky", "scipy_qr"]


def scipy_qr(A, k):
    """Run LAPACK's geqp3, forming R alone."""
    import scipy.linalg

    R, P = scipy.linalg.qr(A, mode="r", pivoting=True)
    return P[:k], R


def interp_decomp(A, k):
    """Run the deterministic interpolative decomposition; double precision only."""
    from scipy.linalg.interpolative import interp_decomp

    order, projection = interp_decomp(A, k, rand=False)
    return order[:k], projection


def cur(A, k):
    """Run scikit-matter's CUR: leverage scores, formed anew after every pick."""
    from skmatter.feature_selection import CUR

    selector = CUR(n_to_select=k).fit(A)
    return selector.selected_idx_, 0.0


def fps(A, k):
    """Run scikit-matter's farthest-point sampling."""
    from skmatter.feature_selection import FPS

    selector = FPS(n_to_select=k).fit(A)
    return selector.selected_idx_, 0.0


def ccqr(A, k, costs=None):
    """Run PySensors' cost-constrained QR."""
    from pysensors.optimizers import CCQR

    return CCQR(sensor_costs=costs).fit(A.T).get_sensors()[:k], 0.0


def fastcan(A, k):
    """Run fastcan: canonical correlation with the principal components of A."""
    from fastcan import FastCan
    from sklearn.decomposition import PCA

    scores = PCA(n_components=min(k, *A.shape), random_state=0).fit_transform(A)
    selector = FastCan(n_features_to_select=k, verbose=0).fit(A, scores)
    return selector.indices_, selector.scores_


def pivoted_cholesky(A, k):
    """Run linear_operator's pivoted Cholesky on AᵀA."""
    import torch
    from linear_operator import to_linear_operator
    from linear_operator.functions import pivoted_cholesky

    X = torch.as_tensor(A)
    X = X.to(
        torch.float32 if X.dtype == torch.float16 else X.dtype if X.is_floating_point() else torch.float64
    )
    L, order = pivoted_cholesky(to_linear_operator(X.mT @ X), k, return_pivots=True)
    return order[..., :k].numpy(), L.numpy()


def dppy(A, k):
    """Run DPPy's exact k-DPP for the kernel AᵀA."""
    from dppy.finite_dpps import FiniteDPP

    X = np.asarray(A, dtype=np.float64)
    process = FiniteDPP("likelihood", L=X.T @ X)
    return process.sample_exact_k_dpp(size=k, random_state=np.random.RandomState(0)), 0.0
