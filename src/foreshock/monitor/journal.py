"""What a monitor writes down: records to the run log, and each problem once to the logger."""

from __future__ import annotations

import logging
from typing import Any

from foreshock.runlog import RunLogWriter

_LOGGER = logging.getLogger("foreshock")


class Journal:
    """Write to a run log, if there is one; when it can't be written any more, training goes on without it.

    Args:
        log: The run log; None keeps none.
    """

    def __init__(self, log: RunLogWriter | None) -> None:
        self._log = log
        self._logged: set[str] = set()

    def write(self, kind: str, record: Any) -> None:
        """Append a record to the run log.

        Args:
            kind: Kind of the record, as in the table of `foreshock.runlog`.
            record: Its fields: a mapping or a dataclass instance.
        """
        if self._log is None:
            return
        try:
            self._log.write(kind, record)
        except OSError as error:
            self._log = None  # not tried again: a full disk would warn at each step
            _LOGGER.warning("the run log ends here, training goes on: %s", error)

    def event(self, step: int, name: str, message: str, *, level: int | None = logging.WARNING) -> None:
        """Record something that happened, and log the same message once.

        Args:
            step: When.
            name: What, in a few words that stay the same.
            message: What happened, in full.
            level: Level of the logger's message; None where it was logged elsewhere.
        """
        self.write("event", {"step": step, "name": name, "message": message})
        if level is not None and message not in self._logged:
            self._logged.add(message)
            _LOGGER.log(level, "step %d: %s: %s", step, name, message)

    def close(self) -> None:
        """Close the run log."""
        if self._log is not None:
            self._log.close()
            self._log = None
