"""The check on a GPU runs, at tiny size, on a processor; its page says what its results say."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from benchmarks.gpu import __main__ as check
from benchmarks.gpu import checks, page, syncs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", ["overhead", "products", "llama", "memory"])
def test_each_part_runs_on_a_processor(part, tmp_path):
    check.run_part(part, "cpu", tmp_path, tiny=True, seconds=1)
    record = json.loads((tmp_path / f"{part}.json").read_text())
    assert "failure" not in record
    assert part == "memory" or record["result"]
    assert record["machine"]["device"].endswith("CPU")
    text = page.render({part: record})
    assert "## What was not run" in text
    assert "{" not in text


def test_waits_are_counted_and_a_step_that_logs_nothing_has_none(monkeypatch):
    monkeypatch.setattr(syncs, "_OPTIMIZERS", {"fused": {"fused": True}, "capturable": {}})
    kept = {}
    setting = check_setting()
    syncs.measure(setting, kept.update)
    rows = {row["watcher"]: row for row in kept["rows"]}
    assert [row["optimizer"] for row in kept["rows"]] == ["fused"] * len(syncs.WATCHERS)
    assert rows["nobody"]["steps_without"] == rows["nobody"]["steps"]
    assert rows["guard, idle"]["every_step"] == 1
    # On a processor what is late is read from memory as well: one number a step, and more where it measures.
    assert rows["guard, wait=False"]["every_step"] <= 1
    quiet = rows["monitor, budget 0"]
    assert quiet["reading_steps_of_ten"] == 1
    assert quiet["refused"] == {"passed": quiet["steps"] * 9 // 10, "raised": 0, "messages": []}
    text = page.render(
        {"syncs": {"result": kept, "machine": {"device": "x", "torch": "2", "python": "3", "date": ""}}}
    )
    assert "| A monitored step that logs nothing never waits" in text


def check_setting():
    from benchmarks.gpu.setting import Setting

    return Setting("cpu", tiny=True, seconds=60, began=time.monotonic())


def test_a_part_that_fails_keeps_what_it_had_and_says_how_it_ended(tmp_path, monkeypatch):
    def broken(setting, keep):
        keep({"rows": [], "note": "so far"})
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr("benchmarks.gpu.memory.measure", broken)
    check.run_part("memory", "cpu", tmp_path, tiny=True, seconds=1)
    record = json.loads((tmp_path / "memory.json").read_text())
    assert record["result"]["note"] == "so far"
    check.note_end("syncs", tmp_path, "its process ended with -11")
    page.write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "`memory`: RuntimeError: CUDA error: an illegal memory access" in text
    assert "`syncs`: its process ended with -11" in text


def test_outcomes_of_tests_are_read_from_their_report(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="test_an_idle_guard_changes_nothing[a]" time="0.5"/>'
        '<testcase name="test_the_step_that_is_read" time="1"><failure message="no kernel"/></testcase>'
        '<testcase name="test_half_precision" time="1"><skipped message="no GPU"/></testcase>'
        "</testsuite></testsuites>"
    )
    result = checks.outcomes(report)
    assert [one["outcome"] for one in result["tests"]] == ["passed", "failure", "skipped"]
    record = {"result": result, "machine": {"device": "x", "torch": "2", "python": "3", "date": ""}}
    text = page.render({"checks": record})
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "no kernel" in text
    assert "| **no** | 0 of 1 tests |" in text


@pytest.mark.parametrize(
    "output",
    [
        "[gw0] [ 50%] PASSED tests/test_cuda.py::test_it[{'fused': True}-a] \n",
        "tests/test_cuda.py::test_it[{'fused': True}-a] PASSED   [ 50%]\n",
    ],
)
def test_of_tests_that_were_ended_those_that_had_passed_are_kept(output):
    [one] = checks.printed(output)
    assert (one["name"], one["outcome"]) == ("test_it[{'fused': True}-a]", "passed")


def test_every_test_on_a_gpu_belongs_to_a_line_of_the_page():
    names = [
        line.split("(")[0].removeprefix("def ")
        for line in (ROOT / "tests" / "test_cuda.py").read_text().splitlines()
        if line.startswith("def test_")
    ]
    groups = [name.partition("[")[0] for _, members in page._GROUPS for name in members]
    assert all(any(group in name for name in names) for group in groups)
    quiet = "test_a_step_that_logs_nothing_does_not_wait_for_the_device"  # it has a line of its own
    assert [name for name in names if not any(group in name for group in groups)] == [quiet]


def test_the_published_page_is_made_of_the_kept_results():
    records = page.read_records(page.RESULTS)
    if records:
        assert page.PAGE.read_text(encoding="utf-8") == page.render(records)
