"""CDAT's learning rate on a quadratic, where it can be written down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method

CURVATURE = torch.tensor([[1.0, 4.0]], dtype=torch.float64)


def quadratic(model, batch):
    return (CURVATURE * model.weight**2).sum() / 2 * batch.mean()


def subject(betas=(0.0, 0.9)):
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.5]]))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3, betas=betas)
    return Subject(model, optimizer, quadratic)


def test_the_rate_is_twice_descent_over_curvature_along_the_update():
    """Adam's first update at η = 1 is −sign g, here −(1, 1): n = 1 + 2, d = 1 + 4, η = 2·3/5."""
    about = subject()
    batch = torch.ones(3, dtype=torch.float64)
    quadratic(about.model, batch).backward()
    rate = method("cdat").intervene(about)
    rate.before_step(batch, 0.0)
    assert about.optimizer.param_groups[0]["lr"] == pytest.approx(2 * 3 / 5, rel=1e-6)
    assert rate.after_step()
    assert rate.passes == 5


def test_both_means_have_weight_nine_tenths():
    about = subject()
    batch = torch.ones(3, dtype=torch.float64)
    rate = method("cdat").intervene(about)
    quadratic(about.model, batch).backward()
    rate.before_step(batch, 0.0)
    about.model.weight.grad.mul_(3)  # the update keeps its length, n is three times as large
    rate.before_step(batch, 0.0)
    along = 0.9 * 0.1 * 3 + 0.1 * 9
    curved = 0.9 * 0.1 * 5 + 0.1 * 5
    assert about.optimizer.param_groups[0]["lr"] == pytest.approx(2 * along / curved, rel=1e-6)


def test_gradients_are_left_as_they_are():
    about = subject()
    batch = torch.ones(3, dtype=torch.float64)
    quadratic(about.model, batch).backward()
    before = about.model.weight.grad.clone()
    method("cdat").intervene(about).before_step(batch, 0.0)
    assert torch.equal(about.model.weight.grad, before)
