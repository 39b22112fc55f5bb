"""The goals of the guard, judged on scores that reach them and on scores that don't."""

from __future__ import annotations

import pytest

from foreshock.lab.guardbench.comparison import compare
from foreshock.lab.guardbench.goals import GUARD, goal_table, goals
from foreshock.lab.guardbench.publication import split_section
from lab.guardbench.results import result


def runs(*, full=(), loss=0.5, validation=1.0, mini=(), acted=0.0, worst=2.0):
    """Return results of Adam, a peer and the guard on one task of each kind; the guard's as given."""
    kinds = {
        "full": {"config": "whole", "group": "full"},
        "mini": {"config": "batches", "group": "mini"},
        "control": {"config": "calm", "group": "mini", "family": "control"},
        "outliers": {"config": "broken", "group": "mini", "family": "outliers"},
    }
    spikes = (4.0, 5.0, 9.0, 12.0)
    found = []
    for name, kind in kinds.items():
        own = () if name == "control" else spikes
        found.append(result(spikes=own, **kind))
        found.append(result("clip-1", spikes=own[:1], loss=0.8, **kind))
    found.append(result(GUARD, spikes=full, loss=loss, validation=validation, acted=0.02, **kinds["full"]))
    found.append(result(GUARD, spikes=mini, loss=loss, acted=0.02, **kinds["mini"]))
    found.append(result(GUARD, loss=1.0, acted=acted, **kinds["control"]))
    return [*found, result(GUARD, loss=loss, acted=0.02, **kinds["outliers"] | {"worst_ratio": worst})]


def reached(**changes):
    return {(goal.runs, goal.aim): goal.met for goal in goals(compare(runs(**changes)), "development")}


def test_all_goals_can_be_reached():
    found = reached()
    assert len(found) == 11
    assert all(found.values())


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"full": (4.0,)}, {("Full batch", "95 % of the spikes > 3× gone")}),
        (
            {"full": (4.0, 12.0)},
            {("Full batch", "no spike > 10×"), ("Full batch", "95 % of the spikes > 3× gone")},
        ),
        ({"mini": (9.0,)}, {("Mini-batch", "80 % of the spikes > 8× gone")}),
        ({"validation": 1.06}, {("Full batch", "validation in no run above 1.05 × Adam's")}),
        ({"loss": 0.9}, {("Full batch", "mean loss at most any peer's")}),
        (
            {"loss": 1.1},
            {
                ("Full batch", "mean loss at most any peer's"),
                ("Full batch", "mean loss at most Adam's on every task"),
                ("Mini-batch", "mean training loss at most 1.02 × Adam's"),
            },
        ),
        ({"acted": 0.002}, {("Controls", "acts on at most 0.1 % of the steps")}),
        ({"worst": 4.5}, {("Outlier batches", "worst loss no worse than with clipping")}),
    ],
)
def test_what_is_missed_is_said(changes, missed):
    assert {goal for goal, met in reached(**changes).items() if not met} == missed


def rates(*, guarded, high_loss):
    """Return results of one task at two learning rates."""
    high = {"config": "whole-high", "rate": "high"}
    return [
        result(config="whole", loss=1.0),
        result(config="whole", method=GUARD, loss=1.0),
        result(spikes=(4.0,), loss=2.0, **high),
        result(GUARD, spikes=guarded, loss=high_loss, **high),
    ]


def test_high_rates_are_compared_with_adam_at_the_base_rate():
    for guarded, met in (((), True), ((4.0,), False)):
        scores = compare(rates(guarded=guarded, high_loss=0.25))
        [goal] = [goal for goal in goals(scores, "development") if goal.runs == "High rates"]
        assert goal.met == met
        assert goal.found == f"{int(met)} of 1 tasks; mean loss 0.25 × Adam's at the base rate"


def test_step_time_is_judged_by_the_usual_step():
    scores = compare(runs())
    for median, met in ((1.02, True), (1.04, False)):
        entry = {"median": median, "mean": 1.2, "bytes": 12.0}
        small, large = ({"step": step, "methods": {GUARD: entry}} for step in (0.0123, 0.123))
        found = goals(scores | {"costs": small | {"larger": large}}, "development")
        times = [goal for goal in found if goal.runs.startswith("Steps of")]
        assert [goal.runs for goal in times] == ["Steps of 12 ms", "Steps of 123 ms"]
        assert {goal.met for goal in times} == {met}
        assert {goal.found for goal in times} == {f"{median:.3f}; mean, with pairs, 1.200"}


def test_the_page_tells_what_was_missed():
    scores = compare(runs(full=(4.0,)))
    assert "| Full batch | 95 % of the spikes > 3× gone | 3 of 4 | **no** |" in goal_table(
        scores, "development"
    )
    assert "| 3 of 4 | **no** |" in split_section(scores, "development", {})


def test_without_the_guard_there_are_no_goals():
    scores = compare([one for one in runs() if one["method"] != GUARD])
    assert not goals(scores, "development")
    assert GUARD not in split_section(scores, "development", {})
