"""The closed forms of the motion against a simulation and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.forecast.motion import Regimes

REGIMES = Regimes(
    scatter=np.array([1e-3, 1e-3]),
    walk=np.array([0.002, 0.0]),
    relaxation=np.array([10.0, 40.0]),
    turmoil=np.array([0.003, 0.0]),
    drift=np.array([0.0, 0.5]),
)


def test_two_short_gaps_are_one_long_gap():
    """Chapman and Kolmogorov: F(a+b) = F(b)F(a), Q(a+b) = F(b)Q(a)F(b)ᵀ + Q(b)."""
    late, early = REGIMES.transition(12), REGIMES.transition(5)
    np.testing.assert_allclose(late @ early, REGIMES.transition(17), rtol=1e-12)
    noise = late @ REGIMES.noise(5, 0.01) @ late.swapaxes(1, 2) + REGIMES.noise(12, 0.01)
    np.testing.assert_allclose(noise, REGIMES.noise(17, 0.01), rtol=1e-9, atol=1e-18)


def test_the_level_wanders_as_a_simulation_does():
    """20,000 paths of 300 parts: three standard deviations of the variance are 3 %, the parts add 1 %."""
    generator = np.random.default_rng(0)
    level, slope = np.zeros(20_000), np.zeros(20_000)
    decay = np.exp(-0.1 / 10)
    for _ in range(300):
        level += 0.1 * slope + 0.002 * np.sqrt(0.1) * generator.normal(size=level.size)
        slope = decay * slope + 0.003 * np.sqrt(1 - decay**2) * generator.normal(size=level.size)
    expected = REGIMES.level_variance(np.array([30.0]), 0.0)[0, 0]
    assert level.var() == pytest.approx(expected, rel=0.04)


def test_loadings_are_the_first_row_of_the_transition():
    gaps = np.array([0.0, 3.0, 50.0])
    loadings = REGIMES.ahead(gaps).loadings
    for i, gap in enumerate(gaps):
        np.testing.assert_allclose(loadings[:, :, i], REGIMES.transition(gap)[:, 0], rtol=1e-12)


def test_what_is_computed_once_for_all_readings_is_what_each_would_compute_anew():
    gaps, kept = np.array([0.0, 3.0, 50.0]), np.array([False, True])
    for slope in (0.01, -0.2):
        anew = REGIMES.level_variance(gaps, slope)
        np.testing.assert_array_equal(REGIMES.ahead(gaps).level_variance(slope), anew)
        np.testing.assert_array_equal(REGIMES.ahead(gaps).of(kept).level_variance(slope), anew[kept])


def test_every_standard_regime_is_different():
    rows = np.stack(list(vars(Regimes.standard()).values()), axis=1)
    assert len(np.unique(rows, axis=0)) == len(Regimes.standard())
