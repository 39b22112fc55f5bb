"""The crossing of series whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.forecast.crossing import AHEAD, CrossingModel, first_reach


def test_after_a_fall_the_slope_of_the_last_rise_is_used():
    model = CrossingModel()
    for step in range(0, 320, 5):
        phase = step % 150
        model.update(step, -0.25 + 0.05 * math.exp(-phase / 10) + 0.002 * phase)
    assert model.falls == 2
    assert model.readings < 5
    assert model.forecast(0.0).steps == pytest.approx(0.25 / 0.002 - 15, rel=0.1)


def test_a_known_schedule_moves_the_crossing():
    model = CrossingModel()
    for step in range(0, 60, 5):
        model.update(step, -0.4 + 0.002 * (step - 55))
    assert model.forecast(0.0).steps == pytest.approx(200, rel=1e-4)
    # η doubles after 50 steps: ln 2 > .4, so that one is reached there.
    assert model.forecast(np.where(AHEAD >= 50, math.log(2), 0.0)).steps == pytest.approx(50, abs=3)
    assert model.forecast(np.where(AHEAD >= 50, -math.inf, 0.0)).steps == math.inf


def test_one_outlier_does_not_move_the_crossing():
    with_one, without = CrossingModel(), CrossingModel()
    generator = np.random.default_rng(0)
    for step in range(0, 200, 5):
        level = -0.5 + 0.001 * step + 1e-3 * generator.normal()
        without.update(step, level)
        with_one.update(step, level + (0.2 if step == 150 else 0.0))
    assert with_one.forecast(0.0).steps == pytest.approx(without.forecast(0.0).steps, rel=0.05)


def test_the_decay_of_v_is_the_first_guess():
    model = CrossingModel(beta2=0.999)
    model.update(0, -0.1)
    assert model.forecast(0.0).steps == pytest.approx(-0.1 / (0.5 * math.log(0.999)), rel=1e-6)


def test_without_a_reading_there_is_no_forecast():
    with pytest.raises(ValueError, match="call update first"):
        CrossingModel().forecast(0.0)


def test_the_first_reach_is_interpolated():
    assert first_reach(0.25 * AHEAD - 1.1) == pytest.approx(4.4)
    assert first_reach(np.full_like(AHEAD, -1.0)) == math.inf
    assert first_reach(np.full_like(AHEAD, 1.0)) == 0
