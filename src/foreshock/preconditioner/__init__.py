"""Live optimizer state → D_t and the update of the step about to be taken."""

from foreshock.preconditioner.record import ParameterStep, Preconditioner
from foreshock.preconditioner.registry import (
    Reader,
    find_reader,
    read_preconditioner,
    read_second_moment_sums,
    register_preconditioner,
)

__all__ = [
    "ParameterStep",
    "Preconditioner",
    "Reader",
    "find_reader",
    "read_preconditioner",
    "read_second_moment_sums",
    "register_preconditioner",
]
