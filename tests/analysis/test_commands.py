"""``python -m analysis``: every command has a module of its own, imported only where it is called, and reads its options."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from analysis.__main__ import COMMANDS, main


def test_the_overview_lists_all_commands_without_importing_them(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, (_, text) in COMMANDS.items():
        assert f" {name} {text}" in shown
    code = "import sys; from analysis.__main__ import main; sys.argv[1:] = ['--help']\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch"} & set(found.stdout.split())


def test_what_is_no_command_is_refused(capsys):
    for words in ([], ["stduy"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "study" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_reads_all_its_options(name):
    module = importlib.import_module(f"analysis.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    given = vars(parser.parse_args([]))
    code = inspect.getsource(module)
    nodes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute)]
    read = {n.attr for n in nodes if isinstance(n.value, ast.Name) and n.value.id == "arguments"}
    passed = getattr(module, "FIELDS", {})  # what goes into a record by name
    if "**vars(arguments)" in code:
        passed = given
    assert set(given) <= read | set(passed)
    assert given.get("out") is None or given["out"].parts[0] == "out"
