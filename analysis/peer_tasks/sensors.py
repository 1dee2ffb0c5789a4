"""PySensors' sensor placement: points for polynomials, pixels for images."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import cssp
from analysis.peer_tasks.task import Task, script


def tasks() -> list[Task]:
    """Return the tasks of PySensors' pages: polynomials, images from twenty pixels, and pixels under costs, in regions, apart."""
    from pysensors.basis import SVD
    from pysensors.optimizers import CCQR, GQR, QR
    from pysensors.reconstruction import SSPOR

    x = np.linspace(0, 1, 1001)
    monomials = np.vander(x, 11, increasing=True).T
    wave = np.abs(x**2 - 0.5)

    def worst(points: np.ndarray) -> float:
        fit = np.linalg.lstsq(monomials[:, points].T, wave[points], rcond=None)[0]
        return float(np.linalg.norm(wave - fit @ monomials) / np.linalg.norm(wave))

    images = load_digits().data
    train, test = images[:1400], images[1400:]
    modes = pixels = 20

    def theirs(_: int) -> tuple[np.ndarray, np.ndarray]:
        model = SSPOR(basis=SVD(n_basis_modes=modes, random_state=0), n_sensors=pixels).fit(train, quiet=True)
        return np.asarray(model.selected_sensors), model.basis_matrix_

    def ours(method: str) -> cssp.ColumnSubsetSelector:
        return cssp.ColumnSubsetSelector(pixels, method=method).fit(train)

    def missed(found: object) -> float:
        if isinstance(found, cssp.ColumnSubsetSelector):
            rebuilt = found.inverse_transform(found.transform(test))
        else:
            S, modes = found  # type: ignore[misc]
            rebuilt = np.linalg.lstsq(modes[S], test[:, S].T, rcond=None)[0].T @ modes.T
        return float(np.linalg.norm(test - rebuilt) / np.linalg.norm(test))

    modes_of = np.linalg.svd(train, full_matrices=False)[2][:pixels].T  # (64, 20)
    row, column = np.divmod(np.arange(64), 8)
    price = 1.0 + 4.0 * ((row >= 2) & (row < 6) & (column >= 2) & (column < 6))
    middle = np.flatnonzero(price > 1)
    few = 6

    def from_modes(S: np.ndarray, r: int = pixels) -> float:
        U = modes_of[:, :r]
        rebuilt = np.linalg.lstsq(U[S], test[:, S].T, rcond=None)[0].T @ U.T
        return float(np.linalg.norm(test - rebuilt) / np.linalg.norm(test))

    def by_coefficients(sel: cssp.Selection) -> float:
        rebuilt = test[:, sel.indices] @ sel.coefficients()
        return float(np.linalg.norm(test - rebuilt) / np.linalg.norm(test))

    def weighed(_: int) -> np.ndarray:
        return CCQR(sensor_costs=0.1 * price).fit(modes_of).get_sensors()[:pixels]

    def constrained(_: int, k: int = pixels, **how: object) -> np.ndarray:
        U = modes_of[:, :k]
        ranked = QR().fit(U).get_sensors()
        return GQR().fit(U, all_sensors=ranked, n_sensors=k, **how).get_sensors()[:k]

    spent = float(price[weighed(0)].sum())
    places = np.column_stack([row, column])
    page = "https://python-sensors.readthedocs.io/en/latest/examples/"
    text = f"Twenty modes of the same images; the 16 pixels in the middle cost 5, others 1. CCQR's 20 pixels cost {spent:g}."
    region = {"idx_constrained": middle, "n_const_sensors": few, "constraint_option": "max_n"}
    apart = {"r": 1.5, "info": train, "nx": 8, "ny": 8, "constraint_option": "distance"}
    apart |= {"idx_constrained": [], "n_const_sensors": 0}
    return [
        Task(
            title="PySensors CCQR: pixels that cost",
            text=f"{text} Ours spend no more.",
            page=f"{page}cost_constrained_qr.html",
            measure="relative error on the other images, from modes or, last, by coefficients, less is better",
            runs={
                "pysensors CCQR": weighed,
                "cssp residual, budget": lambda _: cssp.select(modes_of.T, costs=price, budget=spent).indices,
                "cssp greedy, budget, from the images": lambda _: cssp.select(
                    train, method="greedy", costs=price, budget=spent
                ),
            },
            result=lambda S: by_coefficients(S) if isinstance(S, cssp.Selection) else from_modes(S),
        ),
        Task(
            title=f"PySensors GQR: at most {few} pixels in the middle",
            text=f"{text.split(';')[0]}; 20 pixels, at most {few} of them among the 16 in the middle.",
            page=f"{page}region_optimal.html",
            measure="relative error on the other images, from modes, less is better",
            runs={
                "pysensors GQR": lambda seed: constrained(seed, **region),
                "cssp residual, AtMost": lambda _: (
                    cssp.select(
                        modes_of.T,
                        pixels,
                        constraint=cssp.AtMost(np.isin(np.arange(64), middle), {True: few}),
                    ).indices
                ),
                "cssp greedy, AtMost": lambda _: (
                    cssp.select(
                        modes_of.T,
                        pixels,
                        "greedy",
                        constraint=cssp.AtMost(np.isin(np.arange(64), middle), {True: few}),
                    ).indices
                ),
            },
            result=from_modes,
        ),
        Task(
            title="PySensors GQR: no two pixels side by side",
            text=f"{text.split(';')[0]}; 12 pixels at least 1.5 apart.",
            page=f"{page}spatially_constrained_qr.html",
            measure="relative error on the other images, from 8 modes, less is better",
            runs={
                "pysensors GQR": lambda seed: constrained(seed, 12, **apart),
                "cssp residual, MinDistance": lambda _: (
                    cssp.select(modes_of[:, :12].T, 12, constraint=cssp.MinDistance(places, 1.5)).indices
                ),
            },
            result=lambda S: from_modes(S, 8),
        ),
        Task(
            title="PySensors: 10 points for polynomials",
            text="|x² − 1/2| on [0, 1] from its values at 10 of 1,001 points, by polynomials of degree 10.",
            page="https://python-sensors.readthedocs.io/en/latest/examples/vandermonde.html",
            measure="relative error of the function, less is better",
            runs={
                "pysensors SSPOR": lambda _: np.asarray(
                    SSPOR(n_sensors=10).fit(monomials, quiet=True).selected_sensors
                ),
                "cssp residual": lambda _: cssp.select(monomials, 10).indices,
                "cssp strong_rrqr": lambda _: cssp.select(monomials, 10, "strong_rrqr").indices,
            },
            result=worst,
        ),
        Task(
            title="PySensors: 20 of 64 pixels",
            text="Handwritten digits (its page takes faces, which must be downloaded): 1,400 to learn from, 397 to rebuild. "
            "PySensors rebuilds by 20 modes of an SVD, `ColumnSubsetSelector` by coefficients.",
            page="https://python-sensors.readthedocs.io/en/latest/",
            measure="relative error on the other images, less is better",
            runs={
                "pysensors SSPOR, SVD basis": theirs,
                "cssp qdeim": lambda _: ours("qdeim"),
                "cssp residual": lambda _: ours("residual"),
                "cssp greedy": lambda _: ours("greedy"),
            },
            result=missed,
        ),
    ]


if __name__ == "__main__":
    script(tasks())
