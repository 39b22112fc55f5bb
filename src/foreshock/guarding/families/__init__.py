"""How each family of optimizers is read and written: parameters as slots, D, and raises of v."""

from foreshock.guarding.families.family import Family, Metric, find_family
from foreshock.guarding.families.moments import Write
from foreshock.guarding.families.slots import (
    Slot,
    all_parameters,
    as_real,
    per_group,
    read_slots,
    renew_slots,
)

__all__ = [
    "Family",
    "Metric",
    "Slot",
    "Write",
    "all_parameters",
    "as_real",
    "find_family",
    "per_group",
    "read_slots",
    "renew_slots",
]
