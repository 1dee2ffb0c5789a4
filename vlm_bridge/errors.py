"""The one error of the bridge."""

from cssp import CsspError


class BridgeError(CsspError):
    """A request the bridge refuses: what came, what is allowed, and the likely fix.

    A kind of `cssp.CsspError`, and therefore of `ValueError`.
    """
