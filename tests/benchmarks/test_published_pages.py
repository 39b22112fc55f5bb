"""Pages in the documentation are what the code makes of the published results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.causes import publish as publish_causes
from benchmarks.guardbench import rates as publish_rates
from benchmarks.spikebench import definitions, publish

from foreshock.lab.guardbench.rates.choosing import QUANTITIES
from foreshock.lab.guardbench.rates.page import load_rates, rates_page
from foreshock.lab.reproduction.page import publish as publish_reproduction

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("place", "name"), [("PAGE", "forecast.md"), ("CARD_PAGE", "scorecard.md")])
def test_the_pages_of_spikebench_are_made_of_the_published_scores(tmp_path, monkeypatch, place, name):
    monkeypatch.setattr(publish, "PAGE", tmp_path / "forecast.md")
    monkeypatch.setattr(publish, "CARD_PAGE", tmp_path / "scorecard.md")
    publish.write_pages()
    assert getattr(publish, place) == tmp_path / name
    there = (ROOT / "docs" / "benchmarks" / name).read_text(encoding="utf-8")
    assert (tmp_path / name).read_text(encoding="utf-8") == there


def test_scores_of_the_probability_are_kept_as_they_are(tmp_path, monkeypatch):
    scores = {
        "split": "test",
        "sources": {"0.05": {"groups": {"full": {"runs": 3, "curve": [1.0, 0.0]}}}},
        "thresholds": [{"alarm_at": 0.1}, {"alarm_at": 0.2}],
    }
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    (tmp_path / "given.json").write_text(json.dumps(scores), encoding="utf-8")
    publish.keep_probability(tmp_path / "given.json")
    assert publish.kept_probability() == [scores]
    assert (tmp_path / "probability-test.json").read_text(encoding="utf-8").count("\n") > 3
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="no scores of the probability"):
        publish.keep_probability(tmp_path / "other.json")


def test_published_scores_of_the_probability_are_small():
    for file in publish.RESULTS.glob("probability-*.json"):
        assert file.stat().st_size < 150_000


def test_the_principles_are_filled_from_the_published_results(tmp_path):
    publish_reproduction(ROOT / "benchmarks" / "reproduction" / "results", "cpu", tmp_path)
    there = (ROOT / "docs" / "explanation" / "principles.md").read_text(encoding="utf-8")
    assert (tmp_path / "explanation" / "principles.md").read_text(encoding="utf-8") == there


def test_the_page_of_definitions_is_made_of_the_kept_counts():
    found = json.loads(definitions.RESULTS.read_text(encoding="utf-8"))
    assert definitions.page(found) == definitions.PAGE.read_text(encoding="utf-8")


def test_the_page_of_causes_is_made_of_the_published_scores():
    scores = json.loads(publish_causes.RESULTS.read_text(encoding="utf-8"))
    reproduced = json.loads(publish_causes.REPRODUCED.read_text(encoding="utf-8"))
    made = publish_causes.page(scores) + publish_causes.section(reproduced)
    assert made == publish_causes.PAGE.read_text(encoding="utf-8")


def test_the_page_of_learning_rates_is_made_of_its_runs():
    data = load_rates(publish_rates.RATES)
    drawn = {quantity: f"rates-{quantity}.svg" for quantity in QUANTITIES}
    made = rates_page(data, command=publish_rates.COMMAND, drawn=drawn, note=data["note"])
    assert made == (publish_rates.PAGES / "rates.md").read_text(encoding="utf-8")
    explanation = publish_rates.EXPLANATION.read_text(encoding="utf-8")
    assert publish_rates.with_table(explanation, data) == explanation


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="the page has no lines"):
        publish_rates.with_table(f"{publish_rates.BEGIN} and no end", load_rates(publish_rates.RATES))
