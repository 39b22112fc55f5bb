"""Weights of micro-batches, and what a loss must be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from foreshock.operators import DifferenceOperator, HessianOperator, LossTerm
from foreshock.operators.loss import normalised_terms

BACKENDS = [HessianOperator, DifferenceOperator]


def test_weights_add_up_to_one():
    terms = normalised_terms([LossTerm(lambda: torch.ones(()), 3), LossTerm(lambda: torch.ones(()), 1)])
    assert [term.weight for term in terms] == [0.75, 0.25]
    assert [term.weight for term in normalised_terms(lambda: torch.ones(()))] == [1.0]


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(ValueError, match="must be the number of examples behind its mean"):
        normalised_terms([LossTerm(lambda: torch.ones(()), weight)])


def test_no_terms_are_refused():
    with pytest.raises(ValueError, match="the loss has no terms"):
        normalised_terms([])


@pytest.mark.parametrize("operator", BACKENDS)
@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda p: 1.0, TypeError, "returned float; it must return the mean loss"),
        (lambda p: p * 2, ValueError, r"shape \(2,\); it must return the mean loss"),
        (lambda p: (p.detach() * 2).sum(), ValueError, "does not require a gradient"),
        (
            lambda p: functional.relu(torch.ones(1, requires_grad=True)).sum(),
            ValueError,
            "does not depend on any parameter",
        ),
    ],
)
def test_a_wrong_loss_is_refused_with_the_fix(operator, closure, error, message):
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(error, match=message):
        operator(lambda: closure(parameter), [parameter])
