"""What a report lists, row by row."""

from __future__ import annotations

import math

import pytest

from foreshock.report.evidence import Evidence
from foreshock.report.tables import alarm_table, explanation_table, overview_table, spike_table
from foreshock.spikes import Episode, detect_events
from summaries import NO_PROBES, SUMMARY, changed, explained, of, only, outcome


def test_each_spike_is_a_row_in_words():
    table = spike_table(SUMMARY)
    assert table.rows == (
        (
            *("400", "spike 38×", "64 steps ahead", "1.02 at step 390, 10 steps old", "20 ahead", "3 after"),
            *("blocks.3.attn, 61%", "not explained"),
        ),
        (
            *("800", "spike 3.1×", "1 step ahead", "mean-square 0.981 at step 800", "at its onset"),
            *("not seen", "–", "not explained"),
        ),
        (
            *("1,200", "spike 12,345×", "missed", "no reading within 200 steps", "not seen", "not seen"),
            *("head, 100%", "not explained"),
        ),
    )
    assert {len(row) for row in table.rows} == {len(table.headers)}


def test_an_old_crossing_is_not_shown_as_one_of_this_spike():
    [row] = spike_table(only(outcome(2177, 9.0, announced=2100, curvature=0))).rows
    assert row[4] == "for 2,177 steps"


def test_what_was_measured_before_no_spike_has_no_column():
    table = spike_table(changed(outcomes=SUMMARY.outcomes[1:], evidence=(Evidence(0.9, 799), Evidence())))
    assert table.headers == ("At step", "What", "Announced", "Ratio before", "λ_max(Ĥ) > 2/η", "Why")
    assert {len(row) for row in table.rows} == {len(table.headers)}


def test_its_causes_stand_in_the_row_as_in_the_table_of_causes():
    one, other = outcome(400, 9.0), outcome(800, 9.0)
    found = (explained(one.spike, "bad batch", "landscape"), explained(other.spike, "learning rate"))
    summary = only(one, other, explanations=found)
    assert [row[-1] for row in spike_table(summary).rows] == ["bad batch and landscape", "learning rate"]
    causes = explanation_table(summary.explanations)
    at = causes.headers.index("Cause")
    assert [row[at] for row in causes.rows] == [row[-1] for row in spike_table(summary).rows]


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ([2.0] * 60 + [math.nan] * 300, "NaN or ∞ from step 60"),
        ([2.0] * 300 + [3.2] * 300, "divergence 1.6×"),
        ([2.0] * 300 + [2.3] * 5 + [2.0] * 50, "spike 1.15×"),
        ([-2.0] * 300 + [5.0] * 5 + [-2.0] * 50, "spike +7"),
    ],
)
def test_what_happened_is_named_with_its_height(losses, what):
    [event] = detect_events(range(len(losses)), losses)
    assert spike_table(only(of(event))).rows[0][1] == what


def test_each_false_alarm_is_a_row_that_keeps_the_third_decimal():
    assert alarm_table(SUMMARY).rows == (
        ("900–940", "1.012", "unstable, but no spike"),
        ("1,500", "1.000", "threshold not reached"),
    )


def test_alarms_that_the_guard_answered_are_listed_but_not_as_false():
    table = alarm_table(changed(answered=(Episode(1000, 1100, True, 1.01),)))
    assert table.rows[1] == ("1,000–1,100", "1.010", "answered by the guard")
    assert table.title == "False alarms, and alarms that the guard answered"


def test_the_overview_has_spikes_and_alarms_of_all_runs_in_order():
    other = only(
        name="other", false_alarms=(Episode(5, 9, False, 0.9),), answered=(Episode(1, 2, True, 1.1),)
    )
    assert overview_table([SUMMARY, other]).rows == (
        ("base", "400", "spike 38×", "64 ahead", "1.02 (-10)", "380 (-20)", "403 (+3)"),
        ("base", "800", "spike 3.1×", "1 step ahead", "0.981 (+0)", "800 (+0)", "not seen"),
        ("base", "900–940", "false alarm", "–", "max 1.012", "–", "–"),
        ("base", "1,200", "spike 12,345×", "missed", "–", "not seen", "not seen"),
        ("base", "1,500", "false alarm", "–", "max 1.000", "–", "–"),
        ("other", "1–2", "answered by the guard", "–", "max 1.100", "–", "–"),
        ("other", "5–9", "false alarm", "–", "max 0.900", "–", "–"),
    )


def test_a_run_without_forecasts_does_not_call_spikes_missed():
    [row] = spike_table(only(outcome(1200, 9.0), forecasts=0, probes=NO_PROBES)).rows
    assert row == ("1,200", "spike 9.0×", "no forecast", "not explained")
