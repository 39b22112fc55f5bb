"""Replay one window of a training from a snapshot, as it was or with a change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch.optim import Optimizer

from foreshock.batches import cast_batch
from foreshock.curvature import preconditioned_sharpness
from foreshock.guarding import Guard
from foreshock.guarding import guard as attach_guard
from foreshock.recorder import Snapshot
from foreshock.replay.changes import PRECISIONS, Change
from foreshock.replay.held import cast_training, hold_second_moment
from foreshock.replay.loop import Loop
from foreshock.replay.outcome import RAN_OUT, ReplayOutcome, departure, events_after

_SIXTH_DIGIT = 1e-6


def replay(
    snapshot: Snapshot,
    loop: Loop,
    batches: Iterable[Any],
    *,
    steps: int = 200,
    change: Change | None = None,
    recorded: Sequence[tuple[int, float]] = (),
    measure: bool = False,
    perturbed: int | None = None,
    rate_factor: float = 1.0,
) -> ReplayOutcome:
    """Restore a snapshot and train on from it.

    The loop's model, optimizer and so on are overwritten, and so are the random numbers of torch, numpy and
    Python: use objects that were built for the purpose.

    Args:
        snapshot: Where to begin: between ``backward()`` and ``optimizer.step()`` of its step.
        loop: The training as it was built at its start.
        batches: The batches of the run from its first step on; those up to the snapshot are passed over.
        steps: How many steps to train, ≥ 1.
        change: What is done differently; None for nothing.
        recorded: Steps and losses of the run's log, to compare with.
        measure: Whether to measure the stability ratio after the last step.
        perturbed: Seed of a change of all weights in their sixth digit, so that what hangs on chance differs
            from seed to seed; None for none.
        rate_factor: What a ladder of recovery had the learning rate multiplied by at the snapshot.

    Raises:
        ValueError: If the snapshot does not fit the loop, the change does not fit the optimizer, or the
            batches end before the snapshot.

    Example:
        >>> from foreshock.recorder import Recorder
        >>> def build():
        ...     torch.manual_seed(0)
        ...     model = torch.nn.Linear(2, 1)
        ...     loss_fn = lambda model, x: model(x).square().mean()
        ...     return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.1))
        >>> data = [torch.full((4, 2), float(step)) for step in range(30)]
        >>> loop, recorder, losses = build(), Recorder(every=10), []
        >>> recorder.attach(loop.model, [loop.optimizer])
        >>> for step, batch in enumerate(data):
        ...     losses.append((step, float(loop.backward(batch))))
        ...     recorder.take(step, loss=losses[-1][1])
        ...     loop.update()
        >>> outcome = replay(recorder.newest(), build(), data, steps=5, recorded=losses)
        >>> outcome.compared, outcome.departure
        (5, None)
    """
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be at least 1")
    began, change = time.perf_counter(), change or Change()
    stream = _from(batches, snapshot.step)
    current = next(stream)
    snapshot.restore(
        loop.model, loop.optimizer, scheduler=loop.scheduler, scaler=loop.scaler, others=loop.others or None
    )
    if perturbed is not None:
        perturb(loop, perturbed)
    losses, last, actions, failure = train(
        loop,
        stream,
        steps,
        change,
        first=snapshot.step + 1,
        pending=True,
        before=current,
        rate_factor=rate_factor,
    )
    measurable = measure and losses and math.isfinite(losses[-1])
    ratio = _ratio(loop, last, change, rate_factor) if measurable else math.nan
    unchanged = change == Change() and perturbed is None
    where, compared = departure(snapshot.step, recorded, losses) if unchanged else (None, 0)
    at_start = math.nan if where is None else _loss_at(snapshot, loop, current)
    return ReplayOutcome(
        str(change),
        snapshot.step,
        tuple(losses),
        events_after(snapshot.step, recorded, losses),
        where,
        compared,
        at_start,
        dict(recorded).get(snapshot.step, snapshot.loss),
        ratio,
        actions,
        failure,
        time.perf_counter() - began,
    )


def replay_whole(
    loop: Loop,
    batches: Iterable[Any],
    *,
    steps: int,
    change: Change | None = None,
    perturbed: int | None = None,
) -> ReplayOutcome:
    """Train from the first step of a run on, as `replay` does from a snapshot.

    Args:
        loop: The training as it was built at its start.
        batches: The batches of the run from its first step on.
        steps: How many steps to train, ≥ 1.
        change: What is done differently; None for nothing.
        perturbed: Seed of a change of all weights in their sixth digit; None for none.

    Raises:
        ValueError: If the change does not fit the optimizer.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be at least 1")
    began, change = time.perf_counter(), change or Change()
    if perturbed is not None:
        perturb(loop, perturbed)
    losses, _, actions, failure = train(loop, iter(batches), steps, change)
    return ReplayOutcome(
        str(change),
        -1,
        tuple(losses),
        events_after(-1, (), losses),
        guard_actions=actions,
        failure=failure,
        seconds=time.perf_counter() - began,
    )


