"""Losses → spikes, worst ratio, means, divergence."""

import math

import numpy as np
import pytest

from foreshock.lab.guardbench.judging import fill, geometric_mean, judge


def ones(steps=400, **at):
    losses = np.ones(steps)
    for step, value in at.items():
        losses[int(step[1:])] = value
    return losses


def test_heights_and_the_worst_ratio_are_those_of_the_losses():
    judged = judge(ones(_150=9.0, _300=2.5), smooth=False, steps=400)
    assert judged.spikes == (9.0,)
    assert judged.worst_ratio == 9.0
    assert judge(ones(_300=2.5), smooth=False, steps=400).worst_ratio == 2.5


def test_a_single_batch_is_no_spike_of_a_mini_batch_run():
    assert judge(ones(_150=9.0), smooth=True, steps=400).spikes == ()
    assert judge(ones(_150=9.0), smooth=True, steps=400).worst_ratio == pytest.approx(13 / 5)


def test_the_mean_is_of_the_second_half_alone():
    losses = np.concatenate([np.full(200, 7.0), np.full(100, 4.0), np.full(100, 1.0)])
    assert judge(losses, smooth=False, steps=400).mean_loss == pytest.approx(2.0)


def test_losses_below_rounding_and_above_failure_do_not_count_as_such():
    assert geometric_mean(np.array([0.0]), first=2.0) == pytest.approx(2e-8)
    assert geometric_mean(np.array([1e30]), first=2.0) == pytest.approx(20.0)


def test_a_run_that_overflowed_counts_with_its_first_loss_for_what_it_lacks():
    losses = np.concatenate([[3.0], np.ones(99), [math.inf]])
    judged = judge(losses, smooth=False, steps=400)
    assert judged.diverged
    assert judged.mean_loss == pytest.approx(3.0)
    assert fill(losses, steps=102).tolist() == [3.0] + [1.0] * 99 + [3.0, 3.0]


def test_a_run_that_ends_above_its_start_diverged():
    losses = np.concatenate([np.ones(300), np.full(100, 2.0)])
    assert judge(losses, smooth=False, steps=400).diverged
    assert not judge(np.ones(400), smooth=False, steps=400).diverged


def test_steps_with_corrupted_batches_are_not_judged():
    broken = judge(ones(_150=math.nan, _200=50.0), smooth=False, steps=400)
    assert broken.spikes == (50.0,)
    assert judge(ones(_150=math.nan), smooth=False, steps=400).mean_loss == 1.0
    assert fill(np.array([1.0, math.nan, 3.0]), steps=3).tolist() == [1.0, 2.0, 3.0]


def test_nothing_to_judge():
    with pytest.raises(ValueError, match="no loss to judge"):
        judge(np.array([math.nan]), smooth=False, steps=1)
