"""Extreme eigenvalues of a symmetric operator, from a warm start and from products already paid for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from foreshock.eigen.krylov import KrylovSpace
from foreshock.eigen.light import LIGHT_VECTORS, light
from foreshock.eigen.results import EigenResult, EigenResults
from foreshock.eigen.stopping import StoppingRule
from foreshock.eigen.transformed import NegatedOperator
from foreshock.operators import LinearOperator

Solver = Literal["lanczos", "light"]
Pair = tuple[Tensor, Tensor]


def largest_eigenvalue(
    operator: LinearOperator,
    start: Tensor | Sequence[Tensor],
    stop: StoppingRule | None = None,
    *,
    extra: Sequence[Pair] = (),
    solver: Solver = "lanczos",
) -> EigenResult:
    """Return the algebraically largest eigenvalue.

    From one warm start, an eigenvalue that overtakes the one being followed can stay unseen for several
    readings, with a small residual all the while. Starting from `EigenResult.starts` of the last reading,
    the eigenvector and its runner-up, costs a product more and follows both.

    Memory in vectors of size n, `start` and `extra` themselves not counted: k + 2 after k products for
    ``"lanczos"``, one more for each further start and two for each extra pair; six for ``"light"``,
    whatever k.

    Args:
        operator: The symmetric operator S.
        start: Where to start, shape (n,), not zero: the last eigenvector, or anything with a component
            along the one that is sought. A start that is exactly an eigenvector finds only its own. Or
            several such vectors, the best first: each costs a product.
        stop: When to stop; see `EigenResult.converged` for whether it was met.
        extra: Pairs (y, S·y) that are known already, left unchanged. They enlarge the subspace for
            nothing, and one whose Rayleigh quotient passes that of a start that is an eigenvector frees it.
            Any y helps that leans towards the top eigenvectors, as that of the step about to be taken does.
        solver: ``"lanczos"`` keeps all directions, ``"light"`` the last two; see `choose_solver`.

    Raises:
        ValueError: If a start is zero or not finite, or `solver` unknown.
        FloatingPointError: If a product is not finite.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        >>> scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> with HessianOperator(lambda: (scale * x**2).sum() / 2, [x]) as hessian:
        ...     result = largest_eigenvalue(hessian, torch.ones_like(scale))
        >>> round(result.value, 6), result.converged
        (5.0, True)
    """
    stop = stop or StoppingRule()
    if solver == "light":
        return light(operator, _units(start), stop, extra)
    if solver != "lanczos":
        raise ValueError(f'solver is {solver!r}; it must be "lanczos" or "light"')
    return _lanczos(operator, list(_units(start)), 1, stop, extra)[0]


def largest_eigenvalues(
    operator: LinearOperator,
    start: Tensor | Sequence[Tensor],
    count: int,
    stop: StoppingRule | None = None,
    *,
    extra: Sequence[Pair] = (),
) -> EigenResults:
    """Return the largest eigenvalues from one Lanczos subspace.

    Each product goes to the first pair that does not meet the tolerance yet. From one start, an eigenvalue
    that occurs several times is found once; each further start or extra pair lets it be found once more.
    Memory as for `largest_eigenvalue`, or k + 1 vectors and one for each eigenvector returned, whichever is
    more.

    Args:
        operator: The symmetric operator S.
        start: Where to start, shape (n,), not zero, or several such vectors: the last eigenvectors.
        count: How many eigenvalues, ≥ 1. At least as many products are spent.
        stop: When to stop; its tolerance applies to each.
        extra: Pairs (y, S·y) that are known already; see `largest_eigenvalue`.

    Raises:
        ValueError: If a start is zero or not finite, or `count` is below one.
        FloatingPointError: If a product is not finite.
    """
    if not count >= 1:
        raise ValueError(f"count is {count!r}; at least one eigenvalue must be asked for")
    return _lanczos(operator, list(_units(start)), count, stop or StoppingRule(), extra)


def smallest_eigenvalue(
    operator: LinearOperator,
    start: Tensor | Sequence[Tensor],
    stop: StoppingRule | None = None,
    *,
    extra: Sequence[Pair] = (),
    solver: Solver = "lanczos",
) -> EigenResult:
    """Return the algebraically smallest eigenvalue, the most negative one: an upper bound of it.

    Args:
        operator: The symmetric operator S.
        start: Where to start; see `largest_eigenvalue`.
        stop: When to stop; a `StoppingRule.threshold` is compared with minus the eigenvalue.
        extra: Pairs (y, S·y) that are known already.
        solver: As in `largest_eigenvalue`.

    Raises:
        ValueError: If a start is zero or not finite, or `solver` unknown.
        FloatingPointError: If a product is not finite.
    """
    mirrored = [(vector, -product) for vector, product in extra]
    found = largest_eigenvalue(NegatedOperator(operator), start, stop, extra=mirrored, solver=solver)
    return replace(found, value=-found.value)


def choose_solver(
    vectors: int, stop: StoppingRule | None = None, *, starts: int = 1, extra: int = 0
) -> Solver:
    """Return the solver that fits into a budget of memory.

    Lanczos is taken if it fits even when it uses every product it may: it is the one whose products never
    exceed the other's by rounding or by what was forgotten.

    Args:
        vectors: How many vectors of the size of all parameters there is room for.
        stop: The rule that will be used; its `max_products` decides.
        starts: How many vectors will be started from.
        extra: How many extra pairs will be passed.

    Raises:
        ValueError: If not even the light solver fits.

    Example:
        >>> choose_solver(40), choose_solver(10)
        ('lanczos', 'light')
    """
    if not vectors >= LIGHT_VECTORS:
        raise ValueError(
            f"vectors is {vectors!r}; an eigen-solver needs room for at least {LIGHT_VECTORS} vectors of the "
            "size of all parameters"
        )
    most = (stop or StoppingRule()).max_products + 1 + starts + 2 * extra
    return "lanczos" if vectors >= most else "light"


def _lanczos(
    operator: LinearOperator, vectors: list[Tensor], count: int, stop: StoppingRule, extra: Sequence[Pair]
) -> EigenResults:
    spent = len(vectors)
    products = [operator(vector) for vector in vectors]
    for vector, product in extra:
        vectors.append(vector.clone())
        products.append(product.clone())
    space = KrylovSpace(vectors, products)
    while True:
        errors, values = space.errors(), space.values
        waiting = [
            index
            for index in range(min(count, len(values)))
            if not stop.allows(float(values[index]), float(errors[index]))
        ]
        complete = space.exhausted or (not waiting and len(values) >= count)
        if complete or spent >= stop.max_products:
            break
        space.extend(operator, waiting[0] if waiting else len(values) - 1)
        spent += 1
    exhausted, residuals, found = space.exhausted, space.residuals, min(count, len(values))
    space.drop_frontier()
    eigenvectors = [space.vector(index) for index in range(min(found + 1, len(values)))]
    pairs = tuple(
        EigenResult(
            value=float(values[index]),
            vector=eigenvectors[index],
            residual=float(residuals[index]),
            error=float(errors[index]),
            products=spent,
            converged=exhausted or index not in waiting,
            runner_up=eigenvectors[index + 1] if index + 1 < len(eigenvectors) else None,
        )
        for index in range(found)
    )
    return EigenResults(pairs, spent, complete)


def _units(start: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
    starts = [start] if isinstance(start, Tensor) else start
    if not starts:
        raise ValueError("start is empty; pass at least one vector")
    return map(_unit, starts)


def _unit(start: Tensor) -> Tensor:
    norm = float(torch.linalg.vector_norm(start))
    if not 0 < norm < math.inf:
        raise ValueError(f"start has norm {norm}; it must be finite and not zero")
    return start / norm
