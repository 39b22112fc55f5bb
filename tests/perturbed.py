"""Trainings repeated from perturbed starts: what one chaotic training comes to proves nothing.

Near the edge of stability a difference in the last bit grows until the two runs have nothing in common but
their statistics. Another processor, another number of threads or another version of a library is such a
difference; so a test trains from several starts and asserts in how many of them something holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from unittest import mock

import torch
from torch.optim import Optimizer

T = TypeVar("T")

STARTS = 5
SIZE = 1e-6
"""Relative size of a perturbation: some ten units in the last place of float32."""


@contextmanager
def perturbed_weights(start: int, *, size: float = SIZE) -> Iterator[None]:
    """Multiply the weights of every optimizer that is made inside the block by 1 + size·ε, ε normal.

    It is the optimizer that is caught, since every training makes one and few let their model be passed in.
    ε depends on `start` and on the place of a weight alone: two trainings of the same model, with a guard
    and without, begin in the same place.

    Args:
        start: Number of the start; it seeds ε. The global random state is left alone.
        size: Relative size of the perturbation.
    """
    added = Optimizer.add_param_group

    def add_param_group(self: Optimizer, param_group: dict[str, Any]) -> None:
        added(self, param_group)
        place = len(self.param_groups)
        generator = torch.Generator().manual_seed(1000 * (start + 1) + place)
        with torch.no_grad():
            for weight in self.param_groups[-1]["params"]:
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.mul_((1 + size * noise).to(weight.dtype))

    with mock.patch.object(Optimizer, "add_param_group", add_param_group):
        yield


class Outcomes(Generic[T]):
    """What trainings from perturbed starts came to, one an outcome.

    Attributes:
        each: The outcomes.
    """

    def __init__(self, each: Sequence[T]) -> None:
        self.each = tuple(each)

    def at_least(self, count: int, holds: Callable[[T], bool], *, seen: Callable[[T], Any] = repr) -> None:
        """Assert that something holds in at least so many starts.

        Args:
            count: The least number of starts.
            holds: What should hold of an outcome.
            seen: What a failure shows of an outcome.
        """
        found = sum(bool(holds(outcome)) for outcome in self.each)
        shown = "\n".join(f"  {'holds' if holds(one) else 'FAILS'}: {seen(one)}" for one in self.each)
        assert found >= count, f"it holds in {found} of {len(self.each)} starts, not in {count}:\n{shown}"

    def every(self, holds: Callable[[T], bool], *, seen: Callable[[T], Any] = repr) -> None:
        """Assert that something holds in every start."""
        self.at_least(len(self.each), holds, seen=seen)

    def total(self, measure: Callable[[T], float]) -> float:
        """Return the sum of a measure over the starts."""
        return sum(measure(outcome) for outcome in self.each)


def from_perturbed_starts(train: Callable[[], T], *, starts: int = STARTS, size: float = SIZE) -> Outcomes[T]:
    """Train from several perturbed starts.

    Args:
        train: Makes a model and its optimizer, trains, and returns what is asserted on.
        starts: Number of starts.
        size: Relative size of the perturbation.
    """
    outcomes = []
    for start in range(starts):
        with perturbed_weights(start, size=size):
            outcomes.append(train())
    return Outcomes(outcomes)
