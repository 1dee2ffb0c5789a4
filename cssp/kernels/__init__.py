"""Selection of many images at once, on a GPU above all; needs torch. Triton is imported only where it is used."""

from cssp.kernels.pivoted_cholesky import residual_select

__all__ = ["residual_select"]
