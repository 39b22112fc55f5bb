"""Runs from perturbed starts: shares with their intervals, the section of the page, and the goals."""

from __future__ import annotations

import math

import pytest

from foreshock.lab.guardbench.comparison import compare, interval
from foreshock.lab.guardbench.goals import goals
from foreshock.lab.guardbench.publication import summary, write_pages
from foreshock.lab.guardbench.starts import MORE, short_table, starts_section
from lab.guardbench.results import result

TASKS = ("one", "two")
STARTS = range(4)


def runs(name="guard-alone", *, spiking=(), **fields):
    """Return results of Adam, which spikes in each run, and of a guard, which does in some (task, start)."""
    found = []
    for task in TASKS:
        for start in STARTS:
            about = {"config": task, "start": start}
            own = (9.0,) if (task, start) in spiking else ()
            found.append(result(spikes=(4.0, 9.0), seconds=2.0, **about))
            found.append(result(name, spikes=own, acted=0.01, seconds=3.0, **about, **fields))
    return found


def entry(results, name="guard-alone", group="all"):
    return compare(results)["perturbed"]["development"][group][name]


def test_runs_of_all_starts_are_counted_and_in_how_many_tasks_they_spike():
    found = entry(runs(spiking={("one", 0), ("one", 3)}))
    assert (found["runs"], found["tasks"]) == (8, 2)
    assert found["spiking"]["3x"] == found["spiking"]["8x"] == {"runs": 2, "tasks": 1}
    assert found["spikes"] == {"3x": 2, "8x": 2, "10x": 0}
    assert found["plain_spikes"] == {"3x": 16, "8x": 8, "10x": 0}
    assert found["time"] == 1.5


def test_each_run_is_compared_with_adam_s_from_the_same_start():
    results = [
        result(loss=1.0),
        result(start=1, loss=100.0, validation=4.0),
        result("guard-alone", loss=2.0, acted=0.0),
        result("guard-alone", start=1, loss=50.0, validation=1.0, acted=0.0),
    ]
    found = entry(results)["ratios"]
    assert found["mean_loss"]["mean"] == pytest.approx(1.0)
    assert found["mean_loss"]["worst"] == 2.0
    assert found["best_validation"]["mean"] == pytest.approx(0.5)


def test_perturbed_starts_count_in_no_other_table():
    scores = compare(runs(spiking={("one", 3)}))
    assert scores["scores"]["development"]["all"]["guard-alone"]["runs"] == 2
    assert scores["scores"]["development"]["all"]["guard-alone"]["spikes"]["3x"] == 0
    assert [task["plain_spikes"] for task in scores["tasks"]] == [[2], [2]]


def test_without_perturbed_starts_there_is_no_section():
    scores = compare([one for one in runs() if not one["start"]])
    assert scores["perturbed"] == {}
    assert starts_section(scores, "development") == ""
    assert "perturbed" not in summary(scores, "development")


def test_methods_without_perturbed_starts_are_left_out_of_it():
    scores = compare([*runs(), result("amsgrad", config="one")])
    assert set(scores["perturbed"]["development"]["all"]) == {"adam", "guard-alone"}


@pytest.mark.parametrize("count", [0, 3, 50, 100])
def test_the_interval_is_the_binomial_s(count):
    # Its ends are the shares at which so few, or so many, would be seen once in forty times.
    low, high = interval(count, 100)

    def at_most(k, p):
        return sum(math.comb(100, i) * p**i * (1 - p) ** (100 - i) for i in range(k + 1))

    if count:
        assert 1 - at_most(count - 1, low) == pytest.approx(0.025, rel=1e-6)
    if count < 100:
        assert at_most(count, high) == pytest.approx(0.025, rel=1e-6)


def test_the_section_names_counts_shares_and_intervals():
    text = starts_section(
        compare(runs(spiking={("one", 0)}, validation=0.9)), "development", about="On a box."
    )
    assert "There are 8 runs of each method, of 2 tasks.\n\nOn a box." in text
    [row] = [line for line in text.split("**All**")[1].splitlines() if line.startswith("| guard-alone")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:7] == ["guard-alone", "8", "1", "1", "1, 12 % [0.32, 53]", "1, 12 % [0.32, 53]", "1 of 2"]
    assert cells[7:] == ["1", "1", "0.9", "0.9", "1 %", "0", "1.50×"]


