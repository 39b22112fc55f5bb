"""The flight recorder: when a snapshot is taken, which are kept, and when they are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.failures import Failures
from foreshock.isolation import several_processes
from foreshock.recorder.encoding import UnsupportedStateError, encode
from foreshock.recorder.pace import FIRST, Pace
from foreshock.recorder.ring import Ids, Ring, size_of
from foreshock.recorder.snapshot import BATCH, LOSS, Snapshot, named_others
from foreshock.recorder.state import Restoration, Training, capture, check
from foreshock.recorder.writing import PATIENCE, SnapshotWriter

_DENSER = 4  # times as often while there is an alarm
_SPARED = 0.5  # part of the share of time that is used at rest; the rest is for alarms
_FIXED = 50  # steps, where several processes may not choose by their own clocks


@dataclass(frozen=True)
class RecorderSummary:
    """What a recorder holds and has cost.

    Attributes:
        steps: Steps of the snapshots in memory, the oldest first.
        ages: Steps since each.
        bytes: Memory that they take, that of the host.
        snapshot_bytes: Size of the newest.
        every: Steps from one snapshot to the next at present.
        taken: How many were taken so far.
        seconds: Time that taking them took of the training, in all.
        share: That over the time of all steps, as long as they usually are.
        writing: Processor time of the thread that writes, seconds; the training goes on meanwhile.
        written: Folders of those that were written.
        notes: What could not be done, and why.
    """

    steps: tuple[int, ...]
    ages: tuple[int, ...]
    bytes: int
    snapshot_bytes: int
    every: int
    taken: int
    seconds: float
    share: float
    writing: float
    written: tuple[Path, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return one or two sentences for people."""
        if not self.steps:
            return f"no snapshot; {'; '.join(self.notes) or 'none was due yet'}"
        ages = ", ".join(map(str, reversed(self.ages)))
        words = (
            f"{len(self.steps)} snapshots, {ages} steps old, {self.bytes / 2**20:.1f} MiB of host memory; "
            f"one every {self.every} steps, {self.taken} so far, {self.share:.2%} of the time; "
            f"{len(self.written)} written"
        )
        beside = f" ({self.writing:.1f} s of processor time beside the training)" if self.written else ""
        return "; ".join([words + beside, *self.notes])


