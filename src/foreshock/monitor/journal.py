"""What a monitor tells: records to the run log, and each kind of trouble once to the logger."""

from __future__ import annotations

import logging
from typing import Any

from foreshock.runlog import RunLogWriter

_LOGGER = logging.getLogger("foreshock")


class Journal:
    """Write to a run log, if there is one; a log that can't be written ends, training goes on.

    Args:
        log: The run log; None keeps none.
    """

    def __init__(self, log: RunLogWriter | None) -> None:
        self._log = log
        self._told: set[str] = set()

    def write(self, kind: str, record: Any) -> None:
        """Append a record to the log."""
        if self._log is None:
            return
        try:
            self._log.write(kind, record)
        except OSError as error:
            self._log = None
            _LOGGER.warning("the run log ends here, training goes on: %s", error)

    def event(self, step: int, name: str, message: str, *, level: int = logging.WARNING) -> None:
        """Record something that happened, and tell it to the logger once.

        Args:
            step: When.
            name: What, in a few words that stay the same.
            message: The whole story.
            level: Level of the logger's message.
        """
        self.write("event", {"step": step, "name": name, "message": message})
        if message not in self._told:
            self._told.add(message)
            _LOGGER.log(level, "step %d: %s: %s", step, name, message)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
            self._log = None
