"""Spikes of hand-made losses, by every definition."""

from __future__ import annotations

import numpy as np

from foreshock.lab.spikebench.spikes import ground_truth, judged, judged_loss, sustained_rises
from lab.spikebench.traces import column, spiky_loss, trace


def test_tall_spikes_are_those_of_3x_that_reach_8x():
    loss = spiky_loss(onsets=(200,), height=5.0) + spiky_loss(onsets=(400,), height=10.0) - 1
    found = ground_truth(trace(loss))
    assert [spike.onset for spike in found["3x"]] == [200, 400]
    assert [(spike.onset, spike.end) for spike in found["8x"]] == [(400, 402)]
    assert set(found) == {"3x", "8x"}


def test_a_single_high_mini_batch_is_no_spike():
    loss = spiky_loss(onsets=(200,), width=1, height=10.0)
    assert len(ground_truth(trace(loss))["3x"]) == 1
    assert ground_truth(trace(loss, kind="mini"))["3x"] == []
    assert judged_loss(trace(loss, kind="mini")).values[202] == 14 / 5


def test_nan_counts_as_infinitely_high():
    loss = spiky_loss(onsets=())
    loss[300:] = np.nan
    [spike] = ground_truth(trace(loss, kind="mini"))["3x"]
    assert (spike.onset, spike.height) == (300, np.inf)


def test_losses_at_the_rounding_floor_do_not_count():
    loss = 1e-12 * spiky_loss(onsets=(300,))
    loss[0] = 1.0
    assert ground_truth(trace(loss))["3x"] == []


def test_text_has_two_more_classes():
    loss = np.ones(600)
    loss[300:310] = 1.5
    found = ground_truth(trace(loss, kind="mini", language=True))
    assert [spike.onset for spike in found["+20 %"]] == [302]
    assert found["3x"] == found["8x"] == found["+3 % sustained"] == []


def test_a_sustained_rise_starts_once_and_ends_when_it_is_the_level():
    loss = np.ones(600)
    loss[300:] = 1.05
    [rise] = sustained_rises(column(loss))
    assert (rise.onset, rise.reference) == (300, 1.0)
    # The median of the 100 steps before passes the bar once more than half of them are high.
    assert rise.end in (349, 350)
    assert rise.height == 1.05


def test_a_loss_that_keeps_rising_is_one_rise():
    loss = np.exp(0.002 * np.maximum(np.arange(900) - 300.0, 0))
    [rise] = sustained_rises(column(loss))
    assert rise.onset == 315  # the first above 1.03


def test_a_rise_that_does_not_last_or_is_too_small_does_not_count():
    for height, width in ((2.0, 20), (1.02, 300)):
        loss = np.ones(600)
        loss[300 : 300 + width] = height
        assert sustained_rises(column(loss)) == []


def test_a_rise_too_close_to_the_end_cannot_be_told():
    loss = np.ones(600)
    loss[560:] = 2.0
    assert sustained_rises(column(loss)) == []


def test_judged_steps_leave_out_the_first_window():
    assert judged(trace(np.ones(150))).tolist() == list(range(100, 150))
