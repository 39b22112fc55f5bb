"""A long training resumes bit by bit, is left as it was by what takes its spikes apart, and is judged."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from foreshock.lab.reproduction.experiments import EXPERIMENTS, find_experiment
from foreshock.lab.reproduction.medium.apart import BRANCHES, Scene, take_apart
from foreshock.lab.reproduction.medium.experiments import MEDIUM, MediumCnnConfig, MediumConfig
from foreshock.lab.reproduction.medium.longrun import (
    BACK,
    CHECKPOINT,
    LongPlan,
    LongRun,
    Progress,
    train,
)
from foreshock.lab.reproduction.medium.measuring import Alarm
from foreshock.lab.reproduction.medium.pattern import CLAIMS, medium_pattern
from foreshock.lab.reproduction.medium.recorded import Recorded, record_long
from foreshock.lab.reproduction.settings import with_settings
from foreshock.lab.reproduction.spikemap.course import as_before, freeze_v
from foreshock.lab.spikebench.spikes import judged_column, spikes_above
from foreshock.lab.spikebench.trace import META, Column, Trace
from foreshock.lab.tasks import OptimizerConfig, Training

PLAN = LongPlan(
    name="tiny",
    family="anchors",
    options={"sequences": 24, "keys": 9, "width": 8, "heads": 2, "layers": 1, "length": 4, "masked": True},
    optimizer=OptimizerConfig(
        "adamw", 0.01, weight_decay=0.1, schedule="warmup", warmup_steps=5, betas=(0.9, 0.99)
    ),
    steps=170,
    batch_size=6,
    probe_every=50,
    direction_every=40,
    probe_examples=12,
)


class CutError(Exception):
    """What ends a process."""


def plain_losses(plan, seed):
    return [step.loss for step in Training(plan, seed).run()]


def test_a_training_that_was_cut_goes_on_bit_by_bit(tmp_path):
    def cut(done, total):
        if done == 150:
            raise CutError

    with pytest.raises(CutError):
        record_long(dataclasses.replace(PLAN, checkpoint_seconds=0), 1, tmp_path, on_step=cut)
    kept = Progress.load(tmp_path / CHECKPOINT)
    assert kept.state.step == 150 // 10 * 10 - BACK  # the oldest state at hand
    assert all(step < kept.state.step for step, _ in kept.columns["loss"])
    begun = []
    resumed = record_long(PLAN, 1, tmp_path, on_step=lambda done, total: begun.append(done))
    assert begun[0] == kept.state.step + 1
    whole = record_long(PLAN, 1, tmp_path / "whole", on_step=lambda done, total: None)
    assert resumed.trace.column("loss").values.tolist() == plain_losses(PLAN, 1)
    assert set(resumed.trace.columns) == set(whole.trace.columns)
    for name, column in whole.trace.columns.items():
        assert column.steps.tolist() == resumed.trace.column(name).steps.tolist()
        # λ_max may differ within its tolerance: a solve starts from the last one.
        close = 0.05 if name in ("stability_ratio", "batch_ratio", "alignment", "mean_square_ratio") else 1e-4
        assert np.allclose(column.values, resumed.trace.column(name).values, rtol=close, equal_nan=True)
    assert not (tmp_path / CHECKPOINT).exists()
    again = record_long(PLAN, 1, tmp_path, on_step=lambda done, total: pytest.fail("it was run again"))
    assert again.accuracy == pytest.approx(resumed.accuracy)


def test_a_torn_checkpoint_is_none(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK torn")
    assert Progress.load(tmp_path / CHECKPOINT) == Progress(None, {}, [])


def test_taking_a_spike_apart_leaves_the_training_as_it_was(tmp_path):
    run, progress = LongRun(PLAN, 2), Progress(None, {}, [])
    columns = {"stability_ratio": [(20, 0.3), (40, 0.2), (60, 0.5)]}
    scene = Scene(run, PLAN.probe_batch(2), columns, 0.5)
    losses = []

    def look(step, loss):
        losses.append(loss)
        return step == 80

    for _ in train(
        run, progress, tmp_path / "c.pt", look=look, take_apart=lambda onset: take_apart(scene, onset)
    ):
        pass
    assert losses == plain_losses(PLAN, 2)
    [event] = progress.events
    assert (event["onset"], event["low"], event["high"], event["fork"]) == (80, 40, 60, 40)
    assert set(BRANCHES) < set(event)
    assert event["total"] == pytest.approx(event["preconditioner"] + event["landscape"], abs=0.5)


def test_a_branch_with_ordinary_steps_is_the_course(tmp_path):
    run = LongRun(PLAN, 0)
    for _ in train(
        run,
        Progress(None, {}, []),
        tmp_path / "c.pt",
        look=lambda step, loss: False,
        take_apart=lambda onset: {},
    ):
        pass
    state = run.states[100]
    course = plain_losses(PLAN, 0)
    assert run.branch(state, as_before, steps=40).tolist() == course[100:140]
    frozen = run.branch(state, freeze_v, steps=40).tolist()
    assert frozen[:1] == course[100:101]
    assert frozen[2:] != course[102:140]


def test_the_alarm_is_where_the_ground_truth_has_its_onsets():
    generator = np.random.default_rng(0)
    losses = 1 + 0.1 * generator.random(900)
    for at in (300, 480, 700):
        losses[at : at + 20] *= 6
    alarm = Alarm(start=100)
    found = [step for step, loss in enumerate(losses) if alarm.push(loss)]
    spikes = spikes_above(judged_column(Column(np.arange(900), losses), smooth=True), 3.0)
    assert found == [spike.onset for spike in spikes]
    assert len(found) == 3
    assert alarm.level == pytest.approx(1.05, abs=0.02)


def test_masked_pairs_are_the_test():
    task = Training(PLAN, 0).task

    def pairs_of(symbols):
        return {tuple(row[row < 4].tolist()) for row in symbols}

    seen = next(Training(dataclasses.replace(PLAN, batch_size=24), 0).batches)[0]
    assert not pairs_of(seen) & {(2, 3), (3, 2)}
    assert pairs_of(task.validation[0]) == {(2, 3), (3, 2)}


def trace_of(steps=600):
    """A run with a spike at 300, before which the directional curvature is above one for ten steps."""
    at = np.arange(steps)
    loss, direction = np.ones(steps), np.full(steps, 0.5)
    loss[300:320] = 9.0
    direction[285:295] = direction[450:451] = 1.2
    probes = at[::20]
    meta = dict.fromkeys(META) | {
        "split": "development",
        "role": "spiky",
        "kind": "mini",
        "language": False,
        "parameters": 7,
    }
    columns = {
        "loss": Column(at, loss),
        "gradient_ratio": Column(at, direction),
        "stability_ratio": Column(probes, np.where(probes == 260, 1.1, 0.4)),
        "mean_square_ratio": Column(probes, np.full(probes.size, 2.0)),
        "lag_ratio": Column(at, np.full(steps, 0.25)),
        "decay_exponent": Column(at, np.full(steps, 0.8)),
    }
    return Trace(meta, columns)


def test_the_pattern_of_a_made_up_run():
    events = [
        {"low": 240.0, "high": 280.0, "total": 0.5, "preconditioner": 0.1, "landscape": 0.4, "share": 0.2}
        | {"displaced": 5.0, "frozen": 4.0, "floor": 1.0},
        {"displaced": 1.0, "frozen": 1.0, "floor": 1.0, "total": 0.01, "share": 0.9},
    ]
    found = medium_pattern(Recorded(trace_of(), events, 1.0), Recorded(trace_of(), [], 1.0), beta2=0.9)
    assert {claim.name for claim in CLAIMS} <= set(found)
    assert (found["spikes"], found["sustained_hits"], found["single_false"]) == (1, 1, 0.5)
    assert (found["sustained_false"], found["crossed"], found["mean_square_reached"]) == (0, 1, 1)
    assert (found["lag before spikes"], found["decay_exponent"]) == pytest.approx((4, 0.8))
    # The second event has no rise to divide, and is a matter of chance.
    assert (found["share"], found["frozen_removed"], found["floor_removed"]) == (0.2, 0, 1)
    assert [found[f"peak, {name}"] for name in ("displaced", "v frozen", "v ≥ g²")] == [5, 4, 1]
    assert found["landscape, % a step"] == pytest.approx(1)
    assert found["shorter_ratio"] == 1
    assert math.isnan(medium_pattern(Recorded(trace_of(100), [], 0.0), None, beta2=0.9)["share"])


@pytest.mark.parametrize("name", MEDIUM)
def test_a_tiny_run_at_the_middle_scale(name, tmp_path):
    tiny = ["steps=110", "warmup_steps=5", "examples=24", "batch_size=6", "probe_examples=24"]
    tiny += ["probe_every=100", "direction_every=100"]
    tiny += ["side=8", "data=digits"] if name == "cnn" else ["layers=1", "width=8", "heads=2", "length=4"]
    config = with_settings(MEDIUM[name].scales["medium"], tiny)
    outcome = MEDIUM[name].run(config, 0, tmp_path, lambda done, total: None)
    assert {claim.name for claim in MEDIUM[name].claims} <= set(outcome.measured)
    assert outcome.measured["spikes"] == 0
    drawn = MEDIUM[name].draw(tmp_path, tmp_path / "pictures")
    assert {path.name for path in drawn} == set(MEDIUM[name].figures)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="a mini-batch must be smaller"):
        MediumConfig(batch_size=2000)
    with pytest.raises(ValueError, match="it must be a β₂ below beta2"):
        MediumConfig(shorter=0.9995)
    with pytest.raises(ValueError, match="the first of them lack some classes"):
        MediumCnnConfig(examples=1000, probe_examples=500)
    with pytest.raises(ValueError, match="must be a multiple of 10"):
        dataclasses.replace(PLAN, probe_every=15)
    with pytest.raises(ValueError, match=r"no experiment 'fnn-1d' at scale medium; there are transformer"):
        find_experiment("fnn-1d", "medium")
    assert set(MEDIUM) - set(EXPERIMENTS) == {"llm-words"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_middle_scale_on_a_gpu(tmp_path):
    plan = dataclasses.replace(PLAN, device="cuda", probe_every=50, direction_every=10)
    recorded = record_long(plan, 0, tmp_path, on_step=lambda done, total: None)
    assert recorded.trace.column("stability_ratio").values.size == 4
    assert np.isfinite(recorded.trace.column("loss").values).all()
