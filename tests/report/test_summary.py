"""A run in numbers, from its log."""

import dataclasses
import math

import pytest

from foreshock.report.summary import RunEvent, summarise
from foreshock.runlog import Run, RunLogWriter, read_run
from foreshock.spikes import EventDefinition, detect_events
from summaries import losses, reading, state

SPIKE = [*losses([1.0] * 120 + [9.0] + [1.0] * 60)]


def test_a_hand_written_run_comes_out_as_written(log):
    run = log(
        *SPIKE,
        reading(60, 0.9, 0.1, products=3, error_bound=0.009, seconds=1.0, backend="autograd"),
        state(60, "rising"),
        reading(100, 0.98, 0.2, products=5, error_bound=0.0, seconds=2.0, converged=False),
        state(100, "edge"),
        reading(110, 1.01, 0.9, products=9, error_bound=0.0),
        state(110, "armed"),
        reading(118, 1.02, 1.01),
        state(118, "armed"),
        reading(150, None),
        ("event", {"step": 150, "name": "probe_failed", "message": "out of memory"}),
        name="by hand",
        description="one spike",
    )
    summary = summarise(run)
    [outcome] = summary.outcomes
    assert (summary.name, summary.description, summary.steps) == ("by hand", "one spike", 181)
    assert (outcome.spike.onset, outcome.spike.height, outcome.lead) == (120, 9.0, 20)
    assert (outcome.curvature_crossed, outcome.gradient_crossed) == (110, 118)
    assert (summary.announced, summary.median_lead, summary.false_alarms) == (1, 20.0, ())
    assert (summary.probes.count, summary.probes.failed, summary.probes.products) == (4, 1, 5.0)
    assert (summary.probes.unconverged, summary.probes.seconds) == (1, 3.0)
    assert summary.probes.backends == ("autograd",)
    assert summary.probes.relative_error == 0.0
    assert [(event.step, event.name) for event in summary.events] == [(150, "probe_failed")]
    assert (summary.evidence[0].ratio, summary.evidence[0].measured) == (1.02, 118)


def test_a_run_that_spikes_by_itself_is_announced(spiky):
    summary = summarise(spiky)
    direct = detect_events(spiky.steps("step").tolist(), spiky.column("step", "loss").tolist())
    assert [outcome.spike for outcome in summary.outcomes] == direct
    assert len(direct) >= 5
    assert summary.announced >= len(direct) - 1
    assert summary.median_lead > 0


def test_the_definition_decides_what_a_spike_is(spiky):
    strict = summarise(spiky, EventDefinition(factor=20.0, sigmas=1e6))
    assert 0 < len(strict.outcomes) < len(summarise(spiky).outcomes)
    assert strict.definition.factor == 20.0


def test_nan_losses_are_one_event_and_null_ones_were_not_measured(log):
    run = log(*losses([1.0] * 120 + [None, math.nan, math.inf] + [1.0] * 30))
    summary = summarise(run)
    [outcome] = summary.outcomes
    assert (outcome.spike.onset, outcome.spike.end, outcome.spike.first_non_finite) == (121, 122, 121)
    assert (outcome.spike.kind, summary.spikes) == ("non-finite", ())
    assert summary.failures == (outcome.spike,)
    assert (summary.steps, summary.non_finite_losses, summary.lowest_loss) == (152, 2, 1.0)


def test_a_run_that_died_says_so_once(log):
    dead = [("event", {"step": step, "name": "non-finite loss", "message": "nan"}) for step in range(60, 900)]
    summary = summarise(log(*losses([2.0] * 60 + [math.nan] * 840), *dead))
    assert [outcome.spike.first_non_finite for outcome in summary.outcomes] == [60]
    assert summary.events == (RunEvent("non-finite loss", "nan", 60, 899, 840),)


def test_a_slow_climb_is_no_spike_that_could_be_announced(log):
    rising = [1.0 + 0.3 * (i % 2) + i / 500 for i in range(1500)]
    summary = summarise(log(*losses(rising)))
    assert [event.kind for event in summary.climbs] == ["climb"]
    assert summary.outcomes == ()
    assert summary.failures == summary.climbs


@pytest.mark.parametrize(
    "rows",
    [(), (("event", {"step": 3, "name": "note", "message": "m"}),), (reading(5, 0.4),)],
    ids=["header only", "event only", "curvature only"],
)
def test_a_run_without_losses_has_no_spikes(log, rows):
    summary = summarise(log(*rows))
    assert (summary.steps, summary.first_step, summary.outcomes) == (0, None, ())
    assert math.isnan(summary.first_loss)
    assert math.isnan(summary.median_lead)
    assert summary.name == "hand-written"


def test_without_curvature_nothing_is_announced(blind):
    summary = summarise(blind)
    assert len(summary.outcomes) >= 5
    assert (summary.announced, summary.probes.count, summary.forecasts) == (0, 0, 0)
    assert math.isnan(summary.probes.products)


