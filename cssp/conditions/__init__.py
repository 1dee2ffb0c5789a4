"""Conditions on which columns may be chosen together: groups kept whole, constraints, costs within a budget.

`constraints` says what is allowed after what; `asked` checks the arguments of one call; `one_by_one` makes the picks of a
method under a constraint, with the method itself; `whole` chooses groups, and columns by gain per cost; `solve` cuts,
completes and records, as `cssp.finish` does without conditions.
"""

from cssp.conditions.asked import Conditions, Found, asked
from cssp.conditions.constraints import AtMost, Constraint, MinDistance
from cssp.conditions.solve import solved_under

__all__ = ["AtMost", "Conditions", "Constraint", "Found", "MinDistance", "asked", "solved_under"]
