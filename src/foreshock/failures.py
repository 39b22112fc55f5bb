"""What could not be done in a training run: noted and logged once, given up after some failures in a row."""

from __future__ import annotations

import logging
import re

_LOGGER = logging.getLogger("foreshock")
_NOTES_KEPT = 3
_STEP = re.compile(r"step \d+")


class ProbeRefusedError(RuntimeError):
    """A probe that must not be made again: it would change the training, or wait for other processes."""


class Failures:
    """Count failures in a row; a failure must never end a training run.

    Args:
        prefix: What failed, the first word of each line in the log: ``"guard"``, ``"monitor"``.
        allowed: After how many failures in a row to give up, ≥ 1.

    Attributes:
        in_a_row: Failures since the last success.
        given_up: Whether there were as many in a row as are allowed.

    Raises:
        ValueError: If `allowed` is below one.

    Example:
        >>> failures = Failures("guard", allowed=2)
        >>> failures.failed("the guard failed at step 7", KeyError("exp_avg"))
        >>> failures.given_up, failures.notes
        (False, ("the guard failed at step 7: KeyError: 'exp_avg'",))
    """

    def __init__(self, prefix: str, *, allowed: int = 3) -> None:
        if not allowed >= 1:
            raise ValueError(f"allowed is {allowed!r}; giving up takes at least one failure")
        self._prefix, self._allowed = prefix, allowed
        self._notes: dict[str, str] = {}  # by the message without its step: one line a cause, not one a step
        self.in_a_row, self.given_up = 0, False

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done, and why; that it was given up is always among it."""
        return tuple(self._notes.values())

    def note(self, message: str) -> None:
        """Remember and log a message, unless it is known or there are enough.

        Args:
            message: What could not be done. One that differs in the number of a step only is known.
        """
        if len(self._notes) < _NOTES_KEPT:
            self._keep(message)

    def failed(self, what: str, error: Exception) -> None:
        """Count one more failure in a row.

        Args:
            what: What failed, and when.
            error: Why. After a `ProbeRefusedError` it is given up at once.
        """
        self.in_a_row += 1
        refused = isinstance(error, ProbeRefusedError)
        self.given_up = refused or self.in_a_row >= self._allowed
        message = f"{what}: {error}" if refused else f"{what}: {type(error).__name__}: {error}"
        if refused:
            self._keep(f"{message} (it is not tried again)")
        elif self.given_up:
            self._keep(f"{message} ({self._allowed} failures in a row: it is not tried again)")
        else:
            self.note(message)

    def succeeded(self) -> None:
        """End a row of failures."""
        self.in_a_row, self.given_up = 0, False

    def _keep(self, message: str) -> None:
        cause = _STEP.sub("step", message)
        if cause not in self._notes:
            self._notes[cause] = message
            _LOGGER.warning("%s: %s", self._prefix, message)
