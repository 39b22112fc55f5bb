"""λ_max of the Gauss–Newton part against the dense matrix, plain and preconditioned."""

from __future__ import annotations

import pytest
import torch
from torch import optim
from torch.nn import functional

import foreshock
from cases import DETERMINISTIC
from foreshock.preconditioner import read_preconditioner
from oracles import dense_hessian, dense_jacobian

SMALL = [case for case in DETERMINISTIC if case.name != "transformer"]


def outputs_fn(model, batch):
    return model(batch[0])


def loss_of(case):
    if case.loss_fn.__name__ == "mean_squared_error":
        return lambda z, batch: functional.mse_loss(z, batch[1])
    return lambda z, batch: functional.cross_entropy(z.flatten(0, -2), batch[1].flatten())


def dense(model, batch, loss_of_outputs):
    jacobian = dense_jacobian(lambda: model(batch[0]), list(model.parameters()))
    cut = model(batch[0]).detach().requires_grad_()
    return jacobian.T @ dense_hessian(lambda: loss_of_outputs(cut, batch), [cut]) @ jacobian


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_largest_eigenvalues_are_those_of_the_dense_matrix(case):
    model, batch = case.build()
    expected = torch.linalg.eigvalsh(dense(model, batch, loss_of(case))).flip(0)[:2]
    stop = foreshock.StoppingRule(relative_tolerance=1e-6)
    found = foreshock.gauss_newton_sharpness(model, outputs_fn, loss_of(case), batch, count=2, stop=stop)
    assert found.converged
    assert found.eigenvalues == pytest.approx(expected.tolist(), rel=1e-5)
    assert found.value == found.eigenvalues[0]
    assert sum(block.share for block in found.blocks) == pytest.approx(1)
    assert found.backend.name == "Gauss-Newton"


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_with_an_optimizer_it_is_that_of_the_next_step_in_multiples_of_the_edge(case):
    model, batch = case.build()
    optimizer = optim.Adam(model.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        case.loss_fn(model, batch).backward()
        optimizer.step()
    kept = [parameter.grad.clone() for parameter in model.parameters()]
    found = foreshock.gauss_newton_sharpness(model, outputs_fn, loss_of(case), batch, optimizer=optimizer)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), kept, strict=True))
    optimizer.zero_grad()
    case.loss_fn(model, batch).backward()
    root = read_preconditioner(optimizer).scale_root()
    matrix = dense(model, batch, loss_of(case)) + 0.1 * torch.eye(len(root), dtype=torch.float64)
    exact = torch.linalg.eigvalsh(root[:, None] * matrix * root).max().item()
    assert found.value == pytest.approx(exact, rel=0.01)
    assert abs(found.value - exact) <= 3 * found.error + 1e-9 * exact


def test_what_it_can_not_take_is_refused():
    model, batch = SMALL[0].build()
    loss_of_outputs = loss_of(SMALL[0])
    with pytest.raises(TypeError, match="pass one batch"):
        foreshock.gauss_newton_sharpness(
            model, outputs_fn, loss_of_outputs, foreshock.MicroBatches([batch, batch])
        )
    with pytest.raises(TypeError, match="outputs as one tensor"):
        foreshock.gauss_newton_sharpness(model, lambda model, batch: "z", loss_of_outputs, batch)
    model.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        foreshock.gauss_newton_sharpness(model, outputs_fn, loss_of_outputs, batch)
