"""A run as a whole: which edge decides, what the forecast says, and when an alarm is given."""

from __future__ import annotations

import json
import math

import pytest

from foreshock.forecast import FLAT, EdgeReading, RunForecaster

QUIET = {"loss": 1.0, "squared_gradient": 0.01, "second_moment": 1.0}


def a_run(steps: int = 120, *, alarm_at: float = 0.3, **free: float) -> RunForecaster:
    run = RunForecaster(beta2=0.999, alarm_at=alarm_at)
    for _ in range(steps):
        run.record_step(**QUIET | free)
    return run


def noisy(run: RunForecaster, mean: float, variance: float, count: int = 5, step: int = 120) -> RunForecaster:
    for _ in range(count):
        run.record_noise(step, mean=mean, variance=variance, noise_factor=19.0)
    return run


def test_batch_noise_arms_a_run_far_below_the_edge_of_full_batches():
    forecast = noisy(a_run(), 0.2, 0.02).forecast(120, constant=False)
    assert forecast.mean_square_ratio == pytest.approx(0.2 + 19 * 0.02 / 0.2)
    assert forecast.lag == pytest.approx(100)
    assert forecast.state == "armed"
    assert "v is 100.0 × g²" in forecast.basis
    assert "10% of the mean-square ratio is curvature" in forecast.basis
    assert math.isnan(forecast.steps_to_instability)


def test_what_can_not_be_measured_any_more_is_not_called_stable():
    run = noisy(a_run(), 0.2, 0.001)
    run.record_step(**QUIET)
    run.mark_unavailable(121, "the probe failed")
    again = RunForecaster(beta2=0.999)
    again.load_state_dict(run.state_dict())
    for one in (run, again):
        forecast = one.forecast(125, constant=False)
        assert (forecast.state, forecast.basis) == ("unknown", "the probe failed")
        assert math.isnan(forecast.mean_square_ratio)
    assert noisy(run, 0.2, 0.001, count=1).forecast(126, constant=False).state == "stable"


def test_noise_that_was_measured_counts_where_the_curvature_of_that_step_failed():
    run = a_run()
    run.record_step(**QUIET)
    noisy(run, 0.2, 0.001, step=121).mark_unavailable(121, "the probe failed")
    assert run.forecast(121, constant=False).state == "stable"


def test_below_the_edge_of_mini_batches_a_run_is_stable():
    assert noisy(a_run(), 0.2, 0.001).forecast(120, constant=False).state == "stable"


def test_where_v_follows_the_edge_does_not_arm():
    forecast = noisy(a_run(second_moment=0.01), 0.2, 0.02).forecast(120, constant=False)
    assert forecast.state == "rising"
    assert not forecast.announces
    assert "v follows g²" in forecast.basis


def reading(ratio: float, *, instant_lag: float, excess_loss: float = 1e-4) -> EdgeReading:
    return EdgeReading(
        ratio,
        learning_rate=1e-3,
        alignment=0.9,
        excess_loss=excess_loss,
        instant_lag=instant_lag,
        loss=1.0,
        beta1=0.9,
    )


def test_an_edge_past_which_all_is_damped_is_not_announced():
    lagging, following = a_run(), a_run(second_moment=0.01)
    for step in range(0, 120, 4):
        ratio = 1.02 * math.exp(5e-4 * (step - 116))
        lagging.record_curvature(step, reading(ratio, instant_lag=1e3))
        following.record_curvature(step, reading(ratio, instant_lag=1.0))
    announced, damped = (run.forecast(119, constant=True) for run in (lagging, following))
    assert announced.state == "armed"
    assert announced.severity > 1.5 > damped.severity
    assert damped.state == "rising"
    assert damped.steps_to_instability == 0
    assert "v follows g²" in damped.basis


def test_one_in_five_readings_that_foretells_a_spike_is_enough():
    run = a_run(second_moment=0.01)
    states = []
    for step in range(0, 120, 4):
        run.record_curvature(step, reading(math.exp(5e-4 * step), instant_lag=1e3 if step == 40 else 1.0))
        states.append(run.forecast(step, constant=True).state)
    assert [4 * i for i, state in enumerate(states) if state == "armed"] == [0, 4, 8, 12, 40, 44, 48, 52, 56]


def test_without_a_height_the_edge_is_announced():
    run = a_run(second_moment=0.01)
    run.record_curvature(0, EdgeReading(1.01, learning_rate=1e-3))
    assert run.forecast(0, constant=True).state == "armed"


