"""``python -m analysis structure`` on a checkout of four modules."""

from __future__ import annotations

from analysis.__main__ import main


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
        "  cssp <-> cssp.methods",
        "functions of more than 60 lines of code:",
        "  cssp/methods/greedy.py: f 62",
        "modules of more than 350 lines:",
        "  analysis/wide.py 352",
        "lines of code: cssp 66, vlm_bridge 0, analysis 2, tests 1",
    ]
