"""Ground truth: which losses are spikes, and how announcements match them. Never used to forecast."""

from foreshock.spikes.detection import SpikeDefinition, SpikeEvent, detect_spikes
from foreshock.spikes.scoring import (
    ANNOUNCING,
    FalseAlarm,
    Readings,
    Score,
    SpikeOutcome,
    announcing,
    episode_gap,
    score,
)

__all__ = [
    "ANNOUNCING",
    "FalseAlarm",
    "Readings",
    "Score",
    "SpikeDefinition",
    "SpikeEvent",
    "SpikeOutcome",
    "announcing",
    "detect_spikes",
    "episode_gap",
    "score",
]