def test_without_noise_the_same_readings_are_judged_by_the_full_batch_edge():
    run = noisy(a_run(), 0.2, 0.02)
    run.record_curvature(120, EdgeReading(1.02, learning_rate=1e-3))
    forecast = run.forecast(120, constant=True)
    assert (forecast.state, forecast.stability_ratio) == ("armed", 1.02)
    assert math.isnan(forecast.mean_square_ratio)


def test_nothing_measured_is_unknown():
    assert a_run().forecast(120, constant=True).state == "unknown"
    forecast = noisy(a_run(), 0.2, 0.02, count=2).forecast(120, constant=False)
    assert forecast.state == "unknown"
    assert "2 of 3 usable" in forecast.basis


def test_a_loss_off_its_level_is_a_spike_and_a_new_episode():
    run = noisy(a_run(alarm_at=0.01), 0.2, 0.02)
    assert run.alarm(120, run.forecast(120, constant=False)).level == "alarm"
    assert run.alarm(121, run.forecast(121, constant=False)) is None
    for _ in range(5):
        run.record_step(**QUIET | {"loss": 9.0})
    spiking = run.forecast(126, constant=False)
    assert (spiking.state, spiking.level) == ("spike", "")
    assert math.isnan(spiking.probability)
    assert run.alarm(126, spiking) is None
    for _ in range(10):
        run.record_step(**QUIET)
    assert run.alarm(136, run.forecast(136, constant=False)).level == "alarm"


def test_an_alarm_names_what_grows():
    run = noisy(a_run(alarm_at=0.01), 0.2, 0.02)
    for _ in range(5):
        run.record_step(**QUIET | {"squared_gradient": 0.09})
    alarm = run.alarm(125, run.forecast(125, constant=False))
    assert alarm.level == "alarm"
    assert alarm.burst > 1.5
    assert "× its usual size" in alarm.reason


def test_a_gradient_that_bursts_makes_a_spike_more_probable():
    calm, bursting = (noisy(a_run(), 0.2, 0.02) for _ in range(2))
    for _ in range(5):
        calm.record_step(**QUIET)
        bursting.record_step(**QUIET | {"squared_gradient": 0.09})
    found = [run.forecast(125, constant=False).probability for run in (calm, bursting)]
    assert 0 < found[0] < found[1] < 1


def test_a_steady_rise_of_the_ratio_names_its_likely_cause():
    for growth, words in ((5e-4, "no faster than v decays"), (5e-3, "landscape or schedule")):
        run = a_run()
        for step in range(0, 100, 5):
            seen = EdgeReading(
                0.5 * math.exp(growth * step),
                learning_rate=1e-3,
                alignment=0.5,
                excess_loss=1e-4,
                instant_lag=100.0,
                loss=1.0,
                beta1=0.9,
            )
            run.record_curvature(step, seen)
        forecast = run.forecast(99, constant=True)
        assert words in forecast.cause_hint
        assert forecast.steps_to_spike > forecast.steps_to_instability > 0
        assert forecast.severity > 1


def test_a_resumed_run_goes_on_alike():
    run, resumed = noisy(a_run(), 0.2, 0.02), RunForecaster(beta2=0.999)
    run.record_curvature(119, EdgeReading(0.9, learning_rate=1e-3))
    run.alarm(120, run.forecast(120, constant=False))
    resumed.load_state_dict(json.loads(json.dumps(run.state_dict())))
    for one in (run, resumed):
        one.record_step(**QUIET)
        one.record_noise(121, mean=0.3, variance=0.02, noise_factor=19.0)
    assert resumed.forecast(121, constant=False) == run.forecast(121, constant=False)
    assert resumed.alarm(121, resumed.forecast(121, constant=False)) is None


def test_before_its_noise_is_measured_a_mini_batch_run_is_unknown():
    run = a_run()
    run.record_curvature(119, EdgeReading(1.2, learning_rate=1e-3))
    assert run.forecast(120, constant=False).state == "unknown"
    run.noise_expected = False
    assert run.forecast(120, constant=False).state == "armed"


def test_a_forecast_from_noise_is_of_its_own_step():
    run = noisy(a_run(), 0.2, 0.02)
    run.record_curvature(100, EdgeReading(1.2, learning_rate=1e-3))
    forecast = run.forecast(120, constant=False)
    assert forecast.step == 120
    assert math.isnan(forecast.stability_ratio)


