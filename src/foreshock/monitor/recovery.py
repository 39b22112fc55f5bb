"""Bring a run back after a spike: find out whether that can be, and do what the ladder says."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch.optim import Optimizer

from foreshock.monitor.agreement import PROSPECT
from foreshock.monitor.journal import Journal
from foreshock.monitor.ladder import GIVE_UP, RUNGS, Climb, Ladder, RecoveryFailedError, Rung
from foreshock.monitor.losswatch import LossWatch
from foreshock.monitor.observation import StepObservation
from foreshock.monitor.prospect import BatchSizes
from foreshock.monitor.rates import RateFactor
from foreshock.monitor.rewinder import Rewinder, RewindRefusedError
from foreshock.preconditioner import LiveParameter, find_reader, live_groups, unwrap
from foreshock.recorder import Snapshot

BEFORE_SPIKE = 5
"""Steps: the mean of five losses shows a spike up to so many later."""
_CAUSED, _CHANGES = 100, 20  # steps from a change to its spike at most, and changes that are remembered
_SURE, _PATIENCE = 3, 5  # batches that are as bad with other weights, and times that one waits for a next one
IdsBetween = Callable[[int, int], tuple[int | str, ...]]
_UNKNOWN, _FINE, _BAD, _WAIT = 0.0, 1.0, 2.0, 3.0  # what a process says of going back


class _Trouble(NamedTuple):
    """What went wrong, see `Recovery.trouble`."""

    onset: int
    what: str
    seen: int | None
    finite: bool


class Recovery:
    """Act on troubles, one rung of a ladder after the other.

    Args:
        ladder: The ladder.
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
        self._sizes = BatchSizes()
        self._size_told: int | None = None  # step from which on batches have another size, and the loss rose
        self._changed: deque[int] = deque(maxlen=_CHANGES)
        self._rewound_at = -1
        self._trouble: _Trouble | None = None
        self._bad = self._waited = 0  # batches of this trouble that were tried, or waited for
        self._stays = ""  # what the last of them came to, in words
        self._quiet_until, self._all_quiet = -math.inf, True

    @property
    def onset(self) -> int | None:
        """Step before which this process wants to go back; None if there is no trouble.

        Options that were changed shortly before it are put back with a snapshot from before the change.
        """
        if self._trouble is None:
            return None
        onset = self._trouble.onset
        return min([onset, *(one for one in self._changed if onset - one <= _CAUSED)])

    @property
    def in_doubt(self) -> bool:
        """Whether it is being found out if going back can help, so that the next step is waited for."""
        return self._trouble is not None and self._bad + self._waited > 0

    def trouble(self, step: int, what: str, *, seen: int | None = None, finite: bool = True) -> None:
        """Note a trouble; the first since the last call of `act` counts.

        One that was given up is not told again for some time; a loss that is not finite is another one.

        Args:
            step: Step at which it began.
            what: What it is, in words.
            seen: Step of the loss that showed it; None for a forecast.
            finite: Whether that loss is finite.
        """
        quiet = step <= self._quiet_until and (finite or self._all_quiet)
        if self._trouble is None and not quiet:
            self._trouble = _Trouble(step, what, seen, finite)

    def judge(self, seen: StepObservation) -> None:
        """Take the loss and the batch of a step into account.

        Args:
            seen: Its free signals.
        """
        self._sizes.see(seen.step, seen.batch_elements or seen.batch_size)
        if self._watch.rises(seen.step, seen.loss):
            words = f"rise of the loss at step {seen.step}"
            self.trouble(seen.step - BEFORE_SPIKE, words, seen=seen.step)
        since = self._sizes.lasting(seen.step)
        if since not in (None, self._size_told) and self._watch.is_higher(since):
            self._size_told = since
            self.trouble(since, f"rise of the loss from step {since} on", seen=seen.step)

    def changed(self, step: int) -> None:
        """Note that options of the optimizer, or what it trains, are others from a step on.

        Args:
            step: The step.
        """
        if step > self._rewound_at + 1:  # at that one they are what they were
            self._changed.append(step)

    def went_back(self, to: int, step: int) -> None:
        """Note that the training was brought back, so that nothing is left to do about what led to it.

        Args:
            to: Step of the snapshot.
            step: The present step.
        """
        self._trouble, self._bad, self._waited = None, 0, 0
        self._rewound_at = step
        self._watch.back_to(to)

    def lost(self, step: int, words: str) -> None:
        """Write down that there is nothing to go back to.

        Args:
            step: Step number.
            words: Why.
        """
        self._give_up(step, f"the run can't be brought back to what it was: {words}")

    def act(
        self,
        step: int,
        onset: int,
        *,
        ids: IdsBetween,
        stays: Callable[[Snapshot, float], str] | None = None,
    ) -> Snapshot | None:
        """Do what the ladder says about a trouble; return the snapshot that was put back.

        First it is found out whether that can help. As long as that is in doubt nothing is done, and it is
        called again at the next step.

        Args:
            step: The present step.
            onset: `onset`, or an earlier one of another process.
            ids: Returns the ids of the examples from one step to another.
            stays: Returns `what_stays` of a snapshot, given the bar of losses; None if nothing can be tried.

        Raises:
            RecoveryFailedError: If it says to stop.
        """
        trouble = self._trouble
        what = "trouble of another process" if trouble is None else trouble.what
        hopeless = self._hopeless(step, onset, stays)
        if hopeless is None:
            return None
        self._trouble, self._bad, self._waited = None, 0, 0
        if hopeless:
            words = f"the run can't be brought back from the {what}: {hopeless}"
            if self._goes_on():
                self._give_up(step, f"{words}. Training goes on as it is", trouble)
                if trouble is not None and trouble.finite:
                    self._watch.forget_before(onset)  # what is usual is another level from here on
                return None
            snapshot = self._rewinder.find(onset, measure=RUNGS.index("stop"))
            self._stop(step, words, snapshot, "it can't be brought back", ids)
        rung = self._climb.next_rung(step, left_out=self._impossible())
        further = self._climb.further if rung == "rewind" else 0
        snapshot = self._rewinder.find(onset, further=further, measure=[*RUNGS, GIVE_UP].index(rung))
        if rung == GIVE_UP or snapshot is None:
            failure = self._rewinder.failure if snapshot is None else ""
            self._give_up(step, _why_not(onset, what, snapshot) + failure, trouble)
            return None
        if rung == "stop":
            self._stop(step, _why_not(onset, what, snapshot), snapshot, what, ids)
        lower = self._lower(rung, snapshot)
        skipped, factor = ids(snapshot.step + 1, step), self._rate.factor * lower
        try:
            self._rewinder.back(snapshot, step, ids=skipped, measure=rung, reason=what, rate_factor=factor)
        except RewindRefusedError as error:  # of another shape than the training has by now
            self._give_up(step, _refused(snapshot, error), trouble)
            return None
        if rung == "raise v":
            raise_second_moments(self._optimizers, self.ladder.raise_by)
        self._rate.lower(lower)
        self.went_back(snapshot.step, step)
        return snapshot

    def _hopeless(self, step: int, onset: int, stays: Callable[[Snapshot, float], str] | None) -> str | None:
        """Return why no snapshot can help, as all processes see it; empty if one may, None if in doubt."""
        rows = self._rewinder.agreement.exchange(PROSPECT, self._prospect(step, onset, stays))
        said = [] if rows is None else [row[0] for row in rows]
        if _WAIT in said and self._waited < _PATIENCE:
            self._waited += 1
            return None
        if _FINE in said or _BAD not in said:
            return ""
        self._bad += 1
        if self._bad < _SURE:
            return None
        return f"{self._stays or 'another process says so'}. It is not in the weights, and nothing was tried"

    def _prospect(self, step: int, onset: int, stays: Callable[[Snapshot, float], str] | None) -> float:
        """Return what this process says of going back."""
        snapshot = self._rewinder.newest(onset)
        if snapshot is None:
            return _UNKNOWN
        began = onset if self._trouble is None else self._trouble.onset
        self._stays = self._sizes.changed(snapshot.step, onset=began)
        if self._stays:
            return _BAD
        if stays is None or (self._trouble is not None and self._trouble.seen is None):
            return _UNKNOWN
        if self._trouble is not None and self._trouble.seen == step:
            return _WAIT  # that batch alone may be bad: the next ones say more
        try:
            self._stays = stays(snapshot, self._watch.bar(snapshot.step))
        except Exception as error:  # noqa: BLE001 - a test that fails must not keep a run from going back
            self._journal.event(
                step, "prospect unknown", f"{type(error).__name__}: {error}", level=logging.INFO
            )
            return _UNKNOWN
        return _BAD if self._stays else _FINE

    def _goes_on(self) -> bool:
        """Return whether a training that no snapshot can help is left as it is, in all processes."""
        if "stop" not in self.ladder.rungs:
            return True
        if self.ladder.elsewhere == "stop":
            return False
        return self._rewinder.agreement.all(self._rewinder.is_finite())

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
            "sizes": self._sizes.state_dict(),
            "size_told": self._size_told,
            "changed": list(self._changed),
            "rewound_at": self._rewound_at,
            "all_quiet": self._all_quiet,
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
        if "sizes" in state:
            self._sizes.load_state_dict(state["sizes"])
        self._size_told = state.get("size_told")
        self._changed = deque(state["changed"], maxlen=_CHANGES)
        self._rewound_at = state["rewound_at"]
        quiet = state["quiet_until"]
        self._quiet_until = -math.inf if quiet is None else quiet
        self._all_quiet = state.get("all_quiet", True)
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

    def _stop(
        self, step: int, words: str, snapshot: Snapshot | None, reason: str, ids: IdsBetween
    ) -> NoReturn:
        """End the training with the weights of before, if they can be put back."""
        if snapshot is not None:
            skipped, factor = ids(snapshot.step + 1, step), self._rate.factor
            try:
                self._rewinder.back(
                    snapshot, step, ids=skipped, measure="stop", reason=reason, rate_factor=factor
                )
            except RewindRefusedError as error:
                words = f"{words}; and {_refused(snapshot, error)}"
        self._journal.event(step, "recovery failed", words)
        raise RecoveryFailedError(words)

    def _give_up(self, step: int, words: str, trouble: _Trouble | None = None) -> None:
        self._quiet_until = step + self.ladder.window
        self._all_quiet = trouble is None or not trouble.finite
        self._journal.event(step, "recovery given up", words)


def _refused(snapshot: Snapshot, error: RewindRefusedError) -> str:
    return f"the snapshot of step {snapshot.step} can't be put back: {error}"


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
