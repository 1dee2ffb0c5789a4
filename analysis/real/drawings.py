"""Drawings of molecules with exact answers: molecules from files in RDKit's package (ZINC, ChEMBL, NCI), drawn by RDKit.

A molecule has a number and a drawing a style; both together fix every pixel for a version of RDKit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

#: Files in RDKit's package, and how many molecules of each are used, in this order.
SOURCES = {
    "Contrib/SA_Score/data/zim.100.txt": 60,
    "Contrib/mmpa/data/sample.smi": 20,
    "Contrib/Fastcluster/cdk2.smi": 20,
    "Contrib/FreeWilson/data/CHEMBL2321810.smi": 40,
    "Contrib/fraggle/data/ChEMBL_11265_actives.smi": 40,
    "Data/NCI/first_5K.smi": 120,
}
ATOMS = range(12, 33)
#: How drawings differ.
STYLES = ("plain", "thick", "rotated", "noisy", "faint")
SIDE = 512


@cache
def molecules() -> tuple[str, ...]:
    """Return canonical SMILES strings without stereochemistry, each once, always in the same order."""
    found: dict[str, None] = {}
    for name, most in SOURCES.items():
        before = len(found)
        for smiles in _canonical(name):
            if len(found) == before + most:
                break
            found.setdefault(smiles)
    return tuple(found)


def _canonical(name: str) -> Iterator[str]:
    """Canonical SMILES of the molecules of a file that have one part and a fitting size."""
    import rdkit
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    for line in (Path(rdkit.__file__).parent / name).read_text().splitlines():
        for word in line.split()[:2]:
            molecule = Chem.MolFromSmiles(word)
            if molecule is not None and molecule.GetNumHeavyAtoms() in ATOMS and "." not in word:
                Chem.RemoveStereochemistry(molecule)
                yield Chem.MolToSmiles(molecule)
                break


def draw(smiles: str, style: str = "plain", number: int = 0) -> Image.Image:
    """Return a drawing, 512 x 512 pixels, grey.

    Parameters
    ----------
    smiles : str
    style : {"plain", "thick", "rotated", "noisy", "faint"}
        As RDKit draws; bonds two and a half times as wide; turned by 15 to 75 degrees; with noise of standard deviation 25 of
        255 and one pixel in a hundred black; contrast lowered to 45 %.
    number : int
        Seeds angle and noise.
    """
    if style not in STYLES:
        raise ValueError(f"style = {style!r}: expected one of {', '.join(STYLES)}.")
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    rng = np.random.default_rng([number, STYLES.index(style)])
    canvas = rdMolDraw2D.MolDraw2DCairo(SIDE, SIDE)
    options = canvas.drawOptions()
    options.useBWAtomPalette()
    options.bondLineWidth = 5 if style == "thick" else 2
    options.rotate = float(rng.uniform(15, 75)) if style == "rotated" else 0.0
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, Chem.MolFromSmiles(smiles))
    canvas.FinishDrawing()
    grey = np.asarray(Image.open(io.BytesIO(canvas.GetDrawingText())).convert("L"), float)
    if style == "noisy":
        grey = grey + rng.normal(0, 25, grey.shape)
        grey[rng.random(grey.shape) < 0.01] = 0
    if style == "faint":
        grey = 255 - 0.45 * (255 - grey)
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def canonical(smiles: str) -> str | None:
    """Return the canonical form of a SMILES string without stereochemistry; None where it is no molecule."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    Chem.RemoveStereochemistry(molecule)
    return Chem.MolToSmiles(molecule)


def tanimoto(smiles: str, other: str) -> float:
    """Return the Tanimoto similarity of Morgan fingerprints (radius 2, 2048 bits); 0 where one is no molecule."""
    from rdkit import Chem, DataStructs
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    both = [Chem.MolFromSmiles(one) for one in (smiles, other)]
    if None in both:
        return 0.0
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    return DataStructs.TanimotoSimilarity(*map(generator.GetFingerprint, both))
