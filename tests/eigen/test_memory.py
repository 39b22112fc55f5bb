"""The memory that the solvers promise, counted storage by storage."""

from __future__ import annotations

import pytest
import torch

from foreshock.eigen import StoppingRule, largest_eigenvalue, largest_eigenvalues
from matrices import Diagonal, VectorAccount

SIZE = 1000


def spread() -> Diagonal:
    return Diagonal(torch.linspace(0, 1, SIZE, dtype=torch.float64))


def known_pairs(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    vectors = [torch.randn(SIZE, dtype=torch.float64) for _ in range(count)]
    return [(vector, spread()(vector)) for vector in vectors]


def test_the_account_counts_what_is_alive_and_forgets_what_is_not():
    with VectorAccount(SIZE) as account:
        kept = [torch.ones(SIZE) for _ in range(3)]
        for _ in range(5):
            torch.ones(SIZE)
        kept[0].view(10, -1).add_(1)
        torch.ones(SIZE // 2)
    assert account.peak == 4
    with VectorAccount(SIZE) as account:
        torch.ones(5, SIZE)
    assert account.peak == 5


@pytest.mark.parametrize("products", [1, 2, 5, 17])
def test_lanczos_holds_two_vectors_more_than_it_made_products(products):
    start, operator = torch.randn(SIZE, dtype=torch.float64), spread()
    with VectorAccount(SIZE) as account:
        result = largest_eigenvalue(operator, start, StoppingRule(1e-12, products))
    assert result.products == products
    assert account.peak <= products + 2
    assert account.peak == products + 2 or products == 1


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_an_extra_pair_costs_lanczos_two_vectors(extra):
    start, pairs = torch.randn(SIZE, dtype=torch.float64), known_pairs(extra)
    operator = spread()
    with VectorAccount(SIZE) as account:
        largest_eigenvalue(operator, start, StoppingRule(1e-12, 7), extra=pairs)
    assert account.peak <= 7 + 2 + 2 * extra


@pytest.mark.parametrize("products", [1, 2, 3, 30])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_the_light_solver_never_holds_more_than_six_vectors(products, extra):
    start, pairs = torch.randn(SIZE, dtype=torch.float64), known_pairs(extra)
    operator = spread()
    rule = StoppingRule(1e-12, products)
    with VectorAccount(SIZE) as account:
        result = largest_eigenvalue(operator, start, rule, extra=pairs, solver="light")
    assert result.products == products
    assert account.peak <= 6
    assert account.peak == 6 or products <= 2


@pytest.mark.parametrize("starts", [2, 3])
def test_a_further_start_costs_one_vector_and_the_light_solver_none(starts):
    vectors, pairs = [torch.randn(SIZE, dtype=torch.float64) for _ in range(starts)], known_pairs(2)
    operator = spread()
    for solver, most in (("lanczos", 8 + 1 + starts + 2 * 2), ("light", 6)):
        with VectorAccount(SIZE) as account:
            found = largest_eigenvalue(operator, vectors, StoppingRule(1e-12, 8), extra=pairs, solver=solver)
        assert found.products == 8
        assert account.peak <= most


def test_several_eigenvectors_add_only_themselves():
    start, operator = torch.randn(SIZE, dtype=torch.float64), spread()
    with VectorAccount(SIZE) as account:
        found = largest_eigenvalues(operator, start, 4, StoppingRule(1e-12, 9))
    assert len(found) == 4
    assert account.peak <= 9 + 1 + 4 + 1  # and a runner-up


def test_what_the_caller_passes_is_left_as_it_was():
    start, pairs = torch.randn(SIZE, dtype=torch.float64), known_pairs(2)
    before = [tensor.clone() for tensor in (start, *pairs[0], *pairs[1])]
    for solver in ("lanczos", "light"):
        largest_eigenvalue(spread(), start, StoppingRule(1e-12, 6), extra=pairs, solver=solver)
    for old, new in zip(before, (start, *pairs[0], *pairs[1]), strict=True):
        assert torch.equal(old, new)
