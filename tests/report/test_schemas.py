"""A run reads the same whichever schema it was logged in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from foreshock.report import write_html
from foreshock.report.charts import charts
from foreshock.report.summary import summarise
from foreshock.report.text import to_text
from foreshock.runlog import read_run

RUNS = Path(__file__).parent.parent / "runs"


def test_the_report_of_a_log_of_schema_1_is_that_of_the_same_run_in_schema_2():
    old, new = (summarise(read_run(RUNS / f"schema-{schema}.jsonl")) for schema in (1, 2))
    assert len(new.outcomes) == 1
    assert to_text(old) == to_text(new).replace("schema-2", "schema-1")
    assert "(schema 1)" in old.version
    assert "(schema 2)" in new.version


def test_the_charts_of_a_log_of_schema_1_are_those_of_the_same_run_in_schema_2():
    drawn = [charts(read_run(RUNS / f"schema-{schema}.jsonl")) for schema in (1, 2)]
    assert "lag" in [chart["id"] for chart in drawn[0]]
    for old, new in zip(*drawn, strict=True):
        for one, other in zip(old.pop("series"), new.pop("series"), strict=True):
            np.testing.assert_allclose(
                np.array(one.pop("values"), dtype=float),
                np.array(other.pop("values"), dtype=float),
                rtol=1e-5,
            )
            assert one == other
        assert old == new


HOSTILE = "\x1b]0;owned\x07[/red]\n\u202e\ud800"


def test_nothing_written_in_a_log_reaches_the_terminal_as_a_command(tmp_path):
    header, *rows = map(json.loads, (RUNS / "schema-2.jsonl").read_text().splitlines())
    header["meta"] = {"name": HOSTILE, "description": HOSTILE, HOSTILE: HOSTILE}
    header["created"] = header["foreshock"] = HOSTILE
    for row in rows:
        if row["kind"] == "curvature":
            row["backend"] = row["blocks"][0]["name"] = HOSTILE
    rows += [
        {"kind": "event", "step": 159, "name": HOSTILE, "message": HOSTILE},
        {"kind": "guard", "step": 159, "policy": HOSTILE, "remedy": "cooldown", "reason": HOSTILE},
        {"kind": "guard", "step": 159, "policy": HOSTILE, "remedy": HOSTILE},
        {"kind": HOSTILE, "step": 159},
    ]
    folder = tmp_path / HOSTILE.replace("/", "").replace("\ud800", "")
    folder.mkdir()
    (folder / "rank0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]))
    run = read_run(folder)
    assert run.skipped == 0
    lines = to_text(summarise(run)).splitlines()
    assert all(line.isprintable() for line in lines)
    spelled = r"\x1b]0;owned\x07[/red] \u202e?"
    assert lines[0].startswith(f"{spelled}: 1 spike")
    assert f"  step 159  {spelled}: {spelled}" in lines
    assert any(f"The guard {spelled!r} acted on 1 step." in line for line in lines)
    assert spelled in write_html([run], tmp_path / "page.html").read_text()
