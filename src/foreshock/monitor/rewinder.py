"""Put a snapshot back into the running training, in all processes or in none, and write it down."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from torch.optim import Optimizer

from foreshock.monitor.agreement import CHOICE, NONE, WIDTH, Agreement
from foreshock.monitor.journal import Journal
from foreshock.monitor.rates import copy_of_rate, set_rate
from foreshock.preconditioner import unwrap
from foreshock.recorder import Recorder, Snapshot


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
        agreement: The same.
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
        self.agreement = agreement
        self.done: list[Rewind] = []

    @property
    def failure(self) -> str:
        """What the recorder could not do last, in words that follow others; empty if nothing failed."""
        notes = self._recorder.summary().notes
        return f"; {notes[-1]}" if notes else ""

    def newest(self, before: int | None) -> Snapshot | None:
        """Return the newest snapshot of this process from before a step; None if there is none.

        Args:
            before: The step; None for the newest of all.
        """
        return self._recorder.newest(before)

    def is_finite(self) -> bool:
        """Return whether the training of this process can go on as it is, see `Recorder.is_finite`."""
        return self._recorder.is_finite()

    def find(self, before: int | None, *, further: int = 0, measure: int = 0) -> Snapshot | None:
        """Return the newest snapshot from before a step that all processes have; None if there is none.

        Args:
            before: The step; None for the newest of all.
            further: How many to go further back, if there are so many.
            measure: A number of the measure, which has to be the same in all processes.
        """
        if not self.agreement.several:
            found = list(islice(self._recorder.candidates(before), further + 1))
            return found[-1] if len(found) > further else next(iter(found), None)
        own = {one.step: one for one in islice(self._recorder.candidates(before), WIDTH - 2)}
        rows = self.agreement.exchange(CHOICE, measure, further, *own)
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
        if not self.agreement.all(restoration is not None):
            if restoration is not None:
                restoration.undo()
            why = refused or "another process could not, or did not answer"
            raise RewindRefusedError(str(why)) from refused
        if restoration is not None:
            restoration.finish()
