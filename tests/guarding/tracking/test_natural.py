"""The second moment as it would be without the guard."""

from __future__ import annotations

import math

import pytest

from foreshock.guarding.tracking import NaturalMoment


def test_the_natural_moment_is_blind_to_raises_and_starts_where_the_optimizer_is():
    natural = NaturalMoment()
    natural.start(9.0 * (1 - 0.999**500), beta2=0.999, updates=500)
    natural.update(1.0, beta2=0.999)
    expected = (0.999 * 9.0 * (1 - 0.999**500) + 0.001) / (1 - 0.999**501)
    assert natural.lag == pytest.approx(expected)
    twin = NaturalMoment()
    twin.load_state_dict(natural.state_dict())
    natural.raised(4.0)
    natural.update(1.0, beta2=0.999)
    twin.update(1.0, beta2=0.999)
    assert natural.lag == twin.lag
    assert natural.decay_factor == pytest.approx(0.5, rel=1e-3)
    assert twin.decay_factor == 1.0
    natural.update(math.nan, beta2=0.999)
    assert natural.lag == twin.lag


def test_a_spike_that_v_has_forgotten_hides_no_lag():
    """With β₂ = .95, v forgets a spike of 10⁴ × within 180 steps; what it then lags behind is the present."""
    natural = NaturalMoment()
    for step in range(225):
        natural.update(1e4 if step == 100 else 1.0 if step < 200 else 0.01, beta2=0.95)
    assert natural.lag > 2.5