def test_a_part_says_how_many_runs_it_has_and_of_which_spikes_of_adam():
    part = [one for one in runs() if one["method"] == "adam" or one["start"] < 2]
    text = starts_section(compare(part), "development")
    assert "There are 4 to 8 runs of each method" in text
    row = next(line for line in text.splitlines() if line.startswith("| guard-alone"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["4", "0 of 8", "0 of 4"]


def met(results):
    return {
        (goal.runs.split(",")[0], goal.aim): goal.met
        for goal in goals(compare(results), "development")
        if "guard-alone" in goal.runs
    }


def test_goals_over_starts_are_judged_by_the_end_of_the_interval():
    few = "at most 3 % of the runs have a spike > 3×, by the upper end of the interval"
    found = met(runs())
    assert found["Full batch", "no run has a spike > 8×"]
    assert not found["Full batch", few]  # eight runs can't show it
    many = [one | {"seed": seed} for seed in range(20) for one in runs()]
    assert met(many)["Full batch", few]
    assert not met(runs(spiking={("one", 0)}))["Full batch", "no run has a spike > 8×"]


def test_goals_of_the_guard_alone_with_mini_batches():
    mini = [
        one | {"group": "mini"} for one in runs(spiking={(task, start) for task in TASKS for start in (1, 2)})
    ]
    found = met(mini)
    assert not found["Mini-batch", "60 % of the spikes > 8× gone"]
    assert found["Mini-batch", "mean training loss at most 1.02 × Adam's"]
    assert met([one | {"group": "mini"} for one in runs()])["Mini-batch", "60 % of the spikes > 8× gone"]


def test_goals_of_early_stopped_validation():
    assert met(runs(validation=1.04))["All", "early-stopped validation loss in no run above 1.05 × Adam's"]
    found = met(runs(validation=1.06))
    assert not found["All", "early-stopped validation loss in no run above 1.05 × Adam's"]
    assert not found["All", "mean early-stopped validation loss at most Adam's"]


def test_the_short_table_has_what_each_guard_leaves_of_adam_s_spikes():
    mini = [one | {"group": "mini"} for one in runs("guard-auto", passes=0.2)]
    text = short_table(compare([*runs(spiking={("one", 0)}), *mini]), "development")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert [row[:4] for row in rows] == [
        ["Full batch: 8, of 2 tasks", "`guard(optimizer)`", "16 → 1", "8 → 1"],
        ["Mini-batch: 8, of 2 tasks", "with `guard.measure`", "16 → 0", "8 → 0"],
        ["All: 8, of 2 tasks", "`guard(optimizer)`", "16 → 1", "8 → 1"],
        ["All: 8, of 2 tasks", "with `guard.measure`", "16 → 0", "8 → 0"],
    ]
    assert [row[-1] for row in rows] == ["0", "0.2", "0", "0.2"]
    with pytest.raises(ValueError, match="no run of the held-out half"):
        short_table(compare(runs()), "held-out")


def test_full_batches_whose_targets_are_renewed_stand_apart():
    other = [
        one | {"config": f"value {one['config']}", "family": "value"} for one in runs(spiking={("one", 0)})
    ]
    mini = [one | {"group": "mini", "config": f"mini {one['config']}"} for one in other]
    rows = short_table(compare([*runs(), *other, *mini]), "development").splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:4:2]] for row in rows] == [
        ["Full batch: 16, of 4 tasks", "32 → 1"],
        ["Full batch, fixed data: 8, of 2 tasks", "16 → 0"],
        ["Full batch, targets renewed: 8, of 2 tasks", "16 → 1"],
        ["Mini-batch: 8, of 2 tasks", "16 → 1"],
        ["All: 24, of 6 tasks", "48 → 2"],
    ]


def test_full_batches_from_more_starts_have_a_row_and_judge_the_goals():
    scores = compare(runs())
    many = [one | {"seed": seed} for seed in range(20) for one in runs(spiking={("two", 3)})]
    groups = scores["perturbed"]["development"]
    groups[MORE] = compare(many)["perturbed"]["development"]["full"]
    rows = short_table(scores, "development").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "Full batch: 8, of 2 tasks",
        "Full batch, more starts: 160, of 2 tasks",
        "All: 8, of 2 tasks",
    ]
    assert "**Full batch, more starts**" in starts_section(scores, "development")
    judged = [goal for goal in goals(scores, "development") if goal.aim == "no run has a spike > 8×"]
    assert [(goal.runs, goal.met) for goal in judged] == [("Full batch, `guard-alone`, 160 runs", False)]


def test_the_present_guard_stands_before_what_was_scored_of_an_earlier_one(tmp_path):
    earlier = compare([result(spikes=(4.0,), split="held-out"), result("amsgrad", split="held-out")])
    present = compare([one | {"split": "held-out"} for one in runs(spiking={("one", 0)})])
    present |= {"command": "made so", "note": "On a box."}
    text = write_pages(earlier, tmp_path, command="x", present=present)[0].read_text()
    places = [
        text.index(part)
        for part in (
            "| 16 → 1 |",
            "On a box. Made by `made so`",
            "## From perturbed starts",
            "## Goals of the guard",
            "## Beside other measures",
            "| amsgrad |",
        )
    ]
    assert places == sorted(places)
    assert text.count("## Goals of the guard") == 1
    alone = write_pages(earlier, tmp_path, command="x", caution="Read this first.")[0].read_text()
    assert "of that time" not in alone
    assert alone.index("Read this first.") < alone.index("| amsgrad |")
