"""Recording leaves training as it is, and every column is what it says."""

import math

import numpy as np
import pytest
import torch

from foreshock.curvature import preconditioned_sharpness, sharpness
from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.curvatures import (
    MOMENTS,
    SPECTRA,
    BatchDirection,
    SpectrumWatch,
    block_levels,
)
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import TRACE, record
from foreshock.lab.spikebench.trace import Trace
from foreshock.lab.tasks import OptimizerConfig, build_optimizer
from foreshock.operators import HessianOperator
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run

FULL = Plan(
    name="tiny",
    family="mlp",
    options={"points": 20, "width": 8},
    optimizer=OptimizerConfig("adam", 0.02),
    steps=24,
    probe_every=2,
    sharpness_every=8,
)
MINI = Plan(
    name="tiny",
    family="anchors",
    options={"sequences": 12, "keys": 9, "width": 8, "heads": 2, "layers": 1},
    optimizer=OptimizerConfig("adamw", 0.01, weight_decay=0.1),
    steps=24,
    batch_size=6,
    probe_every=5,
    sharpness_every=12,
    direction_every=3,
)


@pytest.fixture(params=[FULL, MINI], ids=["full", "mini"])
def plan(request):
    return request.param


def plain_losses(plan, seed):
    task = plan.build_task(seed)
    optimizer, losses = build_optimizer(task.model, plan.optimizer), []
    for _ in range(plan.steps):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, next(task.batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_losses_are_those_of_a_plain_loop(plan, tmp_path):
    trace = record(plan, 3, tmp_path)
    with one_thread():  # as the recording does: with two, sums are added up in another order
        assert trace.column("loss").values.tolist() == plain_losses(plan, 3)


def test_the_run_is_an_ordinary_log_and_the_trace_is_kept(plan, tmp_path):
    trace = record(plan, 0, tmp_path)
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(plan.steps))
    assert run.meta["name"] == "tiny, seed 0"
    kept = Trace.load(tmp_path / TRACE)
    assert set(kept.columns) == set(trace.columns)
    assert np.array_equal(kept.column("loss").values, run.column("step", "loss"))


def test_a_second_recording_replaces_the_first(tmp_path):
    record(FULL, 0, tmp_path)
    record(FULL, 0, tmp_path)
    assert read_run(tmp_path).starts == 1


def test_columns_of_a_full_batch_run(tmp_path):
    """Each is compared with what the library's one-call functions say at that very state."""
    expected = {}

    def look(moment):
        if moment.step == 16:
            reading = preconditioned_sharpness(moment.model, moment.optimizer, moment.loss_fn, moment.batch)
            expected["stability_ratio"] = reading.stability_ratio
            expected["gradient_ratio"] = reading.gradient_stability_ratio
            expected["alignment"] = reading.alignment
            expected["sharpness"] = sharpness(moment.model, moment.loss_fn, moment.batch).value
            weight = moment.model[0].weight
            expected["v:0.weight"] = moment.optimizer.state[weight]["exp_avg_sq"].mean().item()
            expected["g:0.weight"] = weight.grad.square().mean().item()

    trace = record(FULL, 0, tmp_path, watchers=(look,))
    for name, value in expected.items():
        column = trace.column(name)
        # λ_max is good to 2 % where far from the edge.
        assert column.values[column.steps == 16] == pytest.approx([value], rel=0.021), name
    assert trace.column("stability_ratio").steps.tolist() == list(range(0, 24, 2))
    assert trace.column("sharpness").steps.tolist() == [0, 8, 16]


def test_columns_of_a_mini_batch_run(tmp_path):
    trace = record(MINI, 0, tmp_path)
    assert trace.column("gradient_ratio").steps.tolist() == list(range(0, 24, 3))
    assert trace.column("mean_square_ratio").steps.size > 0
    assert trace.meta["kind"] == "mini"


def test_the_direction_of_a_batch_against_the_dense_product():
    task = MINI.build_task(0)
    batch = next(task.batches)
    optimizer = build_optimizer(task.model, MINI.optimizer)
    task.loss_fn(task.model, batch).backward()
    preconditioner = read_preconditioner(optimizer)
    gradient, scale = preconditioner.gradient(), preconditioner.scale_root() ** 2
    measured = BatchDirection(task.model, task.loss_fn).measure(batch, preconditioner)
    parameters = list(preconditioner.parameters)
    with HessianOperator(lambda: task.loss_fn(task.model, batch), parameters) as hessian:
        expected = gradient @ (scale * hessian(gradient)) / (gradient @ gradient)
    assert measured == pytest.approx(expected.item(), rel=1e-5)


def test_levels_of_blocks_need_a_state():
    task = FULL.build_task(0)
    optimizer = build_optimizer(task.model, FULL.optimizer)
    task.loss_fn(task.model, next(task.batches)).backward()
    assert block_levels(task.model, optimizer) == {}
    optimizer.step()
    found = block_levels(task.model, optimizer)
    # After one step v = (1 − β₂)g², and the gradient is still there.
    assert found["v:0.weight"] == pytest.approx(1e-3 * found["g:0.weight"], rel=1e-5)
    assert len(found) == 8


def test_a_watcher_can_change_the_optimizer(tmp_path):
    def stop(moment):
        if moment.step == 10:
            for group in moment.optimizer.param_groups:
                group["lr"] = 0.0

    losses = record(FULL, 0, tmp_path, watchers=(stop,)).column("loss").values
    assert len(set(losses[:11].tolist())) == 11
    assert len(set(losses[11:].tolist())) == 1


def test_a_run_that_overflows_ends_there(tmp_path):
    wild = Plan(
        name="wild",
        family="mlp",
        options={"points": 20, "width": 8},
        optimizer=OptimizerConfig("adam", 1e30),
        steps=24,
    )
    losses = record(wild, 0, tmp_path).column("loss").values
    assert losses.size < 24
    assert not math.isfinite(losses[-1])


class FakeMoment:
    """A step of a small network with a ratio and a loss of our choice."""

    def __init__(self, step, ratio, loss):
        task = FULL.build_task(0)
        self.model, self.loss_fn, self.batch = task.model, task.loss_fn, next(task.batches)
        self.optimizer = build_optimizer(task.model, FULL.optimizer)
        self.step, self.ratio, self.loss = step, ratio, loss


def test_spectra_are_taken_before_at_and_after_a_spike(tmp_path):
    watch = SpectrumWatch(tmp_path, probes=1, steps=3, start=2)
    seen = [
        (0, 0.95, 1.0),
        (2, 0.8, 1.0),
        (3, 0.95, 1.0),
        (4, 1.01, 1.0),
        (5, 1.01, 1.5),
        (6, 0.98, 2.0),
        (7, 0.9, 1.0),
    ]
    for step, ratio, loss in seen:
        watch(FakeMoment(step, ratio, loss))
    with np.load(tmp_path / SPECTRA) as found:
        assert [int(found[f"{name}.step"]) for name in MOMENTS] == [3, 5, 7]
        for name in MOMENTS:
            area = np.trapezoid(found[f"{name}.density"], found[f"{name}.grid"])
            assert area == pytest.approx(1, abs=0.02)


def test_a_plan_refuses_no_stride():
    with pytest.raises(ValueError, match="probe_every must be"):
        Plan(name="x", family="mlp", optimizer=OptimizerConfig(), steps=3, probe_every=0)
    assert FULL.torch_device == torch.device("cpu")
