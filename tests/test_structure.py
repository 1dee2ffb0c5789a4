"""How the packages hang together: no private name crosses a package, no import runs in a circle, every module imports alone."""

import ast
import contextlib
import importlib
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("cssp", "vlm_bridge", "analysis")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in TOPS
    for path in sorted((ROOT / top).rglob("*.py"))
}

#: Private names that another package may import, and why.
ALLOWED: dict[str, str] = {}

#: Modules that name each other only for the type checker, and why.
MUTUAL = {"analysis.scenes.questions": "a scene holds its questions, which are asked about a scene"}

#: Which packages of ours each may import.
MAY_IMPORT = {"cssp": (), "vlm_bridge": ("cssp",), "analysis": ("cssp", "vlm_bridge")}

#: Packages of others that a module may need and that need not be there.
NOT_INSTALLED = ("lmms_eval", "lm_eval", "prometheus_client", "triton", "vllm")

#: Packages of others that many modules need: imported before the processes part.
SLOW = ("torch", "dask.array", "sklearn.base", "sklearn.metrics.pairwise", "triton")


def runtime(tree):
    """All nodes but those that only a type checker looks at."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from runtime(node)


def imported(module, files, source, nodes=runtime):
    """Full names that a module imports, in functions as well; relative ones made absolute."""
    package = module if files[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def strangers(module, files, source):
    """Private names that a module uses though they belong to a package it is not in."""
    package = module if files[module].name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(source)
    names = [(name, name) for name in imported(module, files, source)]
    here = {name.rpartition(".")[2]: name for name, _ in names if name in files}
    for node in ast.walk(tree):  # module._name
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in here:
            names.append((f"{here[node.value.id]}.{node.attr}", f"{node.value.id}.{node.attr}"))
    for name, shown in names:
        parts = name.split(".")
        first = next((i for i, p in enumerate(parts) if p.startswith("_") and not p.startswith("__")), None)
        if first is None or parts[0] not in TOPS:
            continue
        owner = ".".join(parts[:first])  # the module or package that the private name is in
        home = owner if owner not in files or files[owner].name == "__init__.py" else owner.rpartition(".")[0]
        if f"{package}.".startswith(f"{home}.") or shown in ALLOWED:
            continue
        yield f"{module}: {shown}"


def graph(files, nodes=runtime):
    """Which modules of ours each module imports; with `ast.walk` also for the type checker alone."""
    found = {}
    for module, path in files.items():
        names = imported(module, files, path.read_text(), nodes)
        targets = {name if name in files else name.rpartition(".")[0] for name in names}
        found[module] = {t for t in targets if t in files and t != module}
    return found


def test_no_private_name_crosses_a_package():
    found = [x for module, path in FILES.items() for x in strangers(module, FILES, path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "from cssp.methods.greedy import _State",
        "from cssp.methods._shared import rest",
        "from cssp.methods import _shared",
        "from ..methods import _shared",
        "from cssp.methods import greedy\ngreedy._State",
        "def f():\n    from cssp.methods.greedy import _State",
        "from analysis.study.bootstrap import _spread",
        "from analysis.study import bootstrap\nbootstrap._spread",
    ],
)
def test_a_private_name_that_crosses_is_seen(line):
    assert list(strangers("cssp.passes.greedy", FILES, line))
    if "_shared" in line:
        assert not list(strangers("cssp.methods.exact", FILES, line))


def test_imports_run_in_no_circle(tmp_path):
    TopologicalSorter(graph(FILES)).prepare()
    for name, text in (("a", "def f():\n    from cssp import b"), ("b", "import cssp.a")):
        (tmp_path / f"{name}.py").write_text(text)
    circle = {f"cssp.{name}": tmp_path / f"{name}.py" for name in "ab"}
    with pytest.raises(CycleError):
        TopologicalSorter(graph(circle)).prepare()


def test_not_even_type_hints_run_in_a_circle(tmp_path):
    """Above `cssp`, whose lazy parts (plots, passes, streams) name the types of what they extend."""
    files = {m: path for m, path in FILES.items() if not m.startswith("cssp") and m not in MUTUAL}
    TopologicalSorter(graph(files, ast.walk)).prepare()
    for name, text in (("a", "if TYPE_CHECKING:\n    from analysis.b import B"), ("b", "import analysis.a")):
        (tmp_path / f"{name}.py").write_text(text)
    circle = {f"analysis.{name}": tmp_path / f"{name}.py" for name in "ab"}
    TopologicalSorter(graph(circle)).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(graph(circle, ast.walk)).prepare()


def test_imports_run_downwards():
    for module, path in FILES.items():
        top = module.partition(".")[0]
        tops = {name.partition(".")[0] for name in imported(module, FILES, path.read_text(), ast.walk)}
        assert tops & set(TOPS) <= {top, *MAY_IMPORT[top]}, module


def alone(top, modules):
    """Import each module in a process of its own, as a fresh interpreter does: its package first, once for all of them."""
    importlib.import_module(top)
    for name in SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    failed = False
    for module in modules:
        if module in sys.modules:
            continue
        if (child := os.fork()) == 0:
            try:
                importlib.import_module(module)
            except BaseException as reason:
                if (getattr(reason, "name", "") or "").partition(".")[0] in NOT_INSTALLED:
                    os._exit(0)
                print(f"{module}: {type(reason).__name__}: {reason}", flush=True)
                os._exit(1)
            os._exit(0)
        failed |= bool(os.waitpid(child, 0)[1])
    return failed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("top", ["cssp", "vlm_bridge"])
def test_every_module_imports_alone(top):
    modules = [m for m in FILES if m.startswith(f"{top}.") and not m.endswith("__main__")]
    assert len(modules) > 20
    run = subprocess.run(
        [sys.executable, __file__, top, *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(alone(sys.argv[1], sys.argv[2:]))
