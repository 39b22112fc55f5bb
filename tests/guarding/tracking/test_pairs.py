"""The mean-square ratio from pairs."""

from __future__ import annotations

import math

import pytest

from foreshock.guarding.tracking import PairAverage


def test_pairs_are_averaged_and_undefined_where_the_mean_is_not_positive():
    pairs = PairAverage()
    for mean in (0.1, 0.2, 0.1, 0.2):
        pairs.update(mean=mean, variance=0.01, noise_factor=19.0)
        assert math.isnan(pairs.ratio)
    pairs.update(mean=math.nan, variance=0.01, noise_factor=19.0)
    assert pairs.count == 4
    pairs.update(mean=0.1, variance=0.03, noise_factor=19.0)
    mean = 0.1
    for value in (0.2, 0.1, 0.2, 0.1):
        mean += (value - mean) / 8
    assert pairs.ratio == pytest.approx(mean + 19 * (0.01 + 0.02 / 8) / mean)
    for _ in range(99):
        pairs.update(mean=-1.0, variance=0.01, noise_factor=19.0)
    assert math.isnan(pairs.ratio)
