"""Extreme eigenvalues of a symmetric operator, from warm starts and from products that are known already."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from foreshock.eigen.krylov import KrylovSpace
from foreshock.eigen.light import LIGHT_VECTORS, solve_light
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

    From one warm start, an eigenvalue that overtakes the one being followed can stay hidden for several
    solves, although the residual is small. Start from `EigenResult.starts` of the last solve instead, the
    eigenvector and its runner-up: that takes one more product and follows both.

    Cost: one product for each start, then one for each step, at most `StoppingRule.max_products` in all;
    from a warm start typically 2 to 6.

    Memory in vectors of size n, without `start` and `extra` themselves: ``"lanczos"`` holds k + 2 after k
    products, one more for each further start and two for each extra pair; ``"light"`` always holds six.

    Args:
        operator: The symmetric operator S.
        start: A vector of shape (n,), not zero, or several, the best first: the last eigenvectors, or any
            vector with a component along the one that is sought. From a vector that is exactly an
            eigenvector only its own eigenvalue is found.
        stop: When to stop; `EigenResult.converged` says whether the tolerance was met.
        extra: Pairs (y, S·y) that are known already; they are not changed. They enlarge the subspace without
            a product, and get it away from a start that is an eigenvector if their Rayleigh quotient is
            larger. Useful are vectors with large components along the top eigenvectors, such as the update.
        solver: ``"lanczos"`` keeps all directions, ``"light"`` the last two; see `choose_solver`.

    Returns:
        The eigenvalue with its vector; check its `converged`.

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
        return solve_light(operator, _units(start), stop, extra)
    if solver != "lanczos":
        raise ValueError(
            f'solver is {solver!r}; it must be "lanczos", the default, or "light", which holds six vectors'
        )
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

    Each product goes to the largest eigenvalue that does not meet the tolerance yet. From one start, a
    multiple eigenvalue is found once; each further start or extra pair can find it once more.

    Memory: as for `largest_eigenvalue`; at the end k + 1 vectors and one for each eigenvector returned, if
    that is more.

    Args:
        operator: The symmetric operator S.
        start: A vector of shape (n,), not zero, or several: the last eigenvectors.
        count: Number of eigenvalues, ≥ 1. At least as many products are spent.
        stop: When to stop; its tolerance applies to each eigenvalue, its `max_products` to all together.
        extra: Pairs (y, S·y) that are known already; see `largest_eigenvalue`.

    Raises:
        ValueError: If a start is zero or not finite, or `count` is below one.
        FloatingPointError: If a product is not finite.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        >>> scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> with HessianOperator(lambda: (scale * x**2).sum() / 2, [x]) as hessian:
        ...     results = largest_eigenvalues(hessian, torch.ones_like(scale), 2)
        >>> [round(value, 6) for value in results.values]
        [5.0, 2.0]
    """
    if not count >= 1:
        raise ValueError(f"count is {count!r}; it must be the number of eigenvalues to find, at least 1")
    return _lanczos(operator, list(_units(start)), count, stop or StoppingRule(), extra)


def smallest_eigenvalue(
    operator: LinearOperator,
    start: Tensor | Sequence[Tensor],
    stop: StoppingRule | None = None,
    *,
    extra: Sequence[Pair] = (),
    solver: Solver = "lanczos",
) -> EigenResult:
    """Return the algebraically smallest eigenvalue, which is the most negative one if there is any.

    Cost and memory as for `largest_eigenvalue`. The value is an upper bound of the eigenvalue.

    Args:
        operator: The symmetric operator S.
        start: Start vectors; see `largest_eigenvalue`.
        stop: When to stop; a `StoppingRule.threshold` is compared with minus the eigenvalue.
        extra: Pairs (y, S·y) that are known already.
        solver: As in `largest_eigenvalue`.

    Raises:
        ValueError: If a start is zero or not finite, or `solver` unknown.
        FloatingPointError: If a product is not finite.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        >>> with HessianOperator(lambda: x[0] ** 2 - x[1] ** 2, [x]) as hessian:
        ...     result = smallest_eigenvalue(hessian, torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> round(result.value, 6)
        -2.0
    """
    mirrored = [(vector, -product) for vector, product in extra]
    found = largest_eigenvalue(NegatedOperator(operator), start, stop, extra=mirrored, solver=solver)
    return replace(found, value=-found.value)


def choose_solver(
    vectors: int, stop: StoppingRule | None = None, *, starts: int = 1, extra: int = 0
) -> Solver:
    """Return the solver that fits into a memory budget.

    Lanczos is preferred if it fits even after `StoppingRule.max_products` products: it forgets no direction,
    so it needs no more products than the light solver.

    Args:
        vectors: Number of vectors of the size of all parameters that there is memory for.
        stop: The rule that will be used; its `max_products` decides.
        starts: Number of start vectors.
        extra: Number of extra pairs.

    Raises:
        ValueError: If not even the light solver fits.

    Example:
        >>> choose_solver(40), choose_solver(10)
        ('lanczos', 'light')
    """
    if not vectors >= LIGHT_VECTORS:
        raise ValueError(
            f"vectors is {vectors!r}; an eigensolver needs memory for at least {LIGHT_VECTORS} vectors of "
            "the size of all parameters: measure fewer parameters, or use keep_graph=False to free memory"
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
        errors, values = space.errors(stop.caution), space.values
        # Largest first: a Ritz value below an inaccurate one may still be overtaken from outside.
        waiting = [
            index
            for index in range(min(count, len(values)))
            if not stop.allows(float(values[index]), float(errors[index]))
        ]
        complete = space.exhausted or (not waiting and len(values) >= count)
        if complete or spent >= stop.max_products:
            break
        # If all present values are good but too few, the smallest one's residual leads to the next
        # eigenvalue.
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
        raise ValueError(
            "start is an empty sequence; pass at least one vector of shape (n,), such as a random one"
        )
    return map(_unit, starts)


def _unit(start: Tensor) -> Tensor:
    norm = float(torch.linalg.vector_norm(start))
    if not 0 < norm < math.inf:
        raise ValueError(
            f"start has norm {norm}; it must be finite and not zero: pass the last eigenvector or a random "
            "vector"
        )
    return start / norm
