"""Ground truth: which losses are spikes, and how announcements match them. Never used to forecast."""

from foreshock.spikes.detection import SpikeDefinition, SpikeEvent, detect_spikes
from foreshock.spikes.events import EventDefinition, LossEvent
from foreshock.spikes.scan import detect_events
from foreshock.spikes.scoring import (
    ANNOUNCING,
    Episode,
    Readings,
    Score,
    SpikeOutcome,
    alarm_episodes,
    announcing,
    episode_gap,
    score,
)

__all__ = [
    "ANNOUNCING",
    "Episode",
    "EventDefinition",
    "LossEvent",
    "Readings",
    "Score",
    "SpikeDefinition",
    "SpikeEvent",
    "SpikeOutcome",
    "alarm_episodes",
    "announcing",
    "detect_events",
    "detect_spikes",
    "episode_gap",
    "score",
]
