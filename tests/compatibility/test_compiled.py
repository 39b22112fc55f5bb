"""Models that torch.compile turned into machine code, by its default backend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases import TinyTransformer, cross_entropy
from compatibility.state import training_state
from foreshock.isolation import isolated
from foreshock.operators import DifferenceOperator, choose_backend, hessian_operator
from foreshock.operators.graph import has_compiled_module
from oracles import dense_hessian


def wrapped(model):
    return torch.compile(model)


def in_place(model):
    model.compile()
    return model


def part(model):
    model.mlp = torch.compile(model.mlp)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [wrapped, in_place, part])
# The compiler warns about its own doings.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_transformer(compiler):
    torch.manual_seed(0)
    plain = TinyTransformer().double()
    torch.manual_seed(0)
    model = compiler(TinyTransformer().double())
    batch = torch.randint(7, (3, 5)), torch.randint(7, (3, 5))
    parameters = list(model.parameters())
    closure = lambda: cross_entropy(model, batch)  # noqa: E731
    closure().backward()
    assert has_compiled_module(model)
    before = training_state(model)
    with isolated(model):
        choice = choose_backend(closure, parameters, model=model)
    assert choice.name == "double backward"
    assert "before torch.compile agrees" in choice.reason
    dense = dense_hessian(lambda: cross_entropy(plain, batch), list(plain.parameters()))
    vector = torch.linspace(-1, 1, dense.shape[0], dtype=torch.float64)
    with isolated(model), hessian_operator(choice, closure, parameters, model=model) as hessian:
        assert torch.allclose(hessian(vector), dense @ vector, rtol=1e-8, atol=1e-10)
    with isolated(model), DifferenceOperator(closure, parameters, model=model) as differences:
        # ρ² of truncation and 1e-16/ρ of rounding, at ρ = 1e-5.
        assert torch.allclose(differences(vector), dense @ vector, rtol=1e-6, atol=1e-7)
    assert training_state(model) == before


def test_a_compiled_loss_function_is_seen_in_the_graph():
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    loss = torch.compile(lambda: model(x).tanh().square().mean(), backend="aot_eager")
    assert not has_compiled_module(model)
    choice = choose_backend(loss, list(model.parameters()), model=model)
    assert (choice.name, choice.eager) == ("double backward", True)
