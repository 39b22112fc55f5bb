"""How much to raise v: against root finding by another library, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from foreshock.guarding.directional import raise_factors


def denominator(weights, factors):
    return float((weights * factors.sqrt()).sum() / weights.sum())


@given(
    factor=st.floats(1.0, 1e4),
    spread=st.floats(0.0, 6.0),
    count=st.integers(1, 300),
)
def test_newton_finds_the_root_that_bisection_finds(factor, spread, count):
    generator = torch.Generator().manual_seed(count)
    weights = (spread * torch.randn(count, generator=generator, dtype=torch.float64)).exp()
    [factors] = raise_factors([weights], factor)
    relative = weights / weights.max()
    off = lambda a: denominator(weights, 1 + a * relative) - factor  # noqa: E731
    upper = 1.0
    while off(upper) < 0:
        upper *= 10
    alpha = brentq(off, 0.0, upper, xtol=1e-14, rtol=1e-12)
    torch.testing.assert_close(factors, 1 + alpha * relative, rtol=1e-5, atol=1e-9)
    assert denominator(weights, factors) == pytest.approx(factor, rel=1e-6)


def test_equal_shares_are_raised_by_the_square_and_unmoved_ones_not_at_all():
    moved, still = raise_factors([torch.full((3, 2), 5.0), torch.zeros(4)], 3.0)
    torch.testing.assert_close(moved, torch.full((3, 2), 9.0))
    assert still.tolist() == [1.0] * 4


def test_nothing_is_raised_by_a_factor_of_one():
    [factors] = raise_factors([torch.tensor([1.0, 2.0])], 1.0)
    assert factors.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("factor", [0.5, float("nan"), float("inf")])
def test_impossible_factors_are_refused(factor):
    with pytest.raises(ValueError, match="only ever raised"):
        raise_factors([torch.ones(1)], factor)


def test_a_vanishing_direction_is_refused():
    with pytest.raises(ValueError, match="no direction"):
        raise_factors([torch.zeros(2)], 2.0)
