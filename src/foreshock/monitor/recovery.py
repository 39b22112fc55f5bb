"""Bring a run back after a spike: put a snapshot back, change what the ladder says, and write it down."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NoReturn

import torch
from torch.optim import Optimizer

from foreshock.monitor.agreement import CHOICE, NONE, WIDTH, Agreement
from foreshock.monitor.journal import Journal
from foreshock.monitor.ladder import GIVE_UP, RUNGS, Climb, Ladder, RecoveryFailedError, Rung
from foreshock.monitor.losswatch import LossWatch
from foreshock.monitor.rates import RateFactor, copy_of_rate, set_rate
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
        rate_factor: What the learning rate is multiplied by from here on, by this measure and those before.
    """

    step: int
    to: int
    first_skipped: int
    last_skipped: int
    ids: tuple[int | str, ...]
    measure: str
    reason: str
    rate_factor: float = 1.0

    def __str__(self) -> str:
        """Return one line for people."""
        skipped = f"the batches of steps {self.first_skipped} – {self.last_skipped} are passed over"
        besides = "" if self.measure in ("rewind", "skip") else f"; measure: {self.measure}"
        return f"back to step {self.to} from step {self.step} ({self.reason}): {skipped}{besides}"


class RewindRefusedError(ValueError):
    """A snapshot that could not be put back, in this process or in another one; nothing was changed."""


class Rewinder:
    """Put snapshots back into the running training.

    Args:
        recorder: Has the snapshots.
        optimizers: The optimizers, for the rates that are left as they are.
        journal: Where it is written down.
        agreement: What all processes agree upon.

    Attributes:
        done: What was put back so far.
    """

    def __init__(
        self,
        recorder: Recorder,
        optimizers: Sequence[Optimizer],
        journal: Journal,
        agreement: Agreement,
    ) -> None:
        self._recorder, self._optimizers, self._journal = recorder, optimizers, journal
        self._agreement = agreement
        self.done: list[Rewind] = []

    def find(self, before: int | None, *, further: int = 0, measure: int = 0) -> Snapshot | None:
        """Return the newest snapshot from before a step that all processes have; None if there is none.

        Args:
            before: The step; None for the newest of all.
            further: How many to go further back, if there are so many.
            measure: A number of the measure, which has to be the same in all processes.
        """
        if not self._agreement.several:
            found = list(islice(self._recorder.candidates(before), further + 1))
            return found[-1] if len(found) > further else next(iter(found), None)
        own = {one.step: one for one in islice(self._recorder.candidates(before), WIDTH - 2)}
        rows = self._agreement.exchange(CHOICE, measure, further, *own)
        if rows is None or any(row[:2] != rows[0][:2] for row in rows):
            return None
        common = sorted(set[float].intersection(*(set(row[2:]) for row in rows)) - {NONE})
        if not common:
            return None
        return own[int(common[-1 - further] if len(common) > further else common[-1])]

    def back(
        self,
        snapshot: Snapshot,
        step: int,
        *,
        ids: tuple[int | str, ...] = (),
        measure: str = "rewind",
        reason: str = "asked for",
        rate_factor: float = 1.0,
    ) -> Rewind:
        """Put a snapshot back; random numbers go on, so that other batches are drawn.

        Args:
            snapshot: The snapshot.
            step: The present step.
            ids: Of the examples of the steps that are passed over.
            measure: What is done besides.
            reason: Why.
            rate_factor: What the learning rate is multiplied by from here on.

        Raises:
            RewindRefusedError: If it could not be put back here or in another process; nothing was changed.
        """
        groups = [group for one in self._optimizers for group in unwrap(one).param_groups]
        rates = [copy_of_rate(group) for group in groups]
        self._restore(snapshot)
        if not self._recorder.has_scheduler:
            # A schedule that goes on by itself counts on the rate that it set last.
            for group, rate in zip(groups, rates, strict=True):
                set_rate(group, rate)
        self._recorder.rewound(snapshot.step)
        done = Rewind(step, snapshot.step, snapshot.step + 1, step, ids, measure, reason, rate_factor)
        self.done.append(done)
        row = asdict(done) | {"name": "rewind" if measure == "rewind" else f"rewind: {measure}"}
        self._journal.write("event", row | {"message": str(done)})
        logging.getLogger("foreshock").warning("step %d: %s: %s", step, row["name"], done)
        return done

    def _restore(self, snapshot: Snapshot) -> None:
        restoration, refused = None, None
        try:
            restoration = self._recorder.begin_restoring(snapshot, without=("random",))
        except ValueError as error:
            refused = error
        if not self._agreement.all(restoration is not None):
            if restoration is not None:
                restoration.undo()
            why = refused or "another process could not, or did not answer"
            raise RewindRefusedError(str(why)) from refused
        if restoration is not None:
            restoration.finish()


