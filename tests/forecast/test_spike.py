"""The outlook: nothing is walked through where the end of the walk is known."""

from __future__ import annotations

import math

import pytest

from foreshock.dynamics import Drift
from foreshock.dynamics.threshold import FURTHEST
from foreshock.forecast import EdgeReading, outlook
from foreshock.forecast import spike as module


def reading(ratio: float) -> EdgeReading:
    return EdgeReading(
        ratio,
        learning_rate=1e-3,
        alignment=0.5,
        excess_loss=1e-4,
        instant_lag=100.0,
        loss=1.0,
        beta1=0.9,
    )


@pytest.fixture
def walks(monkeypatch):
    """Return a list that grows with each model that is run forward."""
    made = []

    def counted(walk):
        return lambda *arguments, **options: made.append(1) or walk(*arguments, **options)

    for name in ("severity", "steps_to_visible_spike"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return made


@pytest.mark.parametrize("growth", [-1e-4, 0.0, 1e-9, 0.99 * math.log(2) / FURTHEST])
def test_a_ratio_that_does_not_reach_one_in_time_is_not_followed(walks, growth):
    expected = outlook(reading(0.5), growth, beta2=0.999)
    assert (expected.steps_to_spike, walks) == (math.inf, [])
    assert math.isnan(expected.height)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99])
def test_what_is_left_out_is_what_the_models_would_have_found(ratio):
    growth_rate = 0.9 * -math.log(ratio) / FURTHEST
    drift = Drift(0.999, growth_rate + 0.5 * math.log(0.999))
    grown = lambda at: max(2 * at - 1, 1.0)  # noqa: E731
    steps = module.steps_to_visible_spike(ratio, drift=drift, growth_factor=grown, magnification=100.0)
    found = module.severity(ratio, instant_lag=100.0, drift=drift, growth_factor=grown)
    assert steps == found.steps_to_peak == math.inf


def test_a_ratio_that_reaches_one_in_time_is_followed(walks):
    assert outlook(reading(0.9), 1e-3, beta2=0.999).steps_to_spike < 1000
    assert len(walks) == 2