def test_a_reading_that_is_too_old_is_unknown_and_says_how_old():
    run = a_run()
    for step in range(100, 120, 2):
        run.record_curvature(step, EdgeReading(0.5, learning_rate=1e-3))
    assert run.forecast(200, constant=True).state != "unknown"
    old = run.forecast(219, constant=True)
    assert (old.state, old.measured, old.age) == ("unknown", 118, 101)
    assert old.basis == "the curvature was last measured 101 steps ago, at step 118"
    assert str(old).endswith(f", from loss and gradient alone; state unknown: {old.basis}")
    # Followed from v alone it lives longer, but not for ever.
    for step in range(120, 600, 10):
        run.record_curvature(step, EdgeReading(0.5, learning_rate=1e-3, measured=118))
    assert run.forecast(418, constant=True).state != "unknown"
    assert run.forecast(419, constant=True).state == "unknown"


def test_noise_that_is_too_old_is_unknown():
    run = noisy(a_run(), 0.2, 0.001)
    assert run.forecast(320, constant=False).state == "stable"
    old = run.forecast(321, constant=False)
    assert (old.state, old.measured) == ("unknown", 120)
    assert "last measured 201 steps ago, at step 120" in old.basis


def test_before_it_is_known_whether_batches_differ_nothing_is_announced():
    run = a_run()
    for step in range(110, 120):
        run.record_curvature(step, EdgeReading(5.1, learning_rate=1e-3))
    assert run.forecast(119, constant=True).state == "armed"
    forecast = run.forecast(119, constant=None)
    assert (forecast.state, forecast.announces) == ("unknown", False)
    assert "unknown whether every step sees the same data" in forecast.basis


def test_a_reading_that_may_be_off_by_more_than_itself_counts_for_nothing():
    run = a_run()
    for step in range(110, 120):
        run.record_curvature(step, EdgeReading(0.001, learning_rate=1e-3, relative_error=7.0))
    assert run.forecast(119, constant=True).state == "unknown"


def test_a_loss_that_is_not_finite_is_an_alarm_once_until_it_is_finite_again():
    run, given = a_run(), []
    for step, loss in enumerate([1.0, math.nan, math.nan, math.inf, 1.0, math.nan]):
        run.record_step(**QUIET | {"loss": loss})
        if not math.isfinite(loss):
            run.mark_unavailable(step, f"the loss is {loss}")
        alarm = run.alarm(step, run.forecast(step, constant=True))
        if alarm is not None:
            given.append((alarm.step, alarm.level))
            assert "the loss is nan" in alarm.reason
    assert given == [(1, "alarm"), (5, "alarm")]


def test_losses_below_zero_leave_the_other_signs_to_speak():
    run = noisy(a_run(loss=-3.0), 0.2, 0.02)
    forecast = run.forecast(120, constant=False)
    assert 0 < forecast.probability < 1
    assert math.isnan(run.signs(forecast)["level"])


def test_before_there_is_a_level_nothing_is_probable():
    assert math.isnan(a_run(steps=24).forecast(23, constant=True).probability)
    assert a_run(steps=25).forecast(24, constant=True).probability > 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_of_a_loss_that_is_not_finite_nothing_is_probable(loss):
    run = noisy(a_run(), 0.2, 0.02)
    assert run.forecast(120, constant=False).probability > 0
    run.record_step(**QUIET | {"loss": loss})
    run.mark_unavailable(121, f"the loss is {loss}")
    forecast = run.forecast(121, constant=False)
    assert math.isnan(forecast.probability)
    assert str(forecast) == f"nothing measured: the loss is {loss}"
    run.record_step(**QUIET)
    assert run.forecast(122, constant=False).probability > 0


def test_a_flat_loss_is_not_called_unmeasured():
    run = a_run()
    for step in range(100, 120, 2):
        run.record_curvature(step, EdgeReading(0.5, learning_rate=1e-3))
    run.record_curvature(300, EdgeReading(0.0, learning_rate=1e-3, relative_error=math.inf))
    resumed = a_run()
    resumed.load_state_dict(json.loads(json.dumps(run.state_dict())))
    for one in (run, resumed):
        forecast = one.forecast(310, constant=True)
        assert (forecast.state, forecast.basis) == (
            "unknown",
            f"{FLAT}, as measured 10 steps ago, at step 300",
        )
    run.record_curvature(320, EdgeReading(0.5, learning_rate=1e-3))
    assert FLAT not in run.forecast(700, constant=True).basis
