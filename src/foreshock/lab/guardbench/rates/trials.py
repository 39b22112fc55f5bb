"""Which trainings the comparison at many learning rates is made of, and in which order."""

from __future__ import annotations

from collections.abc import Collection

from foreshock.lab.guardbench.methods import Method
from foreshock.lab.guardbench.rates.suite import FACTORS, at_rate
from foreshock.lab.guardbench.run import Trial
from foreshock.lab.spikebench.suite import SEEDS, RunConfig


def rate_trials(
    tasks: Collection[RunConfig],
    methods: Collection[Method],
    *,
    seeds: int = 2,
    factors: Collection[float] = FACTORS,
) -> list[Trial]:
    """Return the trainings, in an order in which what is done can be read at any moment.

    The first two seeds of a task follow one another, since it can be scored once it has both; a third one
    comes after all tasks.

    Args:
        tasks: The tasks.
        methods: The methods.
        seeds: How many seeds, 2 or 3: the rate is chosen on others than it is scored on.
        factors: Multiples of the base rate.

    Raises:
        ValueError: If there are not so many seeds.
    """
    if not 2 <= seeds <= len(SEEDS):
        raise ValueError(
            f"seeds is {seeds!r}; 2 to {len(SEEDS)} are possible: on one a rate is chosen, on another scored"
        )
    return [
        Trial(at_rate(task, factor), seed, one)
        for block in (SEEDS[:2], SEEDS[2:seeds])
        for task in tasks
        for seed in block
        for factor in factors
        for one in methods
    ]