def train(
    loop: Loop,
    batches: Iterator[Any],
    steps: int,
    change: Change,
    *,
    first: int = 0,
    pending: bool = False,
    before: Any = None,
    rate_factor: float = 1.0,
) -> tuple[list[float], Any, int, str]:
    """Train, with a change, until a loss is not finite.

    Args:
        loop: The training.
        batches: The batches from that of the first step on.
        steps: How many steps.
        change: What is done differently.
        first: Number of the first step.
        pending: Whether the gradients of the step before it are there, and wait for their update.
        before: The batch of that step.
        rate_factor: What the learning rate is multiplied by inside each step, before it is changed.

    Returns:
        Losses, the last batch, how often a guard acted, and why it ended early.
    """
    losses: list[float] = []
    batch, failure = None, ""
    with _changed(loop, change, rate_factor) as guard:
        if pending:
            loop.skip() if first - 1 in change.skip else loop.update()
        for step in range(first, first + steps):
            following = next(batches, _END)
            if following is _END:
                failure = f"{RAN_OUT} {step}"
                break
            batch, before = _batch_of(step, following, before, change)
            try:
                losses.append(float(loop.backward(batch)))
                if not math.isfinite(losses[-1]):
                    break
                _update(loop, batch, guard, skipped=step in change.skip)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                if len(losses) < 2:  # not of this training in particular: nothing works
                    raise
                # A schedule that has no more steps, a layer that meets NaN: what was trained is not lost.
                failure = f"step {step} failed: {type(error).__name__}: {error}"
                break
        return losses, batch, 0 if guard is None else guard.summary().acted, failure


def _batch_of(step: int, batch: Any, before: Any, change: Change) -> tuple[Any, Any]:
    """Return what a step sees, and what the next one sees if it is to see the batch before its own."""
    if step in change.swap:
        if before is None:
            raise ValueError(f"the batch of step {step} can't be swapped: there is no step before it")
        batch = before
    shown = batch if change.precision is None else cast_batch(batch, PRECISIONS[change.precision])
    return shown, batch


def _update(loop: Loop, batch: Any, guard: Guard | None, *, skipped: bool) -> None:
    if skipped:
        loop.skip()
        return
    if guard is not None:
        guard.measure(loop.model, loop.loss_fn, batch)
    loop.update()


@contextmanager
def _changed(loop: Loop, change: Change, rate_factor: float) -> Iterator[Guard | None]:
    """Change the steps of a loop's optimizer; the guard, if there is one, sees them changed."""
    optimizer, ends = loop.optimizer, list[Callable[[], None]]()
    if change.precision is not None:
        cast_training(loop, PRECISIONS[change.precision])
    change.prepare(optimizer)
    hold = hold_second_moment(optimizer) if change.held else None
    with ExitStack() as stack:
        if hold is not None:
            stack.callback(optimizer.register_step_pre_hook(lambda *_: hold()).remove)
        # Put back in reverse: the change may have set the lowered rate.
        begin = lambda *_: ends.extend((_lowered(optimizer, rate_factor), change.begin_step(optimizer)))  # noqa: E731
        before = optimizer.register_step_pre_hook(begin)
        stack.callback(before.remove)
        guard = None
        if change.guard is not None:
            guard = stack.enter_context(attach_guard(optimizer, change.guard))
        # After the guard's: it puts back options that it held, which are the changed ones.
        after = optimizer.register_step_post_hook(lambda *_: (ends.pop()(), ends.pop()())[0])
        stack.callback(after.remove)
        yield guard


def _lowered(optimizer: Optimizer, factor: float) -> Callable[[], None]:
    """Multiply the learning rates of an optimizer; return what puts them back."""
    before = [(group, group["lr"]) for group in optimizer.param_groups if factor != 1]
    for group, rate in before:
        group["lr"] = rate * factor

    def put_back() -> None:
        for group, rate in before:
            group["lr"] = rate

    return put_back


@torch.no_grad()
def perturb(loop: Loop, seed: int) -> None:
    """Change all weights in their sixth digit.

    Args:
        loop: The training.
        seed: Of the change.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in loop.model.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_((1 + _SIXTH_DIGIT * noise).to(parameter))


def _ratio(loop: Loop, batch: Any, change: Change, rate_factor: float) -> float:
    raise_again = _lowered(loop.optimizer, rate_factor)
    put_back = change.set_options(loop.optimizer)
    try:
        return preconditioned_sharpness(loop.model, loop.optimizer, loop.loss_fn, batch).stability_ratio
    except (RuntimeError, TypeError, ValueError, FloatingPointError):
        return math.nan
    finally:
        put_back()
        raise_again()


def _loss_at(snapshot: Snapshot, loop: Loop, batch: Any) -> float:
    """Return the loss of a batch at the weights of a snapshot; NaN if there is none."""
    snapshot.restore(
        loop.model, loop.optimizer, scheduler=loop.scheduler, scaler=loop.scaler, others=loop.others or None
    )
    try:
        return float(loop.backward(batch))
    except (RuntimeError, TypeError, ValueError):
        return math.nan


def _from(batches: Iterable[Any], step: int) -> Iterator[Any]:
    """Return the batches from that of a step on."""
    stream = iter(batches)
    passed = sum(1 for _ in islice(stream, step))
    found = next(stream, _END)
    if passed < step or found is _END:
        raise ValueError(
            f"there are {passed} batches, and the snapshot is of step {step}: give all batches of the run "
            "from its first step on, of all epochs, for instance by a generator that loops over them"
        )
    return _chain(found, stream)


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


_END = object()
