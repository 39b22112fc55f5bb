"""What is measured of a step before it is taken: a few sums over parameters and processes."""

from foreshock.guarding.measuring.displacement import Displacement
from foreshock.guarding.measuring.glance import READ, Glance
from foreshock.guarding.measuring.reduction import Reduction
from foreshock.guarding.measuring.sums import Measurer, StepSums

__all__ = [
    "READ",
    "Displacement",
    "Glance",
    "Measurer",
    "Reduction",
    "StepSums",
]
