"""Words of other libraries, and what they are here: hints for arguments that are not known."""

from __future__ import annotations

__all__ = ["in_our_words"]

#: Argument of another library: what to write instead.
HABITS = (
    (("random_state", "seed", "generator"), "pass rng={name}"),
    (("n_components", "n_features_to_select", "n_features", "n_columns", "rank_k", "num"), "pass k={name}"),
    (("tolerance", "eps", "epsilon", "rtol"), "pass tol={name}, ‖A - P A‖ ≤ tol·‖A‖ in the Frobenius norm"),
    (("explained_variance", "explained_variance_ratio", "variance"), "pass tol=math.sqrt(1 - {name})"),
    (("sample_weight", "row_weights"), "weigh rows by passing numpy.sqrt({name})[:, None] * A"),
    (("feature_weights", "column_weights"), "pass weights={name}"),
    (("verbose", "progress_bar"), "pass progress=True"),
    (("cost", "price", "prices", "sensor_costs"), "pass costs={name}"),
    (("max_cost", "budgets"), "pass budget={name}, with costs"),
    (("group", "labels", "feature_groups"), "pass groups=, one label for each column"),
    (("constraints", "allowed"), "pass constraint=, one or a list of them"),
    (("algorithm", "solver", "strategy"), "pass method={name}"),
    (("normalize", "standardize"), "pass scale='norm', which divides every column by its norm"),
    (("center", "centre", "centered", "demean"), "pass A - A.mean(axis=0)"),
)


def in_our_words(name: str) -> str:
    """Return what to write instead of an argument that other libraries know, with "; " before it; "" where none is known.

    Examples
    --------
    >>> in_our_words("random_state")
    '; pass rng=random_state'
    """
    return next((f"; {text.format(name=name)}" for names, text in HABITS if name in names), "")
