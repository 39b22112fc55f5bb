"""What is followed from step to step, as plain numbers: v, growth and clipping."""

from foreshock.guarding.tracking.clipping import ClipRecord
from foreshock.guarding.tracking.growth import Growth
from foreshock.guarding.tracking.natural import NaturalMoment

__all__ = [
    "ClipRecord",
    "Growth",
    "NaturalMoment",
]
