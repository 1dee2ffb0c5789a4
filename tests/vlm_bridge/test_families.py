"""Every family against every feature, each cell against the masking oracle or refused with a reason."""

import pytest
from family_cells import CELLS, REFUSED
from tiny_families import FAMILIES, shared_model

from vlm_bridge import BridgeError

TOLERANCE = 1e-5


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cell(family, cell):
    model = shared_model(family)
    reason = REFUSED.get((cell, family))
    if reason is None:
        assert CELLS[cell](model) <= TOLERANCE
    else:
        with pytest.raises(BridgeError, match=reason):
            CELLS[cell](model)
