"""The step that a live optimizer is about to take: its preconditioner D_t and its update.

`read_preconditioner` is the entry; each optimizer has a file with its formulas, `families` lists them by
class, and `register_preconditioner` adds others.
"""

from foreshock.preconditioner.live import (
    LiveParameter,
    Reader,
    SecondMoment,
    Write,
    as_optimizers,
    live_groups,
    moving_parameters,
    unwrap,
    updates_made,
)
from foreshock.preconditioner.reading import (
    read_gradient_norm,
    read_preconditioner,
    read_preconditioner_at,
    read_second_moment_sums,
    read_steps,
)
from foreshock.preconditioner.record import ParameterStep, Preconditioner
from foreshock.preconditioner.registry import (
    find_raising_reader,
    find_reader,
    if_step_is_taken,
    raising_names,
    register_preconditioner,
    stock_name,
)

__all__ = [
    "LiveParameter",
    "ParameterStep",
    "Preconditioner",
    "Reader",
    "SecondMoment",
    "Write",
    "as_optimizers",
    "find_raising_reader",
    "find_reader",
    "if_step_is_taken",
    "live_groups",
    "moving_parameters",
    "raising_names",
    "read_gradient_norm",
    "read_preconditioner",
    "read_preconditioner_at",
    "read_second_moment_sums",
    "read_steps",
    "register_preconditioner",
    "stock_name",
    "unwrap",
    "updates_made",
]
