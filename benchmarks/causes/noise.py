"""What do the mini-batch spikes of the reproduced Transformer need: the noise of batches, v, or weight decay?

Run from the root of the repository::

    python -m benchmarks.causes.noise

The Transformer of ``foreshock reproduce transformer`` is trained for 750 steps, and leaves its course sixty
steps before each spike: with other draws of batches, with eight batches averaged at each step, with v held at
what it is there, with v ≥ g², and without weight decay. What is found is kept as JSON beside this file.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from benchmarks.causes.publish import write_page
from benchmarks.causes.sections import AVERAGED, BAR, DRAWS, FORKED, LATER, forked_section

from foreshock.demo.threads import one_thread
from foreshock.lab.jobs import write_json
from foreshock.lab.reproduction.experiments.transformer import EXPERIMENT
from foreshock.lab.reproduction.forks import Fork
from foreshock.lab.reproduction.spikemap.course import (
    Advance,
    Begin,
    Course,
    State,
    as_before,
    displaced,
    floor_v,
    freeze_v,
)
from foreshock.lab.spikebench.spikes import spikes_above
from foreshock.spikes import SpikeEvent

_SEEDS, _STEPS = (0, 1), 750
_AHEAD, _AROUND = 60, 50  # steps before the onset, and around it
_HIGHEST = 1e9  # in place of a loss that overflowed: JSON has no infinity
Row = dict[str, Any]


def without_decay(fork: Fork) -> Advance:
    """Take ordinary steps without weight decay."""
    for group in fork.optimizer.param_groups:
        group["weight_decay"] = 0.0
    return as_before(fork)


def measure(seed: int) -> Iterator[Row]:
    """Train, and yield for each spike how high it is in each branch, in multiples of its level.

    Args:
        seed: Seed of the weights and of the batches.
    """
    plan = replace(EXPERIMENT.scales["cpu"], steps=_STEPS).plan()
    torch.manual_seed(seed)
    course = Course(plan, seed)
    for spike in spikes_above(course.judged, BAR):
        peaks = {
            name: [_peak(course, spike, begin)]
            for name, begin in (
                ("displaced", displaced),
                ("frozen", freeze_v),
                ("floor", floor_v),
                ("no decay", without_decay),
            )
        }
        state = course.last_state(spike.onset - _AHEAD)
        others = [_redrawn(course, state, draw) for draw in range(1, DRAWS + 1)]
        averaged = _redrawn(course, state, DRAWS + 1, times=AVERAGED)
        peaks["redrawn"] = [_peak(other, spike, as_before, later=LATER) for other in others]
        peaks["averaged"] = [_peak(averaged, spike, as_before)]
        peaks["averaged, later"] = [_peak(averaged, spike, as_before, later=LATER)]
        yield {"seed": seed, "onset": spike.onset, "height": spike.height, "peaks": peaks}


def _redrawn(course: Course, state: State, draw: int, *, times: int = 1) -> Course:
    """Return a course whose batches are drawn anew from a state on, of so many times as many examples."""
    generator = torch.Generator().manual_seed(draw)
    size = times * (course.training.config.batch_size or 1)
    batches: list[Any] = []
    while len(batches) < _AHEAD + _AROUND + LATER + 10:
        order = torch.randperm(len(course.whole[0]), generator=generator)
        whole = order[: len(order) // size * size].split(size)
        batches += [tuple(part[chosen] for part in course.whole) for chosen in whole]
    other = copy.copy(course)
    other.batches = [*course.batches[: state.step], *batches]
    return other


def _peak(course: Course, spike: SpikeEvent, begin: Begin, *, later: int = 0) -> float:
    """Return the highest loss of a branch near the onset, in multiples of the level before the spike."""
    state = course.last_state(spike.onset - _AHEAD)
    steps = spike.onset + _AROUND + later - state.step
    losses = course.branch_judged(state, course.branch(state, begin, steps=steps))
    near = losses[max(spike.onset - _AROUND - state.step, 0) :]
    if not near.size or not (near < math.inf).all():
        return _HIGHEST
    return float(near.max()) / spike.reference


def main() -> None:
    """Measure, keep what was found and write the page."""
    with one_thread():
        rows = [row for seed in _SEEDS for row in measure(seed)]
    write_json(rows, FORKED)
    write_page()
    sys.stdout.write(forked_section(json.loads(FORKED.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
