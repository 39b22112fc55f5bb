"""The stages of a run, from its free signals and the last ratio."""

from __future__ import annotations

import json
import math

import pytest

from foreshock.forecast.cycle import Cycle

BLIND = {"loss": 1.0, "lag_ratio": 0.01, "decay_exponent": 0.99, "stability_ratio": 0.7}
PARTS = [
    ("preconditioner_decay", {}),
    ("onset", {"stability_ratio": 1.02}),
    ("preconditioner_growth", {"stability_ratio": 1.02, "decay_exponent": -9.0, "loss": 30.0}),
    ("loss_decay", {"stability_ratio": 0.8, "decay_exponent": 0.2, "lag_ratio": 0.9, "loss": 10.0}),
]


def run(cycle: Cycle, parts=PARTS, steps: int = 8) -> list[str]:
    stages = []
    for _, changes in parts:
        for _ in range(steps):
            cycle.see(**BLIND | changes)
        stages.append(cycle.stage)
    return stages


def test_a_spike_goes_through_its_stages():
    assert run(Cycle()) == [stage for stage, _ in PARTS]


def test_nothing_is_told_without_a_second_moment():
    cycle = Cycle()
    cycle.see(**BLIND | {"decay_exponent": math.nan})
    assert cycle.stage == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
def test_a_loss_without_a_logarithm_is_no_growth(loss):
    cycle = Cycle()
    for value in (1.0, loss, 1.0, 1.0):
        cycle.see(**BLIND | {"loss": value})
    assert cycle.stage == "preconditioner_decay"


def test_a_resumed_run_goes_on_in_its_stage():
    cycle, resumed = Cycle(), Cycle()
    run(cycle, PARTS[:2])
    resumed.load_state_dict(json.loads(json.dumps(cycle.state_dict())))
    assert resumed.stage == "onset"
    assert run(cycle, PARTS[2:]) == run(resumed, PARTS[2:])
