"""What a monitor writes down: records to the run log, and each problem once to the logger."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from foreshock.runlog import RunLogWriter
from foreshock.sinks import Delivery, Sink

_LOGGER = logging.getLogger("foreshock")
_PENDING = 1000
_REPEATS = 1000
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Journal:
    """Write to a run log and to sinks, if there are any; when one fails, training goes on without it.

    Args:
        run: Folder of the run log; None keeps none.
        meta: What the run is, for the header.
        rank: Rank of this process, each of which has its own file; by default `process_rank`.
        sinks: Where the records go, too; those of rank 0 only.

    Raises:
        OSError: If the run folder can't be written; by rank 0 only, for the others would wait for one that
            ended.
        TypeError: If one of the sinks is none.
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | None,
        *,
        meta: Mapping[str, Any] | None = None,
        rank: int | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        rank = process_rank() if rank is None else rank
        self._deliveries = tuple(Delivery(sink) for sink in sinks) if rank == 0 else ()
        self._log = None if run is None else _log_of(run, meta, rank)
        self._pending: list[tuple[str, Any]] = []
        self._repeats: dict[tuple[str, str], _Repeat] = {}
        self._logged: set[str] = set()
        name = "" if run is None else Path(run).resolve().name
        for delivery in self._deliveries:
            delivery.put("header", {"name": name, **(meta or {})})
        if self._log is not None:
            # Records of a monitor that is never closed must not be lost either.
            self._finalizer = weakref.finalize(
                self, _write_rest, self._log, self._pending, self._repeats, os.getpid()
            )

    @property
    def path(self) -> Path | None:
        """The file of the log; None if none is kept, or it could not be written any more."""
        return None if self._log is None else self._log.path

    def add(self, kind: str, record: Any) -> None:
        """Keep a record for the next `flush`.

        Args:
            kind: Kind of the record, as in the table of `foreshock.runlog`.
            record: Its fields, which must not change any more: a mapping or a dataclass instance.
        """
        for delivery in self._deliveries:
            delivery.put(kind, record)
        if self._log is None:
            return
        if self._repeats:
            self._end_repeats(before=_step_of(record) - 1)
        self._pending.append((kind, record))
        if len(self._pending) >= _PENDING:
            self.flush()

    def flush(self) -> None:
        """Write the records that were kept, at once."""
        if self._deliveries:
            self._note_failures()
        if self._log is None or not self._pending:
            return
        rows = self._pending.copy()
        self._pending.clear()
        try:
            self._log.write_many(rows)
        except OSError as error:
            self._stop()  # not tried again: a full disk would warn at each step
            _LOGGER.warning("the run log ends here, training goes on: %s", error)

    def write(self, kind: str, record: Any) -> None:
        """Write a record, after those that were kept.

        Args:
            kind: Kind of the record, as in the table of `foreshock.runlog`.
            record: Its fields: a mapping or a dataclass instance.
        """
        self.add(kind, record)
        self.flush()

    def event(self, step: int, name: str, message: str, *, level: int | None = logging.WARNING) -> None:
        """Record something that happened, and log the same message once.

        The same at one step after the other becomes two records: the first, and one with `count` and `until`
        for all others once it is over.

        Args:
            step: When.
            name: What, in a few words that stay the same.
            message: What happened, in full.
            level: Level of the logger's message; None where it was logged elsewhere.
        """
        if self._log is not None:
            self._record_event(step, name, message)
        if level is not None and message not in self._logged:
            self._logged.add(message)
            _LOGGER.log(level, "step %d: %s: %s", step, name, message)

    def resume(self, step: int) -> None:
        """Go on with the log of the run whose state was loaded, instead of beginning another.

        Args:
            step: Step that comes next.
        """
        if self._log is None:
            return
        self._end_repeats()
        self.flush()
        if self._log is not None:
            self._log.resume(step)

    def close(self) -> None:
        """Write what was kept, close the run log, and let the sinks finish."""
        self._close_log()
        for delivery in self._deliveries:
            delivery.end()
        for delivery in self._deliveries:
            delivery.close()

    def _close_log(self) -> None:
        if self._log is None:
            return
        self._end_repeats()
        self.flush()
        self._stop()

    def _note_failures(self) -> None:
        for delivery in self._deliveries:
            for note in delivery.new_notes():
                if self._log is not None:
                    step = max((_step_of(record) for _, record in self._pending), default=0)
                    self._pending.append(("event", {"step": max(step, 0), "name": "sink", "message": note}))

    def _record_event(self, step: int, name: str, message: str) -> None:
        repeat = self._repeats.get((name, message))
        if repeat is not None and step == repeat.until + 1:
            repeat.count += 1
            repeat.until = step
            if repeat.count == _REPEATS:  # what a killed process takes with it must not be without end
                self._pending.append(("event", repeat.record()))
                self._repeats[name, message] = _Repeat(name, message, step)
            return
        self._end_repeats(before=step - 1)
        self._repeats[name, message] = _Repeat(name, message, step)
        self.write("event", {"step": step, "name": name, "message": message})

    def _end_repeats(self, before: int | None = None) -> None:
        over = [key for key, repeat in self._repeats.items() if before is None or repeat.until < before]
        for repeat in map(self._repeats.pop, over):
            if repeat.count:
                self._pending.append(("event", repeat.record()))

    def _stop(self) -> None:
        if self._log is not None:
            self._pending.clear()
            self._repeats.clear()
            self._finalizer.detach()
            self._log.close()
            self._log = None


def _log_of(run: str | os.PathLike[str], meta: Mapping[str, Any] | None, rank: int) -> RunLogWriter | None:
    try:
        return RunLogWriter(run, meta=meta, rank=rank)
    except OSError as error:
        if rank == 0:
            raise
        _LOGGER.warning("rank %d keeps no run log, training goes on: %s", rank, error)
        return None


def process_rank() -> int:
    """Return the rank of this process; zero outside a distributed run.

    It is that of `torch.distributed` once that is initialised, and before that the one which ``torchrun``
    gave. ``RANK`` alone in the environment, which may be anybody's, does not count.
    """
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    if not all(os.environ.get(name) for name in _LAUNCHED):
        return 0
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    return int(rank) if rank.isdecimal() and size.isdecimal() and int(rank) < int(size) else 0


@dataclass
class _Repeat:
    """An event that came again at the steps after one that was written: `count` times, `until` the last."""

    name: str
    message: str
    until: int
    count: int = 0

    def record(self) -> dict[str, Any]:
        first = {"step": self.until - self.count + 1, "name": self.name, "message": self.message}
        return first if self.count == 1 else first | {"count": self.count, "until": self.until}


def _step_of(record: Any) -> int:
    step = record.get("step") if isinstance(record, Mapping) else getattr(record, "step", None)
    return step if isinstance(step, int) else -1


def _write_rest(
    log: RunLogWriter, pending: list[tuple[str, Any]], repeats: dict[tuple[str, str], _Repeat], owner: int
) -> None:
    """Write what a journal kept when it is collected or the process ends; a forked child leaves it alone."""
    if os.getpid() != owner:
        return
    rest = [("event", repeat.record()) for repeat in repeats.values() if repeat.count]
    try:
        log.write_many([*pending, *rest])
    except OSError as error:
        _LOGGER.warning("the end of the run log could not be written: %s", error)
    log.close()
