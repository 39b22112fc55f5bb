"""What a probe of micro-batches holds at its peak, counted tensor by tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn, optim

import foreshock
from foreshock.batches import MicroBatches
from foreshock.cli.byte_account import ByteAccount
from foreshock.curvature import ProbeSettings, part_terms, probe_curvature
from foreshock.isolation import isolated
from foreshock.operators import DifferenceOperator, HessianOperator, LossTerm, choose_backend
from foreshock.preconditioner import read_preconditioner


class Net(nn.Module):
    """A Transformer layer whose activations are larger than its parameters."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.qkv = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x)


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def micro_batches(count):
    torch.manual_seed(0)
    model = Net()
    # The same examples again and again, so that every number of parts takes the same products.
    part = torch.randint(16, (32, 17))
    return model, MicroBatches([part.clone() for _ in range(count)])


def peak_of_products(count, keep_graph=None):
    model, batch = micro_batches(count)
    terms = part_terms(model, loss_fn, batch)
    with ByteAccount() as account, isolated(model):
        parameters = list(model.parameters())
        with HessianOperator(terms, parameters, model=model, keep_graph=keep_graph) as hessian:
            vector = torch.ones_like(hessian.gradient)
            for _ in range(3):
                hessian(vector)
    return account.peak, 4 * vector.numel()


def test_the_account_sees_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)
    with ByteAccount() as account:
        y = x.exp().sin()  # keeps exp(x) for the backward of both
        assert account.peak == 2 * 4000
        del y
        for _ in range(5):
            torch.ones(1000)
        torch.ones(10).view(2, 5).mul_(2)
    assert account.peak == 2 * 4000


@pytest.mark.parametrize("count", [2, 8])
def test_many_micro_batches_need_the_memory_of_one_and_a_vector(count):
    one, vector = peak_of_products(1, keep_graph=False)
    many, _ = peak_of_products(count)
    assert many <= one + vector
    # Told otherwise, all graphs are kept.
    kept, _ = peak_of_products(count, keep_graph=True)
    assert kept > 0.5 * count * one


def test_a_graph_that_is_not_kept_takes_no_more_than_one_that_is():
    assert peak_of_products(1, keep_graph=False)[0] <= peak_of_products(1, keep_graph=True)[0]


@pytest.mark.parametrize("make", [HessianOperator, DifferenceOperator])
def test_no_term_leaves_a_vector_behind(make):
    # Parameters only: whatever grows with the number of terms is a vector.
    model = nn.Linear(300, 300)
    peaks = []
    for count in (2, 9):
        part = torch.randn(1, 300)
        terms = [LossTerm(lambda part=part: model(part).tanh().square().sum()) for _ in range(count)]
        with ByteAccount() as account, make(terms, list(model.parameters()), model=model) as hessian:
            hessian(torch.ones_like(hessian.gradient))
        peaks.append(account.peak)
    assert peaks[1] < peaks[0] + 4 * hessian.gradient.numel() / 2


def probed(count, keep_graph=None):
    model, batch = micro_batches(count)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loss_fn(model, batch.batches[0]).backward()
    terms = part_terms(model, loss_fn, batch)
    preconditioner = read_preconditioner(optimizer)
    with ByteAccount() as account, isolated(model):
        choice = choose_backend(terms, preconditioner.parameters, model=model)
        settings = ProbeSettings(replace(choice, keep_graph=keep_graph), model=model)
        stop = foreshock.eigen.StoppingRule(relative_tolerance=1e-9, max_products=8)
        settings = replace(settings, stop=stop)
        reading, _ = probe_curvature(terms, preconditioner, step=0, settings=settings)
    return account.peak, reading, 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("count", [2, 8])
def test_a_whole_probe_of_many_needs_the_memory_of_one_and_a_vector(count):
    one, alone, vector = probed(1)
    many, reading, _ = probed(count)
    assert reading.products == alone.products
    assert many <= one + vector
    assert probed(count, keep_graph=True)[0] > 0.5 * count * one
