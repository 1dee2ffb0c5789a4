"""The list of mutants: each applies to the source as it is, each method has three, and a run tells them apart."""

from collections import Counter

import pytest

from analysis.theory import mutants, mutation
from cssp import METHODS


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: f"{m.method}: {m.description}")
def test_a_mutant_changes_one_place_and_still_compiles(mutant):
    text = (mutation.ROOT / mutant.file).read_text()
    assert mutant.applied(text) != text


def test_every_method_has_three():
    made = Counter(m.method for m in mutants.MUTANTS)
    assert all(made[name] >= 3 for name in METHODS)
    assert set(made) - set(METHODS) == {"certificate"}
    assert len({(m.file, m.old, m.new) for m in mutants.MUTANTS}) == len(mutants.MUTANTS)


def test_a_stale_mutant_is_an_error():
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutants.Mutant("uniform", "", "not there", "").applied("x = 1\n")
