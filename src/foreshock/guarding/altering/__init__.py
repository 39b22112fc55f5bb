"""What is done to the optimizer: raises of v, scaled gradients, options changed for a step or for good."""

from foreshock.guarding.altering.acting import Acting

__all__ = [
    "Acting",
]
