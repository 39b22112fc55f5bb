"""Trackio: rows by step, and its own alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import alarm_title, prefixed
from foreshock.sinks.packages import need


class Trackio:
    """Log to Trackio; alarms are its alerts.

    Args:
        run: Run to log to, as ``trackio.init`` returns it, which is left open; None to open one.
        init: Arguments of ``trackio.init`` for a run of its own: ``{"project": …, "name": …}``.

    Raises:
        ImportError: If ``trackio`` is not installed.
    """

    def __init__(self, run: Any = None, *, init: Mapping[str, Any] | None = None) -> None:
        need("trackio", "the Trackio sink")
        self._run, self._init = run, dict(init or {})
        self._owned = run is None
        self._name = ""

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Log what a record has of the metrics, or send an alert.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        if kind == "header":
            self._name = str(record.get("name", ""))
            return
        values = prefixed(kind, record)
        if values:
            self._open().log(values, step=int(record["step"]))
        if kind == "alarm":
            self._alert(record)

    def close(self) -> None:
        """Finish the run, if it was opened here."""
        if self._owned and self._run is not None:
            self._run.finish()

    def _alert(self, record: Mapping[str, Any]) -> None:
        import trackio

        severe = record.get("level") == "alarm"
        level = trackio.AlertLevel.ERROR if severe else trackio.AlertLevel.WARN
        # With the step: Trackio would take that of the last row.
        words = str(record.get("reason", ""))
        self._open().alert(title=alarm_title(record), text=words, level=level, step=int(record["step"]))

    def _open(self) -> Any:
        import trackio

        if self._run is None:
            # In this thread, so that a run of the training, which Trackio keeps by context, goes on.
            given = {"project": "foreshock", "embed": False} | self._init
            if self._name:
                given.setdefault("name", self._name)
            self._run = trackio.init(**given)
        return self._run
