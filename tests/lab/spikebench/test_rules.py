"""Every rule sees only the past; each score against a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.dynamics.mean_square import mean_square_ratio
from foreshock.dynamics.recursion import LinearRecursion
from foreshock.lab.spikebench.rules import RULES, cost_per_step
from foreshock.lab.spikebench.trace import Trace
from lab.spikebench.feedback import noise_trace_feedback
from lab.spikebench.traces import column, meta, noisy_trace

BY_NAME = {rule.name: rule for rule in RULES}


def score(name, kind="mini", n=300, **columns):
    """Return the score of a rule on a trace of ones with these columns."""
    trace = Trace(meta(kind=kind), {"loss": column(np.ones(n)), **columns})
    return BY_NAME[name].score(trace)


@pytest.mark.parametrize("kind", ["full", "mini"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_score_uses_nothing_later(rule, kind):
    trace = noisy_trace(n=300, kind=kind)
    whole = rule.score(trace)
    assert not np.isnan(whole.values).all()
    for step in (1, 33, 150, 207):
        known = rule.score(trace.until(step))
        np.testing.assert_array_equal(known.steps, whole.until(step).steps)
        np.testing.assert_array_equal(known.values, whole.until(step).values)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_has_no_score_where_nothing_was_recorded(rule):
    trace = Trace(meta(), {"loss": column(np.ones(1))})
    assert not (rule.score(trace).values > rule.default).any()


def test_names_differ_and_sources_are_given():
    assert len(BY_NAME) == len(RULES)
    assert all(rule.source for rule in RULES)


def test_loss_score_counts_deviations_of_the_steps_before():
    loss = np.where(np.arange(300) % 2, 1.0, 3.0)
    loss[250] = 7.0
    values = score("loss z-score", loss=column(loss)).values
    assert values[250] == pytest.approx(5.0)
    assert values[199] == pytest.approx(-1.0)
    assert np.isnan(values[:20]).all()


def test_skip_step_takes_the_larger_of_loss_and_gradient():
    wave = np.where(np.arange(300) % 2, 1.0, 3.0)
    norm, loss = wave.copy(), wave.copy()
    norm[250], loss[280] = 10.0, 20.0
    columns = {"loss": column(loss), "gradient_norm": column(norm)}
    values = score("SkipStep 6σ", **columns).values
    assert values[250] == pytest.approx(8.0)
    assert values[280] == pytest.approx(18.0)
    loss[122:180] += 1.0
    recent = loss[122:250]
    expected = (7.0 - recent.mean()) / recent.std()
    loss[250], columns["gradient_norm"] = 7.0, column(wave)
    columns["loss"] = column(loss)
    assert score("SkipStep 6σ", **columns).values[250] == pytest.approx(expected)
    assert np.isnan(values[63])
    assert np.isfinite(values[64])


def test_cumulative_sum_adds_small_rises_and_forgets_on_the_way_down():
    loss = np.where(np.arange(300) % 2, 1.0, 3.0)
    loss[200:204] = 5.0
    values = score("CUSUM of the loss", loss=column(loss)).values
    assert values[199] < 2
    assert 5 < values[203] < 4 * 3.0
    assert values[299] < values[203]
    loss[210] = 1e9
    assert score("CUSUM of the loss", loss=column(loss)).values[210] <= values[209] + 4


@pytest.mark.parametrize(
    ("name", "quantity", "every"),
    [
        ("gradient norm", "gradient_norm", 1),
        ("update norm", "update_norm", 1),
        ("activation kurtosis", "kurtosis", 10),
        ("λ_max(H)", "sharpness", 10),
    ],
)
def test_sizes_over_their_running_median(name, quantity, every):
    values = np.resize([2.0, 2.0, 7.0], 300 // every)
    values[-1] = 9.0
    scores = score(name, **{quantity: column(values, every=every)}).values
    assert scores[-1] == 4.5
    assert scores[-2] == 1.0
    assert np.isnan(scores[:5]).all()


def test_three_probes_in_a_row_are_their_least():
    values = score("λ_grad(Ĥ), 3 probes", gradient_ratio=column([2.0, 0.5, 3.0, 4.0, 5.0])).values
    np.testing.assert_array_equal(values, [np.nan, np.nan, 0.5, 0.5, 3.0])


def test_plain_curvature_is_passed_on():
    for name, quantity in (
        ("λ_grad(Ĥ)", "gradient_ratio"),
        ("λ_max(Ĥ)", "stability_ratio"),
        ("λ along the update", "update_ratio"),
        ("secant", "secant_ratio"),
        ("update RMS", "update_rms"),
    ):
        assert score(name, **{quantity: column([0.25, 1.5])}).values.tolist() == [0.25, 1.5]


def test_critical_rate_is_inverted_and_infinity_is_no_alarm():
    values = score("critical learning rate", critical_rate=column([np.inf, 2.0, 0.5, np.nan])).values
    np.testing.assert_array_equal(values, [0.0, 0.5, 2.0, np.nan])


def test_batch_sharpness_is_over_two_by_the_rate_of_its_step():
    rate = column(np.where(np.arange(300) < 20, 0.1, 0.2))
    sharpness = column(np.full(30, 10.0), every=10)
    values = score("batch sharpness", batch_sharpness=sharpness, learning_rate=rate).values
    np.testing.assert_allclose(values[[0, 1, 2, 9]], [0.5, 0.5, 2 / 3, 1.0])


def test_trust_is_one_minus_kept_over_promised():
    columns = {"trial_change": column(np.full(30, -0.2), 10), "trial_linear": column(np.full(30, -1.0), 10)}
    np.testing.assert_allclose(score("trust-region ratio", **columns).values, 0.8)
    columns["trial_linear"] = column(np.full(30, 1.0), 10)
    assert np.isnan(score("trust-region ratio", **columns).values).all()


def test_lag_is_the_largest_of_the_last_fifty_steps():
    moment = np.ones(300)
    moment[100] = 8.0
    values = score("lag of v", gradient_norm=column(np.full(300, 0.5)), second_moment=column(moment)).values
    np.testing.assert_allclose(values[[99, 100, 149, 150]], [4, 32, 32, 4])


def test_trigger_is_the_root_of_a_five_step_average_over_its_median():
    square = np.ones(300)
    square[200] = 16.0
    values = score("preconditioned gradient", preconditioned_square=column(square)).values
    # An average of weight 1/5 rises to 1 + 15/5.
    assert values[200] == pytest.approx(2.0, rel=1e-6)
    assert values[199] == pytest.approx(1.0)


def pairs(mean, square, along, factor, n=30):
    """Return the columns of constant pairs."""
    names = ("pair_mean", "pair_square", "pair_along", "noise_factor")
    return {
        name: column(np.full(n, value), every=10)
        for name, value in zip(names, (mean, square, along, factor), strict=True)
    }


def gaussian_pairs():
    """Return Adam, arguments, and the pairs that Gaussian rows would give: the units of the recorder."""
    adam = LinearRecursion(decay=0.9, gain=0.1, direct=0.0, averaged=1.0)
    rate, top, trace, batch = 0.1, 100.0, 990.0, 100.0
    damping = 0.1 / 1.9
    unit = rate * damping / 2
    scaled = {"mean": unit * top, "square": unit**2 * top * (top + trace) / batch}
    scaled["along"] = unit**2 * 2 * top**2 / batch
    arguments = {"learning_rate": rate, "sharpness": top, "trace": trace, "batch_size": batch}
    return adam, arguments, pairs(scaled["mean"], scaled["square"], scaled["along"], 1 / damping)


def test_mean_square_of_pairs_agrees_with_the_closed_form():
    adam, arguments, columns = gaussian_pairs()
    top = arguments["sharpness"]
    variance = top * (top + arguments["trace"]) / arguments["batch_size"]
    exact = mean_square_ratio(adam, learning_rate=0.1, mean=top, variance=variance)
    assert score("MSS of pairs", **columns).values[-1] == pytest.approx(exact, rel=1e-12)


def test_feedback_of_pairs_agrees_with_the_closed_form():
    adam, arguments, columns = gaussian_pairs()
    exact = noise_trace_feedback(adam, **arguments)
    assert score("F of pairs", **columns).values[-1] == pytest.approx(exact, rel=1e-12)


def test_feedback_is_infinite_once_the_top_mode_alone_is_unstable():
    assert score("F of pairs", **pairs(0.9, 0.5, 0.2, 1.0)).values[-1] == math.inf


@pytest.mark.parametrize("name", ["MSS of pairs", "F of pairs"])
def test_pairs_are_undefined_before_the_fifth_or_without_positive_mean(name):
    values = score(name, **pairs(0.5, 0.1, 0.01, 1.0)).values
    assert np.isnan(values[:4]).all()
    assert np.isfinite(values[4:]).all()
    assert np.isnan(score(name, **pairs(-0.5, 0.1, 0.01, 1.0)).values).all()


@pytest.mark.parametrize("name", ["MSS of pairs", "F of pairs"])
def test_full_batches_have_no_noise(name):
    ratio = column([0.5, 0.75], every=10)
    assert score(name, kind="full", stability_ratio=ratio).values.tolist() == [0.5, 0.75]


def test_arming_silences_the_score_until_v_lags():
    moment = column(np.where(np.arange(300) < 150, 1.0, 5.0))
    columns = {**pairs(1.2, 0.0, 0.0, 1.0), "gradient_norm": column(np.ones(300)), "second_moment": moment}
    values = score("MSS, armed by lag > 3", **columns).values
    np.testing.assert_allclose(values[[4, 14, 15, 29]], [0, 0, 1.2, 1.2])


def test_cost_is_measurements_times_price_over_steps():
    mini, full = noisy_trace(n=300, kind="mini"), noisy_trace(n=300, kind="full")
    assert cost_per_step(BY_NAME["loss z-score"], mini) == 0
    assert cost_per_step(BY_NAME["λ_max(Ĥ)"], mini) == pytest.approx(2.0 / 5)
    mini.meta["costs"]["pair"] = 4.0
    assert cost_per_step(BY_NAME["MSS of pairs"], mini) == pytest.approx(4.0 / 5)
    assert cost_per_step(BY_NAME["MSS of pairs"], full) == pytest.approx(2.0 / 5)
    del mini.meta["costs"]["probe"]
    with pytest.raises(ValueError, match="lack 'probe'"):
        cost_per_step(BY_NAME["λ_max(Ĥ)"], mini)
