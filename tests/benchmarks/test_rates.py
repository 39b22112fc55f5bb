"""The page on learning rates and the table in the guard's explanation are made of the published runs."""

from __future__ import annotations

import pytest
from benchmarks.guardbench import rates

from foreshock.lab.guardbench.rates.choosing import QUANTITIES
from foreshock.lab.guardbench.rates.page import load_rates, rates_page


def test_the_page_is_made_of_its_runs():
    data = load_rates(rates.RATES)
    drawn = {quantity: f"rates-{quantity}.svg" for quantity in QUANTITIES}
    made = rates_page(data, command=rates.COMMAND, drawn=drawn, note=data["note"])
    assert made == (rates.PAGES / "rates.md").read_text(encoding="utf-8")
    explanation = rates.EXPLANATION.read_text(encoding="utf-8")
    assert rates.with_table(explanation, data) == explanation


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="the page has no lines"):
        rates.with_table(f"{rates.BEGIN} and no end", load_rates(rates.RATES))
