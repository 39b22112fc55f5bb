"""Every experiment at a tiny size: it measures what its claims name; its logs and pictures can be read."""

import itertools
import math

import numpy as np
import pytest

from foreshock.lab.reproduction.experiments import EXPERIMENTS
from foreshock.lab.reproduction.experiments.cause import before_spikes
from foreshock.lab.reproduction.experiments.criteria import count, first_events
from foreshock.lab.reproduction.experiments.llm import LlmConfig
from foreshock.lab.reproduction.experiments.quadratic import STARTS, QuadraticConfig, run
from foreshock.lab.reproduction.frozen import Growth
from foreshock.lab.reproduction.settings import with_settings
from foreshock.lab.spikebench.trace import META, Column, Trace
from foreshock.report import summarise
from foreshock.runlog import read_run

TINY = {
    "quadratic": ["steps=1200", "grid=4", "grid_steps=400"],
    "fnn-1d": ["steps=30", "width=8", "points=20"],
    "fnn-50d": ["steps=30", "width=8", "points=20"],
    "cnn": ["steps=20", "images=10", "side=8", "data=digits"],
    "transformer": ["steps=30", "batch_size=4", "sequences=12", "width=8", "heads=2", "layers=1"],
    "llm": ["steps=120", "batch_size=4", "sequences=8", "length=6", "width=8", "heads=2", "layers=1"],
    "interventions": ["steps=30", "width=8", "points=20", "after=550"],
    "cause": ["steps=20", "mini_steps=20", "data=digits"],
    "criteria": [
        "steps=120",
        "widths=8",
        "rates=0.01",
        "deep_steps=110",
        "deep_rates=0.02",
        "transformer_steps=20",
    ],
}
# The trainings of `cause` have their own sizes: seconds, not milliseconds.
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name == "cause" else name for name in EXPERIMENTS]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_a_tiny_run(name, scale, tmp_path):
    experiment = EXPERIMENTS[name]
    tiny = list(TINY[name])
    if scale == "paper" and name == "transformer":
        tiny += ["keys=9"] if "keys" in experiment.scales[scale].__dataclass_fields__ else []
    if scale == "paper" and name == "llm":
        tiny += ["unit=byte", "sequences=none"]
    if scale == "paper" and name == "cause":
        pytest.skip("the large networks do not fit into a test; the code is that of the CPU scale")
    config = with_settings(experiment.scales[scale], tiny)
    outcome = experiment.run(config, 0, tmp_path, lambda done, total: None)
    assert {claim.name for claim in experiment.claims} <= set(outcome.measured)
    logs = sorted(tmp_path.rglob("rank0.jsonl"))
    assert logs
    for log in logs:
        assert summarise(read_run(log.parent)).steps > 0
    if scale == "paper":
        return  # The pictures are the same.
    drawn = experiment.draw(tmp_path, tmp_path / "pictures")
    assert {path.name for path in drawn} <= set(experiment.figures)
    assert all(path.stat().st_size < 150_000 for path in drawn)


def test_the_tiny_settings_cover_every_experiment():
    assert set(TINY) == set(EXPERIMENTS)


