"""The monitor: what it watches, when it probes, what it writes down."""

from foreshock.monitor.ladder import Ladder, RecoveryFailedError
from foreshock.monitor.monitor import Monitor
from foreshock.monitor.observation import StepObservation
from foreshock.monitor.rewinder import Rewind

__all__ = ["Ladder", "Monitor", "RecoveryFailedError", "Rewind", "StepObservation"]
