"""The writer of a run log: it appends records, and keeps out of the files of other runs."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock._version import __version__
from foreshock.runlog.encoding import SCHEMA, encode_row
from foreshock.runlog.folders import first_free, has_records, numbered, open_locked, release, to_resume

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOGGER = logging.getLogger("foreshock")
# Seconds between looks at whether the file is still there: one look costs about a microsecond.
_LOOK_EVERY = 3.0


class RunLogWriter:
    """Append records to ``RUN/rank{rank}.jsonl``.

    Which file it is, is settled by the first record. Where the folder has records of an earlier run, or is
    being written by another monitor, the new run goes into the subfolder ``RUN/2``, ``RUN/3``, …, and the
    logger ``foreshock`` says so; after `resume` it goes on in the file of the earlier one.

    Args:
        run: Folder of the run; made if missing.
        meta: What the run is: plain JSON values, written into the header.
        rank: Rank of this process.

    Raises:
        OSError: If the folder can't be made or written, with what to do about it.
        TypeError: If `run` is no path.
    """

    def __init__(
        self, run: str | os.PathLike[str], *, meta: Mapping[str, Any] | None = None, rank: int = 0
    ) -> None:
        if not isinstance(run, (str, os.PathLike)):
            raise TypeError(f"run is {run!r}; it is the folder of the run log, 'runs/1', or None for no log")
        self._run, self._name = Path(run), f"rank{rank}.jsonl"
        self._meta = dict(meta or {})
        self._path = self._run / self._name
        self._descriptor: int | None = None
        self._number: int | None = None  # which run of the folder this is, once settled
        self._resumes = False
        self._resumed_step: int | None = None
        self._header_due = True
        self._closed = False
        self._looked = time.monotonic()
        encode_row("header", {"meta": self._meta})
        # Looked up now, before another rank of this run may have written.
        self._free: int | None = first_free(self._run, self._name)
        try:
            self._open(self._path)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"the run folder can't be written ({error.strerror}): pass a folder that this "
                "process may create files in as run=…, or run=None to keep no log",
                str(self._path),
            ) from error
        _leave_to_parent_after_fork(self)

    @property
    def path(self) -> Path:
        """The file; another one may be settled on with the first record."""
        return self._path

    def resume(self, step: int | None = None) -> None:
        """Go on with a run that the folder has, instead of beginning another.

        Call it before the first record after a checkpoint was loaded. What the log has of the step that comes
        next, and of later ones, is obsolete from then on.

        Args:
            step: Step that comes next. Of several runs in the folder the last one that got so far goes on;
                None for the last.
        """
        self._resumes, self._resumed_step, self._header_due = True, step, True

    def write(self, kind: str, record: Mapping[str, Any] | DataclassInstance) -> None:
        """Append one record.

        Args:
            kind: Kind of the record, as in the table of this module.
            record: Its fields: a mapping or a dataclass instance of plain values.

        Raises:
            OSError: If it can't be written: the disk is full, for instance, or the log was closed.
        """
        self.write_many([(kind, record)])

    def write_many(self, rows: Sequence[tuple[str, Mapping[str, Any] | DataclassInstance]]) -> None:
        """Append several records with one system call.

        Args:
            rows: Pairs of kind and record, as `write` takes them.

        Raises:
            OSError: If they can't be written: the disk is full, for instance, or the log was closed.
        """
        if self._closed:
            raise OSError(f"the run log {self._path} was closed")
        if not rows:
            return
        lines = [encode_row(kind, record) for kind, record in rows]
        self._look_after_file()
        descriptor = self._settle()
        if self._header_due:
            lines[:0] = self._opening()
        data = b"".join(lines)
        written = os.write(descriptor, data)
        if written < len(data):
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes written; disk full?")
        self._header_due = False

    def close(self) -> None:
        """Close the file. Closing twice is harmless; a log without records is left with a header at least."""
        if self._number is None and self._descriptor is not None:
            with contextlib.suppress(OSError):
                if os.fstat(self._descriptor).st_size == 0:
                    self._number = 1
                    os.write(self._descriptor, b"".join(self._opening()))
        self._release()
        self._closed = True

    def _opening(self) -> list[bytes]:
        """Return what comes before the first record of a session: the header, on a line of its own."""
        header = {
            "schema": SCHEMA,
            "foreshock": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "number": self._number,
            "meta": self._meta,
        }
        torn = self._path.stat().st_size > 0 and not _ends_with_newline(self._path)
        return [b"\n"] * torn + [encode_row("header", header)]

    def _settle(self) -> int:
        """Return the descriptor of the file that this run goes into, which the first record settles."""
        if self._number is not None and self._descriptor is not None:
            return self._descriptor
        number = to_resume(self._run, self._resumed_step) if self._resumes else None
        if number is not None:
            descriptor = self._open(numbered(self._run, number) / self._name)
            if descriptor is not None:
                self._number = number
                return descriptor
        locked = number is not None or self._open(self._run / self._name) is None
        return self._begin_run(locked=locked)

    def _begin_run(self, *, locked: bool) -> int:
        number = self._free or first_free(self._run, self._name)
        # Another run may have taken the folder since, or have it and no record yet.
        while True:
            path = numbered(self._run, number) / self._name
            descriptor = self._open(path)
            if descriptor is not None and not has_records(path):
                break
            number += 1
        self._number = number
        if number > 1:
            _LOGGER.warning("%s", _why_elsewhere(self._run, path.parent, locked=locked))
        return descriptor

    def _open(self, path: Path) -> int | None:
        """Open and lock a file instead of the present one; None if another writer has it."""
        if self._descriptor is not None and path == self._path:
            return self._descriptor
        self._release()
        descriptor = open_locked(path)
        if descriptor is not None:
            self._path, self._descriptor = path, descriptor
            # A monitor that is never closed still closes its file when it is collected.
            self._finalizer = weakref.finalize(self, release, descriptor, os.getpid())
            # Not at exit: there, what came last is undone first, and whoever has records left, who began
            # before this file was opened, would write them into a closed one. They close it.
            self._finalizer.atexit = False
        return descriptor

    def _release(self) -> None:
        if self._descriptor is not None:
            self._descriptor = None
            self._finalizer()

    def _look_after_file(self) -> None:
        """Begin the log anew if it was removed while it was written."""
        now = time.monotonic()
        if self._descriptor is None or now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if os.fstat(self._descriptor).st_nlink > 0:
            return
        _LOGGER.warning(
            "the run log %s was removed while it was written: it is begun anew, without what it had",
            self._path,
        )
        self._forget()

    def _forget(self) -> None:
        self._release()
        self._number, self._free, self._resumes, self._header_due = None, None, False, True


def _leave_to_parent_after_fork(writer: RunLogWriter) -> None:
    """Let a child that is forked, such as a worker of a data loader, not keep the file locked.

    It would otherwise be locked for as long as a worker outlives a parent that was killed.
    """
    reference = weakref.ref(writer)

    def leave() -> None:
        left = reference()
        if left is not None:
            left._forget()  # a record that the child writes goes into a file of its own

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave)


def _why_elsewhere(run: Path, used: Path, *, locked: bool) -> str:
    if locked:
        return (
            f"{run} is being written by another monitor that is still open, here or in another process: "
            f"this run is logged in {used}. Close the other one first, or pass another folder as run=…"
        )
    return (
        f"{run} has the records of an earlier run: this one is logged in {used}. To go on with the earlier "
        "one, load its state with monitor.load_state_dict before the first step; to keep them apart, pass "
        "another folder as run=…"
    )


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