def test_a_resumed_run_counts_each_step_once(tmp_path):
    for start, level in ((0, 1.0), (100, 2.0)):
        writer = RunLogWriter(tmp_path)
        writer.resume(start)
        for kind, record in losses([level] * 150, start):
            writer.write(kind, record)
        writer.close()
    summary = summarise(read_run(tmp_path))
    assert (summary.steps, summary.last_step, summary.last_loss) == (250, 249, 2.0)


def test_a_failed_probe_within_a_false_alarm_leaves_its_height_known(log):
    run = log(
        *losses([1.0] * 300),
        *(row for step in (150, 160, 170) for row in (reading(step, 1.1), state(step, "armed"))),
        reading(155, math.nan),
        reading(299, 0.5),
    )
    [alarm] = summarise(run).false_alarms
    assert (alarm.start, alarm.end, alarm.highest, alarm.crossed) == (150, 170, 1.1, True)


def test_a_log_cut_short_says_so(spiky, tmp_path):
    copy = tmp_path / "cut" / "rank0.jsonl"
    copy.parent.mkdir()
    copy.write_bytes(spiky.path.read_bytes()[:-20])
    run: Run = read_run(copy)
    assert summarise(run).skipped == 1


def test_actions_of_a_guard_are_counted_by_steps(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, remedy in ((3, "clip"), (3, "raise all"), (4, "none"), (9, "raise all"), (9, "cooldown")):
        log.write("guard", {"step": step, "policy": "auto", "remedy": remedy, "reason": "why"})
    log.close()
    summary = summarise(read_run(tmp_path))
    assert summary.guard == ("auto", 2)
    assert summary.events == (RunEvent("guard cooldown", "why", 9, 9),)


def test_a_guard_that_only_stood_aside_was_there(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, remedy in ((4, "none"), (9, "cooldown")):
        log.write("guard", {"step": step, "policy": "auto", "remedy": remedy, "reason": "why"})
    log.close()
    assert summarise(read_run(tmp_path)).guard == ("auto", 0)


def test_an_alarm_that_the_guard_answered_is_not_false(log):
    alarms = [state(step, "armed") for step in (100, 110, 120, 300, 310)] + [state(350, "stable")]
    rows = [*losses([1.0] * 400), *alarms, reading(399, 0.5)]
    acted = ("guard", {"step": 125, "policy": "auto", "remedy": "raise all"})
    idle = ("guard", {"step": 312, "policy": "auto", "remedy": "cooldown"})
    summary = summarise(log(*rows, acted, idle))
    assert [(one.start, one.end) for one in summary.answered] == [(100, 120)]
    assert [one.start for one in summary.false_alarms] == [300]


def test_failed_probes_are_counted_with_what_the_last_one_said(log):
    failed = [("event", {"step": i, "name": "probe failed", "message": f"error {i}"}) for i in (3, 5)]
    probes = summarise(log(*losses([1.0] * 9), *failed, ("noise", {"step": 4}), reading(6, None))).probes
    assert (probes.count, probes.failed, probes.noise, probes.last_error) == (0, 3, 1, "error 5")


def test_misuse_is_told_from_other_events(log):
    rows = [("event", {"step": 1, "name": name, "message": "m"}) for name in ("misuse: x", "note: misuse")]
    assert [event.is_misuse for event in summarise(log(*losses([1.0] * 3), *rows)).events] == [True, False]


def test_earlier_runs_of_the_folder_are_kept_in_mind(log):
    run = log(*losses([1.0]))
    assert summarise(run).earlier == ()
    assert summarise(dataclasses.replace(run, earlier=(run.path,))).earlier == (str(run.path),)


def test_of_very_many_events_the_first_and_the_last_are_kept(log):
    rows = [("event", {"step": i, "name": "note", "message": str(i)}) for i in range(1500)]
    events = summarise(log(*rows)).events
    assert len(events) == 1000
    assert (events[0].step, events[499].step, events[500].step, events[-1].step) == (0, 499, 1000, 1499)


def test_an_alarm_after_which_nothing_was_measured_counts_as_false(log):
    """Where batches differ no curvature is read: the last alarm of a run was never over."""
    said = [("forecast", {"step": step, "state": "stable", "level": ""}) for step in range(200, 600, 10)]
    said[10:12] = [("forecast", {"step": 300 + k, "state": "armed", "level": "alarm"}) for k in (0, 10)]
    summary = summarise(log(*losses([1.0] * 600), *said))
    assert [(one.start, one.end) for one in summary.false_alarms] == [(300, 310)]


def test_the_oldest_reading_is_told_beside_the_mean(log):
    said = [state(step, "stable", measured=measured) for step, measured in ((0, 0), (100, 100), (190, 100))]
    found = summarise(log(*losses([1.0] * 200), *said)).coverage
    assert (found.age, found.oldest) == (49.5, 99.0)
