"""torch where it is installed. Elsewhere an object that skips the test, or the module, which calls anything of it."""

import importlib.util

import pytest


class Absent:
    """Every attribute of a library that is not installed: nothing is an instance of it, and a call skips."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        if name.startswith("__"):  # what pytest and copies ask of any object
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **keywords):
        pytest.skip(f"{self.name} is not installed", allow_module_level=True)

    def __instancecheck__(self, thing):
        return False


if importlib.util.find_spec("torch"):
    import torch
else:
    torch = Absent("torch")

#: What arrays the tests of hypothesis draw.
BACKENDS = ("numpy",) if isinstance(torch, Absent) else ("numpy", "torch")
