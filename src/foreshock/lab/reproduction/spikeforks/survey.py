"""Run the cells: train, fork at spikes, and keep one JSON line a training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.lines import Line, numbers_back, read_lines, run_missing
from foreshock.lab.reproduction.spikeforks.branches import (
    AHEAD,
    PREVENTIONS,
    WAYS,
    WINDOW,
    Branch,
    follow,
    look_back,
)
from foreshock.lab.reproduction.spikeforks.cells import KINDS, Sizes, all_cells, fork_fingerprint
from foreshock.lab.reproduction.spikeforks.known import known_before
from foreshock.lab.reproduction.spikeforks.measures import at_equal_training, measure_branch, stays_high
from foreshock.lab.reproduction.spikemap.cells import Cell
from foreshock.lab.reproduction.spikemap.course import Course
from foreshock.lab.reproduction.spikemap.survey import FACTOR
from foreshock.lab.spikebench.spikes import spikes_above
from foreshock.lab.tasks import OptimizerConfig, build_optimizer
from foreshock.spikes import SpikeEvent

FORKS = "forks.jsonl"
History = dict[int, tuple[float, float]]


def survey(
    path: Path,
    seeds: Iterable[int],
    *,
    sizes: Sizes,
    jobs: int = 1,
    on_line: Callable[[int, int, Line], None],
) -> list[Line]:
    """Run what is missing and return all lines of these seeds.

    Args:
        path: The file of lines; made if missing. It is whole after each training, and an interrupted command
            goes on where it stopped.
        seeds: The seeds of each cell.
        sizes: Sizes of the experiment.
        jobs: Processes that train side by side.
        on_line: Called with trainings done, trainings in all, and the new line.
    """
    wanted = [(cell, seed) for seed in seeds for cell in all_cells()[: sizes.cells]]
    calls = {fork_fingerprint(*one, sizes): partial(measure_cell, *one, sizes) for one in wanted}
    return run_missing(path, load_lines(path), calls, on_line=on_line, jobs=jobs)


def load_lines(path: Path) -> list[Line]:
    """Return the lines that are there; a last one that was cut off is left out.

    Args:
        path: The file of lines.

    Raises:
        ValueError: If another line than the last is not readable.
    """
    return read_lines(path, _with_numbers, what="no training with forks")


def _with_numbers(line: Line) -> Line:
    def back(fork: Line) -> Line:
        copies = {way: [numbers_back(one) for one in found] for way, found in fork["copies"].items()}
        return {**numbers_back(fork), "known": numbers_back(fork["known"]), "copies": copies}

    return {**line, "forks": [back(fork) for fork in line["forks"]]}


def measure_cell(cell: Cell, seed: int, sizes: Sizes) -> Line:
    """Train a cell and fork it at its spikes.

    Args:
        cell: The cell.
        seed: Seed of weights and batches.
        sizes: Sizes of the experiment.
    """
    began, kind = time.process_time(), KINDS[cell.kind]
    with one_thread(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        course = Course(cell.training(kind.network, steps=sizes.steps), seed, build=fused_adamw)
        spikes = spikes_above(course.judged, FACTOR)
        chosen = choose_spikes(spikes, kind.spikes)
        history = look_back(course) if chosen else {}
        after = kind.after if sizes.after is None else sizes.after
        forks = [
            measure_fork(course, spike, history, copies=sizes.copies, after=after)
            | {"earlier": sum(other.onset < spike.onset for other in spikes)}
            for spike in chosen
        ]
    return {
        "fingerprint": fork_fingerprint(cell, seed, sizes),
        **asdict(cell),
        "seed": seed,
        "steps": int(course.losses.size),
        "spikes": len(spikes),
        "forks": forks,
        "sizes": asdict(replace(sizes, cells=None)),
        "seconds": time.process_time() - began,
    }


def fused_adamw(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Return AdamW with its fused kernel: of small tensors a step takes a fifth of the time.

    Args:
        model: The model.
        config: Settings of the optimizer.
    """
    optimizer = build_optimizer(model, config)
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def choose_spikes(spikes: list[SpikeEvent], count: int) -> list[SpikeEvent]:
    """Return so many spikes, evenly from the first to the last, that lie apart by more than a window.

    Args:
        spikes: All spikes of a training, in order.
        count: How many to choose at most.

    Example:
        >>> found = [SpikeEvent(onset, onset, onset, 1.0, 4.0) for onset in (200, 230, 400, 700)]
        >>> [spike.onset for spike in choose_spikes(found, 2)]
        [200, 700]
    """
    apart: list[SpikeEvent] = []
    for spike in spikes:
        if not apart or spike.onset > apart[-1].onset + WINDOW:
            apart.append(spike)
    if len(apart) <= count:
        return apart
    places = [round(index * (len(apart) - 1) / max(count - 1, 1)) for index in range(count)]
    return [apart[place] for place in places]


def measure_fork(
    course: Course, spike: SpikeEvent, history: History, *, copies: int, after: int
) -> dict[str, Any]:
    """Fork a training before a spike and measure all branches.

    Args:
        course: The training.
        spike: One of its spikes.
        history: Losses on the whole training set and on what is held out, by step.
        copies: Perturbed starts of each branch.
        after: Updates of a branch after the window.

    Returns:
        The spike; ``known`` before it; ``came``, how many of the branches that let it pass have it;
        ``calm``, how many that prevent it have none, by way; and the measures of each copy by way, of
        those ways that did in every copy what they should. Nothing is prevented where the spike does not
        come in every copy: it is a matter of chance.
    """
    state = course.last_state(spike.onset - AHEAD)
    before = [history[step] for step in sorted(history) if step <= state.step]
    found: dict[str, Any] = {
        "onset": spike.onset,
        "height": spike.height,
        "fork": state.step,
        "known": known_before(course, state, spike.onset, history),
        "calm": {},
        "copies": {},
    }
    branches: dict[str, list[Branch]] = {}
    for way in WAYS:
        followed, measured = [], []
        for start in range(1, copies + 1):
            branch = follow(
                course,
                state,
                way,
                start=start,
                steps=WINDOW + after,
                bar=FACTOR * spike.reference,
            )
            followed.append(branch)
            if not branch.complete:
                break
            best = min(value for _, value in before)
            measured.append(measure_branch(course, branch, best=best))
        done = sum(branch.complete for branch in followed)
        if way == "pass":
            found["came"] = done
        else:
            found["calm"][way] = done
        if done == copies:
            branches[way], found["copies"][way] = followed, measured
        elif way == "pass":
            return found
    _add_equal(found, branches, before)
    high = [stays_high(one, level=spike.reference, height=spike.height) for one in branches["pass"]]
    return {**found, "stayed": sum(high)}


def _add_equal(
    found: dict[str, Any], branches: dict[str, list[Branch]], before: list[tuple[float, float]]
) -> None:
    """Add validation at equal training loss: ``equal guard`` is that at the level common with ``guard``."""
    for way in PREVENTIONS:
        if way not in branches:
            continue
        own, others = at_equal_training(branches["pass"], branches[way], before)
        for copy, value in zip(found["copies"]["pass"], own, strict=True):
            copy[f"equal {way}"] = value
        for copy, value in zip(found["copies"][way], others, strict=True):
            copy[f"equal {way}"] = value
