"""Verdicts come from the bars alone."""

import math

import pytest

from foreshock.lab.reproduction.experiment import Claim, Verdict
from foreshock.lab.reproduction.experiments import EXPERIMENTS, find_experiment

UP = Claim("x", "Much.", "amount", "at least", 2, 1)
DOWN = Claim("x", "Little.", "amount", "at most", 1, 2)


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        (UP, [2.0, 2.0, 5.0], Verdict.CONFIRMED),
        (UP, [2.0, 1.9, 5.0], Verdict.LIMITED),
        (UP, [0.5, 1.0, 9.0], Verdict.LIMITED),
        (UP, [0.5, 0.9, 9.0], Verdict.REFUTED),
        (DOWN, [1.0, 0.0], Verdict.CONFIRMED),
        (DOWN, [1.0, 2.0], Verdict.LIMITED),
        (DOWN, [2.1, 2.2], Verdict.REFUTED),
        (DOWN, [math.inf, math.inf], Verdict.REFUTED),
        (UP, [math.nan], Verdict.UNDECIDED),
        # A seed without anything to measure is no confirmation.
        (UP, [2.0, math.nan], Verdict.LIMITED),
        (UP, [2.0, math.nan, math.nan], Verdict.UNDECIDED),
        (UP, [0.0, math.nan, math.nan], Verdict.UNDECIDED),
    ],
)
def test_verdicts(claim, values, verdict):
    assert claim.judge(values) is verdict


def test_a_weak_bar_that_is_stricter_is_refused():
    with pytest.raises(ValueError, match="must not be the stricter one"):
        Claim("x", "Much.", "amount", "at least", 1, 2)
    with pytest.raises(ValueError, match="must not be the stricter one"):
        Claim("x", "Much.", "amount", "at least", math.nan, 2)


def test_the_criterion_tells_both_bars():
    assert UP.criterion == "amount: at least 2 in every seed; with limits: 1 in the median"


def test_every_experiment_has_both_scales_and_claims_of_its_own():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert set(experiment.scales) == {"cpu", "paper"}
        assert type(experiment.scales["cpu"]) is type(experiment.scales["paper"])
        names = [claim.name for claim in experiment.claims]
        assert names
        assert len(set(names)) == len(names)


def test_an_unknown_experiment():
    with pytest.raises(ValueError, match=r"no experiment 'gan'; there are quadratic, fnn-1d"):
        find_experiment("gan")
