"""Choosing rates and comparing, on made-up losses."""

from __future__ import annotations

import copy
import math

import pytest

from foreshock.lab.guardbench.methods import method
from foreshock.lab.guardbench.rates.choosing import (
    at_best,
    best_factor,
    collect,
    compare,
    curves,
    mean,
    tolerance,
)
from foreshock.lab.guardbench.rates.suite import FACTORS, TASKS, chosen_tasks
from foreshock.lab.guardbench.rates.tables import wins
from foreshock.lab.guardbench.rates.trials import rate_trials

FIRST, SECOND = TASKS[0].name, TASKS[1].name


def result(task, method, factor, seed, loss, validation=None):
    return {
        "config": f"{task}-x{factor:g}",
        "method": method,
        "seed": seed,
        "mean_loss": loss,
        "best_validation": loss if validation is None else validation,
        "spikes": [4.0] if factor > 1 else [],
        "diverged": factor == 8,
        "seconds": 3.0 if method == "soap" else 1.0,
    }


def made(table, task=FIRST):
    """Return results from ``{method: {seed: (losses at 1, 4, 8)}}``."""
    return [
        result(task, method, factor, seed, loss)
        for method, seeds in table.items()
        for seed, losses in seeds.items()
        for factor, loss in zip((1.0, 4.0, 8.0), losses, strict=True)
    ]


TABLE = {
    "adam": {0: (2.0, 1.0, 9.0), 1: (2.0, 4.0, 9.0)},
    "soap": {0: (1.0, 8.0, 8.0), 1: (1.0, 8.0, 8.0)},
    "guard-auto": {0: (2.0, 1.0, 0.5), 1: (2.0, 1.0, 0.7)},
}


def curve(task=FIRST, method="adam", table=TABLE):
    return curves(collect(made(table)))[task][method]


def test_the_rate_is_chosen_on_the_other_seeds():
    """Adam's best is 4 on seed 0 and 1 on seed 1: each is scored at the other's."""
    runs = at_best(curve(), "loss")
    assert [(run["seed"], run["factor"], run["loss"]) for run in runs] == [(0, 1.0, 2.0), (1, 4.0, 4.0)]


def test_the_scored_seed_is_not_looked_at():
    """However a seed's losses change, the rate at which it is scored stays."""
    before = at_best(curve(), "loss")[0]["factor"]
    for losses in ((1e-9, 1e9, 1.0), (1e9, 1e-9, 1.0), (1.0, 1.0, 1e-9)):
        table = copy.deepcopy(TABLE)
        table["adam"][0] = losses
        assert at_best(curve(table=table), "loss")[0]["factor"] == before
        assert at_best(curve(table=table), "loss")[1]["factor"] == (1.0, 4.0, 8.0)[losses.index(min(losses))]


def test_of_three_seeds_two_choose_together():
    table = {"adam": {0: (1.0, 2.0, 9.0), 1: (8.0, 2.0, 9.0), 2: (1.0, 1.5, 9.0)}}
    assert best_factor(curve(table=table), [0, 1], "loss") == 4.0  # 2 against √8
    assert best_factor(curve(table=table), [0, 2], "loss") == 1.0
    assert [run["factor"] for run in at_best(curve(table=table), "loss")] == [4.0, 1.0, 4.0]


def test_validation_has_its_own_best_rate():
    results = [result(FIRST, "adam", f, s, 1 / f, validation=f) for s in (0, 1) for f in (1.0, 4.0)]
    found = compare(collect(results))["tasks"][FIRST]["methods"]["adam"]
    assert (found["loss"], found["validation"], found["factor"]) == pytest.approx((0.25, 1.0, 4.0))


def test_one_seed_scores_nothing():
    results = [one for one in made(TABLE) if one["seed"] == 0]
    assert at_best(curves(collect(results))[FIRST]["adam"], "loss") == []
    with pytest.raises(ValueError, match="from two seeds"):
        compare(collect(results))


def test_a_seed_that_not_all_methods_have_at_all_rates_counts_for_none():
    results = made(TABLE) + made(TABLE, task=SECOND)
    short = [
        one for one in results if (one["config"], one["method"], one["seed"]) != (f"{SECOND}-x4", "soap", 1)
    ]
    found = curves(collect(short))
    assert all(set(found[SECOND][method]) == {0} for method in TABLE)
    assert all(set(found[FIRST][method]) == {0, 1} for method in TABLE)
    assert list(compare(collect(short))["tasks"]) == [FIRST]
    assert list(compare(collect(results))["tasks"]) == [FIRST, SECOND]


