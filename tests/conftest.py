"""Hypothesis profiles: dev by default, ci where the environment says CI, deep by --hypothesis-profile=deep.

``--guess`` lets `residual` guess runs of picks on matrices of every size: the whole suite on the fast path.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=40, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "deep", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser):
    parser.addoption("--guess", action="store_true", help="speculative pivoting on matrices of every size")


@pytest.fixture(autouse=True, scope="session")
def _guess(request):
    from cssp.pivoting import memory

    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--guess"):
            patch.setattr(memory, "CACHE", 0)
        yield
