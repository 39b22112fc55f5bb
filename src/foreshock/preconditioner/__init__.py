"""The step that a live optimizer is about to take: its preconditioner D_t and its update.

`read_preconditioner` is the entry; each optimizer has a file with its formulas, `families` lists them by
class, and `register_preconditioner` adds others.
"""

from foreshock.preconditioner.live import LiveParameter, Reader, SecondMoment
from foreshock.preconditioner.record import ParameterStep, Preconditioner
from foreshock.preconditioner.registry import (
    find_reader,
    read_gradient_norm,
    read_preconditioner,
    read_second_moment_sums,
    register_preconditioner,
    stock_name,
)
from foreshock.preconditioner.wrappers import as_optimizers, live_groups, unwrap

__all__ = [
    "LiveParameter",
    "ParameterStep",
    "Preconditioner",
    "Reader",
    "SecondMoment",
    "as_optimizers",
    "find_reader",
    "live_groups",
    "read_gradient_norm",
    "read_preconditioner",
    "read_second_moment_sums",
    "register_preconditioner",
    "stock_name",
    "unwrap",
]
