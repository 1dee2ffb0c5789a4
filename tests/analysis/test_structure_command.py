"""``python -m analysis structure`` on a checkout of four modules."""

from __future__ import annotations

from analysis.__main__ import main
from analysis.structure import imports, mutual


def test_the_numbers_are_those_of_the_checkout(tmp_path, capsys):
    body = "".join(f"    x{i} = {i}  # a comment\n\n" for i in range(61))
    for name, text in {
        "cssp/__init__.py": '"""Docstring."""\n',
        "cssp/core.py": "from cssp.methods import greedy, other\nfrom cssp.methods.greedy import f\n",
        "cssp/methods/__init__.py": "def g():\n    import cssp.core\n",
        "cssp/methods/greedy.py": f'def f():\n    """Docstring\n    of two lines."""\n{body}',
        "analysis/wide.py": "import numpy\nimport cssp.core\n" + "# comment\n" * 350,
        "tests/test_a.py": "assert True\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert main(["structure", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 packages, 3 arrows, 5 imports across packages",
        "  analysis -> cssp: 1",
        "  cssp -> cssp.methods: 3",
        "  cssp.methods -> cssp: 1",
        "packages that import each other:",
        "  cssp <-> cssp.methods (by cssp.core)",
        "functions of more than 60 lines of code:",
        "  cssp/methods/greedy.py: f 62",
        "modules of more than 350 lines:",
        "  analysis/wide.py 352",
        "lines of code: cssp 66, vlm_bridge 0, analysis 2, tests 1",
    ]


def test_relative_imports_count_as_absolute_ones():
    modules = {
        "cssp": "from .select import select\nfrom . import methods",
        "cssp.select": "from .methods.greedy import f",
        "cssp.methods": "from . import greedy",
        "cssp.methods.greedy": "from ..select import g\nfrom .. import select, methods\nfrom .other import h",
        "cssp.methods.other": "",
    }
    found = imports(modules, {"cssp", "cssp.methods"})
    assert {arrow: dict(importers) for arrow, importers in found.items()} == {
        ("cssp", "cssp.methods"): {"cssp": 1, "cssp.select": 1},
        ("cssp.methods", "cssp"): {"cssp.methods.greedy": 2},
    }


def test_what_a_package_offers_of_those_below_makes_no_pair():
    def pairs(**text):
        modules = {name.replace("__", "."): x for name, x in text.items()}
        return mutual(imports(modules, {"cssp", "cssp.cli"}))

    below = "from cssp.errors import E"
    assert pairs(cssp="from cssp.cli import main", cssp__errors="", cssp__cli=below) == []
    assert pairs(cssp="", cssp__errors="from cssp.cli import main", cssp__cli=below) == [
        "cssp <-> cssp.cli (by cssp.errors)"
    ]
