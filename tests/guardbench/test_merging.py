"""New scores beside old ones: only where plain Adam did the same."""

from __future__ import annotations

import pytest

from foreshock.guardbench.comparison import compare
from foreshock.guardbench.merging import merge
from guardbench.results import result

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
