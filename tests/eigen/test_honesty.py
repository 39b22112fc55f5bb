"""The error estimate and the stop, on the preconditioned Hessians of a real training run.

The matrices are small enough for dense eigendecompositions, which are the truth here. What is being tested is
what no single matrix can show: that a solver warm-started from reading to reading keeps up when eigenvalues
cross, and that it knows when it has not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.preconditioner import read_preconditioner
from matrices import Matrix
from oracles import dense_hessian
from perturbed import from_perturbed_starts

pytestmark = pytest.mark.training


@dataclass(frozen=True)
class Reading:
    matrix: Tensor
    known: tuple[tuple[Tensor, Tensor], ...]
    start: Tensor
    truth: float


@cache
def trajectories() -> tuple[tuple[Reading, ...], ...]:
    """Return a trajectory from each of several perturbed starts."""
    return from_perturbed_starts(trajectory).each


def trajectory() -> tuple[Reading, ...]:
    """Adam on a tanh network whose curvature crosses the threshold repeatedly, a reading every five steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    x = torch.linspace(-math.pi, math.pi, 50, dtype=torch.float64)[:, None]
    y = torch.sin(x) + torch.sin(4 * x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    readings = []
    for step in range(400):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        if step % 5 == 0:
            at = read_preconditioner(optimizer)
            dense = dense_hessian(lambda: ((model(x) - y) ** 2).mean(), list(model.parameters()))
            root, descent, gradient = at.scale_root(), at.descent(), at.gradient()
            matrix = root[:, None] * dense * root[None, :]
            known = tuple((y / root, root * (dense @ y)) for y in (descent, gradient))
            truth = float(torch.linalg.eigvalsh(matrix)[-1])
            readings.append(Reading(matrix, known, root * gradient, truth))
        optimizer.step()
    return tuple(readings)


@pytest.mark.parametrize("solver", ["lanczos", "light"])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("threshold", [None, 1.0])
@pytest.mark.parametrize("spacing", [1, 4])
def test_warm_readings_are_cheap_accurate_and_know_their_error(solver, extra, threshold, spacing):
    rule = StoppingRule(threshold=threshold)
    errors, estimates, products, allowed = [], [], [], []
    for readings in trajectories():
        start = None
        for reading in readings[::spacing]:
            begin = reading.start if start is None else start
            found = largest_eigenvalue(
                Matrix(reading.matrix), begin, rule, extra=reading.known[:extra], solver=solver
            )
            if start is not None:  # The first reading of each has no start worth having.
                errors.append((reading.truth - found.value) / reading.truth)
                estimates.append(found.error / found.value)
                products.append(found.products)
                allowed.append(rule.tolerance(reading.truth))
            start = found.starts
    error, estimate = np.array(errors), np.array(estimates)
    assert (error >= -1e-12).all()  # Ritz values never exceed the largest eigenvalue
    assert np.median(products) <= 5
    # Now and then an eigenvalue overtakes between two readings that lie 20 steps apart: 1 of 95.
    assert (error <= np.array(allowed)).mean() >= 0.98
    assert (error <= estimate + 1e-9).mean() >= 0.98


def test_the_trajectories_are_hard_ones():
    """They cross the threshold in both directions, and their two largest eigenvalues come close."""
    hard = 0
    for readings in trajectories():
        above = np.array([reading.truth for reading in readings]) > 1
        tops = [torch.linalg.eigvalsh(reading.matrix)[-2:] for reading in readings]
        crossings = (above[1:] != above[:-1]).sum()
        hard += crossings >= 2 and min(1 - float(low / high) for low, high in tops) < 0.05
    assert hard >= 4
