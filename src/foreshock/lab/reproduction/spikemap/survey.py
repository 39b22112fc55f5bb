"""Run the cells, one JSON line each; a line that is there is not run again."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.lines import Line, numbers_back, read_lines, run_missing
from foreshock.lab.reproduction.spikemap.cells import Cell, all_cells, fingerprint
from foreshock.lab.reproduction.spikemap.course import Begin, Course, State, displaced, freeze_v
from foreshock.lab.reproduction.spikemap.outcomes import can_compare, compare
from foreshock.lab.reproduction.spikemap.readings import (
    MARGIN,
    Reading,
    last_rise,
    lead_of,
    read_before,
    split_rise,
)
from foreshock.lab.spikebench.spikes import spikes_above
from foreshock.spikes import SpikeEvent

CELLS = "cells.jsonl"
FACTOR = 3.0
"""A spike is a loss above this multiple of the median of the hundred steps before."""
_WATCHED = 50  # steps before and after the onset in which a branch's spike counts as the same one


def survey(
    path: Path, seeds: Iterable[int], *, jobs: int = 1, on_cell: Callable[[int, int, Line], None]
) -> list[Line]:
    """Run what is missing and return all lines of these seeds.

    Args:
        path: The file of lines; made if missing. It is whole after each cell, and an interrupted command
            goes on where it stopped.
        seeds: The seeds of each cell.
        jobs: Processes that train side by side.
        on_cell: Called with cells done, cells in all, and the new line.
    """
    wanted = [(cell, seed) for cell in all_cells() for seed in seeds]
    keys = [fingerprint(cell.config(), seed) for cell, seed in wanted]
    calls = {key: partial(measure_cell, *one) for key, one in zip(keys, wanted, strict=True)}
    return run_missing(path, load_lines(path), calls, on_line=on_cell, jobs=jobs)


def load_lines(path: Path) -> list[Line]:
    """Return the lines that are there; a last one that was cut off is left out.

    Args:
        path: The file of lines.

    Raises:
        ValueError: If another line than the last is not readable.
    """
    return read_lines(path, _with_numbers, what="no cell of the map")


def _with_numbers(line: Line) -> Line:
    return {**line, "judged": [numbers_back(one) for one in line["judged"]]}


def measure_cell(cell: Cell, seed: int, *, steps: int | None = None) -> Line:
    """Train a cell and measure what comes before and after its spikes.

    Args:
        cell: The cell.
        seed: Seed of weights and batches.
        steps: Updates; None for those of the kind.
    """
    began = time.process_time()
    config = cell.config(steps=steps)
    with one_thread(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        course = Course(config, seed)
        spikes = spikes_above(course.judged, FACTOR)
        judged = [measure_spike(course, spike) for spike in _chosen(course, spikes)]
    return {
        "fingerprint": fingerprint(config, seed),
        **asdict(cell),
        "seed": seed,
        "steps": int(course.losses.size),
        "spikes": len(spikes),
        "heights": [spike.height for spike in spikes],
        "loss": float(np.median(course.losses[-50:])),
        "judged": judged,
        "seconds": time.process_time() - began,
    }


def _chosen(course: Course, spikes: list[SpikeEvent]) -> list[SpikeEvent]:
    """Return the first spike and the last, if possible one after which the course goes on for long enough."""
    if not spikes:
        return []
    last = next((spike for spike in reversed(spikes) if can_compare(course, spike)), spikes[-1])
    return [spikes[0], last] if last.onset > spikes[0].onset else [spikes[0]]


def measure_spike(course: Course, spike: SpikeEvent) -> dict[str, Any]:
    """Measure one spike: what crosses first, what grew, whether freezing v removes it, what it does.

    Args:
        course: The training.
        spike: One of its spikes.
    """
    found: dict[str, Any] = {"onset": spike.onset, "height": spike.height}
    try:
        readings = read_before(course, spike.onset)
        found |= _signals(readings, spike.onset)
        rise = last_rise(readings, spike.onset)
        if rise is None:
            return found
        found |= {"low": rise[0], "high": rise[1]} | _parts(course, rise)
    except FloatingPointError:
        return found  # the loss overflowed before the spike counted as one
    state = course.states[rise[0]]
    found["frozen"] = _peak(course, spike, state, freeze_v)
    found["displaced"] = _peak(course, spike, state, displaced)
    comparison = compare(course, spike)
    if comparison is not None:
        found |= {
            "measure": comparison.measure,
            "outcome": comparison.outcome,
            "loss_effect": comparison.loss,
            "validation_effect": comparison.validation,
            "validation_margin": comparison.margin,
        }
    return found


def _signals(readings: list[Reading], onset: int) -> dict[str, float]:
    steps = [reading.step for reading in readings]
    found = {
        f"{name}_lead": lead_of(steps, [getattr(reading, name) for reading in readings], onset)
        for name in ("ratio", "gradient_ratio", "mean_square")
    }
    calm = [reading for reading in readings if reading.step <= onset - MARGIN] or readings[:1]
    found["lag"] = float(np.median([reading.lag for reading in calm]))
    found["noise"] = float(np.median([reading.noise for reading in calm]))
    found["ratio"], found["mean_square"] = calm[-1].ratio, calm[-1].mean_square
    return found


def _parts(course: Course, rise: tuple[int, int]) -> dict[str, float]:
    growth = split_rise(course, rise)
    return {} if growth is None else growth.parts()


def _peak(course: Course, spike: SpikeEvent, state: State, begin: Begin) -> float:
    """Return the highest loss of a branch within fifty steps of the onset, in multiples of the level."""
    steps = spike.onset + _WATCHED - state.step
    losses = course.branch_judged(state, course.branch(state, begin, steps=steps))
    near = losses[max(spike.onset - _WATCHED - state.step, 0) :]
    if not near.size or not np.isfinite(near).all():
        return math.inf
    return float(near.max()) / spike.reference
