"""Matrices in files: npy, npz, csv, parquet, zarr, Matrix Market. Readers are imported where they are needed."""

from cssp.tables.reading import SUFFIXES, read
from cssp.tables.table import ReadOptions, Table
from cssp.tables.writing import write

__all__ = ["SUFFIXES", "ReadOptions", "Table", "read", "write"]
