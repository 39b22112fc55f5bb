"""The page on learning rates and the table in the guard's explanation are made of the published runs."""

from __future__ import annotations

import pytest
from benchmarks.guardbench import rates

from foreshock.lab.guardbench.rates.choosing import QUANTITIES, collect
from foreshock.lab.guardbench.rates.page import load_rates, rates_page
from foreshock.lab.jobs import write_json
from lab.guardbench.rates.test_choosing import TABLE, made


def test_the_page_is_made_of_its_runs():
    data = load_rates(rates.RATES)
    drawn = {quantity: f"rates-{quantity}.svg" for quantity in QUANTITIES}
    made = rates_page(data, command=rates.COMMAND, drawn=drawn, note=data["note"])
    assert made == (rates.PAGES / "rates.md").read_text(encoding="utf-8")
    explanation = rates.EXPLANATION.read_text(encoding="utf-8")
    assert rates.with_table(explanation, data) == explanation


def test_other_methods_are_put_beside_the_published_ones(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in ("PAGES", "RATES", "EXPLANATION"):
        monkeypatch.setattr(rates, name, tmp_path / name)
    (tmp_path / "EXPLANATION").write_text(f"{rates.BEGIN}\n\n{rates.END}", encoding="utf-8")
    write_json(collect(made(TABLE)), rates.RATES)
    write_json(collect(made({"adam": TABLE["adam"], "qk-clip": TABLE["soap"]})), tmp_path / "rates.json")
    with pytest.raises(ValueError, match="there is no note"):
        rates.publish(tmp_path, beside=True)
    rates.publish(tmp_path, beside=True, note="In May.")
    assert "`qk-clip`, with Adam anew" in (rates.PAGES / "rates.md").read_text("utf-8")
    assert "| qk-clip |" in rates.EXPLANATION.read_text("utf-8")
    data = load_rates(rates.RATES)
    assert data["added"][0]["note"] == "In May."
    assert "note" not in data
    rates.publish(None, note="Elsewhere.")
    assert load_rates(rates.RATES) == data | {"note": "Elsewhere."}


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="the page has no lines"):
        rates.with_table(f"{rates.BEGIN} and no end", load_rates(rates.RATES))
