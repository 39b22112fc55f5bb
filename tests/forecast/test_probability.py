"""The probability of a spike: a sum of points, and alarms that begin and end by it."""

from __future__ import annotations

import json
import math
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.forecast import AlarmBook, EdgeReading, Forecast, RunForecaster
from foreshock.forecast.probability import FULL, HORIZONS, NOISY, load_cards, spike_probability
from foreshock.forecast.signs import Signs, SpikeHistory

NAMES = (
    *("ratio", "growth", "highest", "noise", "lag", "held lag", "burst", "level", "bump"),
    *("volatility", "rate", "since", "phase", "rise", "rise 10", "rise 20", "rise 40"),
)
SIGNS = st.fixed_dictionaries({name: st.floats(-12, 12) | st.just(math.nan) for name in NAMES})


@given(SIGNS, st.booleans(), st.floats(1, 400))
def test_a_probability_rises_with_the_horizon_and_lies_in_its_interval(signs, steady, horizon):
    found = spike_probability(signs, steady=steady, horizon=horizon)
    within = list(found.within.values())
    assert list(found.within) == list(HORIZONS)
    assert within == sorted(within)
    assert 0 < found.low <= found.value <= found.high <= 1
    later = spike_probability(signs, steady=steady, horizon=2 * horizon)
    assert later.value >= found.value


@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_at_a_fitted_horizon_it_is_the_logistic_function_of_the_points(steady, horizon):
    signs = dict.fromkeys(NAMES, math.nan) | {"rate": -4.0, "level": 0.2, "ratio": -0.1, "growth": 0.001}
    found = spike_probability(signs, steady=steady, horizon=horizon)
    card = load_cards()["full" if steady else "noisy"]
    odds = card.constants[horizon] + sum(card.points(signs, horizon).values())
    assert found.within[horizon] >= 1 / (1 + math.exp(-odds)) - 1e-12
    assert found.value == pytest.approx(found.within[horizon])


def test_the_card_speaks_of_the_signs_that_are_followed():
    cards = load_cards()
    assert (tuple(cards["full"].signs), tuple(cards["noisy"].signs)) == (FULL, NOISY)
    for card in cards.values():
        assert 0 < card.deviation < 3
        for sign in card.signs.values():
            assert all(np.diff(sign.knots) > 0)
            assert all(len(points) == len(sign.knots) for points in sign.points.values())
            # Odds of one to a hundred are more than any single sign can know.
            assert all(abs(point) < 4.6 for points in sign.points.values() for point in points)
            assert all(abs(point) < 4.6 for point in sign.unknown.values())


def test_the_numbers_are_read_from_the_package():
    text = resources.files("foreshock.forecast").joinpath("scorecard.json").read_text(encoding="utf-8")
    assert json.loads(text)["about"]["tapes"] > 100


def test_a_ratio_near_one_is_more_dangerous_than_one_far_below():
    def at(ratio):
        signs = Signs().at(500, ratio=ratio, growth=0.0, noise=math.nan)
        return spike_probability(signs, steady=True, horizon=50).value

    assert at(0.1) < at(0.9) < at(1.02)


def test_noise_past_the_edge_is_more_dangerous_than_noise_below_it():
    def at(noise):
        signs = Signs().at(500, ratio=math.nan, growth=math.nan, noise=noise)
        return spike_probability(signs, steady=False, horizon=50).value

    assert at(0.1) < at(1.0)


def test_spikes_are_counted_and_their_distance_is_known():
    history = SpikeHistory()
    for step in range(1, 301):
        history.update(5.0 if step in (100, 103, 200, 300) else 1.0)
    assert (history.count, history.inside) == (2, True)
    assert history.since == 300 - 200
    assert history.gap == 100


def test_signs_are_carried_over():
    history = SpikeHistory()
    for step in range(150):
        history.update(4.0 if step == 70 else 1.0)
    again = SpikeHistory()
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert (again.count, again.since, again.steps) == (1, history.since, 150)


def forecast_of(level: str) -> Forecast:
    nan = math.nan
    return Forecast(0, 0.9, nan, nan, nan, nan, "edge", "made up", level=level)


