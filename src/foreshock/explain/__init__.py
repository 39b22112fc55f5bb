"""Logs → explanations of what happened: cause, place, stages, recovery."""

from foreshock.explain.tensors import TensorRow, TensorTable, make_table

__all__ = ["TensorRow", "TensorTable", "make_table"]
