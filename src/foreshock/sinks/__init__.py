"""Where a monitor's records go besides the run log: the tools that people look at anyway.

``Monitor(sinks=[…])`` takes any number of them. Each has a thread of its own, so that one that is slow, hangs
or fails neither waits for another nor ever holds up training. Of several processes only rank 0 sends.

A sink of your own has two methods, as the run log has::

    class Printer:
        def write(self, kind: str, record: Mapping[str, Any]) -> None: ...
        def close(self) -> None: ...
"""

from foreshock.sinks.delivery import Delivery, Sink
from foreshock.sinks.metrics import METRICS, Metric, metrics_of
from foreshock.sinks.mlflow import MLflow
from foreshock.sinks.prometheus import Prometheus
from foreshock.sinks.tensorboard import TensorBoard
from foreshock.sinks.trackio import Trackio
from foreshock.sinks.webhook import Webhook
from foreshock.sinks.weights_and_biases import WeightsAndBiases

__all__ = [
    "METRICS",
    "Delivery",
    "MLflow",
    "Metric",
    "Prometheus",
    "Sink",
    "TensorBoard",
    "Trackio",
    "Webhook",
    "WeightsAndBiases",
    "metrics_of",
]
