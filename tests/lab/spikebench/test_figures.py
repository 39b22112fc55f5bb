"""Figures of synthetic scores: written, the same each time, and refused where there is nothing to draw."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from foreshock.lab.spikebench.fan import chosen, write_fan
from foreshock.lab.spikebench.figures import (
    lead_shares,
    points,
    write_leads,
    write_recall,
    write_reliability,
)
from foreshock.lab.spikebench.scores import Replay
from foreshock.lab.spikebench.trace import Column
from lab.spikebench.traces import spiky_loss, trace


def sawtooth():
    """Return a trace whose ratio crosses one at steps 200 and 400, and perfect forecasts of it."""
    steps = np.arange(0, 600, 5)
    ahead = 200 - steps % 200
    values = np.exp(-0.005 * (ahead - 6))
    columns = {"stability_ratio": Column(steps, values)}
    made = Replay(
        steps,
        ahead < 60,
        ahead < 20,
        values,
        np.maximum(ahead - 6.0, 0),
        0.8 * np.maximum(ahead - 6, 0),
        1.2 * np.maximum(ahead - 6, 0),
        np.full(steps.size, 5.0),
        np.ones(steps.size),
        np.ones(steps.size),
    )
    return trace(spiky_loss(600, onsets=(205, 405)), columns), made


def level(threshold, recall, false, share=0.01):
    return {"threshold": threshold, "recall": recall, "false_control": false, "share_control": share}


def rule(offset, area):
    levels = [level(1, 1.0, 9.0, 0.5), *(level(2 + i, 0.9 - 0.2 * i + offset, 4.0 / 2**i) for i in range(4))]
    return {"auroc": area, "curve": levels}


RULES = {f"rule {i}": rule(0.01 * i, 0.5 + 0.05 * i) for i in range(8)}


def test_of_each_rise_the_first_forecast_within_each_horizon_is_drawn():
    run, made = sawtooth()
    fans = chosen(made, run.columns["stability_ratio"])
    assert [fan.step for fan in fans] == [0, 95, 145, 200, 295, 345, 400, 495, 545]
    assert [fan.expected for fan in fans[:3]] == [194, 194, 194]


def test_a_forecast_within_two_horizons_at_once_is_drawn_once():
    steps = np.arange(0, 50, 10)
    ahead = 90.0 - steps
    blank = np.zeros(5, dtype=bool)
    made = Replay(steps, blank, blank, ahead, ahead, ahead, ahead, ahead, ahead, ahead)
    assert [fan.step for fan in chosen(made, Column(steps, np.full(5, 0.5)))] == [0, 40]


def test_shares_of_leads_count_what_was_missed():
    shares = lead_shares({"spikes": 4, "leads": [0, 20, 500]})
    assert shares == [0.25, 0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.25]
    assert lead_shares({"spikes": 0, "leads": []}) == [0.0] * 10


def test_a_rule_that_is_always_on_gives_no_point():
    assert points(rule(0.0, 0.5))[-1] == (4.0, 0.9)
    assert len(points(rule(0.0, 0.5))) == 4


def figures():
    run, made = sawtooth()
    found = [{"nominal": level / 10, "observed": level / 10, "count": 9} for level in range(1, 10)]
    watch = {"3x": {"recall": 0.8, "false_control": 0.3}}
    leads = {f"rule {i}": {"spikes": 9, "leads": [0, 3, 7, 12, 30, 70, 150, 400]} for i in range(4)}
    return {
        "fan": lambda path: write_fan(run, made, path),
        "window": lambda path: write_fan(run, made, path, window=(150, 300)),
        "leads": lambda path: write_leads(leads, path),
        "reliability": lambda path: write_reliability({"full": found, "none": []}, path),
        "recall": lambda path: write_recall(RULES, path, title="full", forecast={"watch": watch}),
    }


@pytest.mark.parametrize("name", figures())
def test_a_figure_is_written_the_same_each_time(name, tmp_path):
    first = figures()[name](tmp_path / "new" / "a.svg").read_bytes()
    assert first.startswith(b"<?xml")
    assert figures()[name](tmp_path / "b.svg").read_bytes() == first


def test_nothing_to_draw_is_refused(tmp_path):
    run, made = sawtooth()
    with pytest.raises(ValueError, match="steps 0 to 599"):
        write_fan(run, made, tmp_path / "a.svg", window=(700, 800))
    with pytest.raises(ValueError, match="no rule to draw"):
        write_leads({}, tmp_path / "a.svg")
    with pytest.raises(ValueError, match="0 groups"):
        write_reliability({"full": [{"nominal": 0.8, "observed": None, "count": 0}]}, tmp_path / "a.svg")
    with pytest.raises(ValueError, match="nothing to draw"):
        write_recall({"rule": None}, tmp_path / "a.svg")
    with pytest.raises(ValueError, match="name up to 5"):
        write_recall(RULES, tmp_path / "a.svg", shown=["unknown"])


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install"):
        figures()["recall"](tmp_path / "a.svg")
