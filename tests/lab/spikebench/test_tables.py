"""Tables hold the numbers of the scores, a row for each rule."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.lab.spikebench.rules import Rule
from foreshock.lab.spikebench.scores import Replay, score_forecasts, score_rules
from foreshock.lab.spikebench.tables import forecast_table, markdown, rule_table
from foreshock.lab.spikebench.trace import Column
from lab.spikebench.traces import spiky_loss, trace

RULES = (
    Rule("ratio", "test", ("probe",), lambda one: one.column("stability_ratio"), 1.0),
    Rule("pairs", "test", (), lambda one: one.column("pair_mean"), 0.95),
)


def run(raised, loss, **changes):
    values = np.full(600, 0.5)
    values[raised[0] : raised[1]] = 2.0
    return trace(loss, {"stability_ratio": Column(np.arange(600), values)}, **changes)


def replay(one):
    on = one.column("stability_ratio").values > 1
    unknown = np.full(600, np.nan)
    return Replay(np.arange(600), on, ~on, unknown, unknown, unknown, unknown, unknown, np.ones(600), unknown)


TRACES = [run((150, 200), spiky_loss()), run((300, 310), np.ones(600), role="control")]
SCORES = score_rules(TRACES, RULES)
FORECASTS = score_forecasts(TRACES, replay)


def cells(text, first):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_the_counts_of_its_rule():
    row = cells(rule_table(SCORES, "development", "all"), "ratio")
    assert row[:9] == ["ratio", "1", "2", "2", "50 %", "50 %", "50 %", "50 (50)", "0"]
    assert row[9:12] == ["2", "10 %", "2 %"]
    assert row[12].startswith("0.7")


def test_a_rule_without_scores_keeps_its_row():
    assert cells(rule_table(SCORES, "development", "all"), "pairs")[2:] == ["–"] * 11


def test_calibrated_thresholds_are_named_by_kind():
    row = cells(rule_table(SCORES, "development", "full", at="calibrated"), "ratio")
    assert row[1] == "full 2"
    assert row[4] == "0 %"


def test_recall_with_ten_steps_of_lead_has_its_own_column():
    late = [run((195, 201), spiky_loss())]
    assert cells(rule_table(score_rules(late, RULES), "development", "all"), "ratio")[4:7] == [
        "50 %",
        "50 %",
        "0 %",
    ]


def test_watch_and_alarm_stand_beside_the_rules():
    text = rule_table(SCORES, "development", "all", forecasts=FORECASTS)
    assert cells(text, "forecast: watch")[4] == "50 %"
    assert cells(text, "forecast: alarm")[1] == "–"


def test_forecasts_have_a_row_a_group():
    text = forecast_table(FORECASTS, "development")
    # The ratio rises through one twice: 150 steps after the start, and on the control after 300.
    assert cells(text, "all")[1:4] == ["2", "– (0 of 2)", "– (0 of 2)"]
    assert len(text.splitlines()) == 2 + 3


def test_every_row_has_as_many_cells_as_its_header():
    blocks = markdown(SCORES, FORECASTS).split("\n\n")
    assert len([block for block in blocks if block.startswith("| rule")]) == 2 * 3
    for block in blocks:
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="no group 'mini' of split 'development'"):
        rule_table(SCORES, "development", "mini")
    with pytest.raises(ValueError, match="split is 'held-out'"):
        forecast_table(FORECASTS, "held-out")
