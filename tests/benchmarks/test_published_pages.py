"""Pages in the documentation are what the code makes of the published results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.causes import publish as publish_causes
from benchmarks.causes.sections import FORKED, SPLIT, agrees, forked_section, split_section
from benchmarks.spikebench import definitions, publish

from foreshock.lab.reproduction.filling import filled_template
from foreshock.lab.reproduction.page import publish as publish_reproduction
from foreshock.lab.reproduction.page_parts import template
from foreshock.lab.reproduction.results import load_results

ROOT = Path(__file__).parents[2]
REPRODUCED = ROOT / "benchmarks" / "reproduction" / "results"


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


def test_what_is_said_of_claims_that_are_not_confirmed_is_filled_from_the_published_results():
    medium = {f"medium {name}": result for name, result in load_results(REPRODUCED, "medium").items()}
    results = load_results(REPRODUCED, "cpu") | medium
    there = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert filled_template("explained.md", results) in there
    fields = re.findall(r"{{(.*?)}}", template("explained.md"))
    assert len(fields) > 40
    for field in fields:
        name, quantity, *_ = (part.strip() for part in field.split("|"))
        assert quantity in results[name].measured, field


def test_the_principles_are_filled_from_the_published_results(tmp_path):
    publish_reproduction(REPRODUCED, "cpu", tmp_path)
    there = (ROOT / "docs" / "explanation" / "principles.md").read_text(encoding="utf-8")
    assert (tmp_path / "explanation" / "principles.md").read_text(encoding="utf-8") == there


def test_the_page_of_definitions_is_made_of_the_kept_counts():
    found = json.loads(definitions.RESULTS.read_text(encoding="utf-8"))
    assert definitions.page(found) == definitions.PAGE.read_text(encoding="utf-8")


def test_the_page_of_causes_is_made_of_the_published_scores():
    scores = json.loads(publish_causes.RESULTS.read_text(encoding="utf-8"))
    split = json.loads(SPLIT.read_text(encoding="utf-8"))
    forked = json.loads(FORKED.read_text(encoding="utf-8"))
    made = publish_causes.page(scores) + split_section(split) + forked_section(forked)
    assert made == publish_causes.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("named", "share", "of_v", "expected"),
    [
        ("preconditioner lag", 0.9, None, True),
        ("preconditioner lag", 0.1, None, False),
        ("landscape", 0.1, None, True),
        ("gradient noise", 0.1, None, False),
        ("gradient noise", 0.1, 0.08, True),
        ("gradient noise", 0.9, 0.08, False),
        ("gradient noise", None, 0.08, None),
    ],
)
def test_an_explanation_is_compared_with_freezing_by_what_it_says_of_the_rise(named, share, of_v, expected):
    assert agrees({"named": [named], "share": share, "of v": of_v}) is expected
