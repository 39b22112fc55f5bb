"""The end of a growing log: what was added since the last look, and nothing twice."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from foreshock.runlog.sessions import Sessions

CHUNK = 1 << 20
"""Bytes read at a look: a long log is read in parts, so that other runs need not wait for it."""
_LONGEST_LINE = 1 << 24


class LogTail:
    """Read a log as it grows.

    A line without its end is left for the next look. A log that was replaced, or became shorter, is begun
    anew.

    Args:
        path: The log. It is not followed if it is a symbolic link: it could lead out of the watched folder.
        only: Fields of step records to keep, as far as that saves time; None for all.

    Attributes:
        sessions: The lines read so far.
        begun: How often reading began at the first byte.
        position: Bytes read.
        size: Bytes that the log had at the last look.
        written: When the log was last written, seconds since 1970; 0 before the first look.
    """

    def __init__(self, path: Path, *, only: Collection[str] | None = None) -> None:
        self.path = path
        self._only = only
        self.sessions = Sessions(only=only)
        self.begun = 0
        self.position = self.size = 0
        self.written = 0.0
        self._identity: tuple[int, int] | None = None
        self._rest = b""
        self._stands = False  # whether nothing was added since the last look

    @property
    def behind(self) -> bool:
        """Whether there is more to read than was read at the last look."""
        return self.position < self.size

    @property
    def skipped(self) -> int:
        """Lines that could not be read, and a last one without its end if nothing came at the last look."""
        return self.sessions.skipped + (self._stands and bool(self._rest))

    def look(self, *, most: int = CHUNK) -> bool:
        """Read what was added, and return whether anything was.

        Args:
            most: Bytes to read at most.

        Raises:
            OSError: If the log can't be read.
        """
        found = self.path.lstat()
        identity = found.st_dev, found.st_ino
        self.written = found.st_mtime
        if identity != self._identity or found.st_size < self.position:
            self._begin(identity)
        self.size = found.st_size
        self._stands = not self.behind
        if not self.behind:
            return False
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self.position)
            data = file.read(min(most, self.size - self.position))
        self.position += len(data)
        self._take(data)
        return bool(data)

    def _begin(self, identity: tuple[int, int]) -> None:
        self._identity, self._rest, self.position = identity, b"", 0
        self.sessions = Sessions(only=self._only)
        self.begun += 1

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.sessions.take_many([line + b"\n" for line in lines])
        if len(self._rest) > _LONGEST_LINE:
            self.sessions.take(self._rest)  # counted as a line that can't be read
            self._rest = b""
