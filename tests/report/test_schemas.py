"""A run reads the same whichever schema it was logged in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
