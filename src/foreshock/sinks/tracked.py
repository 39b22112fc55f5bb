"""What the sinks of trackers have in common: a run that is open or their own, rows, and alerts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import prefixed
from foreshock.sinks.packages import need


class TrackerSink(ABC):
    """Log rows and alerts to a run of a tracker, which is opened when the first of them comes.

    Args:
        run: Run to log to; None to open one.
        init: Arguments for opening it.
        package: The package of the tracker.
        what: The sink, in words.

    Raises:
        ImportError: If the package is not installed.
    """

    def __init__(self, run: Any, init: Mapping[str, Any] | None, *, package: str, what: str) -> None:
        need(package, what)
        self._run, self._init = run, dict(init or {})
        self._owned = False
        self._named: dict[str, str] = {}

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Log what a record has of the metrics, or send an alert.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        if kind == "header":
            name = str(record.get("name", ""))
            self._named = {"name": name} if name else {}
        values = prefixed(kind, record)
        if values or kind == "alarm":
            if self._run is None:
                self._open()
            if values:
                self._log(values, int(record["step"]))
            if kind == "alarm":
                self._alert(record)

    def close(self) -> None:
        """Finish the run, if it was opened here."""
        if self._owned and self._run is not None:
            self._run.finish()

    @abstractmethod
    def _open(self) -> None:
        """Find or open the run."""

    @abstractmethod
    def _log(self, values: Mapping[str, float], step: int) -> None:
        """Log one row."""

    @abstractmethod
    def _alert(self, record: Mapping[str, Any]) -> None:
        """Send the alert of an alarm."""
