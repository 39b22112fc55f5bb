"""Methods that were run later, on a machine on which plain Adam has other losses."""

from __future__ import annotations

import math

import pytest

from foreshock.lab.guardbench.rates.adding import add, known, parts
from foreshock.lab.guardbench.rates.choosing import collect, compare, curves
from foreshock.lab.guardbench.rates.figures import write_curves
from foreshock.lab.guardbench.rates.page import load_rates, rates_page
from foreshock.lab.jobs import write_json
from lab.guardbench.rates.test_choosing import FIRST, SECOND, TABLE, made

NOTE = "In May on a pocket calculator."
DRAWN = {"loss": "a.svg", "validation": "b.svg"}


def scaled(table, factor):
    return {name: {s: tuple(factor * x for x in v) for s, v in by.items()} for name, by in table.items()}


def later(names, factor=1.0):
    """Return runs of some methods, as the same names have in the table but on a machine with other losses."""
    table = scaled({"adam": TABLE["adam"], **dict.fromkeys(names, TABLE["soap"])}, factor)
    return collect(made(table) + made(scaled(table, 3.0), task=SECOND))


def first():
    return collect(made(TABLE) + made(scaled(TABLE, 3.0), task=SECOND))


@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_a_method_is_compared_with_the_adam_that_was_trained_beside_it(factor):
    """SOAP under another name has SOAP's scores, whatever all losses there are multiplied by."""
    both = add(first(), later(["adam-mini"], factor), note=NOTE)
    scores = compare(both)
    soap, mini = scores["methods"]["soap"], scores["methods"].pop("adam-mini")
    time = (soap.pop("time"), mini.pop("time"))
    assert time == (3.0, 1.0)
    assert mini["medians"] == pytest.approx(soap.pop("medians"))
    assert {name: value for name, value in mini.items() if name != "medians"} == pytest.approx(soap)
    alone = compare(first())
    assert scores["methods"]["guard-auto"] == alone["methods"]["guard-auto"]
    assert scores["methods"]["adam"] == alone["methods"]["adam"]
    pairs = scores["pairs"]["guard-auto"]
    assert pairs["adam-mini"] == pairs["soap"] == alone["pairs"]["guard-auto"]["soap"]


def test_what_adam_did_beside_it_is_adams_exactly():
    table = scaled({"adam": TABLE["adam"], "qk-clip": TABLE["adam"]}, 0.1)
    both = add(collect(made(TABLE)), collect(made(table)), note=NOTE)
    found = compare(both)["tasks"][FIRST]["methods"]
    assert found["qk-clip"]["loss"] == found["adam"]["loss"] == pytest.approx(math.sqrt(8))


def test_curves_are_of_all_methods_and_adams_is_the_first():
    found = curves(add(first(), later(["adam-mini"], 7.0), note=NOTE))[FIRST]
    assert set(found) == {*TABLE, "adam-mini"}
    assert found["adam-mini"][0][1.0]["loss"] == 7.0
    assert found["adam"][0][1.0]["loss"] == 2.0


def test_methods_come_in_the_order_of_tables():
    both = add(add(first(), later(["qk-clip"]), note=NOTE), later(["adam-mini"]), note=NOTE)
    assert list(known(both)) == ["adam", "soap", "adam-mini", "qk-clip", "guard-auto"]
    assert list(compare(both)["tasks"][FIRST]["methods"]) == list(known(both))
    assert [set(part["methods"]) - {"adam"} for part in parts(both)[1:]] == [{"qk-clip"}, {"adam-mini"}]
    assert "added" not in parts(both)[0]


def test_the_same_methods_anew_replace_what_was_added_of_them():
    once = add(first(), later(["qk-clip"]), note=NOTE)
    again = add(once, later(["qk-clip", "adam-mini"], 2.0), note="In June.")
    assert [part["note"] for part in again["added"]] == ["In June."]
    assert once["added"][0]["note"] == NOTE


def test_what_cant_be_put_beside_is_refused():
    with pytest.raises(ValueError, match=r"soap is among the runs already: publish all methods anew"):
        add(first(), later(["soap", "qk-clip"]), note=NOTE)
    both = add(first(), later(["qk-clip", "adam-mini"]), note=NOTE)
    with pytest.raises(ValueError, match="qk-clip is among the runs already"):
        add(both, later(["qk-clip"]), note=NOTE)
    short, longer = later(["qk-clip"]), later(["qk-clip"])
    short["runs"] = [run for run in short["runs"] if (run["method"], run["factor"]) != ("adam", 8.0)]
    longer["tasks"][FIRST]["steps"] += 1
    for other in (short, longer):
        with pytest.raises(ValueError, match="not trained on the same tasks, seeds and rates"):
            add(first(), other, note=NOTE)


def test_the_page_says_which_methods_came_later_and_counts_their_runs(tmp_path):
    both = add(first(), later(["adam-mini", "qk-clip"], 7.0), note=NOTE)
    both = load_rates(write_json(both, tmp_path / "rates.json"))
    text = rates_page(both, command="x", drawn=DRAWN)
    assert "Later came `adam-mini` and `qk-clip`, with Adam anew beside them" in text
    assert f"divided: {NOTE} Made by `x`" in text
    assert "from 2 seeds, 72 runs" in text  # 2 tasks × 3 rates × 2 seeds × (3 + 3)
    assert "| adam-mini | own, from paper or code | Zhang et al. 2024 |" in text
    assert "is first of 5 with" in text
    drawing = tmp_path / "rates.svg"
    pytest.importorskip("matplotlib")
    write_curves(both, "loss", drawing)
    assert drawing.stat().st_size > 1000
