"""Trackio: rows by step, and its own alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import alarm_title
from foreshock.sinks.tracked import TrackerSink


class Trackio(TrackerSink):
    """Log to Trackio; alarms are its alerts.

    Args:
        run: Run to log to, as ``trackio.init`` returns it, which is left open; None to open one.
        init: Arguments of ``trackio.init`` for a run of its own: ``{"project": …, "name": …}``.

    Raises:
        ImportError: If ``trackio`` is not installed.
    """

    def __init__(self, run: Any = None, *, init: Mapping[str, Any] | None = None) -> None:
        super().__init__(run, init, package="trackio", what="the Trackio sink")

    def _open(self) -> None:
        import trackio

        # In this thread, so that a run of the training, which Trackio keeps by context, goes on.
        given = {"project": "foreshock", "embed": False, **self._named, **self._init}
        self._run, self._owned = trackio.init(**given), True

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def _alert(self, record: Mapping[str, Any]) -> None:
        import trackio

        severe = record.get("level") == "alarm"
        level = trackio.AlertLevel.ERROR if severe else trackio.AlertLevel.WARN
        words = str(record.get("reason", ""))
        # With the step: Trackio would take that of the last row.
        self._run.alert(title=alarm_title(record), text=words, level=level, step=int(record["step"]))