def test_scores_over_tasks():
    better = {name: {s: [x / 4 for x in v] for s, v in by.items()} for name, by in TABLE.items()}
    better["adam"] = TABLE["adam"]
    scores = compare(collect(made(TABLE) + made(better, task=SECOND)))
    adam, soap, guard = (scores["methods"][name] for name in TABLE)
    assert adam["loss"] == pytest.approx(1.0)
    # On the two tasks Adam has √8, SOAP 1 and 1/4, the guard √.35 and √.35/4.
    assert soap["loss"] == pytest.approx(math.sqrt(1 / 4) / math.sqrt(8))
    assert guard["loss"] == pytest.approx(math.sqrt(0.35 / 8) / 2)
    assert guard["medians"]["loss"] == pytest.approx(math.sqrt(0.35 / 8) * 0.625)  # of 1 and 1/4
    assert soap["highest"] == pytest.approx(8 / 2 / 8**0.5)  # 8 and 2
    assert (soap["time"], guard["time"]) == (3.0, 1.0)
    assert (guard["edge"], adam["edge"]) == (2, 2)
    assert (guard["spikes"], soap["spikes"], adam["spikes"]) == (4, 0, 2)
    assert [one["diverged"] for one in (adam, soap, guard)] == pytest.approx([1 / 3] * 3)
    assert scores["pairs"]["guard-auto"]["soap"]["loss"] == {"better": 2, "equal": 0}
    assert wins(scores, "guard-auto", "loss") == 1.0


def test_equal_losses_count_as_half():
    table = TABLE | {"guard-auto": TABLE["adam"]}
    scores = compare(collect(made(table)))
    assert scores["pairs"]["guard-auto"]["adam"]["loss"] == {"better": 0, "equal": 1}
    assert wins(scores, "guard-auto", "loss") == 0.25  # half of Adam's, nothing of SOAP's


def test_tolerance_is_of_neighbouring_rates():
    near = {"adam": {0: (9.0, 1.4, 1.0), 1: (9.0, 1.5, 1.0)}}
    assert tolerance(curve(table=near)) == 2.0  # √2.1 = 1.45 at 4
    assert tolerance(curve(method="guard-auto")) == 1.0  # 1 at 4 is above 1.5 × √.35
    assert tolerance(curve(method="soap")) == 1.0
    for ends in ((1.0, 1.1), (1.1, 1.0)):  # a hole at 4, seen from below and from above
        hole = {"adam": dict.fromkeys((0, 1), (ends[0], 2.0, ends[1]))}
        assert tolerance(curve(table=hole)) == 1.0


def test_infinite_losses_are_the_worst():
    table = {"adam": {0: (math.inf, 1.0, math.inf), 1: (1.0, 2.0, math.inf)}}
    data = collect(made(table))
    assert data["runs"][0]["loss"] is None
    found = compare(data)["tasks"][FIRST]["methods"]["adam"]
    assert found["loss"] == math.inf  # seed 1 says that 1 is best, and seed 0 overflows there
    assert mean([0.0, 1.0]) == 0.0


def test_results_of_another_suite_are_refused():
    with pytest.raises(ValueError, match=r"'mlp-tiny-x2' is no result of `foreshock bench rates`"):
        collect([result("mlp-tiny", "adam", 2.0, 0, 1.0)])
    with pytest.raises(ValueError, match="no result yet"):
        collect([])


def test_two_seeds_of_a_task_follow_one_another():
    trials = rate_trials(TASKS[:2], [method("adam"), method("muon")], seeds=3)
    order = list(dict.fromkeys((one.config.name.rpartition("-x")[0], one.seed) for one in trials))
    assert order == [(FIRST, 0), (FIRST, 1), (SECOND, 0), (SECOND, 1), (FIRST, 2), (SECOND, 2)]
    assert len({one.name for one in trials}) == len(trials) == 2 * 6 * 3 * 2
    rates = {one.config.optimizer.learning_rate for one in trials if one.config.name.startswith(FIRST)}
    assert rates == {0.01 * factor for factor in FACTORS}


def test_what_can_t_be_trained_is_refused():
    with pytest.raises(ValueError, match=r"seeds is 1; 2 to 3"):
        rate_trials(TASKS, [], seeds=1)
    known = r"no task 'pinn-burgers' in the development half; there are mlp-deep"
    with pytest.raises(ValueError, match=known):
        chosen_tasks(["pinn-burgers"], split="development")
