"""What watching costs is computed as documented, between copies that stay equal; misses are said."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.overhead import run
from benchmarks.overhead.cases import CASES, batches, two_copies
from benchmarks.overhead.measure import CLOCKS, Timings, alternate
from benchmarks.overhead.summary import COLD, LONG_RUN, summarize
from benchmarks.overhead.table import render, verdicts
from benchmarks.overhead.watchers import Watcher, Watching, watchers

STEP, PASS = 0.1, 0.08


def timings(steps, *, probes=(), quiet=0.001, probe=2.0, slower=1.0):
    """Return the timings of a run whose costs are known."""
    observe = [probe if step in probes else quiet for step in range(steps)]
    plain = [STEP] * (steps // 2)
    return Timings(10, 5, plain, [PASS] * len(plain), [slower * STEP] * steps, observe)


def test_the_total_of_a_long_run_is_what_was_added_to_it():
    probes = {0, 700, 1200}
    found = summarize(timings(LONG_RUN, probes=probes, slower=1.03), budget=0.001)
    added = len(probes) * 2.0 + (LONG_RUN - len(probes)) * 0.001 + LONG_RUN * 0.03 * STEP
    assert found["total"][0] == pytest.approx(added / (LONG_RUN * STEP))
    later = 2 * 2.0 + (LONG_RUN - COLD - 2) * 0.001
    assert found["steady"][0] == pytest.approx(0.03 + later / (LONG_RUN - COLD) / STEP)
    assert found["added"] == pytest.approx(found["steady"][0] * STEP)
    assert found["measuring"] == len(probes)
    assert found["steps"] == LONG_RUN
    # The beginning is what it takes beyond as many later steps; a median of blocks does not see the probes.
    beginning = 2.0 + (COLD - 1) * 0.001 - COLD * later / (LONG_RUN - COLD)
    assert found["cold"] == pytest.approx(beginning / STEP)
    assert found["usual"][0] == pytest.approx(0.04)


def test_a_slow_minute_of_the_machine_lengthens_both_sides_and_cancels():
    given = timings(LONG_RUN, quiet=0.0)
    given.plain[500:] = [3 * STEP] * 500
    given.base[1000:] = [3 * STEP] * 1000
    assert summarize(given)["steady"][0] == pytest.approx(0.0)


def test_a_short_run_is_charged_at_least_with_what_its_budget_allows():
    short = timings(200, probes={0})
    seen = (2.0 + (LONG_RUN - 1) * 0.001) / LONG_RUN / STEP
    assert summarize(short)["total"][0] == pytest.approx(seen)
    assert summarize(short, budget=0.2)["total"][0] == pytest.approx((0.001 + 0.2 * PASS) / STEP)
    assert summarize(timings(LONG_RUN, probes={0}), budget=0.2)["total"][0] == pytest.approx(seen)


def test_the_interval_covers_the_estimate_and_is_wide_where_blocks_differ():
    noisy = timings(1000)
    noisy.base[:] = [STEP * (1 + 0.01 * (step // 10 * 7 % 41)) for step in range(1000)]
    estimate, low, high = summarize(noisy)["steady"]
    assert low <= estimate <= high
    assert low < high
    quiet = summarize(timings(1000))["steady"]
    assert quiet[1] == pytest.approx(quiet[2])


def test_one_block_is_too_few_to_compare():
    with pytest.raises(ValueError, match="1 blocks of 10 steps"):
        summarize(timings(10))


@pytest.mark.parametrize("full_batch", [True, False], ids=["full batch", "mini-batches"])
def test_both_copies_take_the_same_steps_on_the_same_batches(full_batch, tmp_path):
    case = CASES["mlp-51k"]
    # As many plain steps as watched ones, so that both copies end in the same place.
    assert case.block == case.plain_block
    [watcher] = [one for one in watchers() if one.name == "monitor, budget 0.05"]
    plain, watched = two_copies(case)
    found = alternate(case, watcher, tmp_path, full_batch=full_batch, steps=30, copies=(plain, watched))
    assert list(found) == list(CLOCKS)
    assert all(len(one.observe) == len(one.plain) == 32 for one in found.values())
    for here, there in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(here, there)
    alone, _ = two_copies(case)
    seen = batches(case, full_batch=full_batch)
    for step in range(32):
        alone.optimizer.zero_grad()
        alone.loss_fn(alone.model, seen[step % len(seen)]).backward()
        alone.optimizer.step()
    for here, there in zip(plain.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(here, there)


def test_what_is_called_between_backward_and_step_is_timed_apart(tmp_path, monkeypatch):
    """With a clock that advances by one at each look, each part of a step takes one."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("benchmarks.overhead.measure.CLOCKS", {"ticks": lambda: next(ticks)})
    watcher = Watcher("slow", lambda _training, _folder: Watching(lambda *_: next(ticks), lambda: None))
    [found] = alternate(CASES["mlp-51k"], watcher, tmp_path, full_batch=True, steps=20).values()
    assert set(found.plain) == {3}
    assert set(found.passes) == {1}
    assert set(found.observe) == {2}
    assert set(found.base) == {2}


