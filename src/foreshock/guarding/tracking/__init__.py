"""What is followed from step to step, as plain numbers: v, growth, noise and clipping."""

from foreshock.guarding.tracking.clipping import ClipRecord
from foreshock.guarding.tracking.growth import Growth
from foreshock.guarding.tracking.natural import NaturalMoment
from foreshock.guarding.tracking.pairs import PairAverage

__all__ = [
    "ClipRecord",
    "Growth",
    "NaturalMoment",
    "PairAverage",
]
