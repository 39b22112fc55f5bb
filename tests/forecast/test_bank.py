"""Kalman filters against Bayes' rule for joint normal distributions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from foreshock.forecast.bank import Bank, normal_distribution
from foreshock.forecast.motion import Regimes

ONE = Regimes(*(np.array([value]) for value in (0.01, 0.002, 20.0, 0.003, 0.0)))


def started(weights=(1.0,)) -> Bank:
    known = ((-0.5, 1e-2), (0, 1e-4), (0, 1e-4))
    rows = (np.append(mean, np.full(len(weights), variance)) for mean, variance in known)
    return Bank.start(0, *rows, np.array(weights))


def test_two_readings_give_what_conditioning_the_joint_distribution_gives():
    first, second, variances = -0.45, -0.41, np.array([1e-4])
    bank = started().moved(ONE, 5).corrected(first, variances, weigh=True)
    bank = bank.moved(ONE, 7).corrected(second, variances, weigh=True)

    # The state at both readings as one linear map of the start and the noises of both gaps.
    f1, f2 = ONE.transition(5)[0], ONE.transition(7)[0]
    at_first = np.hstack([f1, np.eye(3), np.zeros((3, 3))])
    at_second = np.hstack([f2 @ f1, f2, np.eye(3)])
    prior = np.zeros((9, 9))
    prior[:3, :3] = np.diag([1e-2, 1e-4, 1e-4])
    prior[3:6, 3:6], prior[6:, 6:] = ONE.noise(5, 0.0)[0], ONE.noise(7, 0.0)[0]
    mean = np.zeros(9)
    mean[0] = -0.5
    seen = np.stack([at_first[0], at_second[0]])
    gain = prior @ seen.T @ np.linalg.inv(seen @ prior @ seen.T + 1e-4 * np.eye(2))
    posterior = mean + gain @ (np.array([first, second]) - seen @ mean)
    np.testing.assert_allclose(bank.means[0], at_second @ posterior, rtol=1e-9)
    covariance = at_second @ (prior - gain @ seen @ prior) @ at_second.T
    np.testing.assert_allclose(bank.covariances[0], covariance, rtol=1e-8, atol=1e-16)


def test_the_future_of_a_bank_is_where_it_has_moved_to():
    regimes = Regimes(
        *(np.array(pair) for pair in ((0.01, 0.02), (0.002, 0), (20.0, 5), (0.003, 0.1), (0.1, 1)))
    )
    bank = started((0.7, 0.3)).moved(regimes, 5).corrected(-0.45, np.array([1e-4, 2e-4]), weigh=True)
    weights, means, deviations = bank.future(regimes.ahead(np.array([0.0, 12.0])))
    for place, gap in enumerate((0, 12)):
        later = bank.moved(regimes, gap)
        np.testing.assert_allclose(means[:, place], later.means[:, 0], rtol=1e-12)
        np.testing.assert_allclose(deviations[:, place] ** 2, later.covariances[:, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(weights, bank.weights, rtol=1e-12)


def test_filters_of_negligible_weight_have_no_part_in_the_future():
    bank = started((1 - 1e-6, 1e-6))
    regimes = Regimes(*(np.array([value, value]) for value in (0.01, 0.002, 20.0, 0.003, 0.0)))
    weights, means, _ = bank.future(regimes.ahead(np.array([0.0, 12.0])))
    assert weights.tolist() == [1.0]
    assert means.shape == (1, 2)


def test_moments_are_those_of_the_mixture_in_every_direction():
    bank = started((0.7, 0.3)).moved(
        Regimes(*(np.array([v, 2 * v]) for v in (0.01, 0.002, 20.0, 0.003, 0.1))), 5
    )
    bank = bank.corrected(-0.2, np.array([1e-4, 2e-4]), weigh=True)
    for found, direction in ((bank.level, (1, 0, 0)), (bank.slope, (0, 0, 1)), (bank.growth, (0, 1, 1))):
        means = bank.means @ direction
        mean = bank.weights @ means
        inside = np.einsum("nij,i,j->n", bank.covariances, direction, direction)
        assert found == pytest.approx((mean, bank.weights @ (inside + (means - mean) ** 2)), rel=1e-12)


def test_mixing_leaves_filters_that_agree_as_they_are_and_draws_the_others_together():
    same = started((0.7, 0.3)).mixed()
    np.testing.assert_allclose(same.covariances, started((0.7, 0.3)).covariances, rtol=1e-12)
    bank = started((0.7, 0.3))
    bank.means[1, 0] = 0.5
    mixed = bank.mixed()
    assert mixed.weights.sum() == pytest.approx(1)
    assert -0.5 < mixed.means[0, 0] < mixed.means[1, 0] < 0.5
    assert mixed.level[0] == pytest.approx(bank.level[0], abs=1e-12)
    assert mixed.level[1] == pytest.approx(bank.level[1], rel=1e-12)


def test_one_outlier_hardly_pulls_and_two_do():
    steady = started().moved(ONE, 5)
    variances = np.array([1e-4])
    once = steady.corrected(5.0, variances, weigh=False)
    assert abs(once.level[0] + 0.5) < 3.1 * math.sqrt(steady.level[1] + 1e-4)
    twice = once.moved(ONE, 5).corrected(5.0, variances, weigh=False)
    assert twice.level[0] > 3


def test_the_filter_that_foretold_the_reading_gains_weight():
    bank = started((0.5, 0.5))
    bank.means[1, 0] = 0.5
    assert bank.corrected(-0.5, np.full(2, 1e-3), weigh=True).weights[0] > 0.9
    assert bank.corrected(-0.5, np.full(2, 1e-3), weigh=False).weights[0] == 0.5


def test_plain_values_survive_json():
    bank = started((0.5, 0.5))
    again = Bank.from_plain(json.loads(json.dumps(bank.as_plain())))
    for name, value in vars(bank).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_the_normal_distribution_is_good_to_three_ten_thousandths():
    y = np.linspace(-9, 9, 181)
    exact = [0.5 * math.erfc(-value / math.sqrt(2)) for value in y]
    np.testing.assert_allclose(normal_distribution(y), exact, atol=3e-4)
