"""Bring a run back after a spike: put a snapshot back, change what the ladder says, and write it down."""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.isolation import several_processes
from foreshock.monitor.journal import Journal
from foreshock.monitor.ladder import GIVE_UP, Climb, Ladder, RecoveryFailedError, Rung
from foreshock.monitor.losswatch import LossWatch
from foreshock.preconditioner import LiveParameter, find_reader, live_groups, unwrap
from foreshock.recorder import Recorder, Snapshot

BEFORE_SPIKE = 5
"""Steps: the mean of five losses shows a spike up to so many later."""
_CAUSED, _CHANGES = 100, 20  # steps from a change to its spike at most, and changes that are remembered


@dataclass(frozen=True)
class Rewind:
    """What was put back, and what training passes over.

    Attributes:
        step: Step at which it was done.
        to: Step of the snapshot: training goes on with the optimizer's step of it.
        first_skipped: First step whose batch is passed over, `to` + 1.
        last_skipped: The last one, `step`.
        ids: What `observe` was given as ids of the examples of these steps.
        measure: What else was done; ``"rewind"`` if nothing.
        reason: Why, in words.
    """

    step: int
    to: int
    first_skipped: int
    last_skipped: int
    ids: tuple[int | str, ...]
    measure: str
    reason: str

    def __str__(self) -> str:
        """Return one line for people."""
        skipped = f"the batches of steps {self.first_skipped} – {self.last_skipped} are passed over"
        besides = "" if self.measure in ("rewind", "skip") else f"; measure: {self.measure}"
        return f"back to step {self.to} from step {self.step} ({self.reason}): {skipped}{besides}"


class Rewinder:
    """Put snapshots back into the running training.

    Args:
        recorder: Has the snapshots.
        optimizers: The optimizers, for the rates that are left as they are.
        journal: Where it is written down.

    Attributes:
        done: What was put back so far.
    """

    def __init__(self, recorder: Recorder, optimizers: Sequence[Optimizer], journal: Journal) -> None:
        self._recorder, self._optimizers, self._journal = recorder, optimizers, journal
        self.done: list[Rewind] = []

    def back(
        self,
        snapshot: Snapshot,
        step: int,
        *,
        ids: tuple[int | str, ...] = (),
        measure: str = "rewind",
        reason: str = "asked for",
    ) -> Rewind:
        """Put a snapshot back; random numbers go on, so that other batches are drawn.

        Args:
            snapshot: The snapshot.
            step: The present step.
            ids: Of the examples of the steps that are passed over.
            measure: What is done besides.
            reason: Why.
        """
        rates = [group["lr"] for one in self._optimizers for group in unwrap(one).param_groups]
        rates = [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]
        self._recorder.restore(snapshot, without=("random",))
        if not self._recorder.has_scheduler:
            # A schedule that goes on by itself counts on the rate that it set last.
            groups = [group for one in self._optimizers for group in unwrap(one).param_groups]
            for group, rate in zip(groups, rates, strict=True):
                set_rate(group, rate)
        self._recorder.rewound(snapshot.step)
        done = Rewind(step, snapshot.step, snapshot.step + 1, step, ids, measure, reason)
        self.done.append(done)
        row = asdict(done) | {"name": "rewind" if measure == "rewind" else f"rewind: {measure}"}
        self._journal.write("event", row | {"message": str(done)})
        logging.getLogger("foreshock").warning("step %d: %s: %s", step, row["name"], done)
        return done


def refuse_several_processes() -> None:
    """Refuse to rewind one of several processes.

    Raises:
        ValueError: If there are several.
    """
    if several_processes():
        raise ValueError(
            "one of several processes can't be rewound by itself, and they do not see the same losses: stop "
            "the run, and on every rank restore load_snapshot(run, before=STEP, rank=RANK) of the same STEP"
        )


