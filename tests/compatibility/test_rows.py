"""Each row of what people train with: the right backend, the right product, and nothing touched."""

from __future__ import annotations

import pytest
import torch

from compatibility.rows import DIFFERENCES, EXACT, ROWS
from compatibility.state import training_state
from foreshock.isolation import isolated
from foreshock.operators import choose_backend, hessian_operator
from oracles import dense_hessian, difference_hessian_product


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def relative_error(found, expected):
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def reference_closure(row, model, batch):
    """Return a closure that every oracle can differentiate, with the random numbers of the probe."""
    loss_fn = row.reference or row.case.loss_fn

    def closure():
        torch.manual_seed(5)
        return loss_fn(model, batch)

    return closure


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case.name)
def test_right_backend_right_product_and_nothing_touched(row):
    model, batch = row.case.build(torch.float64)
    model.train()
    parameters = trained(model)
    closure = lambda: row.case.loss_fn(model, batch)  # noqa: E731
    closure().backward()
    torch.manual_seed(5)
    before = training_state(model)
    with isolated(model):
        choice = choose_backend(closure, parameters, model=model)
    assert training_state(model) == before
    assert (choice.name, choice.verified) == (row.backend, row.verified), choice.reason
    assert row.reason in choice.reason

    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    torch.manual_seed(5)
    with (
        isolated(model),
        hessian_operator(choice, closure, parameters, model=model) as hessian,
    ):
        product = hessian(vector)
    assert training_state(model) == before
    assert hessian.backend == row.backend

    with isolated(model):
        # ρ² of truncation with ρ = 1.2e-5, and 1e-16/ρ of rounding, for differences.
        tolerance = {EXACT: 1e-9, DIFFERENCES: 1e-7}[row.backend]
        dense = dense_hessian(reference_closure(row, model, batch), parameters)
        assert relative_error(product, dense @ vector) < tolerance
    if not row.case.smooth:
        return
    with isolated(model):
        # Truncation h²‖v‖² and rounding 1e-16/h of the oracle, with h = 1e-5 and ‖v‖ up to 20.
        other = difference_hessian_product(reference_closure(row, model, batch), parameters, vector)
        assert relative_error(product, other) < 1e-6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case.name)
def test_nothing_is_touched_when_the_loss_fails_half_way(row):
    model, batch = row.case.build(torch.float64)
    model.train()
    calls = []

    def closure():
        loss = row.case.loss_fn(model, batch)
        calls.append(1)
        if len(calls) == 2:  # with displaced parameters
            raise MemoryError("half way")
        return loss

    before = training_state(model)
    with pytest.raises(MemoryError, match="half way"), isolated(model):
        choose_backend(closure, trained(model), model=model)
    assert training_state(model) == before
