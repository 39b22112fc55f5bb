"""What each operator and measurement counts, against the evaluations and products that really happen."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

import foreshock
from foreshock.batches import MicroBatches
from foreshock.curvature import Prober
from foreshock.operators import DifferenceOperator, DifferenceScheme, HessianOperator, LossTerm
from foreshock.operators.cost import GRADIENT_PASSES, GRAPH_PASSES, PRODUCT_PASSES
from foreshock.preconditioner import read_preconditioner


def loss_fn(model, batch):
    return model(batch).square().mean()


def make():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    return model, torch.randn(8, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("keep_graph", "opening", "product"),
    [(True, GRAPH_PASSES, PRODUCT_PASSES), (False, GRADIENT_PASSES, GRAPH_PASSES + PRODUCT_PASSES)],
)
@pytest.mark.parametrize("parts", [1, 4])
def test_double_backward_counts_its_graph_and_products_of_the_whole_batch(
    keep_graph, opening, product, parts
):
    model, batch = make()
    terms = [LossTerm(lambda part=part: loss_fn(model, part)) for part in batch.chunk(parts)]
    parameters = list(model.parameters())
    with HessianOperator(terms, parameters, model=model, keep_graph=keep_graph) as hessian:
        assert hessian.passes == opening
        for _ in range(3):
            hessian(torch.ones_like(hessian.gradient))
        assert hessian.passes == opening + 3 * product


@pytest.mark.parametrize("central", [True, False])
@pytest.mark.parametrize("parts", [1, 4])
def test_differences_count_each_gradient_of_the_whole_batch(central, parts):
    model, batch = make()
    evaluated = []

    def part_loss(part):
        evaluated.append(len(part) / len(batch))
        return loss_fn(model, part)

    terms = [LossTerm(lambda part=part: part_loss(part)) for part in batch.chunk(parts)]
    # A ‖Hv‖/‖v‖ that is far off makes the first product search for its step.
    scheme = DifferenceScheme(central=central, gain=1e-9)
    with DifferenceOperator(terms, list(model.parameters()), model=model, scheme=scheme) as hessian:
        assert hessian.passes == 1
        for _ in range(3):
            hessian(torch.ones_like(hessian.gradient))
        searched = 2 if central else 1
        assert hessian.passes == 1 + searched + 3 * (2 if central else 1)
        assert hessian.passes == sum(evaluated)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_reading_counts_all_that_it_took(parts):
    model, batch = make()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    data = batch if parts == 1 else MicroBatches(batch.chunk(parts))
    prober = Prober(model, loss_fn)
    passes = []
    for step in range(3):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        reading = prober.probe(data, read_preconditioner(optimizer), step=step)
        choosing = 0.0 if step else prober.backend.passes
        assert choosing == (0 if step else (GRAPH_PASSES + PRODUCT_PASSES + GRADIENT_PASSES) / parts)
        # Graphs of micro-batches are built again for each product.
        opening, product = GRAPH_PASSES, PRODUCT_PASSES
        if parts > 1:
            opening, product = GRADIENT_PASSES, GRAPH_PASSES + PRODUCT_PASSES
        assert reading.passes == choosing + opening + product * reading.products
        passes.append(reading.passes)
        optimizer.step()
    assert passes[0] > max(passes[1:])


def test_one_call_counts_its_gradient_and_the_choice_too():
    model, batch = make()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    reading = foreshock.preconditioned_sharpness(model, optimizer, loss_fn, batch)
    choosing = GRAPH_PASSES + PRODUCT_PASSES + GRADIENT_PASSES
    probing = GRAPH_PASSES + PRODUCT_PASSES * reading.products
    assert reading.passes == GRADIENT_PASSES + choosing + probing


@pytest.mark.parametrize("parts", [2, 4])
def test_the_noise_costs_two_gradients_however_many_parts(parts):
    model, batch = make()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loss_fn(model, batch).backward()
    evaluated = []

    def counting(model, part):
        evaluated.append(len(part) / len(batch))
        return loss_fn(model, part)

    prober = Prober(model, counting)
    halves = MicroBatches(batch.chunk(parts))
    reading = prober.probe_noise(halves, read_preconditioner(optimizer), step=0, loss=1.0)
    assert reading.passes == sum(evaluated) == 2
