"""The decision itself, on vectors that are made up: each mistake by its numbers, and what is no mistake."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.monitor.comparison import Comparison, Samples
from foreshock.monitor.misuse import agrees, classify, is_after_step, misfit

RANDOM = np.random.default_rng(0)
PROBE, OTHER, BEFORE, THETA = RANDOM.normal(size=(4, 500))


def compare(gradient, *, loss=2.0, probe_loss=2.0, probe=PROBE, previous=BEFORE, **fields):
    samples = Samples(gradient, probe, THETA, previous)
    sums = (float(gradient @ gradient), float(probe @ probe), float(gradient @ probe))
    return Comparison(loss, probe_loss, *sums, samples, **fields)


def name_of(comparison):
    found = classify(comparison)
    assert not (found is not None and agrees(comparison))
    return None if found is None else found.name


@pytest.mark.parametrize("factor", [16.0, 1 / 16, 3.0, 0.25, -1.0])
@pytest.mark.parametrize("previous", [None, BEFORE, 16.0 * PROBE, 15.9 * PROBE])
def test_one_factor_on_loss_and_gradient_is_another_reduction(factor, previous):
    found = classify(compare(factor * PROBE, loss=2.0 * factor, previous=previous, examples=16))
    assert found.name == "sum or mean"
    assert found.factor == pytest.approx(factor)
    side = {16.0: "training sums over the 16", 1 / 16: "loss_fn sums over the 16", -1.0: "the sign"}
    assert side.get(factor, "divided for an accumulation") in found.message


def test_a_clipped_sum_is_still_a_sum():
    assert name_of(compare(0.7 * PROBE, loss=32.0, examples=16)) == "sum or mean"
    assert name_of(compare(PROBE, loss=32.0, examples=16)) == "other value of the loss"


@pytest.mark.parametrize("power", [1, 4, 10, 16])
def test_a_power_of_two_is_a_scale(power):
    assert name_of(compare(2.0**power * PROBE)) == "gradient_scale"
    assert name_of(compare(1.3 * 2.0**power * PROBE)) is None


def test_a_scale_that_is_off_already_is_found():
    assert name_of(compare(PROBE / 1024, gradient_scale=1024.0)) == "gradient_scale"
    assert name_of(compare(PROBE, gradient_scale=1024.0)) is None
    assert agrees(compare(PROBE, gradient_scale=1024.0))


def test_a_gradient_that_contains_the_last_one_is_found():
    piled = PROBE + BEFORE
    assert name_of(compare(piled, stepped=True)) == "no zero_grad"
    assert name_of(compare(piled, stepped=None)) == "no zero_grad"
    assert name_of(compare(piled, stepped=False)) == "observe inside an accumulation"
    assert name_of(compare(PROBE + 0.3 * BEFORE)) == "no zero_grad"  # the last one was clipped since


def test_a_nearly_constant_gradient_that_piles_up_is_no_scale():
    """At the second step .grad is twice the gradient, a power of two; the last one explains it better."""
    before = PROBE + 1e-3 * OTHER
    assert name_of(compare(PROBE + before, previous=before)) == "no zero_grad"
    assert name_of(compare(2.0 * PROBE, previous=2.0 * before)) == "gradient_scale"


def test_another_direction_needs_its_loss_to_tell_what_it_is():
    assert name_of(compare(0.25 * PROBE + 0.25 * OTHER)) == "other gradient"
    assert name_of(compare(OTHER, loss=3.0)) == "other batch or loss"
    assert name_of(compare(OTHER, loss=3.0, eval_modules="Dropout")) == "eval mode"
    found = classify(compare(PROBE + 0.2 * THETA, loss=3.0))
    assert (found.name, round(found.factor, 6)) == ("missing term", 0.2)


def test_the_sum_over_micro_batches_is_not_their_mean():
    assert name_of(compare(6.0 * PROBE, parts=6)) == "sum over micro-batches"
    assert name_of(compare(6.0 * PROBE, parts=5)) is None


def test_zeros_are_no_gradient_unless_the_loss_is_flat():
    zeros = np.zeros(500)
    assert name_of(compare(zeros)) == "no gradient"
    assert name_of(compare(zeros, probe=zeros)) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_says_nothing(broken):
    assert name_of(compare(PROBE, loss=broken)) is None
    assert name_of(compare(PROBE * broken)) is None


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.floats(-0.01, 0.01))
def test_what_only_shrinks_coordinates_is_clipping(seed, power, rounding):
    shares = np.random.default_rng(seed).uniform(size=500) ** power
    comparison = compare(shares * PROBE, loss=2.0 * (1 + rounding))
    assert name_of(comparison) is None
    assert agrees(comparison)


@given(st.floats(0.05, 0.5), st.integers(0, 2**32 - 1))
def test_noise_on_the_gradient_is_no_mistake(size, seed):
    """Its projection on the gradient exceeds three standard deviations once in 370 draws: told apart by 4."""
    noise = np.random.default_rng(seed).normal(size=500)
    along = abs(float(noise @ PROBE)) / (np.linalg.norm(noise) * np.linalg.norm(PROBE)) * math.sqrt(500)
    assert along > 2.9 or name_of(compare(PROBE + 10 * size * noise)) is None


def test_weight_decay_by_hand_is_no_mistake():
    assert name_of(compare(PROBE + 0.5 * THETA)) is None


@given(st.floats(0.3, 3.9), st.floats(-0.9, 4.0))
def test_a_random_loss_has_to_be_far_off(ratio, factor):
    comparison = compare(factor * PROBE + OTHER, loss=2.0 * ratio, random=True)
    assert name_of(comparison) is None


def test_large_factors_are_found_where_the_loss_is_random():
    nearly = PROBE + 0.3 * OTHER
    random = {"random": True}
    assert name_of(compare(16 * nearly, loss=36.0, **random)) == "sum or mean"
    assert name_of(compare(1024 * nearly, loss=2.2, **random)) == "gradient_scale"
    assert name_of(compare(nearly / 1024, loss=2.2, gradient_scale=1024.0, **random)) == "gradient_scale"
    assert name_of(compare(nearly + 20 * BEFORE, previous=20 * BEFORE, **random)) == "no zero_grad"
    assert not classify(compare(16 * nearly, loss=36.0, **random)).certain


def test_an_average_that_took_up_the_present_gradient_shows_the_order_of_calls():
    samples = Samples(PROBE, PROBE, THETA, BEFORE)
    for taken, after in ((PROBE, True), (BEFORE, False), (OTHER, False)):
        assert is_after_step(replace(samples, absorbed=np.abs(0.1 * taken))) is after
    assert not is_after_step(samples)
    # Full batch, tiny steps: the two gradients are the same but for rounding, so nothing is known.
    near = PROBE * (1 + 1e-6 * OTHER)
    assert not is_after_step(replace(samples, previous=near, absorbed=np.abs(PROBE)))
    decayed = replace(samples, decay=0.1 * THETA, absorbed=np.abs(BEFORE + 0.1 * THETA))
    assert not is_after_step(decayed)


def test_the_misfit_is_the_sine_of_the_angle():
    turned = math.cos(0.3) * np.eye(2)[0] + math.sin(0.3) * np.eye(2)[1]
    assert misfit(5 * turned, np.eye(2)[0]) == pytest.approx(math.sin(0.3))
    assert misfit(turned, 1e-9 * turned) == pytest.approx(0.0, abs=1e-15)
    assert math.isnan(misfit(np.zeros(2), turned))
