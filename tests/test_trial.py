"""A step that is tried and taken back, on losses whose answer is known."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn, optim

from cases import DETERMINISTIC
from foreshock.curvature import probe_curvature
from foreshock.isolation import isolated
from foreshock.preconditioner import read_preconditioner
from foreshock.trial import try_step


def started(case, learning_rate: float = 0.01):
    """Return model, batch and optimizer after three steps, gradients set."""
    model, batch = case.build()
    optimizer = optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1)
    for step in range(4):
        optimizer.zero_grad()
        case.loss_fn(model, batch).backward()
        if step < 3:
            optimizer.step()
    return model, batch, optimizer


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_the_trial_is_what_the_real_step_does(case):
    model, batch, optimizer = started(case)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    preconditioner = read_preconditioner(optimizer)
    with isolated(model):
        trial = try_step(lambda: case.loss_fn(model, batch), preconditioner, model=model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    moved = copy.deepcopy(model)
    gradients = [p.grad.clone() for p in model.parameters()]
    old = case.loss_fn(model, batch).item()
    optimizer.step()
    new = case.loss_fn(model, batch).item()
    move = [p.detach() - q.detach() for p, q in zip(model.parameters(), moved.parameters(), strict=True)]
    linear = sum(float((g * d).sum()) for g, d in zip(gradients, move, strict=True))
    assert trial.loss_change == pytest.approx(new - old, rel=1e-8)
    assert trial.linear_change == pytest.approx(linear, rel=1e-8)
    assert trial.trust_region_ratio == pytest.approx(1 - (new - old) / linear, rel=1e-8)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.9, 2.5])
def test_on_a_quadratic_the_secant_is_the_curvature_and_the_ratio_its_half_share(rate):
    """With v frozen at one and β₁ = 0, Adam is gradient descent: the ratio is ηλ/2, the trust ratio too."""
    theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=rate, betas=(0.0, 1 - 1e-12), eps=1e-300)
    zeros, ones = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    optimizer.state[theta] = {"step": torch.tensor(1e15), "exp_avg": zeros, "exp_avg_sq": ones}
    loss = lambda: (theta**2).sum() / 2  # noqa: E731
    loss().backward()
    trial = try_step(loss, read_preconditioner(optimizer))
    assert trial.secant_stability_ratio == pytest.approx(rate / 2, rel=1e-9)
    assert trial.trust_region_ratio == pytest.approx(rate / 2, rel=1e-9)
    assert (trial.loss_change > 0) is (rate > 2)


def test_for_small_steps_the_secant_is_the_update_directional_curvature():
    case = DETERMINISTIC[0]
    model, batch, optimizer = started(case, learning_rate=1e-6)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    preconditioner = read_preconditioner(optimizer)
    trial = try_step(lambda: case.loss_fn(model, batch), preconditioner, model=model)
    reading, _ = probe_curvature(lambda: case.loss_fn(model, batch), preconditioner, step=0)
    # The secant averages the Hessian along the step: its error is of the order of ‖Δθ‖, here 1e-5.
    assert trial.secant_stability_ratio == pytest.approx(reading.update_stability_ratio, rel=1e-3)


def test_a_maximizer_is_judged_by_what_it_maximizes():
    theta = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=1e-3, maximize=True)
    loss = lambda: -(theta**2).sum()  # noqa: E731
    loss().backward()
    trial = try_step(loss, read_preconditioner(optimizer))
    assert trial.linear_change < 0
    assert trial.loss_change < 0
    assert trial.secant_stability_ratio > 0


def test_no_move_and_overflow_are_errors():
    theta = nn.Parameter(torch.ones(1))
    optimizer = optim.Adam([theta], lr=0.0)
    (theta**2).sum().backward()
    with pytest.raises(ValueError, match="nothing moves"):
        try_step(lambda: (theta**2).sum(), read_preconditioner(optimizer))
    optimizer.param_groups[0]["lr"] = 2.0
    with pytest.raises(FloatingPointError, match="loss after the step is nan"):
        try_step(lambda: torch.sqrt(theta).sum(), read_preconditioner(optimizer))
    assert theta.item() == 1.0
    assert not math.isnan(theta.grad.item())
