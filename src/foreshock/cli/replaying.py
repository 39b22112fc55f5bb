"""Replays by name: what a process needs to know to train one window of a run again."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from foreshock.cli.checkpoints import as_trainable, call_named, open_batches, saying_where
from foreshock.recorder import list_snapshots, load_snapshot
from foreshock.recorder.files import step_of
from foreshock.replay import Loop, ReplayOutcome, parse_change, replay
from foreshock.replay.advice import choose_start
from foreshock.replay.examining import attempted
from foreshock.replay.window import replay_whole
from foreshock.runlog import Run
from foreshock.workers import worker_processes


@dataclass(frozen=True)
class Replay:
    """One replay, in plain values that another process can be handed.

    Attributes:
        snapshot: Folder of the snapshot.
        model: ``module:factory``.
        data: ``module:batches``.
        steps: How many steps.
        recorded: Steps and losses of the log.
        change: The change in words; empty for none.
        threads: Threads of torch, of which the last bits of sums depend; 0 to leave them as they are.
        perturbed: Seed of a change of the weights in their sixth digit; None for none.
        measure: Whether to measure the stability ratio after the last step.
        rate_factor: What a ladder of recovery had the learning rate multiplied by.
        whole: Whether to begin at the first step of the run instead.
        optional: Whether an outcome says why the replay can't be made, instead of an error.
    """

    snapshot: Path
    model: str
    data: str
    steps: int
    recorded: tuple[tuple[int, float], ...] = ()
    change: str = ""
    threads: int = 0
    perturbed: int | None = None
    measure: bool = True
    rate_factor: float = 1.0
    whole: bool = False
    optional: bool = False


def make_loop(name: str) -> Loop:
    """Call a factory that returns a `Loop`, or a model with its loss function and optimizer.

    Args:
        name: ``module:factory``, without arguments.

    Raises:
        ValueError: If there is no such factory.
        TypeError: If it returns something else.
        RuntimeError: If it fails.
    """
    with redirect_stdout(sys.stderr):  # what a factory prints is no part of a result
        made = call_named(name)
        if isinstance(made, Loop):
            return made
        found = as_trainable(name, made)
    if found.optimizer is None:
        raise TypeError(
            f"{name} returned no optimizer; it must return (model, loss_fn, optimizer), or a "
            "foreshock.replay.Loop, which also has the scheduler, the clipping, and what else a step does"
        )
    return Loop(found.model, saying_where(found.loss_fn), found.optimizer)


def choose_snapshot(
    run: Run, step: int | None, *, spikes: tuple[Sequence[tuple[int, float]], int] | None = None
) -> Path:
    """Return the folder of the last snapshot that was taken at a step or before, or of the last of all.

    Damaged ones are passed over.

    Args:
        run: The run.
        step: The step; None for the last of all.
        spikes: Steps and losses of the log, and the length of a window: without a step, the last snapshot is
            returned whose window has a spike.

    Raises:
        FileNotFoundError: If there is none that is whole, with those that there are.
    """
    found = list_snapshots(run.path.parent)
    if not found:
        raise FileNotFoundError(
            f"{run.path.parent} has no snapshot: train with Monitor(…, run=…, recorder=Recorder()); they "
            "are written when an alarm begins, and at a spike"
        )
    left = [one for one in found if step is None or step_of(one) <= step]
    if not left:
        raise FileNotFoundError(
            f"no snapshot was taken at step {step} or before; there are those of steps "
            f"{', '.join(str(step_of(one)) for one in found)}"
        )
    damaged = None
    while left:
        place = -1
        if step is None and spikes is not None:
            place = choose_start([step_of(one) for one in left], *spikes)
        try:
            load_snapshot(left[place])
        except ValueError as error:
            logging.getLogger("foreshock").warning("%s: it is passed over", error)
            damaged = error
            del left[place]
        else:
            return left[place]
    raise FileNotFoundError(
        f"none of the snapshots of {run.path.parent} that are asked for is whole: the last that was tried "
        f"says {damaged}"
    )


def run_replay(task: Replay) -> ReplayOutcome:
    """Build the training anew and replay its window.

    Args:
        task: What to replay.
    """
    if task.optional:
        made = replace(task, optional=False)
        return attempted(task.change, step_of(task.snapshot), partial(run_replay, made))
    if task.threads:
        torch.set_num_threads(task.threads)
    loop = make_loop(task.model)
    change = parse_change(task.change) if task.change else None
    if task.whole:
        with redirect_stdout(sys.stderr):
            return replay_whole(
                loop, open_batches(task.data), steps=task.steps, change=change, perturbed=task.perturbed
            )
    snapshot = load_snapshot(task.snapshot)
    with redirect_stdout(sys.stderr):
        return replay(
            snapshot,
            loop,
            open_batches(task.data),
            steps=task.steps,
            change=change,
            recorded=task.recorded,
            measure=task.measure,
            perturbed=task.perturbed,
            rate_factor=task.rate_factor,
        )


def run_replays(tasks: Sequence[Replay], *, jobs: int = 0) -> Iterator[tuple[int, ReplayOutcome]]:
    """Yield the outcomes as they come, each with its place among the tasks.

    Args:
        tasks: What to replay.
        jobs: In how many processes; 0 for as many as there are processors for their threads. One works in
            this process.
    """
    threads = tasks[0].threads or torch.get_num_threads()
    jobs = min(jobs or max((os.cpu_count() or 1) // threads, 1), len(tasks))
    if jobs == 1:
        for place, task in enumerate(tasks):
            yield place, run_replay(task)
        return
    # The first failure, or Ctrl-C, ends the others: what they would come to need not be waited for.
    with worker_processes(jobs) as pool:
        places = {pool.submit(run_replay, task): place for place, task in enumerate(tasks)}
        for done in as_completed(places):
            yield places[done], done.result()
