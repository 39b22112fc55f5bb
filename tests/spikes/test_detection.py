"""Spike events on hand-made loss curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.spikes import SpikeDefinition, detect_spikes


def curve(*parts: tuple[int, float]) -> list[float]:
    return [value for count, value in parts for _ in range(count)]


def test_a_wide_spike_is_one_event_against_the_median_before_it():
    losses = curve((150, 1.0), (30, 8.0), (5, 1.0), (10, 20.0), (200, 1.0))
    [event] = detect_spikes(range(len(losses)), losses)
    assert (event.onset, event.peak, event.end) == (150, 185, 194)
    assert (event.reference, event.height) == (1.0, 20.0)


def test_spikes_further_apart_than_the_rest_are_two():
    losses = curve((150, 1.0), (2, 5.0), (40, 1.0), (1, 4.0), (60, 1.0))
    assert [event.onset for event in detect_spikes(range(len(losses)), losses)] == [150, 192]


def test_steps_may_start_anywhere_and_skip():
    losses = curve((120, 2.0), (1, 50.0), (30, 2.0))
    steps = np.arange(len(losses)) * 10 + 1000
    [event] = detect_spikes(steps, losses)
    assert event.onset == 2200


def test_no_spike_within_the_first_window():
    assert detect_spikes(range(101), curve((50, 1.0), (51, 100.0))) == []


def test_rounding_near_zero_is_no_spike():
    losses = [1.0, *curve((150, 1e-12), (1, 1e-9), (50, 1e-12))]
    assert detect_spikes(range(len(losses)), losses) == []
    definition = SpikeDefinition(floor=0.0)
    assert len(detect_spikes(range(len(losses)), losses, definition)) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_overflow_is_an_infinite_spike(bad):
    losses = curve((150, 1.0), (1, 9.0), (3, bad))
    [event] = detect_spikes(range(len(losses)), losses)
    assert (event.onset, event.peak, event.end, event.height) == (150, 151, 153, math.inf)


@given(st.lists(st.floats(0.5, 1.4), min_size=0, max_size=300))
def test_losses_within_a_factor_of_three_never_spike(losses):
    assert detect_spikes(range(len(losses)), losses) == []


@given(st.integers(100, 300), st.floats(3.1, 1e6), st.floats(1e-3, 1e3))
def test_a_single_high_step_is_found_at_any_scale(onset, height, scale):
    losses = np.full(400, scale)
    losses[onset] *= height
    [event] = detect_spikes(range(400), losses)
    assert event.onset == onset
    assert event.height == pytest.approx(height)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpikeDefinition(factor=1.0), "factor is 1.0"),
        (lambda: SpikeDefinition(window=1), "window is 1"),
        (lambda: SpikeDefinition(floor=math.nan), "floor is nan"),
        (lambda: SpikeDefinition(rest=0), "rest is 0"),
        (lambda: detect_spikes([1, 2], [1.0]), "2 steps but 1 losses"),
        (lambda: detect_spikes([1, 1], [1.0, 2.0]), "increase strictly"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
