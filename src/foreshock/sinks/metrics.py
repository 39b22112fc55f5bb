"""The names of what is sent, the same for all sinks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LEVELS = {"": 0.0, "watch": 1.0, "alarm": 2.0}


@dataclass(frozen=True)
class Metric:
    """One number that sinks show.

    Attributes:
        name: Its name; TensorBoard, W&B, MLflow and Trackio show ``foreshock/NAME``, Prometheus
            ``foreshock_NAME``.
        kind: Kind of the record that it is taken from, as in the run log.
        field: Field of that record.
        words: What it is, in a few words.
    """

    name: str
    kind: str
    field: str
    words: str


METRICS = (
    Metric("loss", "step", "loss", "training loss"),
    Metric("gradient_norm", "step", "gradient_norm", "norm of the gradient that the optimizer gets"),
    Metric("learning_rate", "step", "learning_rate", "largest learning rate of a parameter group"),
    Metric("instant_lag", "step", "instant_lag", "v above the squared gradient at this step"),
    Metric("probability", "forecast", "probability", "probability of a spike within the horizon"),
    Metric("level", "forecast", "level", "0 calm, 1 watch, 2 alarm"),
    Metric("stability_ratio", "forecast", "stability_ratio", "top curvature over its edge, which is 1"),
    Metric(
        "typical_mean_square_ratio",
        "forecast",
        "typical_mean_square_ratio",
        "the same under the noise of mini-batches; its edge is 0.6",
    ),
    Metric("steps_to_instability", "forecast", "steps_to_instability", "steps until the edge is reached"),
    Metric("lag", "forecast", "lag", "v above the squared gradient, of the last 50 steps"),
    Metric("guard_factor", "guard", "factor", "by how much the guard changed the step"),
)
"""All that is sent; a value that is unknown is left out, never sent as zero."""

# Of these NaN is a finding; of all others it means that nothing is known.
_MEASURED = frozenset(("loss", "gradient_norm"))
_BY_KIND = {kind: tuple(one for one in METRICS if one.kind == kind) for kind in ("step", "forecast", "guard")}


def metrics_of(kind: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Return what a record says of the metrics, by name.

    Args:
        kind: Kind of the record, as in the run log.
        record: Its fields.

    Example:
        >>> metrics_of("step", {"step": 3, "loss": 0.5, "instant_lag": float("nan")})
        {'loss': 0.5}
    """
    found = {}
    for metric in _BY_KIND.get(kind, ()):
        value = record.get(metric.field)
        number = _LEVELS.get(value) if isinstance(value, str) else value
        if not isinstance(number, (int, float)):
            continue
        if metric.name in _MEASURED or not math.isnan(number):
            found[metric.name] = float(number)
    return found


def prefixed(kind: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Return `metrics_of` under the names ``foreshock/NAME``.

    Args:
        kind: Kind of the record.
        record: Its fields.
    """
    return {f"foreshock/{name}": value for name, value in metrics_of(kind, record).items()}


def alarm_title(record: Mapping[str, Any]) -> str:
    """Return the title of an alarm's message.

    Args:
        record: The fields of the alarm.
    """
    return f"Foreshock: {record.get('level', 'alarm')} at step {record.get('step', '?')}"