def row(watcher, total, *, budget=None, package="foreshock", step=0.03, steady=0.004):
    clock = {
        "step": step,
        "pass": 0.8 * step,
        "usual": [total] * 3,
        "steady": [steady] * 3,
        "total": [total, total - 0.001, total + 0.001],
        "added": steady * step,
        "cold": 12.0,
        "measuring": 3,
        "steps": 200,
    }
    key = {"case": "gpt", "data": "full batch", "watcher": watcher, "parameters": 10**6}
    return key | {"budget": budget, "package": package, "processor": clock, "wall": clock}


def test_a_miss_is_said_with_its_size_and_who_is_beaten():
    rows = [
        row("monitor, budget 0", 0.02, budget=0.0, steady=0.02),
        row("monitor, budget 0, recorder", 0.06, budget=0.0, steady=0.06),  # more than the free signals
        row("monitor, budget 0.02", 0.02, budget=0.02),
        row("monitor, budget 0.05", 0.08, budget=0.05),
        row("trainscope, default", 0.5, package="trainscope"),
        row("trainscope, minimal", 0.07, package="trainscope"),
    ]
    judged = list(verdicts(rows))
    found = {verdict.target: verdict.missed for verdict in judged}
    assert len(judged) == len(found)
    assert found == {
        "free signals: at most 1% of a step": "1.00 percentage points",
        "budget 0.02: at most 2.5% of a step": "",
        "budget 0.05: at most 6.0% of a step": "2.00 percentage points",
        "default monitor: less than trainscope, default": "",
        "default monitor: less than trainscope, minimal": "1.00 percentage points",
    }


@pytest.mark.parametrize(("steady", "missed"), [(0.02, ""), (0.06, "0.020 ms")])
def test_free_signals_of_a_small_step_are_judged_in_milliseconds(steady, missed):
    [verdict] = verdicts([row("monitor, budget 0", steady, budget=0.0, step=0.002, steady=steady)])
    assert verdict.target == "free signals: at most 0.1 ms of a small step"
    assert verdict.missed == missed


def test_an_unknown_cost_is_no_met_target():
    [verdict] = verdicts([row("monitor, budget 0.02", float("nan"), budget=0.02)])
    assert not verdict.is_met


def test_the_page_shows_every_row_and_the_misses(tmp_path):
    record = {
        "suite": "quick",
        "long_run": LONG_RUN,
        "cold": COLD,
        "minutes": 1.5,
        "machine": {
            "processor": "A processor",
            "python": "3.11",
            "threads": 1,
            "date": "2026-01-01",
            "versions": {"torch": "2.13.0", "trainscope": None},
        },
        "host_reads": [
            {
                "tensors": 6,
                "watcher": "AdamW",
                "fewest": 0,
                "most": 4,
                "mean": 0.4,
                "share_without": 0.9,
                "step_counts": 12,
            }
        ],
        "rows": [row("monitor, budget 0.05", 0.0812, budget=0.05)],
    }
    page = render(json.loads(json.dumps(record)))
    assert "0 of 1 are met" in page
    assert "8.12% (8.02% – 8.22%) | **missed by 2.12 percentage points**" in page
    assert "| full batch | monitor, budget 0.05 | 8.12%" in page
    assert "| 6 | AdamW | 0 | 4 | 0.4 | 90% | 12 |" in page
    assert "trainscope was not installed" in page
    assert "--quick" in page


def test_a_second_run_measures_only_what_is_missing_or_made_by_other_code(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    measured = []

    def measure(configuration):
        measured.append(configuration.watcher.name)
        return configuration.key | {"number": len(measured)}

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run.host_reads, "measure", list)
    monkeypatch.setattr("sys.argv", ["run", "--quick", "--case", "mlp-51k", "--out", str(target)])
    run.main()
    installed = [one.name for one in watchers() if one.is_installed]
    assert measured == 2 * installed
    run.main()
    assert len(measured) == 2 * len(installed)
    record = json.loads(target.read_text())
    record["rows"][3]["code"] = "an older one"
    target.write_text(json.dumps(record))
    run.main()
    assert len(measured) == 2 * len(installed) + 1
    assert measured[-1] == record["rows"][3]["watcher"]
    assert len(json.loads(target.read_text())["rows"]) == 2 * len(installed)
    record["machine"]["processor"] = "another machine"
    target.write_text(json.dumps(record))
    run.main()
    assert len(measured) == 4 * len(installed) + 1
