"""What happened to a loss: the curves that people call spikes or failures, and those that they don't."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.spikes import EventDefinition, detect_events

CALM = [1.0] * 200


def noise(size: int, scale: float = 1.0, seed: int = 0):
    return np.random.default_rng(seed).normal(0, scale, size)


def events(losses):
    return [(event.kind, event.onset, event.end) for event in detect_events(range(len(losses)), losses)]


CURVES = {
    "two wide spikes, fifteen calm steps between them": (
        CALM + [10.0] * 80 + [1.0] * 15 + [25.0] * 5 + [1.0] * 100,
        [("spike", 200, 279), ("spike", 295, 299)],
    ),
    "cross-entropy that rises and stays": ([2.0] * 300 + [3.2] * 300, [("divergence", 300, 499)]),
    "cross-entropy that rises and comes back": (
        [2.0] * 300 + [5.9] * 40 + [2.0] * 300,
        [("spike", 300, 339)],
    ),
    "cross-entropy at its ceiling, more than threefold": (
        [3.3] * 300 + [10.82] * 300,
        [("divergence", 300, 499)],
    ),
    "cross-entropy at its ceiling, less than threefold": (
        [3.7] * 300 + [10.82] * 300,
        [("divergence", 300, 499)],
    ),
    "within the first hundred steps": ([2.0] * 60 + [40.0] * 30 + [2.0] * 300, [("spike", 60, 89)]),
    "a log-likelihood far below zero": (
        [-2000.0] * 300 + [-100.0] * 20 + [-2000.0] * 100,
        [("spike", 300, 319)],
    ),
    "a policy loss around zero": (noise(2000, 0.01).tolist(), []),
    "NaN to the end": ([2.0] * 50 + [math.nan] * 300, [("non-finite", 50, 349)]),
    "an overflow that passes": ([2.0] * 100 + [math.nan, math.inf] + [2.0] * 100, [("non-finite", 100, 101)]),
    "no number from the first step": ([math.inf] * 3 + [2.0] * 200, [("non-finite", 0, 2)]),
    "data that became harder, then a spike": (
        [*(2 + noise(600, 0.02)), *(3 + noise(600, 0.02)), *[9.0] * 5, *(3 + noise(200, 0.02))],
        [("divergence", 600, 799), ("spike", 1200, 1204)],
    ),
    "healthy mini-batches, cross-entropy": ((2 + noise(5000, 0.15)).tolist(), []),
    "healthy mini-batches, a small loss": (np.exp(noise(5000, 0.4) - 7).tolist(), []),
    "a falling loss": (10.8 * np.exp(-np.arange(3000) / 800) + 2 + noise(3000, 0.1), []),
    "a smooth fall over decades": (np.geomspace(10, 1e-6, 3000), []),
    "rounding at the floor of float32": ([1.0] * 50 + [1e-9, 1e-11] * 200, []),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_has_the_events_that_people_see(name):
    losses, expected = CURVES[name]
    assert events(losses) == expected


def test_a_slow_climb_is_one_event_although_no_step_is_high():
    losses = np.concatenate([np.ones(500), np.geomspace(1, 30, 4000)]) * np.exp(noise(4500, 0.1))
    [event] = detect_events(range(4500), losses)
    assert event.kind == "climb"
    assert 500 < event.onset < 1200
    assert event.end == 4499
    assert event.reference == pytest.approx(1, rel=0.1)


def test_a_climb_without_noise_is_a_divergence():
    losses = [*CALM, *np.geomspace(1, 30, 400)]
    kinds = {kind for kind, *_ in events(losses)}
    assert kinds == {"divergence"}


def test_a_wide_spike_that_recovers_slowly_does_not_hide_the_next_one():
    slow = 1 + 99 * np.exp(-np.arange(600) / 150)
    losses = [*CALM, *slow, *[60.0] * 3, *np.ones(200)]
    assert [kind for kind, *_ in events(losses)] == ["spike", "spike"]
    assert events(losses)[1][1] == 800


def test_heights_and_rises():
    [event] = detect_events(range(340), [2.0] * 300 + [3.0, 8.0, 4.0] + [2.0] * 37)
    assert (event.onset, event.peak, event.end) == (300, 301, 302)
    assert (event.reference, event.rise, event.height) == (2.0, 6.0, 4.0)
    [below] = detect_events(range(340), [-2.0] * 300 + [5.0] * 3 + [-2.0] * 37)
    assert below.rise == 7.0
    assert math.isnan(below.height)
    [gone] = detect_events(range(103), [2.0] * 100 + [math.nan] * 3)
    assert (gone.first_non_finite, gone.rise, gone.height) == (100, math.inf, math.inf)


@settings(max_examples=25)
@given(st.floats(1e-3, 1e3), st.integers(0, 5))
def test_the_unit_of_the_loss_does_not_matter(scale, seed):
    losses = np.exp(noise(600, 0.2, seed))
    losses[300:305] *= 20
    one, other = detect_events(range(600), losses), detect_events(range(600), scale * losses)
    assert [(e.kind, e.onset, e.end) for e in one] == [(e.kind, e.onset, e.end) for e in other]
    assert [e.height for e in other] == pytest.approx([e.height for e in one])


@settings(max_examples=25)
@given(st.integers(30, 500), st.integers(0, 5))
def test_what_comes_later_does_not_change_an_onset(cut, seed):
    losses = np.exp(noise(600, 0.3, seed))
    losses[::97] *= 30
    whole = [e.onset for e in detect_events(range(600), losses) if e.kind != "climb"]
    known = [e.onset for e in detect_events(range(cut), losses[:cut]) if e.kind != "climb"]
    assert known == whole[: len(known)]
    # Of a noisy loss the mean of five is judged: an event is seen up to four steps after its onset.
    assert [onset for onset in whole if onset < cut - 4] == [onset for onset in known if onset < cut - 4]


def test_steps_may_have_gaps_and_must_increase():
    [event] = detect_events(range(0, 3400, 10), [2.0] * 300 + [9.0] * 3 + [2.0] * 37)
    assert (event.onset, event.end) == (3000, 3020)
    with pytest.raises(ValueError, match="increase strictly"):
        detect_events([0, 0], [1.0, 1.0])
    with pytest.raises(ValueError, match="must pair up"):
        detect_events([0, 1], [1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, "factor is 1.0; it must be above 1"),
        ({"sigmas": math.nan}, "sigmas is nan"),
        ({"fewest": 101}, "fewest is 101; it must be from 2 steps to `window`"),
        ({"patience": 10}, "more steps than `rest`"),
        ({"climb": 1.0}, "climb is 1.0"),
    ],
)
def test_impossible_definitions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EventDefinition(**options)


@pytest.mark.parametrize(("fewest", "window"), [(2, 2), (3, 4), (5, 100)])
def test_few_calm_steps_are_waited_for_until_their_noise_is_known(fewest, window):
    losses = [2.0] * 8 + [40.0] * 3 + [2.0] * 40
    definition = EventDefinition(fewest=fewest, window=window)
    found = detect_events(range(len(losses)), losses, definition)
    # A window of fewer than six steps never has a noise, and nothing can be said.
    assert [event.onset for event in found if event.kind == "spike"] == ([8] if window > 5 else [])


def test_a_climb_lasts_until_its_level_is_back():
    """It goes up to 20 and slowly down to 2: at the last step its level is still twice that of the start."""
    up, down = np.geomspace(1, 20, 3000), np.geomspace(20, 2, 3000)
    losses = np.concatenate([np.ones(500), up, down]) * np.exp(noise(6500, 0.1))
    [event] = detect_events(range(6500), losses)
    assert event.kind == "climb"
    assert event.end == 6499
    assert abs(event.peak - 3500) < 300


def test_a_noisy_rise_begins_and_peaks_where_the_loss_itself_does():
    losses = np.exp(noise(600, 0.3))
    losses[300:306] = (6.0, 9.0, 14.0, 50.0, 12.0, 8.0)
    [event] = detect_events(range(600), losses)
    assert (event.onset, event.peak) == (300, 303)
    assert event.rise == pytest.approx(50.0 - event.reference)


OTHERS = {
    "a loss at its floor that leaves it": ([1e-4] * 300 + [2e-3] * 8 + [1e-4] * 100, [("spike", 300, 307)]),
    "an accumulation that forgot to divide": (
        [*(2 + noise(400, 0.05)), *(8 + noise(400, 0.2))],
        [("divergence", 400, 599)],
    ),
    "a spike right after the warm-up": ([2.0] * 22 + [9.0] * 4 + [2.0] * 80, [("spike", 22, 25)]),
    "two NaN steps far apart": (
        [2.0] * 100 + [math.nan] + [2.0] * 100 + [math.inf] * 2 + [2.0] * 100,
        [("non-finite", 100, 100), ("non-finite", 201, 202)],
    ),
    "a spike that ends in NaN": (
        [2.0] * 200 + [5.0, 20.0, 300.0] + [math.nan] * 50,
        [("non-finite", 200, 252)],
    ),
    "a loss that follows a cyclic schedule": (
        (2 + 0.08 * np.sin(np.arange(2000) / 40) + noise(2000, 0.03)).tolist(),
        [],
    ),
    "a loss of exactly zero": ([0.0] * 500, []),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_curves_have_the_events_that_people_see(name):
    losses, expected = OTHERS[name]
    assert events(losses) == expected


def test_a_spike_of_a_loss_that_falls_fast_is_seen():
    """At step 250 the median of the last hundred steps is still twice the loss."""
    losses = np.exp(-np.arange(600) / 80)
    assert np.median(losses[150:250]) > 1.8 * losses[250]
    losses[250:258] *= (1.6, 2.2, 2.5, 2.6, 2.5, 2.4, 2.2, 1.6)
    [event] = detect_events(range(600), losses)
    assert event.kind == "spike"
    assert 250 <= event.onset <= event.peak == 253
