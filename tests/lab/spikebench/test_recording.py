"""Recording a run: training is that of a plain loop, and each column is what it says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from foreshock.lab.spikebench.measurements import Measurements
from foreshock.lab.spikebench.recording import FULL_STRIDES, MINI_STRIDES, record
from foreshock.lab.spikebench.run import fingerprint, is_recorded, record_suite, runs_of, trace_path
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.spikebench.trace import Trace
from foreshock.lab.tasks import OptimizerConfig, build_task
from foreshock.lab.tasks.optimization import build_optimizer
from foreshock.preconditioner import read_preconditioner

MINI = RunConfig(
    name="tiny",
    family="mlp",
    options={"points": 20, "width": 8},
    optimizer=OptimizerConfig("adam", 0.02),
    batch_size=10,
    steps=31,
    split="development",
    role="spiky",
)
FULL = dataclasses.replace(MINI, batch_size=None)


@pytest.fixture(scope="module")
def mini() -> Trace:
    return record(MINI, 3)


@pytest.mark.parametrize("config", [MINI, FULL], ids=["mini", "full"])
def test_the_losses_are_those_of_a_plain_loop(config: RunConfig) -> None:
    task = build_task(config.family, batch_size=config.batch_size, seed=3, **config.options)
    optimizer = build_optimizer(task.model, config.optimizer)
    losses = []
    for _ in range(config.steps):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, next(task.batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert record(config, 3).column("loss").values.tolist() == losses


def test_nothing_is_measured_of_a_gradient_whose_norm_overflows() -> None:
    task = build_task("mlp", batch_size=10, seed=0, points=20, width=8)
    optimizer = build_optimizer(task.model, MINI.optimizer)
    batch = next(task.batches)
    loss = task.loss_fn(task.model, batch)
    loss.backward()
    for parameter in task.model.parameters():
        parameter.grad.fill_(1e30)
    measurements = Measurements(task.model, task.loss_fn, optimizer)
    measurements.begin(0, batch, loss.item())
    assert [measurements.measure(kind) for kind in ("probe", "pair", "sharpness")] == [{}, {}, {}]


def test_every_column_has_its_stride(mini: Trace) -> None:
    columns = {
        "loss": 1,
        "secant_ratio": 1,
        "pair_mean": MINI_STRIDES["pair"],
        "stability_ratio": MINI_STRIDES["probe"],
        "sharpness": MINI_STRIDES["sharpness"],
        "batch_sharpness": MINI_STRIDES["batch_sharpness"],
        "critical_rate": MINI_STRIDES["critical_rate"],
        "kurtosis": MINI_STRIDES["kurtosis"],
        "trial_change": MINI_STRIDES["trial"],
        "trial_linear": MINI_STRIDES["trial"],
    }
    for name, stride in columns.items():
        assert mini.column(name).steps.tolist() == list(range(0, MINI.steps, stride)), name
    assert record(FULL, 3).column("pair_mean").steps.size == 0
    assert set(FULL_STRIDES) == set(MINI_STRIDES) - {"pair"}


def test_what_a_measurement_costs_is_counted_in_passes(mini: Trace) -> None:
    costs = mini.meta["costs"]
    assert costs["pair"] == 2
    assert costs["batch_sharpness"] == 5
    assert costs["trial"] == pytest.approx(1 / 3)
    products = mini.column("products").values
    assert costs["probe"] == pytest.approx(3 + 2 * products.mean())


def test_a_run_that_overflows_ends_there() -> None:
    wild = dataclasses.replace(FULL, optimizer=OptimizerConfig("adam", 1e30))
    losses = record(wild, 0).column("loss").values
    assert losses.size < FULL.steps
    assert not math.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()


def small() -> tuple[Measurements, torch.nn.Module, torch.optim.Optimizer, torch.Tensor]:
    """Return measurements of ½·Σ λθ² at the second step of Adam without momentum."""
    model = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    scale = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)

    def loss_fn(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (batch.mean() * (scale * next(model.parameters()) ** 2).sum()) / 2

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.0, 0.9))
    batch = torch.ones(4, dtype=torch.float64)
    measurements = Measurements(model, loss_fn, optimizer)
    for step in range(2):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        measurements.begin(step, batch, loss.item())
        free = measurements.free()
        if step == 0:
            optimizer.step()
    measurements.last_free = free  # type: ignore[attr-defined]
    return measurements, model, optimizer, scale


def test_the_secant_of_a_quadratic_is_its_curvature_along_the_last_step() -> None:
    measurements, _, optimizer, scale = small()
    root = read_preconditioner(optimizer).scale_root()
    # d = −η·sign(g) at Adam's first step.
    expected = float(scale.sum() / (root**-2).sum())
    assert measurements.last_free["secant_ratio"] == pytest.approx(expected, rel=1e-6)  # type: ignore[attr-defined]


def test_the_critical_multiple_of_a_quadratic() -> None:
    """L(θ + kΔ) = L(θ) at k = −2·gᵀΔ/ΔᵀHΔ; three bisections of a factor two leave a factor 2^(1/16)."""
    measurements, model, optimizer, scale = small()
    move = read_preconditioner(optimizer).displacement()
    gradient = next(model.parameters()).grad.flatten()  # type: ignore[union-attr]
    exact = float(-2 * (gradient @ move) / (move @ (scale * move)))
    assert measurements.measure("critical_rate")["critical_rate"] == pytest.approx(exact, rel=0.045)


def test_raw_curvatures_of_a_quadratic() -> None:
    measurements, model, _, scale = small()
    gradient = next(model.parameters()).grad.flatten()  # type: ignore[union-attr]
    assert measurements.measure("sharpness")["sharpness"] == pytest.approx(9.0, rel=0.02)
    assert measurements.measure("batch_sharpness")["batch_sharpness"] == pytest.approx(
        float(gradient @ (scale * gradient) / (gradient @ gradient)), rel=1e-8
    )


def test_an_interrupted_suite_goes_on_where_it_stopped(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done: list[str] = []
    runs = [(MINI, 0), (MINI, 1)]
    record_suite(runs[:1], tmp_path, on_done=lambda path: done.append(path.name))
    paths = record_suite(runs, tmp_path, on_done=lambda path: done.append(path.name))
    assert done == ["tiny-0.npz", "tiny-1.npz"]
    assert paths == [tmp_path / name for name in done]


def test_a_changed_configuration_is_recorded_anew(tmp_path) -> None:  # type: ignore[no-untyped-def]
    record_suite([(MINI, 0)], tmp_path)
    changed = dataclasses.replace(MINI, steps=12)
    assert trace_path(tmp_path, (changed, 0)).exists()
    assert not is_recorded(tmp_path, (changed, 0))
    assert fingerprint((MINI, 0)) != fingerprint((MINI, 1))
    record_suite([(changed, 0)], tmp_path)
    assert Trace.load(tmp_path / "tiny-0.npz").column("loss").steps.size == 12


def test_the_suites_are_run_with_their_seeds() -> None:
    assert {seed for _, seed in runs_of("quick")} == {0}
    assert {seed for _, seed in runs_of("full")} == {0, 1, 2}
    assert all(config.split == "held-out" for config, _ in runs_of("full", split="held-out"))


def test_at_least_one_process_is_needed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least one process"):
        record_suite([], tmp_path, jobs=0)
