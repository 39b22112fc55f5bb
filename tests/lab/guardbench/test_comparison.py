"""Results against plain Adam's of the same run."""

import json
import math

import pytest

from foreshock.lab.guardbench.comparison import FIXED, aggregate, compare, compared
from lab.guardbench.results import result

RESULTS = [
    result(spikes=(4.0, 9.0, 20.0), loss=1.0, validation=2.0),
    result(seed=1, spikes=(5.0,), loss=4.0, validation=2.0),
    result("amsgrad", spikes=(3.5,), loss=0.5, validation=2.0, acted=0.5, passes=1.0),
    result("amsgrad", seed=1, loss=8.0, validation=2.2, acted=0.1, passes=0.0),
]


def entry(results=RESULTS, name="amsgrad", group="all", split="development"):
    return compare(results)["scores"][split][group][name]


def test_spikes_are_counted_by_height_for_the_method_and_for_adam():
    assert entry()["spikes"] == {"3x": 1, "8x": 0, "10x": 0}
    assert entry()["plain_spikes"] == {"3x": 4, "8x": 2, "10x": 1}
    assert entry(name="adam")["spikes"] == entry()["plain_spikes"]


def test_ratios_are_by_seed_and_their_mean_is_geometric():
    loss = entry()["ratios"]["mean_loss"]
    assert loss == {"median": 1.25, "worst": 2.0, "mean": pytest.approx(1.0)}
    assert entry()["ratios"]["mean_validation"]["worst"] == pytest.approx(1.1)


def test_harm_is_a_loss_clearly_above_adam_s():
    assert entry()["harmed"] == 1
    assert entry(name="adam")["harmed"] == 0
    worse = result("amsgrad", loss=1.0, validation=2.3)
    assert aggregate([(worse, RESULTS[0])])["harmed"] == 1


def test_shares_and_passes_are_means():
    assert entry()["acted"] == pytest.approx(0.3)
    assert entry()["passes"] == 0.5
    assert entry(name="adam")["acted"] is None


def test_groups_and_splits_are_kept_apart():
    other = {"config": "other", "split": "held-out", "group": "mini", "family": "cnn"}
    scores = compare([*RESULTS, result(**other), result("amsgrad", loss=3.0, **other)])["scores"]
    assert list(scores["development"]) == ["all", "full", FIXED, "family mlp"]
    assert list(scores["held-out"]) == ["all", "mini", "family cnn"]
    assert scores["held-out"]["all"]["amsgrad"]["runs"] == 1
    assert scores["development"]["all"]["amsgrad"]["runs"] == 2


def test_a_training_without_plain_adam_beside_it_is_left_out():
    alone = result("amsgrad", seed=2, loss=100.0)
    assert entry([*RESULTS, alone])["runs"] == 2
    with pytest.raises(ValueError, match="no training has plain Adam's beside it"):
        compare([alone])


def test_each_task_has_a_row_with_geometric_means_over_seeds():
    [row] = compare(RESULTS)["tasks"]
    assert row["plain_spikes"] == [3, 1]
    assert row["methods"]["amsgrad"] == {
        "spikes": 1,
        "loss": pytest.approx(1.0),
        "validation": pytest.approx(math.sqrt(1.1)),
    }


def test_infinite_ratios_become_none_so_that_json_can_hold_them():
    lost = result("amsgrad", loss=math.inf, spikes=(math.inf,), diverged=True)
    scores = compare([RESULTS[0], lost])
    json.dumps(scores, allow_nan=False)
    found = scores["scores"]["development"]["all"]["amsgrad"]
    assert found["ratios"]["mean_loss"] == {"median": None, "worst": None, "mean": None}
    assert found["spikes"]["10x"] == 1
    assert found["diverged"] == 1


@pytest.mark.parametrize(
    ("value", "plain", "ratio"),
    [(1.0, 2.0, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, math.inf), (1.0, math.inf, 0.0), (math.inf, math.inf, 1.0)],
)
def test_ratios_at_the_ends(value, plain, ratio):
    assert compared(result(loss=value), result(loss=plain))["mean_loss"] == ratio


def test_a_method_that_removes_the_loss_altogether_can_be_put_together():
    found = aggregate([(result("amsgrad", loss=0.0), result(loss=1.0))])
    assert found["ratios"]["mean_loss"] == {"median": 0.0, "worst": 0.0, "mean": 0.0}
