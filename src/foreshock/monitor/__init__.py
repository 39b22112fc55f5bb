"""The monitor: what it watches, when it probes, what it writes down."""

from foreshock.monitor.monitor import Monitor
from foreshock.monitor.observation import StepObservation

__all__ = ["Monitor", "StepObservation"]
