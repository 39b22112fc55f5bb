"""Many steps at once, with NumPy, come to what they come to one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.spikes import EventDefinition, detect_events
from foreshock.spikes.detection import first_size
from foreshock.spikes.scan import EventScan

DEFINITIONS = (
    EventDefinition(),
    EventDefinition(window=30, fewest=30),
    EventDefinition(window=7, fewest=2),
    EventDefinition(factor=1.2, sigmas=2.0, least=0.0, climb=1.05),
)


def one_by_one(losses, definition):
    scan = EventScan(definition, first_size(losses))
    for step, loss in enumerate(losses.tolist()):
        scan.see(step, loss)
    return scan.finish()


def curve(random: np.random.Generator) -> np.ndarray:
    """Return losses of any level, trend, sign and noise, with spikes, steps and gaps."""
    steps = np.arange(int(random.integers(1, 4000)))
    shapes = (1.0, np.exp(-steps / 900), 1 + steps / 3000, -1.0, 0.0, 1e303)
    losses = 10 ** random.uniform(-3, 2) * shapes[random.integers(len(shapes))] * np.ones(len(steps))
    losses += 10 ** random.uniform(-5, 0.3) * np.abs(losses[0]) * random.standard_normal(len(steps))
    if random.random() < 0.3:
        losses = np.round(losses, 2)  # many are equal
    for _ in range(random.integers(6)):
        start, width = int(random.integers(len(steps))), int(random.integers(1, 300))
        with np.errstate(over="ignore"):
            losses[start : start + width] *= 10 ** random.uniform(0, 2)
    for _ in range(random.integers(3)):
        losses[random.integers(len(steps))] = random.choice([math.nan, math.inf, -math.inf])
    return losses


@pytest.mark.parametrize("seed", range(60))
def test_many_at_once_are_as_one_by_one(seed):
    losses = curve(np.random.default_rng(seed))
    definition = DEFINITIONS[seed % len(DEFINITIONS)]
    found, expected = detect_events(range(len(losses)), losses, definition), one_by_one(losses, definition)
    assert list(map(repr, found)) == list(map(repr, expected))  # NaN is not equal to itself


def test_these_curves_have_events():
    counts = [len(detect_events(range(len(x)), x)) for x in map(curve, map(np.random.default_rng, range(60)))]
    assert sum(counts) > 60
    assert sum(count > 0 for count in counts) > 30


def test_a_calm_stretch_is_not_looked_at_step_by_step(monkeypatch):
    seen = []
    see = EventScan.see
    monkeypatch.setattr(
        EventScan, "see", lambda self, step, loss: (seen.append(step), see(self, step, loss))[1]
    )
    losses = 1 + 0.01 * np.random.default_rng(0).standard_normal(20_000)
    losses[9000:9003] = 7.0
    [event] = detect_events(range(20_000), losses)
    assert (event.onset, event.end) == (9000, 9002)
    assert len(seen) < 1000
    assert {9000, 9001, 9002} <= set(seen)


def test_parts_of_a_curve_may_follow_one_another():
    losses = curve(np.random.default_rng(5))
    scan = EventScan(EventDefinition(), first_size(losses))
    for start in range(0, len(losses), 37):
        steps = np.arange(start, min(start + 37, len(losses)))
        scan.see_all(steps, losses[steps])
    assert list(map(repr, scan.finish())) == list(map(repr, detect_events(range(len(losses)), losses)))
