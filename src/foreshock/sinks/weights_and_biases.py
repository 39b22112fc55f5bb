"""Weights & Biases: a row for each step, and its own alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import METRICS, alarm_title
from foreshock.sinks.tracked import TrackerSink


class WeightsAndBiases(TrackerSink):
    """Log to Weights & Biases, also offline (``WANDB_MODE=offline``); alarms are its alerts.

    Where the training has a run open, the metrics go into its rows: each has the last values before it. The
    run's own steps are never advanced, and the run is left open. Else a run is opened, one row a record, over
    ``foreshock/step``, and finished at the end.

    Args:
        run: Run to log to; None for the one that is open when the first record comes.
        init: Arguments of ``wandb.init`` for a run of its own: ``{"project": …, "name": …}``.

    Raises:
        ImportError: If ``wandb`` is not installed.
    """

    def __init__(self, run: Any = None, *, init: Mapping[str, Any] | None = None) -> None:
        super().__init__(run, init, package="wandb", what="the Weights & Biases sink")
        self._defined = False

    def _open(self) -> None:
        import wandb

        self._run = None if self._init else wandb.run
        if self._run is None:
            given = {"project": "foreshock", "reinit": "create_new", **self._named, **self._init}
            self._run, self._owned = wandb.init(**given), True

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if not self._defined:
            self._defined = True
            for metric in METRICS:
                self._run.define_metric(f"foreshock/{metric.name}", step_metric="foreshock/step")
        self._run.log({**values, "foreshock/step": step}, commit=self._owned)

    def _alert(self, record: Mapping[str, Any]) -> None:
        import wandb

        severe = record.get("level") == "alarm"
        level = wandb.AlertLevel.WARN if severe else wandb.AlertLevel.INFO
        words = str(record.get("reason", ""))
        # No shortest time between two: there is one alert an episode as it is.
        self._run.alert(title=alarm_title(record), text=words, level=level, wait_duration=0)