class Recovery:
    """Act on troubles, one rung of a ladder after the other.

    Args:
        ladder: The ladder; None does nothing.
        rewinder: Puts snapshots back.
        recorder: Has them.
        optimizers: The optimizers.
        journal: The log.
    """

    def __init__(
        self,
        ladder: Ladder,
        *,
        rewinder: Rewinder,
        recorder: Recorder,
        optimizers: Sequence[Optimizer],
        journal: Journal,
    ) -> None:
        self.ladder = ladder
        self._rewinder, self._recorder, self._journal = rewinder, recorder, journal
        self._optimizers = optimizers
        self._climb = Climb(ladder)
        self._rate = RateFactor(optimizers)
        self._watch = LossWatch()
        self._changed: deque[int] = deque(maxlen=_CHANGES)
        self._rewound_at = -1
        self._trouble: tuple[int, str] | None = None
        self._quiet_until = -math.inf

    def trouble(self, step: int, what: str) -> None:
        """Note a trouble; the first since the last call of `act` counts.

        Args:
            step: Step at which it began.
            what: What it is, in words.
        """
        if self._trouble is None and step > self._quiet_until:
            self._trouble = step, what

    def judge(self, step: int, loss: float) -> None:
        """Take the loss of a step into account.

        Args:
            step: Step number.
            loss: Its loss.
        """
        if self._watch.rises(step, loss):
            self.trouble(step - BEFORE_SPIKE, f"rise of the loss at step {step}")

    def changed(self, step: int) -> None:
        """Note that options of the optimizer, or what it trains, are others from a step on.

        Args:
            step: The step.
        """
        if step > self._rewound_at + 1:  # at that one they are what they were
            self._changed.append(step)

    def lost(self, step: int, words: str) -> None:
        """Write down that there is nothing to go back to.

        Args:
            step: Step number.
            words: Why.
        """
        self._give_up(step, f"the run can't be brought back to what it was: {words}")

    def act(self, step: int, *, ids: Callable[[int, int], tuple[int | str, ...]]) -> Snapshot | None:
        """Do what the ladder says about the trouble that was noted; return the snapshot that was put back.

        Args:
            step: The present step.
            ids: Returns the ids of the examples from one step to another.

        Raises:
            RecoveryFailedError: If it says to stop.
        """
        trouble, self._trouble = self._trouble, None
        if trouble is None:
            return None
        onset, what = trouble
        # Options that were changed shortly before are put back with a snapshot from before the change.
        onset = min([onset, *(one for one in self._changed if onset - one <= _CAUSED)])
        rung = self._climb.next_rung(step, left_out=self._impossible())
        further = self._climb.further if rung == "rewind" else 0
        snapshot = self._recorder.newest(before=onset, older_by=further)
        if snapshot is None and further:
            snapshot = self._recorder.newest(before=onset)
        if rung == GIVE_UP or snapshot is None:
            self._give_up(step, _why_not(onset, what, snapshot))
            return None
        if rung == "stop":
            self._rewinder.back(snapshot, step, ids=ids(snapshot.step + 1, step), measure="stop", reason=what)
            words = _why_not(onset, what, snapshot)
            self._journal.event(step, "recovery failed", words)
            raise RecoveryFailedError(words)
        rose = self._rate.rose(snapshot)
        try:
            self._rewinder.back(snapshot, step, ids=ids(snapshot.step + 1, step), measure=rung, reason=what)
        except ValueError as error:  # of another shape than the training has by now
            self._give_up(step, f"the snapshot of step {snapshot.step} can't be put back: {error}")
            return None
        if rung == "raise v":
            raise_second_moments(self._optimizers, self.ladder.raise_by)
        if rung in ("lower rate", "rewind"):
            # One that was raised goes back to what it was first: that may be all there is to it.
            lower = self.ladder.rate_factor
            self._rate.lower(1 / rose if rose * lower > 1 else lower)
        self._rewound_at = step
        self._watch.back_to(snapshot.step)
        return snapshot

    def _impossible(self) -> tuple[Rung, ...]:
        raising = any(find_reader(one).raise_second_moment is not None for one in self._optimizers)
        return () if raising else ("raise v",)

    def _give_up(self, step: int, words: str) -> None:
        self._quiet_until = step + self.ladder.window
        self._journal.event(step, "recovery given up", words)


