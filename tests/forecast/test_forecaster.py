"""Forecasts on series whose crossing is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import simulate_adam_on_quadratic
from foreshock.forecast import Forecast, Forecaster, unknown


def feed(forecaster: Forecaster, steps, ratios, rates=None) -> list[Forecast]:
    rates = [1e-3] * len(steps) if rates is None else rates
    return [
        forecaster.update(int(step), float(ratio), learning_rate=float(rate))
        for step, ratio, rate in zip(steps, ratios, rates, strict=True)
    ]


@given(st.floats(0.2, 0.9), st.floats(1e-4, 1e-2), st.integers(1, 20))
def test_a_straight_line_is_extended_exactly(ratio, growth, spacing):
    steps = np.arange(8) * spacing
    ratios = ratio * np.exp(growth * (steps - steps[-1]))
    forecast = feed(Forecaster(), steps, ratios)[-1]
    expected = -math.log(ratio) / growth
    assert forecast.steps_to_instability == pytest.approx(expected, rel=1e-6)
    assert forecast.growth_rate == pytest.approx(growth, rel=1e-6)
    assert forecast.interval_low * (1 - 1e-6) <= expected <= forecast.interval_high * (1 + 1e-6)
    # A rise that is no larger than the scatter that the model reckons with is not sure.
    sure = growth * steps[-1] > 1e-2
    assert forecast.state in (("edge",) if expected <= 100 else ("rising",) if sure else ("rising", "stable"))


def test_irregular_readings_and_a_changing_rate_are_one_line():
    """The ratio is proportional to η: a warm-up must not look like growth of the curvature."""
    steps = np.array([0, 3, 4, 11, 30, 31, 45, 60])
    rates = 1e-3 * np.linspace(0.1, 1, len(steps))
    ratios = 0.5 * np.exp(0.002 * steps) * rates / rates[-1]
    forecast = feed(Forecaster(), steps, ratios, rates)[-1]
    assert forecast.growth_rate == pytest.approx(0.002, rel=1e-6)


def test_intervals_cover_the_crossing_of_noisy_random_walks():
    """Three hundred series with white noise and wandering: 80 % intervals, 70 to 97 % coverage."""
    generator = np.random.default_rng(0)
    covered, lengths = [], []
    for _ in range(300):
        noise, wander = generator.choice([0, 0.01]), generator.choice([0, 0.002])
        level = -0.25 + np.cumsum(0.002 + wander * generator.normal(size=600))
        crossing = int(np.argmax(level >= 0))
        steps = np.arange(0, crossing - 40, 4)
        if len(steps) < 8:
            continue
        ratios = np.exp(level[steps] + noise * generator.normal(size=len(steps)))
        forecast = feed(Forecaster(), steps, ratios)[-1]
        if math.isfinite(forecast.steps_to_instability) and forecast.steps_to_instability > 0:
            ahead = crossing - steps[-1]
            covered.append(forecast.interval_low <= ahead + 1 and ahead - 1 <= forecast.interval_high)
            lengths.append(forecast.interval_high - forecast.interval_low)
    assert len(covered) > 150
    assert 0.7 < np.mean(covered) < 0.97
    assert np.median(lengths) < 150


def test_forecasts_the_crossings_of_adam_on_a_quadratic():
    run = simulate_adam_on_quadratic(4000, learning_rate=0.15, betas=(0.0, 0.999))
    ratio = np.asarray(run.stability_ratio, dtype=float)
    crossings = np.flatnonzero((ratio[1:] >= 1) & (ratio[:-1] < 1)) + 1
    steps = np.arange(0, 4000, 5)
    forecasts = feed(Forecaster(), steps, ratio[steps])
    errors = []
    for crossing in crossings[1:]:
        [forecast] = [f for f in forecasts if 47 <= crossing - f.step < 52]
        errors.append(abs(forecast.steps_to_instability - (crossing - forecast.step)))
    assert len(errors) >= 4
    assert np.median(errors) < 10


def test_a_sudden_fall_starts_anew():
    forecaster = Forecaster()
    feed(forecaster, range(0, 100, 5), 0.9 * 1.001 ** np.arange(0, 100, 5))
    falling = feed(forecaster, range(100, 120, 5), [0.8, 0.7, 0.6, 0.55])
    assert [forecast.state for forecast in falling] == ["recovery"] * 4
    after = feed(forecaster, range(120, 160, 5), 0.55 * 1.002 ** np.arange(0, 40, 5))
    assert after[-1].growth_rate == pytest.approx(math.log(1.002), rel=0.2)


def test_above_one_is_armed_whatever_the_readings():
    first = Forecaster().update(0, 1.2, learning_rate=0.1)
    assert first.state == "armed"
    assert first.steps_to_instability == 0
    assert first.is_near_edge


def test_flat_is_stable_and_too_few_readings_are_unknown():
    forecasts = feed(Forecaster(), range(0, 100, 5), [0.5 + 1e-4 * (i % 2) for i in range(20)])
    assert forecasts[-1].state == "stable"
    assert {forecast.state for forecast in forecasts[:4]} == {"unknown"}
    assert math.isnan(forecasts[3].steps_to_instability)


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -0.1, 0.0])
def test_what_can_not_be_told_is_unknown_never_stable(ratio):
    forecast = Forecaster().update(3, ratio, learning_rate=0.1)
    assert forecast.state == "unknown"
    assert not forecast.announces


def test_a_resumed_forecaster_continues_the_same_forecast():
    steps, ratios = range(0, 100, 5), 0.9 * 1.001 ** np.arange(0, 100, 5)
    original = Forecaster()
    feed(original, steps, ratios)
    resumed = Forecaster()
    resumed.load_state_dict(json.loads(json.dumps(original.state_dict())))
    assert resumed.update(100, 0.99, learning_rate=1e-3) == original.update(100, 0.99, learning_rate=1e-3)


def test_a_forecast_ages():
    forecast = Forecast(10, 0.9, 50.0, 40.0, math.inf, 0.002, "edge", "a line")
    later = forecast.at(35)
    assert (later.steps_to_instability, later.interval_low) == (25.0, 15.0)
    assert math.isinf(later.interval_high)
    assert forecast.at(70).steps_to_instability == 0
    assert math.isnan(unknown(0, "nothing").at(5).steps_to_instability)


def test_reads_as_a_sentence():
    forecast = Forecast(10, 0.9, 50.0, 40.0, math.inf, 0.002, "edge", "a line")
    assert str(forecast) == "stability ratio 0.900, edge, unstable in about 50 steps (40–∞)"
    assert str(unknown(0, "no loss_fn")) == "nothing measured: no loss_fn"


@pytest.mark.parametrize(
    ("ahead", "low", "high", "says"),
    [
        (209.0, 0.0, math.inf, ", no date yet"),
        (251.0, 12.0, math.inf, ", unstable in 12 steps at the earliest"),
        (250.0, 12.0, math.inf, ", unstable in about 250 steps (12–∞)"),
        (800.0, 12.0, 1600.0, ", unstable in about 800 steps (12–1600)"),
        (math.inf, 12.0, math.inf, ""),
    ],
)
def test_says_of_a_date_only_what_its_interval_bears(ahead, low, high, says):
    forecast = Forecast(10, 0.9, ahead, low, high, 0.002, "stable", "a line", horizon=50)
    assert str(forecast) == f"stability ratio 0.900, stable{says}"


def test_a_probability_comes_first_in_the_sentence():
    forecast = Forecast(10, 0.9, 50.0, 40.0, math.inf, 0.002, "edge", "a line")
    likely = replace(forecast, probability=0.42, probability_low=0.2, probability_high=0.66, horizon=50)
    assert str(likely) == f"a spike within 50 steps: 42% (20%–66%); {forecast}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Forecaster(horizon=0), "must be a positive number of steps"),
        (lambda: Forecaster(beta2=1.0), "beta2 is 1.0"),
        (lambda: Forecaster(fewest=2), "at least 3 readings"),
        (lambda: Forecaster(drop=0.0), "drop is 0.0"),
        (lambda: feed(Forecaster(), [5, 5], [0.5, 0.5]), "step 5 follows step 5"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("measured", "says"), [(None, ""), (75, ""), (40, ", measured 60 steps ago")])
def test_a_ratio_of_long_ago_is_not_shown_as_one_of_now(measured, says):
    forecast = Forecast(100, 0.9, 0.0, 0.0, math.inf, 0.002, "armed", "a line", measured=measured)
    assert str(forecast) == f"stability ratio 0.900{says}, armed"
    noisy = replace(forecast, typical_mean_square_ratio=0.7, basis="past the edge")
    assert str(noisy) == f"typical mean-square ratio 0.70 (edge 0.6){says}, armed: past the edge"


def test_a_date_that_has_come_since_is_said():
    forecast = Forecast(100, 0.9, 40.0, 10.0, math.inf, 0.002, "edge", "a line").at(150)
    assert str(forecast) == "stability ratio 0.900, edge, unstable from about now on"


@pytest.mark.parametrize(
    ("chances", "says"),
    [
        ((0.003, 0.001, 0.012), "<1% (<1%–1%)"),
        ((0.0, 0.0, 0.2), "0% (0%–20%)"),
        ((0.997, 0.5, 0.999), ">99% (50%–>99%)"),
    ],
)
def test_what_is_improbable_is_not_called_impossible(chances, says):
    names = ("probability", "probability_low", "probability_high")
    forecast = Forecast(10, 0.9, 50.0, 40.0, 60.0, 0.002, "edge", "a line", horizon=50)
    found = replace(forecast, **dict(zip(names, chances, strict=True)))
    assert str(found).startswith(f"a spike within 50 steps: {says}; stability ratio")
    assert says.partition(" ")[0].replace("<", "&lt;").replace(">", "&gt;") in found._repr_html_()