def test_an_episode_ends_below_half_of_its_threshold():
    book = AlarmBook(0.4)
    levels = [book.follow(p) for p in (0.19, 0.2, 0.39, 0.4, 0.2, 0.19, 0.1, 0.09, 0.19, math.nan)]
    assert levels == ["", "watch", "watch", "alarm", "alarm", "watch", "watch", "", "", ""]


def test_each_level_is_given_once_in_an_episode():
    book = AlarmBook()
    said = [
        book.update(step, forecast_of(level), burst=1.0)
        for step, level in enumerate(("watch", "watch", "alarm", "alarm", "watch", "", "watch", "alarm"))
    ]
    assert [one and one.level for one in said] == [
        *("watch", None, "alarm", None, None, None, "watch", "alarm"),
    ]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_a_threshold_that_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match=r"0\.3 is usual"):
        AlarmBook(value)


@pytest.mark.parametrize("losses", [(1e-300, 1e300), (5e-324, 1e10), (0.0, 1.0)])
def test_a_loss_of_any_size_ends_no_training(losses):
    run = RunForecaster(beta2=0.999)
    for step in range(150):
        run.record_step(loss=losses[step % 2], squared_gradient=1.0, second_moment=1.0)
    forecast = run.forecast(149, constant=True)
    assert math.isnan(forecast.probability) or 0 < forecast.probability < 1


def a_run(resumed_at=None):
    def begin():
        return RunForecaster(beta2=0.999, alarm_at=0.1)

    run, found = begin(), []
    for step in range(260):
        loss, square = (8.0, 3.0) if 150 <= step < 165 else (1.0 + 0.01 * (step % 3), 0.01)
        run.record_step(loss=loss, squared_gradient=square, second_moment=1.0)
        if step % 10 == 5:
            reading = EdgeReading(0.7 + 0.3 * math.sin(step / 40), learning_rate=1e-3)
            run.record_curvature(step, reading)
        forecast = run.forecast(step, constant=True)
        alarm = run.alarm(step, forecast)
        found.append((forecast.probability, forecast.level, forecast.state, run.spiking, alarm is None))
        if step == resumed_at:
            state = json.loads(json.dumps(run.state_dict()))
            run = begin()
            run.load_state_dict(state)
            assert run.spiking is found[-1][3]
            assert run.forecast(step, constant=True).level == forecast.level
    return found


def test_a_run_resumed_in_an_alarm_or_a_spike_goes_on_as_if_it_had_not_been():
    whole = a_run()
    levels = [level for _, level, *_ in whole]
    assert {"alarm", "watch", ""} <= set(levels)
    # Where a level is held by what it was before, and in a spike, nothing of which a new run knows.
    held = [step for step, (p, level, *_) in enumerate(whole) if level == "alarm" and 0.05 <= p < 0.1]
    for step in (held[0], held[-1], 157, 200):
        assert repr(a_run(step)) == repr(whole), step


def test_steps_that_were_not_observed_count():
    """Observed at each step or at every tenth, a run has the same rate of spikes and the same rises."""

    def signs(every):
        run = RunForecaster(beta2=0.999)
        for step in range(0, 3001, every):
            size = math.exp(0.002 * step)
            run.record_step(loss=1.0, squared_gradient=size, second_moment=size, step=step)
        return run.signs(run.forecast(3000, constant=True))

    each, tenth = signs(1), signs(10)
    assert tenth["rate"] == pytest.approx(each["rate"], abs=0.01)
    for name in ("rise 10", "rise 20", "rise 40"):
        assert tenth[name] == pytest.approx(each[name], rel=0.02)
    assert each["rise 40"] == pytest.approx(0.08, rel=0.02)


@given(st.data())
def test_odds_at_all_horizons_are_those_of_each(data):
    number = st.one_of(st.just(math.nan), st.floats(-20, 20))
    for card in load_cards().values():
        names = sorted({*card.signs, "ratio", "growth"} - {"ahead"})
        signs = {name: data.draw(number, label=name) for name in names}
        if math.isnan(signs["growth"]):
            signs["growth"] = 0.0
        assert card.odds(signs) == {steps: card.log_odds(signs, steps) for steps in HORIZONS}