class Recorder:
    """Keep the last snapshots of a training in memory, and write them when an alarm comes.

    Pass it to `foreshock.Monitor`, which takes snapshots where `observe` is called. One holds parameters,
    buffers, gradients, the optimizer's state and options, the random numbers of torch, numpy and Python, and
    what else it is given here: enough to go on bit by bit. They lie in the memory of the host, in buffers
    that are used again; those that are written go to ``RUN/snapshots`` from a thread of their own.

    Ages about double from one snapshot to the next. While there is an alarm they are taken four
    times as often: as far as `share` has room for it, or in any case where the steps are fixed.

    Args:
        last: Snapshots in memory, at most, ≥ 2.
        max_bytes: Memory that they may take together, in this process. With Adam a snapshot takes four times
            the parameters, or the part of them that this process has.
        every: Steps from one to the next; None: as often as `share` allows. In several processes, None is 50,
            and snapshots are of its multiples, so that all have the same steps.
        share: Part of the time that snapshots may cost, in (0, 1). Half of it is used at rest; the other half
            is saved for alarms, what writing takes of the processor included.
        scheduler: The learning-rate scheduler, or several.
        scaler: The gradient scaler.
        others: Whatever else has ``state_dict()`` and ``load_state_dict()``, or is a generator of random
            numbers, by name: an average of the weights, the data loader.
        batches: Whether to keep the batch of each snapshot, too.
        keep: Snapshots on disk, at most, ≥ 1: older ones are removed once a newer one is written.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> import torch, foreshock
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> recorder = Recorder(every=10)
        >>> monitor = foreshock.Monitor(model, optimizer, recorder=recorder)
        >>> for _ in range(45):
        ...     optimizer.zero_grad()
        ...     loss = (model(torch.ones(8, 3)) ** 2).mean()
        ...     loss.backward()
        ...     _ = monitor.observe(torch.ones(8, 3), loss)
        ...     optimizer.step()
        >>> recorder.summary().steps
        (0, 10, 20, 30, 40)
    """

    def __init__(
        self,
        *,
        last: int = 6,
        max_bytes: int = 2 * 2**30,
        every: int | None = None,
        share: float = 0.01,
        scheduler: Any = None,
        scaler: Any = None,
        others: Mapping[str, Any] | None = None,
        batches: bool = False,
        keep: int = 8,
    ) -> None:
        for name, value, least in (
            ("last", last, 2),
            ("every", every, 1),
            ("keep", keep, 1),
            ("max_bytes", max_bytes, 1),
        ):
            if value is not None and not value >= least:
                raise ValueError(f"{name} is {value!r}; it must be {least} or more")
        if not 0 < share < 1:
            raise ValueError(f"share is {share!r}; it is a part of the time, between 0 and 1: 0.01 is usual")
        self._ring = Ring(last=last, max_bytes=max_bytes)
        self._every, self._share, self._batches, self._keep = every, share, batches, keep
        self._others = named_others(scheduler, scaler, others)
        self._training: Training | None = None
        self._failures = Failures("recorder")
        self._pace = Pace()
        self._spacing = every or FIRST
        self._together = False
        self._writer = SnapshotWriter(keep)
        self._step = self._taken_at = -1

    @property
    def ready(self) -> bool:
        """Whether it is attached to a training and was not given up."""
        return self._training is not None and not self._failures.given_up

    def attach(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Record a training from here on; a `foreshock.Monitor` calls this.

        Args:
            model: The model.
            optimizers: Its optimizers.

        Raises:
            UnsupportedStateError: If some of its state can't be recorded exactly, with what to do.
            ValueError: If it records another training.
        """
        if self._training is not None:
            raise ValueError("this recorder records a training already: make one for each Monitor")
        training = Training(model, tuple(optimizers), self._others)
        capture(training)  # refused before training, where it costs nothing
        self._training = training
        self._together = several_processes()
        if self._every is None and self._together:
            self._every = self._spacing = _FIXED

    def detach(self) -> None:
        """Record no training any more, so that it can be attached to another; snapshots are forgotten."""
        self._training = None
        self._ring.clear()
        self._step = self._taken_at = -1

    def take(
        self,
        step: int,
        *,
        loss: Tensor | float | None = None,
        batch: Any = None,
        ids: Sequence[int | str] = (),
        dense: bool = False,
        note: Callable[[], Any] | None = None,
    ) -> None:
        """Take a snapshot of a step if one is due. Call it between ``backward()`` and ``optimizer.step()``.

        A failure is noted, and never raised: after three in a row no more are taken.

        Args:
            step: Step number, higher than before.
            loss: Its loss; None if unknown.
            batch: Its batch, kept if the recorder keeps batches.
            ids: Of its examples.
            dense: Whether there is an alarm, so that snapshots are taken more often.
            note: Returns what comes along in memory, called if one is taken.
        """
        self._step = step
        if self._pace.see():
            self._space()
        if not self.ready or not self._is_due(step, dense=dense):
            return
        self._taken_at = step
        began = time.perf_counter()
        try:
            self._take(step, loss, batch if self._batches else None, tuple(ids), note)
        except Exception as error:  # noqa: BLE001 - a snapshot must never end a training run
            self._failures.failed(f"no snapshot of step {step}", error)
        else:
            self._failures.succeeded()
        self._pace.took(time.perf_counter() - began)
        self._space()

    def newest(self, before: int | None = None) -> Snapshot | None:
        """Return the newest snapshot in memory that training can go on from; None if there is none.

        Its tensors are the recorder's own, which later snapshots overwrite.

        Args:
            before: Only of a step before this.
        """
        return next(self.candidates(before), None)

    def candidates(self, before: int | None = None) -> Iterator[Snapshot]:
        """Yield the snapshots in memory that training can go on from, see `newest`, the newest first.

        Args:
            before: Only of a step before this.
        """
        for slot in reversed(self._ring.slots):
            if (before is None or slot.step < before) and (snapshot := slot.snapshot()).is_finite():
                yield snapshot

    def write(self, folder: Path, *, reason: str, before: int | None = None, rank: int = 0) -> bool:
        """Return whether there is a snapshot from before a step, and have the newest written by a thread.

        Args:
            folder: The run's folder.
            reason: Why, in words.
            before: Step of the trouble; None for the newest of all.
            rank: Rank of this process.
        """
        slots = [slot for slot in self._ring.slots if before is None or slot.step < before]
        if not slots:
            return False
        self._writer.begin(slots[-1], folder, reason=reason, rank=rank)
        return True

    def news(self) -> list[tuple[int, str]]:
        """Return what became of what was written since the last call: step and words."""
        return self._writer.news()

    @property
    def has_scheduler(self) -> bool:
        """Whether it was given a scheduler."""
        return any(name.partition(".")[0] == "scheduler" for name in self._others)

    def restore(self, snapshot: Snapshot, *, without: Collection[str] = ()) -> None:
        """Put a snapshot back into the training that is recorded, see `Snapshot.restore`.

        Args:
            snapshot: The snapshot.
            without: ``"random"``, ``"gradients"``: to leave these as they are.

        Raises:
            ValueError: If it does not fit any more, or nothing is recorded; then nothing was changed.
        """
        self.begin_restoring(snapshot, without=without).finish()

    def begin_restoring(self, snapshot: Snapshot, *, without: Collection[str] = ()) -> Restoration:
        """Return a snapshot on its way into the training that is recorded; nothing is lost so far.

        Args:
            snapshot: The snapshot.
            without: ``"random"``, ``"gradients"``: to leave these as they are.

        Raises:
            ValueError: If it does not fit any more, or nothing is recorded; then nothing was changed.
        """
        if self._training is None:
            raise ValueError("this recorder records no training: pass it to a Monitor")
        check(snapshot.tree, snapshot.tensors, self._training)
        return Restoration(snapshot.tree, snapshot.tensors, self._training, without=without)

    def is_finite(self) -> bool:
        """Return whether the training that is recorded is worth going on with, whatever its gradients are.

        Parameters and the optimizer's state are finite, and no buffer is NaN, as far as that can be known.
        """
        if self._training is None:
            return False
        try:
            _, tensors = capture(self._training)
        except Exception:  # noqa: BLE001 - layers that were added since, or a scheduler whose state fails
            return True
        numbers = {name: one for name, one in tensors.items() if one.is_floating_point() or one.is_complex()}
        kept = [one for name, one in numbers.items() if name.startswith(("parameter/", "optimizer/"))]
        buffers = [one for name, one in numbers.items() if name.startswith("buffer/")]
        return all(bool(one.isfinite().all()) for one in kept) and not any(
            bool(one.isnan().any()) for one in buffers
        )

    def rewound(self, step: int) -> None:
        """Forget the snapshots that were taken after a step to which the training went back.

        Args:
            step: Step of the snapshot that was restored.
        """
        self._ring.drop_from(step + 1)
        self._taken_at = self._step

    def summary(self) -> RecorderSummary:
        """Return how many snapshots there are, how old, how large, and what they cost."""
        slots = self._ring.slots
        return RecorderSummary(
            steps=tuple(slot.step for slot in slots),
            ages=tuple(self._step - slot.step for slot in slots),
            bytes=self._ring.bytes,
            snapshot_bytes=slots[-1].bytes if slots else 0,
            every=self._spacing,
            taken=self._pace.taken,
            seconds=self._pace.spent,
            share=self._pace.share,
            writing=self._writer.seconds,
            written=tuple(self._writer.written),
            notes=(*self._failures.notes, *self._writer.failures.notes),
        )

    def close(self) -> None:
        """Wait until what is being written is on the disk, a minute at most, and give the memory back."""
        self._writer.wait(PATIENCE)
        self._ring.clear()

    def _space(self) -> None:
        if self._every is None:
            self._spacing = self._pace.spacing(self._share * _SPARED)
        self._ring.reach = self._spacing * 2 ** (self._ring.last - 1)

    def _is_due(self, step: int, *, dense: bool) -> bool:
        spacings = [self._spacing]
        if dense and self._may_be_denser():
            spacings.append(max(self._spacing // _DENSER, 1))
        if self._taken_at < 0:
            return True
        if self._together:
            # At multiples: an alarm of one process alone must not leave it with steps that no other has.
            return any(step // one > self._taken_at // one for one in spacings)
        return step - self._taken_at >= min(spacings)

    def _may_be_denser(self) -> bool:
        """Return whether there is time left for more snapshots; it is, where the user says how many."""
        return self._every is not None or self._pace.spares(self._share, besides=self._writer.seconds)

    def _take(
        self, step: int, loss: Tensor | float | None, batch: Any, ids: Ids, note: Callable[[], Any] | None
    ) -> None:
        if self._training is None:
            return
        tree, tensors = capture(self._training)
        if loss is not None:
            tensors[LOSS] = loss.detach().reshape(()) if isinstance(loss, Tensor) else torch.tensor(loss)
        if batch is not None:
            tree[BATCH] = encode(batch, BATCH, tensors)
        if self._ring.put(step, tree, tensors, ids, None if note is None else note()):
            return
        size = size_of(tensors)
        if size > self._ring.max_bytes:
            raise UnsupportedStateError(
                f"one takes {size:,} bytes, and max_bytes is {self._ring.max_bytes:,}: pass a larger one"
            )
        # All are being written: the next one will find room.
