"""A script of the gallery as a Jupyter notebook with its output: ``python -m analysis notebook --out docs/notebooks``.

The cells are those of sphinx-gallery; nbclient runs them, in the environment of this command.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--example", default="table_with_costs", help="a script of docs/examples")
    parser.add_argument("--out", type=Path, default=Path("out/notebooks"))


def main(arguments: argparse.Namespace) -> int:
    """Write the notebook."""
    import nbclient
    import nbformat

    cells = cells_of(ROOT / "docs" / "examples" / f"{arguments.example}.py")
    book = nbformat.reads(json.dumps(cells), as_version=4)
    nbclient.NotebookClient(book, kernel_name="python3", record_timing=False).execute()
    for cell in book.cells:
        cell.metadata = {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{arguments.example}.ipynb"
    nbformat.write(book, path)
    print(path.name)
    return 0


def cells_of(script: Path) -> dict[str, Any]:
    """Return the notebook of a script, without output."""
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
    from sphinx_gallery.notebook import jupyter_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    blocks = split_code_and_text_blocks(str(script))[1]
    book: dict[str, Any] = jupyter_notebook(blocks, copy.deepcopy(DEFAULT_GALLERY_CONF), str(script.parent))
    return book
