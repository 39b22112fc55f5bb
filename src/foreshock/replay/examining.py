"""Replay an event of a run that is still going on, in its process, and leave all of it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.explain import Examination, Explanation
from foreshock.isolation import RandomState, several_processes
from foreshock.recorder import Snapshot
from foreshock.replay.changes import parse_change
from foreshock.replay.examination import examine, window_of
from foreshock.replay.loop import Loop
from foreshock.replay.outcome import ReplayOutcome
from foreshock.replay.window import replay
from foreshock.runlog import Run

Build: TypeAlias = Callable[[], "Loop | tuple[nn.Module, Any, Optimizer]"]
Batches: TypeAlias = "Callable[[], Iterable[Any]] | Iterable[Any]"


def examine_event(
    run: Run,
    event: Explanation,
    snapshot: Snapshot,
    build: Build,
    batches: Batches,
    *,
    live: Sequence[Tensor] = (),
) -> Examination:
    """Replay an event as it was and with one thing changed at a time, and say what follows.

    Random numbers of torch, numpy and Python, torch's number of threads and its default type are afterwards
    what they were. Cost: five replays from the snapshot to a hundred steps after the peak.

    Args:
        run: The run.
        event: The event.
        snapshot: A snapshot from before it.
        build: Builds the training as it was at its start, anew at each call: returns a `Loop`, or
            (model, loss_fn, optimizer).
        batches: All batches of the run from its first step on, in its order: a function that returns an
            iterable, or a list.
        live: Tensors of the training that goes on, which no replay may touch.

    Raises:
        TypeError: If `build` or `batches` is something else.
        ValueError: If the snapshot is not from before the event or does not fit, `build` returns what is
            being trained, or the training has several processes.
    """
    if several_processes():
        raise ValueError(
            "the training has several processes, and a replay would wait for the others; test the event "
            "afterwards, in a process of its own: foreshock explain RUN --step … --model … --data …"
        )
    _check(build, batches)
    window = window_of(run, event, snapshot.step)

    def replayed(change: str = "", perturbed: int | None = None) -> ReplayOutcome:
        return replay(
            snapshot,
            _built(build, live),
            batches() if callable(batches) else batches,
            steps=window.steps,
            change=parse_change(change) if change else None,
            recorded=window.recorded,
            perturbed=perturbed,
            rate_factor=window.rate_factor,
        )

    with _left_alone(live):
        unchanged, perturbed = replayed(), replayed(perturbed=1)
        tested = [attempted(change, snapshot.step, partial(replayed, change)) for change in window.changes]
    return examine(event, unchanged, tested, perturbed=perturbed, recorded=window.recorded)


def attempted(change: str, start: int, run: Callable[[], ReplayOutcome]) -> ReplayOutcome:
    """Return the outcome of a replay; of one that can't be made, such as with v of SGD held, only why not.

    Args:
        change: The change in words.
        start: Step of the snapshot.
        run: Makes the replay.
    """
    try:
        return run()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return ReplayOutcome(change, start, (), (), failure=str(error) or type(error).__name__)


def _check(build: Any, batches: Any) -> None:
    if isinstance(build, nn.Module | Loop) or not callable(build):
        raise TypeError(
            f"build is {type(build).__name__}; it must be a function that builds the training anew, with "
            "weights of its own, and returns a foreshock.replay.Loop or (model, loss_fn, optimizer)"
        )
    if isinstance(batches, Iterator) or not (callable(batches) or isinstance(batches, Iterable)):
        raise TypeError(
            f"batches is {type(batches).__name__}; each replay reads them from the first step on, so it must "
            "be a function that returns an iterable, or a list"
        )


def _built(build: Build, live: Sequence[Tensor]) -> Loop:
    made = build()
    if not isinstance(made, Loop):
        if not (isinstance(made, tuple) and len(made) == 3):
            raise TypeError(
                f"build returned {type(made).__name__}; it must return a foreshock.replay.Loop or (model, "
                "loss_fn, optimizer)"
            )
        made = Loop(*made)
    held = [*made.model.parameters(), *made.model.buffers()]
    held += [one for group in made.optimizer.param_groups for one in group["params"]]
    if {id(one) for one in held} & {id(one) for one in live}:
        raise ValueError(
            "build returned tensors of the training that is going on, which a replay would overwrite; it "
            "must build model and optimizer anew (copy.deepcopy of what is shared)"
        )
    return made


@contextmanager
def _left_alone(live: Sequence[Tensor]) -> Iterator[None]:
    """Put back what a factory or a replay sets for the whole process."""
    random, threads, dtype = RandomState.capture(live), torch.get_num_threads(), torch.get_default_dtype()
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        random.restore()
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
