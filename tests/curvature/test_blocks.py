"""Shares of blocks against sums written out, and against block-diagonal Hessians."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cases import CASES, TinyTransformer
from foreshock.curvature import block_shares, name_parameters
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.operators import HessianOperator


def by_name(blocks):
    return {block.name: block for block in blocks}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_shares_are_sums_of_squares_and_add_up(case, depth):
    model, _ = case.build()
    size = sum(p.numel() for p in model.parameters())
    vector, product = torch.randn(2, size, dtype=torch.float64)
    blocks = block_shares(vector, model.named_parameters(), product=product, depth=depth)
    offset, squares, forms = 0, {}, {}
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        key = name if depth is None or not module else ".".join(module.split(".")[:depth])
        for index in range(offset, offset + parameter.numel()):
            squares[key] = squares.get(key, 0) + float(vector[index]) ** 2
            forms[key] = forms.get(key, 0) + float(vector[index] * product[index])
        offset += parameter.numel()
    assert {b.name: b.share for b in blocks} == pytest.approx(
        {name: value / float(vector @ vector) for name, value in squares.items()}, rel=1e-10
    )
    assert {b.name: b.curvature_share for b in blocks} == pytest.approx(
        {name: value / float(vector @ product) for name, value in forms.items()}, rel=1e-8
    )
    assert sum(b.share for b in blocks) == pytest.approx(1)
    assert sum(b.size for b in blocks) == size
    assert list(blocks) == sorted(blocks, key=lambda block: -block.share)


def test_a_block_diagonal_hessian_puts_its_top_eigenvector_into_one_block():
    """Two models that share nothing: the loss is the sum, so the Hessian has no coupling."""
    torch.manual_seed(1)
    model = nn.ModuleDict(
        {
            "flat": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
            "sharp": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
        }
    ).double()
    x = torch.randn(20, 3).double()

    def loss():
        return (model["flat"](x) ** 2).mean() + 10 * (model["sharp"](x) ** 2).mean()

    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    with HessianOperator(loss, parameters) as hessian:
        top = largest_eigenvalue(hessian, torch.randn(size).double(), StoppingRule(1e-10, size))
        product = hessian(top.vector)
    shares = by_name(block_shares(top.vector, model.named_parameters(), product=product, depth=1))
    assert shares["sharp"].share == pytest.approx(1, abs=1e-8)
    assert shares["flat"].share == pytest.approx(0, abs=1e-8)
    assert shares["sharp"].curvature_share == pytest.approx(1, abs=1e-8)
    tensors = by_name(block_shares(top.vector, model.named_parameters(), product=product))
    for block in tensors.values():
        # An eigenvector has the same shares of its length and of its eigenvalue.
        assert block.share == pytest.approx(block.curvature_share, abs=1e-4)
    assert sum(b.share for n, b in tensors.items() if n.startswith("sharp.0.")) == pytest.approx(
        by_name(block_shares(top.vector, model.named_parameters(), depth=2))["sharp.0"].share
    )


def test_the_form_may_be_negative_in_one_block():
    one, two = torch.zeros(1), torch.zeros(1)
    matrix = torch.tensor([[1.0, -2.0], [-2.0, 8.0]])
    vector = torch.tensor([1.0, 1.0])
    shares = by_name(block_shares(vector, {"one": one, "two": two}, product=matrix @ vector))
    assert (shares["one"].curvature_share, shares["two"].curvature_share) == pytest.approx((-0.2, 1.2))


def test_a_form_of_zero_has_no_shares():
    parameter = {"one": torch.zeros(2)}
    (block,) = block_shares(torch.ones(2), parameter, product=torch.tensor([1.0, -1.0]))
    assert math.isnan(block.curvature_share)
    assert block.share == 1
    (block,) = block_shares(torch.ones(2), parameter)
    assert block.curvature_share is None


def test_a_tied_parameter_counts_once_under_its_first_name():
    model = TinyTransformer()
    model.output = nn.Linear(8, 7, bias=False)
    model.output.weight = model.token.weight
    unique = list(model.named_parameters())
    twice = list(model.named_parameters(remove_duplicate=False))
    assert len(twice) == len(unique) + 1
    vector = torch.randn(sum(p.numel() for _, p in unique))
    blocks = block_shares(vector, twice)
    assert blocks == block_shares(vector, unique)
    assert "token.weight" in by_name(blocks)
    assert "output.weight" not in by_name(blocks)


def test_names_follow_the_optimizers_order():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    biases = [model[0].bias, model[1].bias]
    stranger = torch.zeros(2)
    named = name_parameters(model, [*biases, stranger, model[0].weight])
    assert [name for name, _ in named] == ["0.bias", "1.bias", "unnamed.2", "0.weight"]
    vector = torch.tensor([3.0, 0.0, 0.0, 0.0, 4.0, 0.0])
    shares = by_name(block_shares(vector, named))
    assert shares["0.weight"].share == pytest.approx(0.64)
    assert shares["0.bias"].share == pytest.approx(0.36)


@given(st.floats(1e-3, 1e3), st.integers(0, 100))
def test_length_does_not_matter(scale, seed):
    vector = torch.randn(6, generator=torch.Generator().manual_seed(seed)).double()
    layout = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2)}
    one, other = block_shares(vector, layout), block_shares(vector * scale, layout)
    assert [b.name for b in one] == [b.name for b in other]
    assert [b.share for b in one] == pytest.approx([b.share for b in other], rel=1e-10)


def test_a_root_parameter_keeps_its_name_and_does_not_join_a_module():
    layout = {"scale": torch.zeros(1), "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    blocks = block_shares(torch.tensor([1.0, 1.0, 1.0]), layout, depth=1)
    assert [(block.name, block.size) for block in blocks] == [("head", 2), ("scale", 1)]


def test_impossible_arguments_are_refused():
    layout = {"a": torch.zeros(2)}
    for bad in (torch.zeros(2), torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])):
        with pytest.raises(ValueError, match="finite and not zero"):
            block_shares(bad, layout)
    with pytest.raises(ValueError, match="vector has shape"):
        block_shares(torch.ones(3), layout)
    with pytest.raises(ValueError, match="product has shape"):
        block_shares(torch.ones(2), layout, product=torch.ones(1))
    with pytest.raises(ValueError, match="depth is 0"):
        block_shares(torch.ones(2), layout, depth=0)
