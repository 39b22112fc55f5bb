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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.markdown import table

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

RESULTS = Path(__file__).parent / "results" / "noise.json"
_SEEDS, _STEPS = (0, 1), 750
_AHEAD, _AROUND, _LATER = 60, 50, 100  # steps before the onset, around it, and after that
_DRAWS, _AVERAGED = 3, 8
_HIGHEST = 1e9  # in place of a loss that overflowed: JSON has no infinity
_BAR = 3.0  # a spike is a loss (the mean of five) above this multiple of its level
_WORDS = {
    "displaced": "weights displaced by 10⁻⁴ (control)",
    "redrawn": f"{_DRAWS} other draws of batches, followed for {_LATER} steps more",
    "averaged": f"{_AVERAGED} batches averaged at each step",
    "averaged, later": f"the same, followed for {_LATER} steps more",
    "frozen": "v held at what it was",
    "floor": "v ≥ g²",
    "no decay": "no weight decay",
}
_HEAD = """
### Noise or the landscape?

Sixty steps before each spike of the Transformer the training leaves its course, and its loss is followed
until fifty steps after the onset. A spike is a loss above 3 × its level.
"""
_TAIL = """What comes with every draw of batches and with v held, comes later where batches are averaged, and
does not come without weight decay, is the landscape's: noise only says when. `explain` names the noise, since
the log shows its edge, and now adds what made the ratio rise to it and that larger batches may only postpone
the spike. v ≥ g² prevents it whoever is to blame.

Made by `python -m benchmarks.causes.noise`, on seeds {seeds}.
"""

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
    for spike in spikes_above(course.judged, _BAR):
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
        others = [_redrawn(course, state, draw) for draw in range(1, _DRAWS + 1)]
        averaged = _redrawn(course, state, _DRAWS + 1, times=_AVERAGED)
        peaks["redrawn"] = [_peak(other, spike, as_before, later=_LATER) for other in others]
        peaks["averaged"] = [_peak(averaged, spike, as_before)]
        peaks["averaged, later"] = [_peak(averaged, spike, as_before, later=_LATER)]
        yield {"seed": seed, "onset": spike.onset, "height": spike.height, "peaks": peaks}


def _redrawn(course: Course, state: State, draw: int, *, times: int = 1) -> Course:
    """Return a course whose batches are drawn anew from a state on, of so many times as many examples."""
    generator = torch.Generator().manual_seed(draw)
    size = times * (course.training.config.batch_size or 1)
    batches: list[Any] = []
    while len(batches) < _AHEAD + _AROUND + _LATER + 10:
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


def section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of the page.

    Args:
        rows: The spikes.
    """
    cells = []
    for name, words in _WORDS.items():
        peaks = [peak for row in rows for peak in row["peaks"][name]]
        came = sum(peak >= _BAR for peak in peaks)
        cells.append([words, f"{came} of {len(peaks)}", f"{min(peaks):.2g} to {max(peaks):.2g}"])
    seeds = " and ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    made = table(["with", "spikes that come", "height, in multiples of the level"], cells)
    return f"{_HEAD}\n{made}\n\n{_TAIL.format(seeds=seeds)}"


def main() -> None:
    """Measure, keep what was found and write the page."""
    from benchmarks.causes import publish

    with one_thread():
        rows = [row for seed in _SEEDS for row in measure(seed)]
    write_json(rows, RESULTS)
    publish.write_page()
    sys.stdout.write(section(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
