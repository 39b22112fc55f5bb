"""The lines of a log, taken one after the other or many at once: its sessions, and their records by kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreshock.runlog.bulk import STEP, StepLines
from foreshock.runlog.decoding import LAST_STEP, Header, RowDecoder
from foreshock.runlog.rows import Records, Rows, Shape

_LINES = 256  # lines that are taken at once: where one of them is odd, all are taken one by one
_MOST_SKIPPED = 64  # lots of lines that are not tried at once after several could not be


class Sessions:
    """The lines of a log, read one after the other.

    A line that can't be read may have been the header of a session, so that from then on rows are read by
    what they have, not by the schema of the session before, and steps that go back begin another session.

    Args:
        only: Fields of step records to keep where many are taken at once; None for all.
    """

    def __init__(self, *, only: Collection[str] | None = None) -> None:
        self._only = only
        self.headers: list[dict[str, Any]] = []
        self.skipped = 0
        self._kinds: dict[str, _Kind] = {}
        self._first_steps: list[int] = []  # of each session
        self._begins = True
        self._old = True  # whether the next row may be of schema 1
        self._broken = False
        self._last_step = -1  # of a step record
        self._decoder = RowDecoder()
        self._steps: StepLines | None = None
        self._skip = self._skipping = 0

    @property
    def starts(self) -> int:
        """Number of sessions that have a record."""
        return len(self._first_steps)

    @property
    def resumed(self) -> tuple[int, ...]:
        """First steps of the sessions but the first that are not obsolete."""
        found: list[int] = []
        lowest = LAST_STEP + 1
        # From the last session back, so that it takes linear time.
        for step in reversed(self._first_steps[1:]):
            if step < lowest:
                found.append(step)
            lowest = min(lowest, step)
        return tuple(reversed(found))

    def take(self, line: bytes) -> None:
        """Take the next line into account."""
        found = self._decoder.decode(line, old=self._old)
        if found is None:
            self.skipped += 1
            self._broken = self._old = True
        elif isinstance(found, Header):
            self.headers.append(found.row)
            self._begins, self._broken = True, False
            self._old = found.row["schema"] == 1
        else:
            self._take_row(*found)

    def take_many(self, lines: Sequence[bytes]) -> None:
        """Take the next lines into account, as `take` does one after the other, in less time.

        Args:
            lines: The lines, each with its line break.
        """
        for begin in range(0, len(lines), _LINES):
            some = lines[begin : begin + _LINES]
            if self._skip:
                self._skip -= 1
            elif self._take_at_once(some):
                self._skipping = 0
                continue
            else:
                self._skip = self._skipping = min(2 * self._skipping + 1, _MOST_SKIPPED)
            for line in some:
                self.take(line)

    def _take_at_once(self, lines: Sequence[bytes]) -> bool:
        """Take lines none of which begins a session or can't be read; return whether these were such.

        Only then it makes no difference in which order records of different kinds come.
        """
        if self._begins or self._broken or self._old:
            return False
        steps = [line for line in lines if line.startswith(STEP)]
        pattern = self._pattern(steps)
        columns = None if pattern is None else pattern.columns(steps)
        if pattern is None or columns is None:
            return False
        rest = [] if len(steps) == len(lines) else [line for line in lines if not line.startswith(STEP)]
        others = [self._decoder.decode(line, old=False) for line in rest]
        if any(found is None or isinstance(found, Header) for found in others):
            return False
        self._last_step = int(columns[pattern.place][-1])
        self._of_session("step").rows.extend(pattern.kept, columns)
        for found in others:
            if isinstance(found, tuple):
                self._take_row(*found)
        return True

    def _pattern(self, steps: Sequence[bytes]) -> StepLines | None:
        """Return what takes apart lines of the form of the last of some; None if there can't be such."""
        found = self._decoder.decode(steps[-1], old=False) if steps else None
        kind = self._kinds.get("step")
        if not isinstance(found, tuple) or kind is None or not kind.rows.has(found[0]):
            return None
        if self._steps is None or self._steps.shape is not found[0]:
            self._steps = StepLines(found[0], only=self._only) if StepLines.fits(found[0]) else None
        return self._steps

    @property
    def kinds(self) -> Mapping[str, Rows]:
        """All records by kind in the order of the log, also those that are obsolete."""
        return {name: kind.rows for name, kind in self._kinds.items()}

    def records(self, *, copy: bool = False) -> tuple[dict[str, Rows], int]:
        """Return the records by kind, ordered by step, and the number of those that are obsolete.

        Args:
            copy: Whether they share nothing with what is read on.
        """
        # A session makes obsolete what those before it have of its first step and of later ones.
        firsts = np.array([*self._first_steps, LAST_STEP + 1], dtype=np.int64)
        limits = np.minimum.accumulate(firsts[::-1])[::-1][1:]
        obsolete, found = 0, Records()
        for name, kind in self._kinds.items():
            steps = kind.rows.numbers("step").astype(np.int64)
            counts = np.diff([*kind.begins, len(steps)])
            kept = np.flatnonzero(steps < np.repeat(limits[kind.sessions], counts))
            obsolete += len(steps) - len(kept)
            found[name] = kind.rows.selected(kept[np.argsort(steps[kept], kind="stable")], copy=copy)
        return found, obsolete

    def _take_row(self, shape: Shape, row: dict[str, Any]) -> None:
        name, step = shape.kind, row["step"]
        if name == "step":
            self._begins |= self._broken and step <= self._last_step
            self._broken = False
            self._last_step = step
        if self._begins:
            self._first_steps.append(step)
            self._begins = False
        self._of_session(name).rows.append(shape, row)

    def _of_session(self, name: str) -> _Kind:
        """Return what is kept of a kind, with a mark where the present session begins."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind(Rows(name))
        session = len(self._first_steps) - 1
        if session != kind.session:
            kind.session = session
            kind.sessions.append(session)
            kind.begins.append(len(kind.rows))
        return kind


@dataclass(slots=True)
class _Kind:
    """Records of one kind, and at which of them which session begins."""

    rows: Rows
    session: int = -1
    sessions: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
