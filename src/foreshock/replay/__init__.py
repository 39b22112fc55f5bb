"""Replay a training from a snapshot, as it was or with something changed; and advise what to change."""

from foreshock.replay.changes import Change, parse_change
from foreshock.replay.loop import Loop
from foreshock.replay.outcome import Departure, ReplayOutcome
from foreshock.replay.window import replay

__all__ = ["Change", "Departure", "Loop", "ReplayOutcome", "parse_change", "replay"]
