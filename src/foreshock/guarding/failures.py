"""What a guard could not do: noted and told once each, given up after some failures in a row."""

from __future__ import annotations

import logging
import re

_LOGGER = logging.getLogger("foreshock")
_NOTES_KEPT = 3
_STEP = re.compile(r"step \d+")


class Failures:
    """Count failures in a row; a failure must never end a training run.

    Args:
        allowed: After how many failures in a row to give up.

    Example:
        >>> failures = Failures(allowed=2)
        >>> failures.failed("the guard failed at step 7", KeyError("exp_avg"))
        >>> failures.given_up, failures.notes
        (False, ("the guard failed at step 7: KeyError: 'exp_avg'",))
    """

    def __init__(self, *, allowed: int = 3) -> None:
        self._allowed = allowed
        self._in_a_row = 0
        self._notes: dict[str, str] = {}  # by what failed, whatever the step

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done, and why; that it was given up is always among it."""
        return tuple(self._notes.values())

    @property
    def given_up(self) -> bool:
        """Whether there were as many failures in a row as are allowed."""
        return self._in_a_row >= self._allowed

    def note(self, message: str) -> None:
        """Remember a message, and tell it to the logger, if it is new.

        Args:
            message: What could not be done. One that differs in the number of a step only is not new.
        """
        if len(self._notes) < _NOTES_KEPT:
            self._keep(message)

    def failed(self, what: str, error: Exception) -> None:
        """Count one more failure in a row.

        Args:
            what: What failed, and when.
            error: Why.
        """
        self._in_a_row += 1
        message = f"{what}: {type(error).__name__}: {error}"
        if self.given_up:
            self._keep(f"{message} ({self._allowed} failures in a row: it is not tried again)")
        else:
            self.note(message)

    def succeeded(self) -> None:
        """End a row of failures."""
        self._in_a_row = 0

    def _keep(self, message: str) -> None:
        kind = _STEP.sub("step", message)
        if kind not in self._notes:
            self._notes[kind] = message
            _LOGGER.warning("guard: %s", message)