class Recovery:
    """Act on troubles, one rung of a ladder after the other.

    Args:
        ladder: The ladder; None does nothing.
        rewinder: Puts snapshots back.
        optimizers: The optimizers.
        journal: The log.
    """

    def __init__(
        self, ladder: Ladder, *, rewinder: Rewinder, optimizers: Sequence[Optimizer], journal: Journal
    ) -> None:
        self.ladder = ladder
        self._rewinder, self._journal = rewinder, journal
        self._optimizers = optimizers
        self._climb = Climb(ladder)
        self._rate = RateFactor(optimizers)
        self._watch = LossWatch()
        self._changed: deque[int] = deque(maxlen=_CHANGES)
        self._rewound_at = -1
        self._trouble: tuple[int, str] | None = None
        self._quiet_until = -math.inf

    @property
    def onset(self) -> int | None:
        """Step before which this process wants to go back; None if there is no trouble.

        Options that were changed shortly before it are put back with a snapshot from before the change.
        """
        if self._trouble is None:
            return None
        onset = self._trouble[0]
        return min([onset, *(one for one in self._changed if onset - one <= _CAUSED)])

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

    def act(
        self, step: int, onset: int, *, ids: Callable[[int, int], tuple[int | str, ...]]
    ) -> Snapshot | None:
        """Do what the ladder says about a trouble; return the snapshot that was put back.

        Args:
            step: The present step.
            onset: `onset`, or an earlier one of another process.
            ids: Returns the ids of the examples from one step to another.

        Raises:
            RecoveryFailedError: If it says to stop.
        """
        what = "trouble of another process" if self._trouble is None else self._trouble[1]
        self._trouble = None
        rung = self._climb.next_rung(step, left_out=self._impossible())
        further = self._climb.further if rung == "rewind" else 0
        snapshot = self._rewinder.find(onset, further=further, measure=[*RUNGS, GIVE_UP].index(rung))
        if rung == GIVE_UP or snapshot is None:
            self._give_up(step, _why_not(onset, what, snapshot))
            return None
        lower = self._lower(rung, snapshot)
        skipped, factor = ids(snapshot.step + 1, step), self._rate.factor * lower
        try:
            self._rewinder.back(snapshot, step, ids=skipped, measure=rung, reason=what, rate_factor=factor)
        except RewindRefusedError as error:  # of another shape than the training has by now
            words = f"the snapshot of step {snapshot.step} can't be put back: {error}"
            if rung == "stop":
                self._stop(step, words)
            self._give_up(step, words)
            return None
        if rung == "stop":
            self._stop(step, _why_not(onset, what, snapshot))
        if rung == "raise v":
            raise_second_moments(self._optimizers, self.ladder.raise_by)
        self._rate.lower(lower)
        self._rewound_at = step
        self._watch.back_to(snapshot.step)
        return snapshot

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by at present."""
        return self._rate.factor

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands on its ladder, and what the rate is multiplied by."""
        return {
            "climb": self._climb.state_dict(),
            "rate_factor": self._rate.factor,
            "losses": self._watch.state_dict(),
            "changed": list(self._changed),
            "rewound_at": self._rewound_at,
            "quiet_until": None if math.isinf(self._quiet_until) else self._quiet_until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Args:
            state: What `state_dict` returned.
        """
        self._climb.load_state_dict(state["climb"])
        self._rate.set(state["rate_factor"])
        self._watch.load_state_dict(state["losses"])
        self._changed = deque(state["changed"], maxlen=_CHANGES)
        self._rewound_at = state["rewound_at"]
        quiet = state["quiet_until"]
        self._quiet_until = -math.inf if quiet is None else quiet
        self._trouble = None

    def _lower(self, rung: str, snapshot: Snapshot) -> float:
        """Return what a rung multiplies the rate by."""
        if rung not in ("lower rate", "rewind"):
            return 1.0
        # One that was raised goes back to what it was first: that may be all there is to it.
        rose, lower = self._rate.rose(snapshot), self.ladder.rate_factor
        return 1 / rose if rose * lower > 1 else lower

    def _impossible(self) -> tuple[Rung, ...]:
        raising = any(find_reader(one).raise_second_moment is not None for one in self._optimizers)
        return () if raising else ("raise v",)

    def _stop(self, step: int, words: str) -> NoReturn:
        self._journal.event(step, "recovery failed", words)
        raise RecoveryFailedError(words)

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
