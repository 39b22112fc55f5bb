"""The signs that gradients give alone are those of the whole."""

from __future__ import annotations

import math
import random

import pytest

from foreshock.dynamics import Burst, SignalTracker
from foreshock.forecast import logarithm, probability_of_gradients
from foreshock.forecast.probability import GRADIENTS, HORIZONS, load_cards
from foreshock.forecast.signs import Signs, signs_of_gradients


@pytest.mark.parametrize("steps", [1, 12, 45, 60, 400])
def test_a_guard_has_the_same_signs_as_a_monitor(steps):
    draw = random.Random(steps)
    signs, tracker, burst = Signs(), SignalTracker(), Burst()
    sizes, mean, level = [], math.nan, math.nan
    for step in range(steps):
        square, moment = math.exp(draw.gauss(0, 2)), math.exp(draw.gauss(3, 1))
        statistics = tracker.update(loss=1.0, squared_gradient=square, second_moment=moment)
        signs.record_step(
            loss=1.0, squared_gradient=square, second_moment=moment, statistics=statistics, steady=False
        )
        mean = square if step == 0 else mean + (square - mean) / 5
        sizes.append(logarithm(mean))
        level = burst.update(square)
    whole = signs.at(steps, ratio=math.nan, growth=math.nan, noise=math.nan)
    alone = signs_of_gradients(sizes[-50:], burst=level, second_moment=moment, lag=statistics.lag)
    assert set(alone) == set(GRADIENTS)
    for name in GRADIENTS:
        assert alone[name] == pytest.approx(whole[name], rel=1e-9, abs=1e-12, nan_ok=True), name


def test_the_probability_of_gradients_is_the_sum_of_their_points():
    sizes = [0.01 * step for step in range(50)]
    found = probability_of_gradients(sizes, burst=1.2, second_moment=30.0, lag=40.0)
    card = load_cards()["gradients"]
    signs = signs_of_gradients(sizes, burst=1.2, second_moment=30.0, lag=40.0)
    odds = card.constants[50] + sum(card.points(signs, 50).values())
    assert found == pytest.approx(1 / (1 + math.exp(-odds)))
    assert set(card.constants) == set(HORIZONS)
