"""Announcements matched with spikes, on hand-made runs."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.spikes import Readings, SpikeEvent, alarm_episodes, announcing, detect_events, score


def spike(onset: int, peak: int | None = None, end: int | None = None) -> SpikeEvent:
    peak = onset + 2 if peak is None else peak
    return SpikeEvent(onset, peak, peak + 2 if end is None else end, 1.0, 5.0)


def readings(announcing=(), ratio=None, gradient=None, last: int = 300, every: int = 5) -> Readings:
    """Return probes every five steps that announce within the given (first, last) ranges."""
    steps = np.arange(0, last, every)
    announces = np.zeros(len(steps), dtype=bool)
    for first, end in announcing:
        announces |= (steps >= first) & (steps <= end)
    flat = np.full(len(steps), 0.5)
    return Readings(
        steps,
        announces,
        flat if ratio is None else ratio(steps),
        flat if gradient is None else gradient(steps),
    )


def test_lead_counts_from_the_start_of_the_episode():
    result = score([spike(100)], readings([(40, 110)]))
    [outcome] = result.outcomes
    assert (outcome.announced, outcome.lead) == (40, 60)
    assert result.false_alarms == ()


def test_an_announcement_that_ended_long_before_is_a_miss_and_a_false_alarm():
    result = score([spike(100)], readings([(20, 50)]))
    assert result.outcomes[0].lead is None
    assert [(alarm.start, alarm.end) for alarm in result.false_alarms] == [(20, 50)]


def test_short_silences_do_not_end_an_episode():
    result = score([spike(100)], readings([(40, 60), (75, 95)]))
    assert result.outcomes[0].announced == 40


def test_the_next_spike_must_be_announced_anew():
    result = score([spike(100), spike(200)], readings([(40, 250)]))
    assert [outcome.announced for outcome in result.outcomes] == [40, 105]


def test_announcements_during_a_spike_are_its_own():
    result = score([spike(100, 110, 140)], readings([(80, 135)]))
    assert result.outcomes[0].announced == 80
    assert result.false_alarms == ()


def test_a_false_alarm_tells_whether_the_threshold_was_crossed():
    ratio = lambda steps: np.where(steps == 60, 1.02, 0.9)  # noqa: E731
    result = score([], readings([(40, 70), (150, 160)], ratio))
    assert [(alarm.crossed, alarm.highest) for alarm in result.false_alarms] == [
        (True, 1.02),
        (False, 0.9),
    ]


def test_an_episode_open_at_the_end_is_not_judged():
    assert score([], readings([(280, 299)])).false_alarms == ()


def test_what_ended_before_a_spike_could_be_detected_is_not_judged():
    early = readings([(20, 30), (150, 160)])
    assert [alarm.start for alarm in score([], early, judged_from=100).false_alarms] == [150]


def test_crossings_are_the_last_rise_before_the_peak():
    ratio = lambda steps: np.where(((steps >= 50) & (steps < 60)) | (steps >= 75), 1.1, 0.9)  # noqa: E731
    gradient = lambda steps: np.where(steps >= 100, 1.0, 0.2)  # noqa: E731
    [outcome] = score([spike(98, 103)], readings([(40, 110)], ratio, gradient)).outcomes
    assert outcome.curvature_crossed == 75
    assert outcome.gradient_crossed == 100


def test_a_ratio_that_was_always_above_crossed_at_the_first_reading():
    [outcome] = score([spike(100)], readings([(0, 110)], lambda steps: steps * 0 + 2.0)).outcomes
    assert outcome.curvature_crossed == 0
    assert outcome.gradient_crossed is None


def test_readings_must_pair_up():
    with pytest.raises(ValueError, match="same shape"):
        score([], Readings(np.arange(3), np.zeros(2, bool), np.zeros(3), np.zeros(3)))


def test_a_spike_goes_on_with_what_was_announced():
    states = ["spike", "stable", "edge", "spike", "spike", "unknown", "spike", "armed"]
    assert announcing(states).tolist() == [False, False, True, True, True, False, False, True]
    assert announcing([]).shape == (0,)


def test_an_alarm_that_a_guard_answered_is_not_false():
    alarms = readings([(40, 70), (150, 160), (220, 230)])
    result = score([], alarms, actions=[171, 60, 175])
    assert [(one.start, one.end) for one in result.answered] == [(40, 70), (150, 160)]
    assert [one.start for one in result.false_alarms] == [220]
    # Before an episode, or later than an episode lasts without an announcement, an action answers nothing.
    assert score([], alarms, actions=[39, 91, 149, 181]).answered == ()


def test_a_ratio_that_fell_below_one_long_before_did_not_cross_for_the_spike():
    early = lambda steps: np.where(steps <= 10, 4.0, 0.9)  # noqa: E731
    alarms = readings(ratio=early, last=900)
    assert score([spike(800)], alarms).outcomes[0].curvature_crossed == 0
    assert score([spike(800)], alarms, oldest=200).outcomes[0].curvature_crossed is None
    # One that stayed above did, however long ago it began.
    lasting = readings(ratio=lambda steps: np.where(steps >= 300, 1.1, 0.9), last=900)
    assert score([spike(800)], lasting, oldest=200).outcomes[0].curvature_crossed == 300


def test_losses_of_either_definition_are_scored_alike():
    [event] = detect_events(range(340), [2.0] * 100 + [9.0] * 3 + [2.0] * 237)
    assert score([event], readings([(40, 110)])).outcomes[0].lead == 60


def test_episodes_are_counted_whatever_came_of_them():
    alarms = readings([(40, 60), (75, 95), (200, 210)])
    assert alarm_episodes(alarms) == [(40, 95), (200, 210)]
    assert alarm_episodes(alarms, gap=10) == [(40, 60), (75, 95), (200, 210)]


def test_an_alarm_that_ended_before_the_run_is_false_though_nothing_was_measured_since():
    rare = readings([(20, 50)], last=55)
    assert score([], rare).false_alarms == ()  # the run may end there
    assert [alarm.start for alarm in score([], rare, last=200).false_alarms] == [20]
    assert score([], rare, last=60).false_alarms == ()
