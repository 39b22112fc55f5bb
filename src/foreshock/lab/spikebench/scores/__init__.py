"""Scores of alarm rules and of forecasts, as plain dictionaries that JSON can hold."""

from foreshock.lab.spikebench.scores.alarms import score_rules
from foreshock.lab.spikebench.scores.forecasts import Replay, score_forecasts

__all__ = ["Replay", "score_forecasts", "score_rules"]
