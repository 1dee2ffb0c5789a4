"""Scikit-learn estimators: features to keep, samples to keep, landmarks of a kernel. Needs the extra ``sklearn``."""

try:
    import sklearn  # noqa: F401
except ImportError as reason:
    raise ImportError(
        "cssp.estimators needs scikit-learn, which is not installed: pip install 'cssp[sklearn]'"
    ) from reason

from cssp.estimators.columns import ColumnSubsetSelector
from cssp.estimators.landmarks import LandmarkSelector
from cssp.estimators.samples import SampleSelector

__all__ = ["ColumnSubsetSelector", "LandmarkSelector", "SampleSelector"]
