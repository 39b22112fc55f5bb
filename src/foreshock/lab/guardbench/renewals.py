"""Which spikes the renewed targets of a value regression make alone, and which the training adds to.

Run it as ``python -m foreshock.lab.guardbench.renewals --first 800 --last 1399``: it trains full-batch draws
of the development half and prints a table. The held-out ones are ``--split held-out --first 10000 --last
10255``.

The targets come from a copy of the network that is renewed every 50 or 100 steps. At that step the loss jumps
before any step is taken on the new targets, with whatever optimizer: with the weights held it is as high. How
much it counts depends on how low the loss was, so that the better a method fits, the higher are its jumps.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from foreshock.demo.threads import one_thread
from foreshock.lab.guardbench.comparison import RENEWING
from foreshock.lab.guardbench.drawn import FIRST, RANGES, draw
from foreshock.lab.guardbench.judging import HEIGHTS
from foreshock.lab.guardbench.methods import method
from foreshock.lab.guardbench.training import MethodRun
from foreshock.lab.spikebench.spikes import judged_column, spikes_above
from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT, RunConfig
from foreshock.lab.spikebench.tables import table
from foreshock.lab.spikebench.trace import Column
from foreshock.spikes import SpikeEvent

_SPIKE = float(HEIGHTS[0])
_SOON = 10  # steps within which a spike after a renewal is put down to it


@dataclass(frozen=True)
class Renewal:
    """The loss at a step whose targets are new, at the weights before it.

    Attributes:
        renewed: With the new targets.
        held: With those of the step before.
    """

    renewed: float
    held: float


@dataclass(frozen=True)
class RenewedSpike:
    """A spike of the training loss beside the renewal that it follows.

    Attributes:
        height: Its peak ÷ the median loss of the 100 steps before it.
        delay: Steps from the renewal to the peak; infinite where it began more than ten steps after one, or
            before one.
        jump: Loss of the new targets with the weights held, ÷ the same median; one without a renewal.
    """

    height: float
    delay: float
    jump: float

    @property
    def of_targets(self) -> bool:
        """Whether the new targets make all of it, with no step taken on them."""
        return self.delay == 0

    @property
    def inevitable(self) -> bool:
        """Whether the new targets alone would be a spike; steps taken on them may have made it higher."""
        return self.jump > _SPIKE


@dataclass(frozen=True)
class RenewedRun:
    """One training.

    Attributes:
        method: Name of the method.
        config: Name of what was trained.
        spikes: Its spikes above 3 ×.
    """

    method: str
    config: str
    spikes: tuple[RenewedSpike, ...]


def renewed_spikes(losses: Sequence[float], renewals: Mapping[int, Renewal]) -> tuple[RenewedSpike, ...]:
    """Return the spikes of a loss curve beside the renewals that they follow.

    Args:
        losses: Loss of each step, before the update.
        renewals: By step, the loss of the targets that are new at it and of those before.

    Example:
        >>> losses = [1.0] * 150 + [5.0, 9.0] + [1.0] * 50
        >>> [spike] = renewed_spikes(losses, {150: Renewal(renewed=5.0, held=1.0)})
        >>> spike
        RenewedSpike(height=9.0, delay=1, jump=5.0)
        >>> spike.of_targets, spike.inevitable
        (False, True)
    """
    column = judged_column(Column(np.arange(len(losses)), np.asarray(losses)), smooth=False)
    return tuple(_beside(event, renewals) for event in spikes_above(column, _SPIKE))


def _beside(event: SpikeEvent, renewals: Mapping[int, Renewal]) -> RenewedSpike:
    recent = [step for step in renewals if 0 <= event.onset - step < _SOON]
    # With the old targets the loss has to be low still: else a spike was on its way, and the step a chance.
    if not recent or renewals[max(recent)].held > _SPIKE * event.reference:
        return RenewedSpike(event.height, math.inf, 1.0)
    step = max(recent)
    return RenewedSpike(event.height, event.peak - step, renewals[step].renewed / event.reference)


def examine(config: RunConfig, name: str, *, start: int = 0, seed: int = 0) -> RenewedRun:
    """Train a value regression on its full batch, and return its spikes beside the renewals.

    Cost: one more forward pass at each renewal.

    Args:
        config: What is trained.
        name: Name of the method.
        start: Number of the perturbed start.
        seed: Seed of the weights.

    Raises:
        ValueError: If targets are not renewed there, or the batches are not full.
    """
    if config.family != RENEWING or not config.full_batch:
        raise ValueError(
            f"{config.name} is of the family {config.family!r} with batches of {config.batch_size or 'all'}; "
            f"targets are told from steps in full batches of {RENEWING!r} alone"
        )
    refresh, held = int(config.options["refresh"]), {}
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = MethodRun(config, seed, method(name), start=start)
        try:
            for step in run.steps:
                if step.finite and (step.index + 1) % refresh == 0:
                    # The weights are those of the next step by now, and the targets are the old ones.
                    with torch.no_grad():
                        held[step.index + 1] = float(run.training.loss_fn(run.training.model, step.batch))
        finally:
            run.close()
    renewals = {at: Renewal(run.losses[at], old) for at, old in held.items() if at < len(run.losses)}
    return RenewedRun(name, config.name, renewed_spikes(run.losses, renewals))


_HEADER = (
    "method",
    "runs",
    "spikes > 3×",
    "of the new targets alone",
    "of these, made higher by steps",
    "by steps",
    "> 8×",
    "of the new targets alone",
    "runs with a spike > 3×",
    "with one that steps made",
)


def renewals_table(runs: Iterable[RenewedRun]) -> str:
    """Return one row a method: its spikes, and what the new targets alone make of them.

    Args:
        runs: The trainings.
    """
    found: dict[str, list[RenewedRun]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return table(_HEADER, [_row(name, some) for name, some in found.items()])


def _row(name: str, runs: Sequence[RenewedRun]) -> tuple[str, ...]:
    spikes = [spike for run in runs for spike in run.spikes]
    tall = [spike for spike in spikes if spike.height > HEIGHTS[1]]
    inevitable = [spike for spike in spikes if spike.inevitable]
    counts = (
        len(runs),
        len(spikes),
        len(inevitable),
        sum(not spike.of_targets for spike in inevitable),
        len(spikes) - len(inevitable),
        len(tall),
        sum(spike.jump > HEIGHTS[1] for spike in tall),
        sum(bool(run.spikes) for run in runs),
        sum(not all(spike.inevitable for spike in run.spikes) for run in runs),
    )
    return (name, *map(str, counts))


def full_draws(split: Literal["development", "held-out"], first: int, last: int) -> Iterator[RunConfig]:
    """Draw the full-batch value regressions with some numbers.

    Args:
        split: "development" or "held-out".
        first: The first number.
        last: The last one.

    Raises:
        ValueError: If the first number is below those of the split.
    """
    if first < FIRST[split]:
        raise ValueError(f"first is {first}; the {split} draws begin with {FIRST[split]}")
    # Each family has every sixteenth number.
    place = list(RANGES).index(RENEWING) + FIRST[split]
    for number in range(first, last + 1):
        if (number - place) % len(RANGES) == 0 and (config := draw(RENEWING, split, number)).full_batch:
            yield config


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print.

    Args:
        arguments: Of the command line; by default its own.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--split", choices=(DEVELOPMENT, HELD_OUT), default=DEVELOPMENT)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first draw")
    parser.add_argument("--last", type=int, default=31, metavar="N", help="number of the last draw")
    parser.add_argument("--starts", type=int, default=0, metavar="N", help="perturbed starts of each")
    given = parser.parse_args(arguments)
    runs = [
        examine(config, name, start=start)
        for name in ("adam", "guard-alone")
        for config in full_draws(given.split, given.first, given.last)
        for start in range(given.starts + 1)
    ]
    sys.stdout.write(renewals_table(runs))


if __name__ == "__main__":
    main()
