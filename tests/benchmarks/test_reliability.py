"""The page on reliability is made of what was kept, and cases that were run in several goes add up."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.fuzz.__main__ import run
from benchmarks.kills import LOST, Trials
from benchmarks.reading import measure
from benchmarks.reliability import page

COUNTS = {
    "cases": 10,
    "seed": 0,
    "logs": 10,
    "largest page": 7,
    "faults": 0,
    "torch": "2",
    "date": "2026-01-01",
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Let the page and what it is made of be copies."""
    shutil.copytree(page.RESULTS, tmp_path / "results")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(page, "PAGE", tmp_path / "reliability.md")
    return tmp_path


def test_the_page_is_made_of_the_published_counts(elsewhere):
    published = (Path(page.__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    page.publish()
    assert page.PAGE.read_text(encoding="utf-8") == published


def test_cases_that_go_on_where_the_kept_ones_end_are_added(elsewhere):
    page.keep("fuzz", COUNTS)
    page.keep("fuzz", COUNTS | {"seed": 10, "cases": 5, "logs": 5, "largest page": 9, "faults": 2})
    kept = json.loads((page.RESULTS / "fuzz.json").read_text())
    assert kept == COUNTS | {"cases": 15, "logs": 15, "largest page": 9, "faults": 2}
    assert "15 (seeds 0 to 14)" in page.PAGE.read_text()
    page.keep("fuzz", COUNTS | {"seed": 20})
    assert json.loads((page.RESULTS / "fuzz.json").read_text()) == COUNTS | {"seed": 20}


def test_counts_of_another_torch_are_not_added():
    with pytest.raises(ValueError, match=r"torch was '2' and is '3': .* begin again with --seed 0"):
        page.joined(COUNTS, COUNTS | {"torch": "3", "seed": 10})


def test_two_goes_count_what_one_counts():
    once, first, second = run(20, 0), run(8, 0), run(12, 8)
    joined = page.joined(first, second)
    for varying in ("seconds", "date"):
        assert once.pop(varying) is not None
        joined.pop(varying)
    assert joined == once


@pytest.mark.slow
def test_a_training_that_is_killed_and_resumed_is_the_same(tmp_path):
    for guard in (None, "auto"):
        trials = Trials(tmp_path, guard)
        counts = sum((trials.trial(number) for number in range(4)), Counter())
        assert counts["trials"] == 4
        assert counts["kills"] > 0
        assert [counts[what] for what in LOST] == [0] * len(LOST)


def test_reading_is_measured_of_a_log_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.reading.LOGS", {"few": (lambda count: ["not a log"] * count, 1)})
    with pytest.raises(RuntimeError, match=r"foreshock report .* ended with 1"):
        measure("few", tmp_path)
