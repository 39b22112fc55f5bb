"""bfloat16 autocast, half-precision parameters, and the loss scaler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cases import DETERMINISTIC
from compatibility.state import training_state
from foreshock.isolation import isolated
from foreshock.operators import choose_backend, hessian_operator
from oracles import reverse_hessian_product


def twins(case):
    """Return a float32 model and its float64 twin, each with a batch."""
    model, batch = case.build(torch.float32)
    twin, _ = case.build(torch.float32)
    exact = [t.double() if t.is_floating_point() else t for t in batch]
    return (model, batch), (twin.double(), exact)


def product_in(model, batch, case, vector, name=None):
    def closure():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.loss_fn(model, batch)

    parameters = list(model.parameters())
    with isolated(model):
        choice = choose_backend(closure, parameters, model=model)
        if name is not None:
            choice = replace(choice, name=name)
        with hessian_operator(choice, closure, parameters, model=model) as hessian:
            return choice, hessian(vector)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("backend", "tolerance"),
    [
        # A few roundings of 2⁻⁹ = 0.002 on the way.
        (None, 0.03),
        # Rounding 0.004/ρ at ρ ≈ 0.1, plus truncation of the order ρ².
        ("central differences", 0.15),
    ],
)
def test_products_under_autocast(case, backend, tolerance):
    (model, batch), (twin, exact) = twins(case)
    parameters = list(twin.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters))
    before = training_state(model)
    choice, product = product_in(model, batch, case, vector, backend)
    assert training_state(model) == before
    assert choice.precision == torch.bfloat16
    assert choice.verified, choice.reason
    expected = reverse_hessian_product(lambda: case.loss_fn(twin, exact), parameters, vector.double())
    assert (
        float(torch.linalg.vector_norm(product - expected) / torch.linalg.vector_norm(expected)) < tolerance
    )


def test_an_outer_autocast_goes_on_with_the_weights_as_they_were():
    case = DETERMINISTIC[0]
    model, batch = case.build(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(batch[0]).detach().clone()
        product_in(model, batch, case, torch.ones(sum(p.numel() for p in model.parameters())))
        assert torch.equal(model(batch[0]), expected)


def test_half_precision_parameters():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).bfloat16()
    x, y = torch.randn(8, 3).bfloat16(), torch.randn(8, 2).bfloat16()
    before = training_state(model)
    with isolated(model):
        closure = lambda: nn.functional.mse_loss(model(x), y)  # noqa: E731
        choice = choose_backend(closure, list(model.parameters()), model=model)
    assert training_state(model) == before
    assert choice.name == "double backward"


def test_a_loss_scaler_goes_on_as_if_nothing_had_been_probed():
    case = DETERMINISTIC[0]

    def train(*, probe):
        model, batch = case.build(torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        closure = lambda: case.loss_fn(model, batch)  # noqa: E731
        parameters = list(model.parameters())
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale(closure()).backward()
            for backend in ("double backward", "central differences") if probe else ():
                with isolated(model):
                    choice = replace(choose_backend(closure, parameters, model=model), name=backend)
                    with hessian_operator(choice, closure, parameters, model=model) as hessian:
                        hessian(hessian.gradient)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        state = training_state(model, optimizer)
        tensors = [content for _, content in state["tensors"]]
        gradients = [content for _, content in state["gradients"]]
        return tensors, gradients, state["random"], state["optimizer"], scaler.state_dict()

    assert train(probe=True) == train(probe=False)
