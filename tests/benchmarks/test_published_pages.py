"""Pages in the documentation are what the code makes of the published results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.causes import publish as publish_causes
from benchmarks.spikebench import definitions, publish

from foreshock.lab.reproduction.page import publish as publish_reproduction

ROOT = Path(__file__).parents[2]


def test_the_page_of_spikebench_is_made_of_the_published_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "PAGE", tmp_path / "forecast.md")
    publish.republish()
    there = (ROOT / "docs" / "benchmarks" / "forecast.md").read_text(encoding="utf-8")
    assert (tmp_path / "forecast.md").read_text(encoding="utf-8") == there


def test_the_principles_are_filled_from_the_published_results(tmp_path):
    publish_reproduction(ROOT / "benchmarks" / "reproduction" / "results", "cpu", tmp_path)
    there = (ROOT / "docs" / "explanation" / "principles.md").read_text(encoding="utf-8")
    assert (tmp_path / "explanation" / "principles.md").read_text(encoding="utf-8") == there


def test_the_page_of_definitions_is_made_of_the_kept_counts():
    found = json.loads(definitions.RESULTS.read_text(encoding="utf-8"))
    assert definitions.page(found) == definitions.PAGE.read_text(encoding="utf-8")


def test_the_page_of_causes_is_made_of_the_published_scores():
    scores = json.loads(publish_causes.RESULTS.read_text(encoding="utf-8"))
    assert publish_causes.page(scores) == publish_causes.PAGE.read_text(encoding="utf-8")