def test_the_quadratic_spikes_at_once_and_descends_smoothly_without_adam(tmp_path):
    # No perturbation: every start is a seed of its own, in float64 and one dimension.
    config = QuadraticConfig(steps=3000, grid=6, grid_steps=600)
    for seed in range(len(STARTS)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        measured = run(config, seed, folder, lambda done, total: None).measured
        assert measured["spikes"] > 20
        assert measured["gd_rises"] == 0
        assert measured["first_crossing_error"] < 0.05
        assert measured["equal_spikes"] == 0
        assert measured["stages_in_order"] > 0.7
    steep = run(
        QuadraticConfig(steps=500, learning_rate=2.5, grid=2, grid_steps=5), 0, tmp_path, lambda *_: None
    )
    assert steep.measured["gd_rises"] > 0


@pytest.mark.slow
@pytest.mark.training
def test_the_network_in_one_dimension_shows_the_pattern(perturbed, tmp_path):
    experiment = EXPERIMENTS["fnn-1d"]
    config = with_settings(experiment.scales["cpu"], ["steps=1300", "width=100", "points=50"])
    folders = (tmp_path / str(start) for start in itertools.count())

    def measured():
        folder = next(folders)
        folder.mkdir()
        return experiment.run(config, 0, folder, lambda done, total: None).measured

    runs = perturbed(measured)
    runs.at_least(4, lambda found: found["spikes"] >= 1)
    runs.at_least(4, lambda found: found["direction_reached"] == 1)
    runs.at_least(4, lambda found: found["decay_exponent"] > 0.9)
    runs.at_least(4, lambda found: found["landscape_share"] < 0.3)


def test_a_long_memory_is_compared_with_shorter_ones():
    with pytest.raises(ValueError, match="values of β₂ below beta2"):
        LlmConfig(shorter=(0.9999,))
    with pytest.raises(ValueError, match="a mini-batch must be smaller"):
        with_settings(EXPERIMENTS["transformer"].scales["cpu"], ["batch_size=300"])
    with pytest.raises(ValueError, match="large_epsilon"):
        with_settings(EXPERIMENTS["fnn-50d"].scales["cpu"], ["large_epsilon=0"])


def test_without_spikes_there_is_nothing_to_judge(tmp_path):
    experiment = EXPERIMENTS["fnn-1d"]
    config = with_settings(experiment.scales["cpu"], TINY["fnn-1d"])
    measured = experiment.run(config, 0, tmp_path, lambda done, total: None).measured
    assert measured["spikes"] == 0
    assert math.isnan(measured["direction_reached"])


def test_a_crossing_without_a_spike_is_no_event():
    loss = np.ones(600)
    loss[300:310] = 9.0
    steps = np.arange(600)
    meta = dict.fromkeys(META) | {"split": "development", "role": "spiky", "kind": "full", "language": False}
    trace = Trace(meta, {"loss": Column(steps, loss)})
    growths = [Growth(step, 40, 0.1, 0.1, 0.0) for step in (120, 200, 290, 400)]
    assert [growth.step for growth in before_spikes(growths, trace)] == [200, 290]
    mini = Trace(meta | {"kind": "mini"}, trace.columns)
    assert before_spikes(growths, mini) == growths


def test_what_leads_to_the_first_spike():
    steps, loss = np.arange(400), np.ones(400)
    loss[196:206] = [1.5, 2, 2.5, 2.9, 4, 6, 8, 6, 4, 2]
    ratio, direction = np.full(400, 0.5), np.full(400, 0.5)
    ratio[150:153] = ratio[180:203] = ratio[300:320] = 1.1
    direction[160] = 1.2  # a step alone, before the crossing that lasts
    direction[190:204] = 1.3
    meta = dict.fromkeys(META) | {"split": "development", "role": "spiky", "kind": "full", "language": False}
    columns = {"loss": loss, "stability_ratio": ratio, "gradient_ratio": direction}
    trace = Trace(meta, {name: Column(steps, values) for name, values in columns.items()})
    found = first_events(trace)
    assert [found[name] for name in ("λ_max crosses", "λ_grad crosses", "the loss turns", "loss > 3×")] == [
        180,
        190,
        195,
        200,
    ]
    assert (found["lead"], found["lead of λ_grad"]) == (20, 10)
    counted = count(trace)
    assert (counted["spikes > 3×"], counted["spikes > 1.5×"]) == (1, 1)
    assert (counted["crossings"], counted["lasting crossings"]) == (3, 2)
    assert (counted["lasting ÷ spikes > 3×"], counted["sustained λ_grad at spikes"]) == (2, 1)
    calm = Trace(meta, {**trace.columns, "loss": Column(steps, np.ones(400))})
    assert math.isnan(first_events(calm)["lead"])
    assert math.isnan(count(calm)["lasting ÷ spikes > 3×"])
