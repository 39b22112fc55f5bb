import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.report.forecasts import fans, steps_until_crossing


def forecast(step, ahead, *, ratio=0.9, low=None, high=None, state="rising"):
    return (
        "forecast",
        {
            "step": step,
            "stability_ratio": ratio,
            "steps_to_instability": ahead,
            "interval_low": ahead / 2 if low is None else low,
            "interval_high": ahead * 2 if high is None else high,
            "state": state,
        },
    )


def test_crossings_lie_between_readings_on_a_log_linear_rise():
    steps = np.arange(0, 300, 7)
    ratio = 0.9 * np.exp(0.001 * steps)
    crossing = -math.log(0.9) / 0.001
    expected = np.where(ratio < 1, crossing - steps, 0.0)
    np.testing.assert_allclose(steps_until_crossing(steps, ratio), expected, atol=1e-8)


@given(st.lists(st.floats(0.5, 1.5) | st.just(math.nan), min_size=1, max_size=30))
def test_every_reading_waits_for_the_next_pair_around_one(ratios):
    steps = np.arange(len(ratios)) * 10
    until = steps_until_crossing(steps, np.array(ratios))
    known = [i for i, ratio in enumerate(ratios) if not math.isnan(ratio)]
    for i, waiting in enumerate(until):
        if i not in known:
            assert math.isnan(waiting)
        elif ratios[i] >= 1:
            assert waiting == 0
        else:
            above = [j for j in known if j > i and ratios[j] >= 1]
            assert math.isnan(waiting) != bool(above)
            if above:
                below = max(j for j in known if j < above[0])
                assert steps[below] - steps[i] <= waiting <= steps[above[0]] - steps[i]


def test_no_crossing_gives_no_number():
    assert np.isnan(steps_until_crossing(np.array([0, 1]), np.array([0.5, 0.6]))).all()
    assert steps_until_crossing(np.array([], dtype=np.int64), np.array([])).size == 0


def test_each_rise_shows_its_first_forecasts_within_the_limits(log):
    run = log(
        *(forecast(step, 250 - step) for step in range(0, 240, 10)),
        forecast(250, 0.0, ratio=1.01, state="armed"),
        forecast(300, 40.0),
        forecast(310, 30.0),
    )
    assert [fan.step for fan in fans(run)] == [50, 150, 200, 300]
    assert (fans(run)[0].low, fans(run)[0].expected, fans(run)[0].high) == (150, 250, 450)


@pytest.mark.parametrize(
    "row",
    [
        forecast(0, math.nan),
        forecast(0, math.inf),
        forecast(0, 30.0, high=math.inf),
        forecast(0, 30.0, ratio=-0.1),
        ("forecast", {"step": 0, "state": "unknown"}),
        ("forecast", {"step": 0, "stability_ratio": None, "steps_to_instability": None}),
    ],
)
def test_a_forecast_without_bounds_is_not_drawn(log, row):
    assert fans(log(row)) == []
