"""Gradients at displaced parameters leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases import CASES
from foreshock.operators.gradients import GradientFunction, displaced
from foreshock.operators.loss import LossTerm


def test_displacement_is_taken_back_bit_by_bit_whatever_the_values():
    odd = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45, 3.0])
    half = torch.randn(4, dtype=torch.bfloat16)
    parameters = [nn.Parameter(odd.clone()), nn.Parameter(half.clone())]
    graph = (parameters[0] ** 2).sum()
    versions = [p._version for p in parameters]

    def fail():
        with displaced(parameters, torch.full((10,), 0.5), by=2.0):
            assert parameters[0][5].item() == 4.0
            assert torch.equal(parameters[1], (half.float() + 1).bfloat16())
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert torch.equal(parameters[0].view(torch.int32), odd.view(torch.int32))
    assert torch.equal(parameters[1].view(torch.int16), half.view(torch.int16))
    assert [p._version for p in parameters] == versions
    graph.backward()


def test_gradient_is_autograds_and_grad_fields_stay():
    case = CASES[0]
    model, batch = case.build()
    parameters = list(model.parameters())
    fields = [torch.ones_like(p) for p in parameters[:-1]] + [None]
    for parameter, field in zip(parameters, fields, strict=True):
        parameter.grad = field
    closure = lambda: case.loss_fn(model, batch)  # noqa: E731
    found = GradientFunction([LossTerm(closure)], parameters[:2], model)()
    expected = torch.autograd.grad(closure(), parameters[:2])
    assert torch.equal(found.gradient, torch.cat([g.flatten() for g in expected]))
    assert float(found.loss) == closure().item()
    assert all(p.grad is field for p, field in zip(parameters, fields, strict=True))
    assert all(bool((field == 1).all()) for field in fields[:-1])


def test_an_optimizer_that_steps_inside_backward_does_not_step():
    weight = nn.Parameter(torch.ones(2))
    calls = []
    weight.register_post_accumulate_grad_hook(calls.append)
    found = GradientFunction([LossTerm(lambda: (weight**2).sum())], [weight], None)()
    assert found.gradient.tolist() == [2.0, 2.0]
    assert calls == []


def test_every_evaluation_draws_the_same_numbers_and_starts_from_the_same_buffers():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    x = torch.randn(5, 4)
    loss = lambda: nn.functional.dropout(layer(x), 0.5).square().mean()  # noqa: E731
    gradient = GradientFunction([LossTerm(loss)], list(layer.parameters()), layer)
    first = gradient()
    torch.rand(7)
    assert torch.equal(gradient().gradient, first.gradient)


def test_autocast_keeps_no_cast_of_displaced_weights():
    weight = nn.Parameter(torch.ones(3, 3))
    x = torch.ones(1, 3)
    gradient = GradientFunction([LossTerm(lambda: nn.functional.linear(x, weight).sum())], [weight], None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = nn.functional.linear(x, weight).detach().clone()
        with displaced([weight], torch.ones(9), by=1.0):
            assert float(gradient().loss) == pytest.approx(18.0)
        assert torch.equal(nn.functional.linear(x, weight), before)


@pytest.mark.parametrize("filled", [False, True])
def test_a_network_that_is_no_part_of_the_model_keeps_its_gradient(filled):
    encoder, head = nn.Linear(3, 2), nn.Linear(2, 1)
    inputs = torch.ones(4, 3)
    closure = lambda: head(encoder(inputs)).square().mean()  # noqa: E731
    if filled:
        closure().backward()
    fields = [p.grad for p in head.parameters()]
    before = [None if field is None else field.clone() for field in fields]
    terms = [LossTerm(closure), LossTerm(closure, 3.0)]
    GradientFunction(terms, list(encoder.parameters()), encoder)()
    assert all(p.grad is field for p, field in zip(head.parameters(), fields, strict=True))
    assert all(
        new is old or torch.equal(new, old)
        for new, old in zip([p.grad for p in head.parameters()], before, strict=True)
    )
