"""MLflow: metrics in batches, and the last alarm as a tag."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from foreshock.sinks.metrics import alarm_title, prefixed
from foreshock.sinks.packages import need

_BATCH = 900  # the server takes a thousand metrics at once
_TAG = 4000  # characters; the shortest limit of a server's data base is 5000


class MLflow:
    """Log to MLflow, in batches; it has no alerts: the last alarm is the tag ``foreshock.alarm``.

    The metrics go to the run that is active where the sink is made, or to one of their own.

    Args:
        run_id: Run to log to; None for the active one, or else for one of its own.
        experiment: Name of the experiment of a run of its own; made if missing.
        tracking_uri: Server or folder; None for what MLflow is set to.

    Raises:
        ImportError: If neither ``mlflow`` nor ``mlflow-skinny`` is installed.
    """

    def __init__(
        self, run_id: str | None = None, *, experiment: str = "foreshock", tracking_uri: str | None = None
    ) -> None:
        need("mlflow", "the MLflow sink")
        self._uri, self._experiment = tracking_uri, experiment
        self._run_id = run_id or _active_run()
        self._owned = self._run_id is None
        self._client: Any = None
        self._name = ""
        self._waiting: list[Any] = []

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Keep what a record has of the metrics for the next batch, or set the tag of an alarm.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        from mlflow.entities import Metric

        if kind == "header":
            self._name = str(record.get("name", ""))
            return
        now, step = int(time.time() * 1000), int(record.get("step", 0))
        self._waiting += [Metric(key, value, now, step) for key, value in prefixed(kind, record).items()]
        if kind == "alarm":
            words = f"{alarm_title(record)}: {record.get('reason', '')}"
            self._open().set_tag(self._run_id, "foreshock.alarm", words[:_TAG])
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._open().log_batch(self._run_id, metrics=batch)

    def close(self) -> None:
        """Send what has gathered, and end the run if it was begun here."""
        self.flush()
        if self._owned and self._client is not None and self._run_id is not None:
            self._client.set_terminated(self._run_id)

    def _open(self) -> Any:
        from mlflow.tracking import MlflowClient

        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        if self._run_id is None:
            found = self._client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found else self._client.create_experiment(self._experiment)
            # Without a name MLflow draws one, from the random numbers of the training.
            run = self._client.create_run(number, run_name=self._name or "foreshock")
            self._run_id = run.info.run_id
        return self._client


def _active_run() -> str | None:
    # Here and not in the thread: MLflow keeps the active run by thread.
    import mlflow

    active = mlflow.active_run()
    return None if active is None else str(active.info.run_id)