def _why_not(onset: int, what: str, snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return (
            f"the run can't be brought back from the {what}: there is no snapshot from before step {onset} "
            "whose numbers are finite"
        )
    return (
        f"the run can't be brought back from the {what}: it came again after each measure, with other "
        "batches and smaller steps. Its cause is not in the weights: look at the data, the loss function and "
        "the schedule. `foreshock explain` has the evidence"
    )


class RateFactor:
    """Multiply the learning rate inside ``optimizer.step()``, whatever a schedule sets.

    Args:
        optimizers: The optimizers.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers, self.factor = tuple(map(unwrap, optimizers)), 1.0
        self._hooked = False

    def lower(self, factor: float) -> None:
        """Multiply by one more factor from the next step on.

        Args:
            factor: Between 0 and 1.
        """
        self.factor *= factor
        if self._hooked:
            return
        self._hooked = True
        for optimizer in self._optimizers:
            saved: list[Any] = []
            applied: list[float] = []
            # Not bound to an object that has the optimizer: hooks that hold it would keep it alive.
            this = weakref.ref(self)

            def before(
                one: Optimizer,
                *_: Any,
                saved: list[Any] = saved,
                applied: list[float] = applied,
                this: Any = this,
            ) -> None:
                owner = this()
                factor = 1.0 if owner is None else owner.factor
                # A step that failed never put its rates back: those that nobody set since.
                for group, rate in zip(one.param_groups, saved, strict=False):
                    if float(group["lr"]) == float(rate * applied[0]):
                        set_rate(group, rate)
                applied[:] = [factor]
                saved[:] = [copy_of_rate(group) for group in one.param_groups]
                for group, rate in zip(one.param_groups, saved, strict=True):
                    set_rate(group, rate * factor)

            def after(one: Optimizer, *_: Any, saved: list[Any] = saved) -> None:
                for group, rate in zip(one.param_groups, saved, strict=False):
                    set_rate(group, rate)
                saved.clear()

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)

    def rose(self, snapshot: Snapshot) -> float:
        """Return by how much the rate is above that of a snapshot, 1 if it is not.

        Args:
            snapshot: The snapshot.
        """
        then = snapshot.learning_rate
        now = max(float(group["lr"]) for one in self._optimizers for group in one.param_groups)
        return max(now * self.factor / then, 1.0) if then > 0 and now < math.inf else 1.0


def copy_of_rate(group: dict[str, Any]) -> Any:
    """Return the learning rate of a group; of a tensor a copy.

    Args:
        group: A parameter group.
    """
    rate = group["lr"]
    return rate.clone() if isinstance(rate, Tensor) else rate


@torch.no_grad()
def set_rate(group: dict[str, Any], rate: Any) -> None:
    """Set the learning rate of a group; a tensor is written in place.

    Args:
        group: A parameter group.
        rate: The rate.
    """
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@torch.no_grad()
def raise_second_moments(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Multiply the second moments with which the coming step is made.

    Args:
        optimizers: The optimizers, between ``backward()`` and ``step()``.
        factor: On v.
    """
    for optimizer in optimizers:
        reader, states = find_reader(optimizer), unwrap(optimizer).state
        if reader.raise_second_moment is None:
            continue
        for group in live_groups(optimizer):
            for parameter in group["params"]:
                if parameter.grad is None or not states.get(parameter):
                    continue
                live = LiveParameter(parameter, parameter.grad, states[parameter], group)
                for moment, wanted in reader.raise_second_moment(live, factor):
                    moment.copy_(wanted)
