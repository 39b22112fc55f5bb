"""Weights & Biases: a row for each step, and its own alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import METRICS, alarm_title, prefixed
from foreshock.sinks.packages import need


class WeightsAndBiases:
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
        need("wandb", "the Weights & Biases sink")
        self._run, self._init = run, dict(init or {})
        self._owned = False
        self._name = ""
        self._defined = False

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
        if kind != "alarm" and not values:
            return
        run = self._open()
        if values:
            run.log({**values, "foreshock/step": int(record["step"])}, commit=self._owned)
        if kind == "alarm":
            self._alert(run, record)

    def close(self) -> None:
        """Finish the run, if it was opened here."""
        if self._owned and self._run is not None:
            self._run.finish()

    def _alert(self, run: Any, record: Mapping[str, Any]) -> None:
        import wandb

        severe = record.get("level") == "alarm"
        level = wandb.AlertLevel.WARN if severe else wandb.AlertLevel.INFO
        # No shortest time between two: there is one alert an episode as it is.
        run.alert(title=alarm_title(record), text=str(record.get("reason", "")), level=level, wait_duration=0)

    def _open(self) -> Any:
        import wandb

        if self._run is None:
            self._run = None if self._init else wandb.run
        if self._run is None:
            given = {"project": "foreshock", "reinit": "create_new"} | self._init
            if self._name:
                given.setdefault("name", self._name)
            self._run, self._owned = wandb.init(**given), True
        if not self._defined:
            self._defined = True
            for metric in METRICS:
                self._run.define_metric(f"foreshock/{metric.name}", step_metric="foreshock/step")
        return self._run
