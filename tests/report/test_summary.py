import math

import numpy as np
import pytest

from foreshock.report.summary import RunEvent, readings_of, recorded_losses, summarise
from foreshock.runlog import Run, RunLogWriter, read_run
from foreshock.spikes import SpikeDefinition, detect_spikes


def losses(values, start=0):
    return [("step", {"step": start + i, "loss": value}) for i, value in enumerate(values)]


def reading(step, ratio, gradient=None, **more):
    record = {"step": step, "stability_ratio": ratio, "gradient_stability_ratio": gradient}
    return ("curvature", record | more)


def state(step, name, ratio=0.9):
    return ("forecast", {"step": step, "state": name, "stability_ratio": ratio})


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


def test_a_run_that_spikes_by_itself_is_announced(spiky):
    summary = summarise(spiky)
    direct = detect_spikes(spiky.steps("step").tolist(), spiky.column("step", "loss").tolist())
    assert [outcome.spike for outcome in summary.outcomes] == direct
    assert len(direct) >= 5
    assert summary.announced >= len(direct) - 1
    assert summary.median_lead > 0


def test_the_definition_decides_what_a_spike_is(spiky):
    strict = summarise(spiky, SpikeDefinition(factor=20.0))
    assert 0 < len(strict.outcomes) < len(summarise(spiky).outcomes)
    assert strict.definition.factor == 20.0


def test_nan_losses_are_spikes_and_null_ones_were_not_measured(log):
    run = log(*losses([1.0] * 120 + [None, math.nan, math.inf] + [1.0] * 30))
    summary = summarise(run)
    [outcome] = summary.outcomes
    assert (outcome.spike.onset, outcome.spike.end) == (121, 122)
    assert math.isinf(outcome.spike.height)
    assert (summary.steps, summary.non_finite_losses, summary.lowest_loss) == (152, 2, 1.0)


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


def test_of_two_records_of_a_step_the_later_counts(log):
    steps, values = recorded_losses(log(*losses([1.0, 2.0]), *losses([3.0], 1)))
    assert steps.tolist() == [0, 1]
    assert values.tolist() == [1.0, 3.0]


def test_an_announcement_without_a_reading_of_its_own_still_counts(log):
    readings = readings_of(log(reading(0, 0.5), state(10, "edge", 0.97), state(20, "unknown", None)))
    assert readings.steps.tolist() == [0, 10]
    assert readings.announces.tolist() == [False, True]
    np.testing.assert_array_equal(readings.stability_ratio, [0.5, 0.97])


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
    assert summary.events == (RunEvent("guard cooldown", "why", 9),)


def test_a_guard_that_only_stood_aside_was_there(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, remedy in ((4, "none"), (9, "cooldown")):
        log.write("guard", {"step": step, "policy": "auto", "remedy": remedy, "reason": "why"})
    log.close()
    assert summarise(read_run(tmp_path)).guard == ("auto", 0)
