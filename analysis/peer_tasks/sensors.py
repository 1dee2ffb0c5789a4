"""PySensors' sensor placement: points for polynomials, pixels for images."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import cssp
from analysis.peer_tasks.task import Task, script


def tasks() -> list[Task]:
    """Return the tasks: the polynomials of PySensors' first page, and images from twenty pixels, as on its page about faces."""
    from pysensors.basis import SVD
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

    return [
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
