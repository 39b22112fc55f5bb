"""The reader of Adam against Adam written by hand, and at its borders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from foreshock.preconditioner import read_preconditioner
from preconditioner.stepping import parameters


def test_denominator_is_that_of_a_hand_written_adam():
    [theta] = [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))]
    optimizer = optim.Adam([theta], lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    v = [0.0, 0.0]
    for t in range(1, 5):
        gradients = [math.sin(t), math.cos(3 * t)]
        theta.grad = torch.tensor(gradients, dtype=torch.float64)
        v = [0.99 * old + 0.01 * g * g for old, g in zip(v, gradients, strict=True)]
        expected = [math.sqrt(value / (1 - 0.99**t)) + 1e-3 for value in v]
        [step] = read_preconditioner(optimizer).active
        assert step.denominator.tolist() == pytest.approx(expected, rel=1e-13)
        c = 0.1 / 1.9 / (1 - 0.9**t)
        assert step.momentum_factor == pytest.approx(c, rel=1e-13)
        scale = read_preconditioner(optimizer).scale_root() ** 2
        folded = [c * 0.01 / (2 * d) for d in expected]
        assert scale.tolist() == pytest.approx(folded, rel=1e-12)
        optimizer.step()


def test_parameter_without_gradient_does_not_move():
    first, second, third, _ = parameters()
    optimizer = optim.Adam([first, second, third], lr=0.01)
    second.grad = torch.ones_like(second)
    preconditioner = read_preconditioner(optimizer)
    assert [step is None for step in preconditioner.steps] == [True, False, True]
    root = preconditioner.scale_root()
    assert torch.equal(root.nonzero().flatten(), torch.arange(12, 17))


def test_coordinate_that_never_had_a_gradient_stays_finite_without_epsilon():
    theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=0.01, eps=0.0)
    theta.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    root = read_preconditioner(optimizer).scale_root()
    assert root[1] == 0
    assert 0 < root[0] < math.inf
