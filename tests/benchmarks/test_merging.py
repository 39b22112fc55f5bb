"""New scores beside old ones: only where plain Adam did the same."""

from __future__ import annotations

import json

import pytest
from benchmarks.guardbench import publish
from benchmarks.guardbench.merging import merge

from foreshock.lab.guardbench.comparison import compare
from lab.guardbench.results import result

PLAIN = [result(spikes=(4.0, 9.0)), result(config="calm", group="mini")]
COSTS = {"step": 0.01, "methods": {}}


def scored(*runs, plain=PLAIN):
    return compare([*plain, *runs])


def test_new_rows_replace_old_ones_and_the_rest_stays():
    kept = scored(result("amsgrad", loss=0.9), result("guard-auto", spikes=(5.0,), loss=0.8)) | {
        "costs": COSTS
    }
    new = scored(result("guard-auto", loss=0.4), result("guard-secant", config="calm", group="mini"))
    both = merge(new | {"costs": None}, kept)
    whole = both["scores"]["development"]["full"]
    assert list(whole) == ["adam", "amsgrad", "guard-auto"]
    assert whole["guard-auto"] == new["scores"]["development"]["full"]["guard-auto"]
    assert whole["amsgrad"] == kept["scores"]["development"]["full"]["amsgrad"]
    assert list(both["scores"]["development"]["mini"]) == ["adam", "guard-secant"]
    assert {name: one["loss"] for name, one in both["tasks"][0]["methods"].items()} == pytest.approx(
        {"adam": 1.0, "amsgrad": 0.9, "guard-auto": 0.4}
    )
    assert both["costs"] == COSTS


def test_costs_of_one_timing_are_not_mixed_with_those_of_another():
    newer = {"step": 0.02, "methods": {}}
    assert merge(scored() | {"costs": newer}, scored() | {"costs": COSTS})["costs"] == newer


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        ([result(spikes=(4.0,)), PLAIN[1]], "the tasks of the two scorings differ"),
        ([result(spikes=(4.0, 9.0), loss=1.001), PLAIN[1]], "the tasks of the two scorings differ"),
        (PLAIN[:1], "fewer of them"),
        ([*PLAIN, result(seed=1)], "the seeds of the two scorings differ"),
    ],
)
def test_where_adam_did_something_else_nothing_is_kept(plain, named):
    with pytest.raises(ValueError, match=named):
        merge(scored(plain=plain), scored())


def test_published_rows_of_other_methods_stay_if_that_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    kept = scored(result("amsgrad", loss=0.9))
    new = scored(result("guard-auto", loss=0.4)) | {"costs": None}
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(publish, "history", lambda scores: f"## Before\n\n{len(scores['tasks'])} tasks.")
    for name, scores in {"full": kept, "first": scored(), "scores": new}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(scores))
    for keep, there in ((True, True), (False, False)):
        publish.publish(tmp_path, keep=keep)
        assert ("amsgrad" in json.loads((tmp_path / "full.json").read_text())["tasks"][0]["methods"]) == there
        page = (tmp_path / "pages" / "guard.md").read_text()
        assert ("| amsgrad | 0 |" in page) == there
        assert "| **guard-auto** | 0 | 0.4 |" in page


def test_without_a_folder_the_pages_are_made_of_the_published_scores(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(publish, "history", lambda scores: "")
    (tmp_path / "first.json").write_text(json.dumps(scored()))
    (tmp_path / "full.json").write_text(json.dumps(scored(result("amsgrad", loss=0.9))))
    publish.publish(None)
    assert "| amsgrad | 0 | 0.9 |" in (tmp_path / "pages" / "guard.md").read_text()
    assert "amsgrad" in json.loads((tmp_path / "full.json").read_text())["tasks"][0]["methods"]
