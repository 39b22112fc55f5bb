"""From the training loop to a sink: a bounded queue and one daemon thread, so that training never waits."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

from foreshock.failures import Failures

_QUEUED = 10_000
_EVERY = 0.25  # seconds between looks at the queue: to wake the thread at each step would cost a step
_LEAVE = 10.0  # seconds that a sink gets to finish at the end of a run
_URGENT = frozenset(("alarm", "header"))


class Sink(Protocol):
    """What takes records. Its methods are called by one thread, never by that of the training.

    A method ``flush()``, if there is one, is called after each batch of records.
    """

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Take one record.

        Args:
            kind: Kind of the record, as in the run log; first comes a ``header`` that describes the run.
            record: Its fields.
        """

    def close(self) -> None:
        """Finish: no record comes after it."""


class Delivery:
    """Hand records to a sink, in a thread of its own.

    A record that finds the queue full is dropped and counted; the first is noted. A sink that fails three
    times in a row is given up, as is one that has not finished a few seconds after the end of the run. A
    child that is forked sends nothing.

    Args:
        sink: The sink.
        limit: Records that may wait, ≥ 1.
        timeout: Seconds that the sink gets to finish when it is closed.

    Attributes:
        dropped: Records that were not delivered because the queue was full.
        failures: What could not be done.

    Raises:
        TypeError: If the sink has no ``write`` or ``close``.
    """

    def __init__(self, sink: Sink, *, limit: int = _QUEUED, timeout: float = _LEAVE) -> None:
        name = sink.__name__ if isinstance(sink, type) else type(sink).__name__
        made = not isinstance(sink, type)
        if not (made and all(callable(getattr(sink, one, None)) for one in ("write", "close"))):
            advice = f"make one: {name}(…)" if not made else "it needs write(kind, record) and close()"
            raise TypeError(f"{name} in sinks=[…] is no sink; {advice}")
        self.dropped = 0
        self.failures = Failures(f"sink {name}")
        self._limit, self._timeout, self._owner = limit, timeout, os.getpid()
        self._told = 0
        self._state = _State(sink, self.failures)
        # The thread must not hold this object: it is to be collected, and its records sent, if never closed.
        self._thread = threading.Thread(
            target=_deliver, args=(self._state,), name=f"foreshock {name}", daemon=True
        )
        self._finish = weakref.finalize(self, _finish, self._state, self._thread, timeout, os.getpid())
        self._started = False

    def put(self, kind: str, record: Any) -> None:
        """Leave a record for the sink; this never waits.

        Args:
            kind: Kind of the record.
            record: Its fields, which must not change any more: a mapping or a dataclass instance.
        """
        state = self._state
        if state.closing or self.failures.given_up or os.getpid() != self._owner:
            return
        if not self._started and not self._start():
            return
        if len(state.queue) >= self._limit:
            self.dropped += 1
            if self.dropped == 1:
                self.failures.note(
                    f"it is slower than the training: {self._limit} records wait, and what comes now is "
                    "dropped until it has caught up (the run log has all of them)"
                )
            return
        state.queue.append((kind, record))
        if kind in _URGENT:
            state.wake.set()

    def new_notes(self) -> tuple[str, ...]:
        """Return what could not be done since the last call."""
        notes = self.failures.notes
        new, self._told = notes[self._told :], len(notes)
        return new

    def end(self) -> None:
        """Take no more records. Of several sinks each may finish at the same time, before one is closed."""
        if os.getpid() == self._owner and not self._state.closing:
            self._state.closing, self._state.ended = True, time.monotonic()
            self._state.wake.set()

    def close(self) -> None:
        """Send what waits, and close the sink; give up where that takes too long."""
        self.end()
        self._finish()

    def _start(self) -> bool:
        self._started = True
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self.failures.note(f"no thread could be started: {error}")
            self._state.closing = True
            return False
        return True


class _State:
    """What the thread of a delivery shares with the training loop."""

    def __init__(self, sink: Sink, failures: Failures) -> None:
        self.sink, self.failures = sink, failures
        self.queue: deque[tuple[str, Any]] = deque()
        self.wake = threading.Event()
        self.closing = False
        self.ended = 0.0  # when, by the monotonic clock


def _deliver(state: _State) -> None:
    try:
        while not state.failures.given_up:
            state.wake.wait(_EVERY)
            state.wake.clear()
            ending = state.closing
            while state.queue and not state.failures.given_up:
                _attempt(state, *state.queue.popleft())
            if not state.failures.given_up:
                _flush(state)
            if ending and not state.queue:
                break
    except BaseException as error:  # noqa: BLE001 - SystemExit in a sink must not pass as an end without a word
        state.failures.in_a_row = 2
        state.failures.failed("it ended", RuntimeError(f"{type(error).__name__}: {error}"))
    state.queue.clear()
    try:
        state.sink.close()
    except Exception as error:  # noqa: BLE001 - the end of a sink must not disturb the end of a training
        state.failures.note(f"it could not be closed: {type(error).__name__}: {error}")


def _attempt(state: _State, kind: str, record: Any) -> None:
    row = as_mapping(record)
    try:
        state.sink.write(kind, row)
    except Exception as error:  # noqa: BLE001 - a sink may be anything, and must never end a training
        state.failures.failed(f"a record of step {row.get('step', 0)} was not taken", error)
    else:
        state.failures.succeeded()


def _flush(state: _State) -> None:
    flush = getattr(state.sink, "flush", None)
    if flush is None:
        return
    try:
        flush()
    except Exception as error:  # noqa: BLE001 - as above
        state.failures.failed("what had gathered was not sent", error)


def _finish(state: _State, thread: threading.Thread, timeout: float, owner: int) -> None:
    if os.getpid() != owner:
        return
    if not state.closing:
        state.closing, state.ended = True, time.monotonic()
        state.wake.set()
    with contextlib.suppress(RuntimeError):  # it was never started
        thread.join(max(timeout - (time.monotonic() - state.ended), 0.0))
    if thread.is_alive():
        waiting = len(state.queue)
        state.failures.given_up = True
        state.failures.note(
            f"it had not finished {timeout:g} seconds after the end of the run and is given "
            f"up; {waiting} records were still waiting"
        )
    elif thread.ident is None:
        with contextlib.suppress(Exception):
            state.sink.close()


def as_mapping(record: Any) -> Mapping[str, Any]:
    """Return the fields of a record by name.

    Args:
        record: A mapping or a dataclass instance.
    """
    if isinstance(record, Mapping):
        return record
    if is_dataclass(record):
        return {one.name: getattr(record, one.name) for one in fields(record)}
    return {}
