"""The truth of the benchmark, against dense Hessians in float64."""

import pytest
import torch
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.reference import reference_pair

import cases
from oracles import dense_hessian

SMOOTH = [case for case in cases.DETERMINISTIC if case.name == "mlp"]


@pytest.mark.parametrize("scaled", [False, True])
def test_agrees_with_the_dense_hessian(scaled):
    model, batch = SMOOTH[0].build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = Problem(model, torch.nn.MSELoss(), batch, optimizer)
    scale = torch.rand(problem.size, dtype=torch.float64) + 0.5 if scaled else torch.ones(problem.size)
    dense = dense_hessian(problem.loss, problem.parameters) * torch.outer(scale, scale)
    values, vectors = torch.linalg.eigh(dense)
    value, vector = reference_pair(problem, scale if scaled else None)
    # The residual is at most 1e-3 λ, hence the error of λ 1e-6 λ²/gap and that of the vector 1e-3 λ/gap.
    gap = float(1 - values[-2] / values[-1])
    assert value == pytest.approx(float(values[-1]), rel=1e-6 / gap)
    assert abs(float(torch.dot(vector, vectors[:, -1]))) > 1 - (1e-3 / gap) ** 2


def test_a_start_near_the_vector_finds_the_same():
    model, batch = SMOOTH[0].build()
    problem = Problem(model, torch.nn.MSELoss(), batch, torch.optim.SGD(model.parameters(), lr=0.1))
    value, vector = reference_pair(problem)
    assert reference_pair(problem, near=vector)[0] == pytest.approx(value, rel=1e-5)
