"""The report as plain text."""

from __future__ import annotations

import dataclasses

import pytest

from foreshock.report.readings import Coverage
from foreshock.report.summary import RunEvent
from foreshock.report.text import notes, to_text
from summaries import NO_PROBES, PROBES, SUMMARY, changed


def test_what_weakens_the_numbers_is_noted():
    weak = dataclasses.replace(PROBES, failed=2, unconverged=1)
    found = " ".join(notes(changed(skipped=1, probes=weak, non_finite_losses=1, steps=15)))
    for words in ("1 line of", "2 probes gave", "1 probe of 42", "1 loss was NaN", "Only 15 losses"):
        assert words in found
    assert notes(SUMMARY) == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"probes": NO_PROBES}, "no probe tried: give the monitor a loss_fn"),
        ({"probes": NO_PROBES, "meta": {"imported_from": "a.csv"}}, "imported from a.csv, which has none"),
        (
            {"probes": dataclasses.replace(NO_PROBES, failed=4, last_error="out of memory")},
            "No curvature was measured: 4 probes failed.",
        ),
        ({"probes": NO_PROBES, "non_finite_losses": 2000}, "no loss was finite"),
    ],
)
def test_a_run_without_readings_says_why_it_has_none(fields, words):
    [found, *_] = notes(changed(**fields))
    assert words in found
    assert ("give the monitor a loss_fn" in found) == ("no probe tried" in words)


def test_measurements_of_the_noise_are_readings():
    assert notes(changed(probes=dataclasses.replace(NO_PROBES, noise=50))) == ()


def test_earlier_runs_of_the_folder_are_named():
    [found] = notes(changed(earlier=("runs/base/run-1/rank0.jsonl", "runs/base/run-2/rank0.jsonl")))
    assert "2 earlier runs" in found
    assert "foreshock report runs/base/run-1/rank0.jsonl" in found


def test_the_text_has_aligned_columns_and_all_parts():
    text = to_text(changed(events=(RunEvent("probe_failed", "out of memory", 77, 77),), skipped=3))
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("  At step"))
    first = next(line for line in lines if line.startswith("  400"))
    assert header.index("What") == first.index("spike 38×")
    assert "2,000 steps, loss 2 → 2.5e-7; 40 probes." in text
    assert "step 77  probe_failed: out of memory" in text
    assert "Note: 3 lines" in text
    assert not any(line != line.rstrip() for line in lines)


def test_the_text_leads_with_what_happened_why_and_what_to_do():
    lines = to_text(changed(explanations=SUMMARY.explanations[:1])).splitlines()
    assert lines[0].startswith("base: 3 spikes")
    assert lines[1].startswith("Why: ")
    assert lines[2].startswith("What to do:")


def test_the_age_of_the_readings_is_said_where_it_is_known():
    text = to_text(changed(coverage=Coverage(0.1, 0.1, 14.2, 60.0)))
    assert "readings 14.2 steps old on average, 60 at most." in text
    assert "old on average" not in to_text(SUMMARY)


def test_what_repeats_itself_is_one_line_and_of_many_the_first_are_shown():
    died = RunEvent("non-finite loss", "the loss is nan", 300, 1499, 1200)
    assert "  steps 300–1,499, 1,200 ×  non-finite loss: the loss is nan\n" in to_text(
        changed(events=(died,))
    )
    many = tuple(RunEvent("note", str(i), i, i) for i in range(50))
    text = to_text(changed(events=many))
    assert text.count("  note: ") == 40
    assert "  and 10 more\n" in text


def test_the_actions_of_a_guard_are_told():
    assert "The guard 'secant' acted on 12 steps." in to_text(changed(guard=("secant", 12)))
    assert "guard 'secant'" not in to_text(changed())
