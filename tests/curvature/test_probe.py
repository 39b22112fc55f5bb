"""Readings against dense matrices, for live optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from cases import DETERMINISTIC, Case
from foreshock.curvature import ProbeMemory, ProbeSettings, probe_curvature
from foreshock.eigen import StoppingRule
from foreshock.preconditioner import read_preconditioner
from foreshock.stability import momentum_factor
from oracles import dense_hessian

OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam-decay": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.003, betas=(0.8, 0.99), weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, eps=1e-4),
}


def trained(case: Case, make, steps: int = 5):
    """Return model, batch and optimizer after some steps, with fresh gradients."""
    model, batch = case.build()
    optimizer = make(list(model.parameters()))
    for step in range(steps):
        optimizer.zero_grad()
        case.loss_fn(model, batch).backward()
        if step < steps - 1:
            optimizer.step()
    return model, batch, optimizer


def dense_terms(case, model, batch, optimizer):
    """Return Ĥ's factors from torch's own state, one group: D, c, η, H + wd·I, g, m̂."""
    parameters = list(model.parameters())
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    hessian = dense_hessian(lambda: case.loss_fn(model, batch), parameters)
    coupled = 0.0 if isinstance(optimizer, optim.AdamW) else group["weight_decay"]
    hessian += coupled * torch.eye(len(hessian), dtype=hessian.dtype)
    theta = torch.cat([p.detach().flatten() for p in parameters])
    g = torch.cat([p.grad.flatten() for p in parameters]) + coupled * theta
    state = [optimizer.state[p] for p in parameters]
    t = int(state[0]["step"]) + 1
    m = beta1 * torch.cat([s["exp_avg"].flatten() for s in state]) + (1 - beta1) * g
    v = beta2 * torch.cat([s["exp_avg_sq"].flatten() for s in state]) + (1 - beta2) * g * g
    if group["amsgrad"]:
        v = torch.maximum(v, torch.cat([s["max_exp_avg_sq"].flatten() for s in state]))
    denominator = (v / (1 - beta2**t)).sqrt() + group["eps"]
    # Decoupled decay narrows the edge by the factor 1 − ηw/2.
    decoupled = group["weight_decay"] if isinstance(optimizer, optim.AdamW) else 0.0
    factor = momentum_factor(beta1, t) / (1 - group["lr"] * decoupled / 2)
    return denominator, factor, group["lr"], hessian, g, m / (1 - beta1**t)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_every_field_is_that_of_the_dense_matrices(case, name):
    model, batch, optimizer = trained(case, OPTIMIZERS[name])
    d, c, eta, hessian, g, m = dense_terms(case, model, batch, optimizer)
    reading, memory = probe_curvature(
        lambda: case.loss_fn(model, batch),
        read_preconditioner(optimizer),
        step=4,
        settings=ProbeSettings(stop=StoppingRule(1e-10, len(d))),
    )
    symmetric = c * hessian / (d[:, None] * d[None, :]).sqrt()
    values, vectors = torch.linalg.eigh(symmetric)
    preconditioned = c * hessian / d[:, None]
    assert reading.preconditioned_sharpness == pytest.approx(float(values[-1]), rel=1e-8)
    assert reading.threshold == pytest.approx(2 / eta)
    assert reading.stability_ratio == pytest.approx(float(values[-1]) * eta / 2, rel=1e-8)
    along_gradient = float(g @ preconditioned @ g / (g @ g))
    assert reading.gradient_directional_curvature == pytest.approx(along_gradient, rel=1e-8)
    assert reading.gradient_stability_ratio == pytest.approx(along_gradient * eta / 2, rel=1e-8)
    u = m / d
    along_update = float(c * (u @ hessian @ u) / (u @ (d * u)))
    assert reading.update_directional_curvature == pytest.approx(along_update, rel=1e-8)
    change = float(-eta * g @ u + eta**2 / 2 * u @ hessian @ u)
    assert reading.predicted_loss_change == pytest.approx(change, rel=1e-8)
    scaled = g / d.sqrt()
    aligned = float((vectors[:, -1] @ scaled / scaled.norm()).abs())
    assert reading.alignment == pytest.approx(aligned, abs=1e-4)  # vector error ~ √(value error)
    assert float((vectors[:, -1] @ memory.starts[0]).abs()) == pytest.approx(1.0, abs=1e-6)


def test_ratio_with_several_groups_is_the_spectral_radius_of_a_times_h():
    case = DETERMINISTIC[0]
    model, batch = case.build()
    parameters = list(model.parameters())
    optimizer = optim.Adam(
        [
            {"params": parameters[:2], "lr": 0.05, "betas": (0.5, 0.9)},
            {"params": parameters[2:], "lr": 0.001, "eps": 1e-2},
        ]
    )
    for _ in range(3):
        optimizer.zero_grad()
        case.loss_fn(model, batch).backward()
        optimizer.step()
    optimizer.zero_grad()
    case.loss_fn(model, batch).backward()
    preconditioner = read_preconditioner(optimizer)
    scale = torch.cat(
        [(s.momentum_factor * s.learning_rate / 2 / s.denominator).flatten() for s in preconditioner.active]
    )
    hessian = dense_hessian(lambda: case.loss_fn(model, batch), parameters)
    expected = torch.linalg.eigvals(scale[:, None] * hessian).real.max()
    reading, _ = probe_curvature(
        lambda: case.loss_fn(model, batch),
        preconditioner,
        step=0,
        settings=ProbeSettings(stop=StoppingRule(1e-10, len(scale))),
    )
    assert reading.stability_ratio == pytest.approx(float(expected), rel=1e-8)
    assert reading.preconditioned_sharpness is None
    assert reading.threshold is None


def test_ratio_of_one_is_where_the_real_optimizer_stops_converging():
    """Adam with v all but frozen on a quadratic: below one it contracts, above one it grows."""
    for factor, contracts in [(0.98, True), (1.02, False)]:
        curvature = torch.tensor([1.0, 3.0], dtype=torch.float64)
        theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = optim.Adam([theta], lr=1.0, betas=(0.9, 1 - 1e-12), eps=1e-300)
        loss = lambda: (curvature * theta**2).sum() / 2  # noqa: E731
        v = 0.25
        optimizer.state[theta] = {
            "step": torch.tensor(1e13),
            "exp_avg": torch.zeros(2, dtype=torch.float64),
            "exp_avg_sq": torch.full((2,), v, dtype=torch.float64),
        }
        loss().backward()
        reading, _ = probe_curvature(loss, read_preconditioner(optimizer), step=0)
        optimizer.param_groups[0]["lr"] = factor / reading.stability_ratio
        largest = 0.0
        for _ in range(200):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            largest = max(largest, float(theta.detach().abs().max()))
        assert (largest < 10) is contracts
        assert contracts or largest > 1e4


def test_parameters_of_muon_are_held_fixed():
    case = DETERMINISTIC[0]
    model, batch = case.build()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizers = [optim.Muon(matrices, lr=0.01), optim.AdamW(vectors, lr=0.01, weight_decay=0.0)]
    case.loss_fn(model, batch).backward()
    mixed, _ = probe_curvature(
        lambda: case.loss_fn(model, batch),
        read_preconditioner(optimizers),
        step=0,
        settings=ProbeSettings(stop=StoppingRule(1e-10, 200)),
    )
    alone, _ = probe_curvature(
        lambda: case.loss_fn(model, batch),
        read_preconditioner(optimizers[1]),
        step=0,
        settings=ProbeSettings(stop=StoppingRule(1e-10, 200)),
    )
    assert mixed.coverage == pytest.approx(22 / 172)
    assert mixed.stability_ratio == pytest.approx(alone.stability_ratio, rel=1e-8)
    assert mixed.update_stability_ratio == pytest.approx(alone.update_stability_ratio, rel=1e-8)
    assert mixed.gradient_stability_ratio == pytest.approx(alone.gradient_stability_ratio, rel=1e-8)
    assert math.isnan(mixed.predicted_loss_change)


def test_warm_probe_spends_few_products():
    case = DETERMINISTIC[0]
    model, batch, optimizer = trained(case, OPTIMIZERS["adam"], steps=30)
    memory = None
    for _ in range(3):
        reading, memory = probe_curvature(
            lambda: case.loss_fn(model, batch), read_preconditioner(optimizer), step=0, memory=memory
        )
    assert reading.converged
    assert reading.products <= 2 + 4


def test_a_direction_that_overtakes_from_outside_of_the_last_vectors_shows_in_the_gradient():
    """From two exact lower eigenvectors alone a solver would stop at once; the update has no part in it."""
    n, beta1 = 60, 0.9
    values = torch.linspace(0.1, 1.5, n, dtype=torch.float64)
    values[:3] = torch.tensor([5.0, 2.0, 1.9])  # of D⁻¹H
    denominator = torch.ones(n, dtype=torch.float64)
    denominator[0] = 0.01
    curvature = values * denominator
    theta = nn.Parameter(torch.ones(n, dtype=torch.float64))
    with torch.no_grad():
        theta[0] = 10.0
    gradient = curvature * theta.detach()
    first = torch.randn(n, dtype=torch.float64)
    first[0] = -gradient[0] * (1 - beta1) / beta1  # cancels the gradient in the first moment
    optimizer = optim.Adam([theta], lr=0.1, betas=(beta1, 1 - 1e-12), eps=1e-300)
    optimizer.state[theta] = {
        "step": torch.tensor(1e15),
        "exp_avg": first,
        "exp_avg_sq": denominator**2,
    }
    loss = lambda: (curvature * theta**2).sum() / 2  # noqa: E731
    loss().backward()
    lower = tuple(torch.eye(n, dtype=torch.float64)[1:3])
    reading, _ = probe_curvature(loss, read_preconditioner(optimizer), step=0, memory=ProbeMemory(lower))
    assert reading.stability_ratio == pytest.approx(5.0 * 0.1 / 2 / 19, rel=5e-3)


def test_zero_gradient_gives_a_value_and_no_alignment():
    theta = nn.Parameter(torch.zeros(3))
    optimizer = optim.Adam([theta], lr=0.1)
    loss = lambda: (theta**2).sum()  # noqa: E731
    loss().backward()
    reading, _ = probe_curvature(loss, read_preconditioner(optimizer), step=0)
    assert reading.stability_ratio > 0
    assert math.isnan(reading.alignment)
    assert math.isnan(reading.gradient_stability_ratio)


def test_nothing_that_moves_is_an_error():
    theta = nn.Parameter(torch.ones(3))
    optimizer = optim.Adam([theta], lr=0.0)
    (theta**2).sum().backward()
    with pytest.raises(ValueError, match="every learning rate is 0"):
        probe_curvature(lambda: (theta**2).sum(), read_preconditioner(optimizer), step=0)


def test_nan_loss_is_an_error():
    theta = nn.Parameter(torch.ones(3))
    optimizer = optim.Adam([theta], lr=0.1)
    (theta**2).sum().backward()
    with pytest.raises(FloatingPointError, match="loss of the probed batch is nan"):
        probe_curvature(lambda: (theta**2).sum() * torch.nan, read_preconditioner(optimizer), step=0)


def test_new_random_numbers_at_each_step_and_none_of_the_users():
    case = DETERMINISTIC[0]
    model, batch, optimizer = trained(case, OPTIMIZERS["adam"])
    preconditioner = read_preconditioner(optimizer)
    before = torch.get_rng_state()
    stop = StoppingRule(1e-12, max_products=4)
    first, again, other = (
        probe_curvature(
            lambda: case.loss_fn(model, batch), preconditioner, step=step, settings=ProbeSettings(stop=stop)
        )[0].stability_ratio
        for step in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
