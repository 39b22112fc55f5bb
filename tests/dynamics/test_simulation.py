"""Simulated Adam against torch's, against a loop written by hand, and against known noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.dynamics import (
    AdamSettings,
    Quadratic,
    adam_recursion,
    mean_square_map,
    simulate,
    simulate_adam_on_quadratic,
)

ROTATION = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))[0]
DENSE = (ROTATION * [3.0, 1.0, 0.2]) @ ROTATION.T
DENSE = (DENSE + DENSE.T) / 2
HESSIANS = {"scalar": np.array(3.0), "diagonal": np.array([3.0, 1.0, 0.2]), "dense": DENSE}


def torch_losses(make, hessian, steps):
    matrix = torch.from_numpy(np.diag(np.atleast_1d(hessian)) if hessian.ndim < 2 else hessian)
    theta = torch.nn.Parameter(torch.ones(len(matrix), dtype=torch.float64))
    optimizer, losses = make([theta]), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = theta @ matrix @ theta / 2
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("hessian", HESSIANS.values(), ids=HESSIANS.keys())
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=1e-8),
            AdamSettings(0.1, 0.9, 0.99, 1e-8),
        ),
        (
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3, amsgrad=True),
            AdamSettings(0.1, 0.5, 0.9, 1e-3, amsgrad=True),
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.4),
            AdamSettings(0.1, 0.9, 0.95, 1e-6, weight_decay=0.4),
        ),
        (
            lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=1e-6),
            AdamSettings(0.1, 0.0, 0.9, 1e-6, bias_correction=False),
        ),
    ],
    ids=["adam", "amsgrad", "adamw", "rmsprop"],
)
def test_losses_are_torchs_while_rounding_stays_small(make, settings, hessian):
    runs = simulate(Quadratic(hessian), settings, steps=60)
    # Past some sixty steps differences of 1e-16 may have been amplified by the growth of the deviation.
    assert runs.loss[:, 0] == pytest.approx(torch_losses(make, hessian, 60), rel=1e-9, abs=1e-12)


def test_one_run_of_many_is_that_run_alone():
    settings = AdamSettings(0.1, beta1=[0.0, 0.5, 0.9], beta2=[0.9, 0.99, 0.999])
    together = simulate(Quadratic(2.0), settings, steps=300, dtype=np.longdouble)
    for index, betas in enumerate([(0.0, 0.9), (0.5, 0.99), (0.9, 0.999)]):
        alone = simulate_adam_on_quadratic(300, learning_rate=0.1, betas=betas, curvature=2.0)
        for name in ("loss", "stability_ratio", "second_moment", "squared_gradient"):
            assert np.array_equal(getattr(together, name)[:, index], getattr(alone, name))


def test_every_column_is_what_a_loop_written_by_hand_gives():
    eta, beta1, beta2, epsilon, decay = 0.2, 0.8, 0.95, 1e-4, 0.3
    theta, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    runs = simulate(Quadratic(DENSE), AdamSettings(eta, beta1, beta2, epsilon, decay), steps=40)
    for t in range(1, 41):
        g = DENSE @ theta
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        scale = np.sqrt(v / (1 - beta2**t)) + epsilon
        factor = (1 - beta1) / (1 + beta1) / (1 - beta1**t) / (1 - eta * decay / 2)
        sharpness = np.linalg.eigvals(DENSE / scale[:, None]).real.max()
        row = (theta @ DENSE @ theta / 2, factor * sharpness * eta / 2, v.sum(), (g**2).sum())
        columns = (runs.loss, runs.stability_ratio, runs.second_moment, runs.squared_gradient)
        assert [float(column[t - 1, 0]) for column in columns] == pytest.approx(row, rel=1e-9)
        theta = theta - eta * decay * theta - eta * m / (1 - beta1**t) / scale
    assert runs.final[0] == pytest.approx(theta, rel=1e-9)


def test_extended_precision_goes_on_where_double_ends():
    longer = simulate(Quadratic(1.0), AdamSettings(0.15, 0.0, 0.999), steps=1300, dtype=np.longdouble)
    assert longer.stability_ratio.dtype == np.longdouble
    if np.finfo(np.longdouble).minexp < np.finfo(np.float64).minexp:
        assert 0 < longer.loss.min() < np.finfo(np.float64).tiny
    assert longer.loss[1100:].max() > 0.1  # it comes back as a spike


@pytest.mark.parametrize("hessian", HESSIANS.values(), ids=HESSIANS.keys())
def test_batches_have_the_mean_and_the_variance_of_gaussian_rows(hessian):
    """E[S_B M S_B] = HMH + (HMH + tr(HM)H)/B with M = θθᵀ; 100,000 samples, four standard errors."""
    matrix = np.diag(np.atleast_1d(hessian)) if hessian.ndim < 2 else hessian
    d, runs, batch = len(matrix), 100_000, 4
    theta = np.arange(1.0, d + 1)
    samples = Quadratic(hessian, batch_size=batch).gradient(
        np.tile(theta, (runs, 1)), np.random.default_rng(0)
    )
    assert np.all(np.abs(samples.mean(axis=0) - matrix @ theta) < 4 * samples.std(axis=0) / math.sqrt(runs))
    energy = (samples**2).sum(axis=1)
    outer = matrix @ np.outer(theta, theta) @ matrix
    expected = np.trace(outer + (outer + (theta @ matrix @ theta) * matrix) / batch)
    assert abs(energy.mean() - expected) < 4 * energy.std() / math.sqrt(runs)


def test_curvature_noise_has_its_second_moment_map():
    """ε ≫ √v freezes the preconditioner: Adam is then the linear recursion with D = ε."""
    runs, noise, steps = 100_000, 0.4, 10
    settings = AdamSettings([0.8e6] * runs, beta1=0.5, beta2=0.999, epsilon=1e6, bias_correction=False)
    problem = Quadratic(1.0, curvature_noise=noise)
    simulated = simulate(problem, settings, steps=steps, rng=np.random.default_rng(0))
    transition = mean_square_map(adam_recursion(0.5), learning_rate=0.8, mean=1.0, variance=noise**2)
    expected = (np.linalg.matrix_power(transition, steps) @ [1.0, 0.0, 0.0])[0]
    sample = simulated.final[:, 0] ** 2
    assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(runs)


def test_same_seed_same_run():
    problem, settings = Quadratic(DENSE, batch_size=2, curvature_noise=0.1), AdamSettings([0.1, 0.2])
    first, second = (
        simulate(problem, settings, steps=20, rng=np.random.default_rng(5)).loss for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, simulate(problem, settings, steps=20, rng=np.random.default_rng(6)).loss)


def test_adam_spikes_where_the_stability_ratio_passes_one():
    run = simulate_adam_on_quadratic(12_000, learning_rate=0.15, betas=(0.9, 0.999))
    above = run.stability_ratio > 1
    crossings = np.flatnonzero(above[1:] & ~above[:-1])
    assert len(crossings) >= 3
    for crossing in crossings:
        before, after = run.loss[crossing - 50 : crossing], run.loss[crossing : crossing + 300]
        assert after.max() > 100 * before.max()
    assert float(run.stability_ratio.max()) < 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(Quadratic(1.0), AdamSettings(0.1), steps=0), "steps is 0"),
        (
            lambda: simulate(Quadratic(1.0, batch_size=2), AdamSettings(0.1), steps=5),
            "pass a source of random numbers",
        ),
        (
            lambda: simulate(Quadratic(1.0, curvature_noise=1), AdamSettings(0.1), steps=5),
            "pass a source of random numbers",
        ),
        (lambda: simulate_adam_on_quadratic(5, learning_rate=0.1, betas=(1.0, 0.99)), "beta1 is 1.0"),
        (lambda: simulate_adam_on_quadratic(5, learning_rate=0.1, betas=(0.9, 0.0)), "beta2 is 0.0"),
        (lambda: AdamSettings(0.0), "learning_rate is 0.0"),
        (lambda: AdamSettings([[0.1]]), "one value for each run"),
        (lambda: AdamSettings(0.1, epsilon=-1.0), "must not be negative"),
        (lambda: Quadratic([[1.0, 2.0], [0.0, 1.0]]), "a symmetric matrix"),
        (lambda: Quadratic([1.0, -1.0], batch_size=3), "rows can't have that covariance"),
        (lambda: Quadratic([[0.0, 1.0], [1.0, 0.0]], batch_size=3), "rows can't have that covariance"),
        (lambda: Quadratic(1.0, batch_size=0), "batch_size is 0"),
        (lambda: Quadratic(1.0, curvature_noise=-1.0), "curvature_noise is -1.0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
