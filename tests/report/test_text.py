import dataclasses
import math

import pytest

from foreshock.report.summary import Probes, RunEvent, RunSummary
from foreshock.report.text import (
    false_alarm_table,
    notes,
    overview_table,
    spike_table,
    to_text,
    verdict,
)
from foreshock.spikes import FalseAlarm, SpikeDefinition, SpikeEvent, SpikeOutcome, detect_events

PROBES = Probes(40, 0, 4.0, 0.001, 0, 1.0, ("autograd",))


def outcome(onset, height, announced=None, curvature=None, gradient=None):
    spike = SpikeEvent(onset, onset + 5, onset + 20, 1.0, height)
    return SpikeOutcome(spike, announced, curvature, gradient)


SUMMARY = RunSummary(
    name="base",
    description="",
    source="runs/base/rank0.jsonl",
    version="0.1.0 (schema 1)",
    starts=1,
    created="",
    steps=2000,
    first_step=0,
    last_step=1999,
    first_loss=2.0,
    last_loss=2.5e-7,
    lowest_loss=2.5e-7,
    non_finite_losses=0,
    outcomes=(
        outcome(400, 38.2, announced=336, curvature=380, gradient=403),
        outcome(800, 3.14, announced=799, curvature=800),
        outcome(1200, 12345.0),
    ),
    sharpest=(("blocks.3.attn", 0.614), None, ("head", 1.0)),
    false_alarms=(FalseAlarm(900, 940, True, 1.0123), FalseAlarm(1500, 1500, False, 0.9996)),
    forecasts=40,
    probes=PROBES,
    events=(),
    skipped=0,
    definition=SpikeDefinition(),
    meta={},
)
NO_PROBES = dataclasses.replace(PROBES, count=0)


def changed(**fields):
    return dataclasses.replace(SUMMARY, **fields)


def test_each_spike_is_a_row_in_words():
    table = spike_table(SUMMARY)
    assert table.rows == (
        ("400", "38×", "64 steps ahead", "step 380, 20 ahead", "step 403, 3 after", "blocks.3.attn (61%)"),
        ("800", "3.1×", "1 step ahead", "step 800, at its onset", "not seen", "–"),
        ("1,200", "12,345×", "missed", "not seen", "not seen", "head (100%)"),
    )
    assert {len(row) for row in table.rows} == {len(table.headers)}


def test_each_false_alarm_is_a_row_that_keeps_the_third_decimal():
    assert false_alarm_table(SUMMARY).rows == (
        ("900–940", "1.012", "unstable, but no spike"),
        ("1,500", "1.000", "threshold not reached"),
    )


def test_the_overview_has_spikes_and_false_alarms_of_all_runs_in_order():
    other = changed(name="other", outcomes=(), sharpest=(), false_alarms=(FalseAlarm(5, 9, False, 0.9),))
    assert overview_table([SUMMARY, other]).rows == (
        ("base", "400", "38×", "64 ahead", "380 (-20)", "403 (+3)"),
        ("base", "800", "3.1×", "1 step ahead", "800 (+0)", "not seen"),
        ("base", "900–940", "–", "false alarm", "max 1.012×", "–"),
        ("base", "1,200", "12,345×", "missed", "not seen", "not seen"),
        ("base", "1,500", "–", "false alarm", "max 1.000×", "–"),
        ("other", "5–9", "–", "false alarm", "max 0.900×", "–"),
    )


def test_a_run_without_forecasts_does_not_call_spikes_missed():
    rows = spike_table(changed(forecasts=0, probes=NO_PROBES)).rows
    assert rows[2][:5] == ("1,200", "12,345×", "no forecast", "–", "–")


def test_an_overflown_spike_has_no_number():
    [row] = spike_table(changed(outcomes=(outcome(500, math.inf),), sharpest=(None,))).rows
    assert row[1] == "not finite"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "3 spikes, 2 announced, median 32.5 steps ahead; 2 false alarms"),
        ({"outcomes": (), "sharpest": ()}, "No spikes in 2,000 steps; 2 false alarms"),
        (
            {"outcomes": (outcome(400, 9.0),), "false_alarms": ()},
            "1 spike, 0 announced; 0 false alarms",
        ),
        (
            {"outcomes": (outcome(400, 9.0, announced=400),)},
            "1 spike, 1 announced, at their onset; 2 false alarms",
        ),
        ({"steps": 0}, "No losses were recorded"),
        (
            {"forecasts": 0, "probes": NO_PROBES},
            "3 spikes; no curvature was measured, so nothing was announced",
        ),
        ({"forecasts": 0}, "3 spikes; no forecasts were made, so nothing was announced"),
    ],
)
def test_the_verdict_is_one_sentence(fields, sentence):
    assert verdict(changed(**fields)) == sentence


def test_what_weakens_the_numbers_is_noted():
    weak = dataclasses.replace(PROBES, failed=2, unconverged=1)
    found = " ".join(notes(changed(skipped=1, probes=weak, non_finite_losses=1, steps=50)))
    for words in ("1 line of", "2 probes gave", "1 probe of 42", "1 loss NaN", "Only 50 losses"):
        assert words in found
    assert notes(SUMMARY) == ()


def test_the_text_has_aligned_columns_and_all_parts():
    text = to_text(changed(events=(RunEvent("probe_failed", "out of memory", 77),), skipped=3))
    lines = text.splitlines()
    header = next(line for line in lines if "Spike at step" in line)
    first = next(line for line in lines if line.startswith("  400"))
    assert header.index("Height") == first.index("38×")
    assert "2,000 steps, loss 2 → 2.5e-7; 40 probes." in text
    assert "step 77  probe_failed: out of memory" in text
    assert "Note: 3 lines" in text
    assert not any(line != line.rstrip() for line in lines)


def test_the_actions_of_a_guard_are_told():
    assert "The guard 'secant' acted on 12 steps." in to_text(changed(guard=("secant", 12)))
    assert "guard" not in to_text(changed())


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0] * 60 + [math.nan] * 300, "The loss was NaN or infinite from step 60 on; no spikes besides"),
        ([2.0] * 100 + [math.inf] + [2.0] * 99, "The loss was NaN or infinite at step 100; "),
        (
            [2.0] * 300 + [3.2] * 300,
            "The loss rose from 2 to 3.2 at step 300 and did not come back; no spikes",
        ),
    ],
)
def test_the_verdict_begins_with_what_went_wrong(losses, words):
    failures = tuple(detect_events(range(len(losses)), losses))
    summary = changed(outcomes=(), sharpest=(), failures=failures, last_step=len(losses) - 1)
    assert verdict(summary).startswith(words)
    assert words.split("; ")[0] in to_text(summary)


def test_of_many_failures_the_first_three_are_described():
    losses = ([2.0] * 100 + [math.nan]) * 5 + [2.0] * 50
    failures = tuple(detect_events(range(len(losses)), losses))
    assert len(failures) == 5
    words = verdict(changed(failures=failures))
    assert words.count("NaN") == 3
    assert "and 2 more such events; 3 spikes" in words
