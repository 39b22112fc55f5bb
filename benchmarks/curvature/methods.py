"""The tools under comparison, each behind the same calls: open its operator, then solve.

A tool's own operator is what `open` makes, and its cost is part of a probe. To find the least setting that is
accurate enough, `share` lets the tool's solver run on one fast exact product instead, which gives the same
Krylov space: only the timings need the tool's own product. Peers are imported when they are used.
"""

# ruff: noqa: ARG002 - every method has the arguments of the protocol

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from benchmarks.curvature import ours
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.ours import Opened, Outcome
from benchmarks.curvature.selection import Setting
from torch import Tensor

MOST_PRODUCTS = 300


class Method(Protocol):
    """One way to get the largest eigenvalue from one tool.

    Attributes:
        name: What the tables show.
        tool: The package.
        warm: Whether it continues from the last eigenvector.
        preconditioned: Whether it can be made to work on A^{1/2}HA^{1/2}.
        ladder: Settings to try for equal accuracy.
        ordered: Whether the ladder goes from cheap to dear.
        default: Whether to show also what it does when nothing is set.
    """

    name: str
    tool: str
    warm: bool
    preconditioned: bool
    ladder: list[Setting]
    ordered: bool
    default: bool

    def open(self, problem: Problem, setting: Setting) -> Any:
        """Return the tool's operator."""
        ...

    def share(self, problem: Problem, shared: Opened) -> Any:
        """Return an operator for `solve` that uses the shared product, where the tool allows that."""
        ...

    def solve(self, operator: Any, setting: Setting, start: Tensor | None, seed: int) -> Outcome:
        """Return the largest eigenvalue, from `start` or else from random numbers."""
        ...


class Foreshock:
    """Foreshock's operator and solver, as its monitor uses them."""

    tool = "foreshock"
    preconditioned = True
    ordered = True
    default = True

    def __init__(self, *, warm: bool) -> None:
        self.warm = warm
        self.name = "Foreshock, from the last vector" if warm else "Foreshock, cold"
        # The tolerance is of the error that is claimed, ten residuals: the true one is far smaller.
        self.ladder: list[Setting] = [
            {"relative_tolerance": tolerance}
            for tolerance in (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 1e-4)
        ]

    def open(self, problem: Problem, setting: Setting) -> Any:
        """Return the operator and the gradient in its coordinates."""
        return ours.open_operator(problem)

    def share(self, problem: Problem, shared: Opened) -> Any:
        """Return the shared operator, which is its own."""
        return shared

    def solve(self, operator: Any, setting: Setting, start: Tensor | None, seed: int) -> Outcome:
        """Run the solver."""
        return ours.solve(operator, setting, start, seed)


class PyHessian:
    """PyHessian: power iteration on a kept graph, for the largest |λ|, always from random numbers."""

    name = "PyHessian"
    tool = "pyhessian"
    warm = False
    preconditioned = False
    ordered = True
    default = True

    def __init__(self) -> None:
        self.ladder: list[Setting] = [
            {"tol": tol, "maxIter": MOST_PRODUCTS}
            for tol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
        ]

    def open(self, problem: Problem, setting: Setting) -> Any:
        """Return PyHessian's ``hessian``."""
        from pyhessian import hessian

        # It adds the gradient of the batch to what is in .grad.
        problem.model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Its graph refers to itself through .grad; it is collected with the network.
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph")
            return hessian(problem.model, problem.criterion, data=problem.batch, cuda=False)

    def share(self, problem: Problem, shared: Opened) -> Any:
        """Return its own: its solver knows no other."""
        return self.open(problem, {})

    def solve(self, operator: Any, setting: Setting, start: Tensor | None, seed: int) -> Outcome:
        """Run its power iteration."""
        module: Any = sys.modules["pyhessian.hessian"]
        original = module.hessian_vector_product
        counted = _Counter(original)
        torch.manual_seed(seed)
        module.hessian_vector_product = counted
        try:
            values, vectors = operator.eigenvalues(**setting)
        finally:
            module.hessian_vector_product = original
        return Outcome(float(values[0]), torch.cat([part.flatten() for part in vectors[0]]), counted.calls)


class Curvlinops:
    """curvlinops' Hessian with scipy's eigsh; the preconditioned form by composing scipy operators."""

    tool = "curvlinops"
    preconditioned = True
    ordered = False

    def __init__(self, *, warm: bool) -> None:
        self.warm = warm
        self.default = not warm
        self.name = "curvlinops + eigsh" + (", v0 = last vector" if warm else "")
        self.ladder: list[Setting] = [
            {"ncv": ncv, "tol": tol, "check_deterministic": False}
            for tol in (1e-1, 1e-2)
            for ncv in (3, 4, 6, 8, 12)
        ]

    def open(self, problem: Problem, setting: Setting) -> Any:
        """Return a scipy ``LinearOperator``."""
        from curvlinops import HessianLinearOperator
        from scipy.sparse import diags
        from scipy.sparse.linalg import aslinearoperator

        hessian = HessianLinearOperator(
            problem.model,
            problem.criterion,
            problem.parameters,
            [problem.batch],
            check_deterministic=setting.get("check_deterministic", True),
        ).to_scipy(dtype=_numpy_dtype(problem.parameters[0]))
        if not problem.preconditioned:
            return hessian
        scale = aslinearoperator(diags(ours.scale_root(problem).numpy()))
        return scale @ hessian @ scale

    def share(self, problem: Problem, shared: Opened) -> Any:
        """Return a scipy ``LinearOperator`` around the shared product."""
        from scipy.sparse.linalg import LinearOperator

        dtype = _numpy_dtype(shared.gradient)

        def matvec(vector: Any) -> Any:
            return shared.operator(torch.from_numpy(vector.astype(dtype).ravel())).numpy()

        return LinearOperator((problem.size, problem.size), matvec=matvec, dtype=dtype)

    def solve(self, operator: Any, setting: Setting, start: Tensor | None, seed: int) -> Outcome:
        """Run eigsh for the algebraically largest eigenvalue."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator, eigsh

        counted = _Counter(operator.matvec)
        wrapped = LinearOperator(operator.shape, matvec=counted, dtype=operator.dtype)
        options = {key: value for key, value in setting.items() if key != "check_deterministic"}
        v0 = start if start is not None else _random(operator.shape[0], seed)
        begin = v0.numpy().astype(operator.dtype)
        values, vectors = eigsh(wrapped, k=1, which="LA", v0=begin, **options)
        # Its tolerance is relative, of the residual; zero, the default, stands for rounding.
        claimed = (options.get("tol") or float(np.finfo(operator.dtype).eps)) * abs(float(values[0]))
        return Outcome(float(values[0]), torch.from_numpy(vectors[:, 0].copy()), counted.calls, claimed)


class Eigenthings:
    """hessian-eigenthings with one of its solvers.

    Args:
        solver: ``lanczos`` always starts from random numbers; ``power_iteration_one(init=…)`` and
            ``lanczos_tridiagonal(v0=…)``, whose eigenvalue the caller takes, are handed the last vector.
    """

    tool = "hessian_eigenthings"
    preconditioned = True
    ordered = True

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.warm = solver != "lanczos"
        self.default = not self.warm
        self.name = f"hessian-eigenthings {solver}" + (", from the last vector" if self.warm else "")
        self.ladder: list[Setting] = [
            {"max_iter": steps} for steps in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 30, 50)
        ]
        if solver == "power_iteration_one":
            self.ladder = [
                {"tol": tol, "max_iter": MOST_PRODUCTS}
                for tol in (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3)
            ]

    def open(self, problem: Problem, setting: Setting) -> Any:
        """Return its ``HessianOperator``, inside a ``LambdaOperator`` for the preconditioned form."""
        from hessian_eigenthings import HessianOperator, LambdaOperator, supervised_loss

        hessian = HessianOperator(problem.model, [problem.batch], supervised_loss(problem.criterion))
        if not problem.preconditioned:
            return hessian
        scale = ours.scale_root(problem)
        return LambdaOperator(lambda vector: scale * hessian.matvec(scale * vector), size=problem.size)

    def share(self, problem: Problem, shared: Opened) -> Any:
        """Return a ``LambdaOperator`` around the shared product."""
        from hessian_eigenthings import LambdaOperator

        return LambdaOperator(shared.operator, size=problem.size, dtype=shared.gradient.dtype)

    def solve(self, operator: Any, setting: Setting, start: Tensor | None, seed: int) -> Outcome:
        """Run the solver."""
        from hessian_eigenthings import lanczos, lanczos_tridiagonal, power_iteration_one

        if self.solver == "power_iteration_one":
            value, vector, _, products, _ = power_iteration_one(operator, init=start, seed=seed, **setting)
            return Outcome(value, vector, products)
        if self.solver == "lanczos":
            found = lanczos(operator, k=1, which="LA", seed=seed, **setting)
            value, residual = float(found.eigenvalues[0]), float(found.residuals[0])
            good = bool(found.converged[0])
            return Outcome(value, found.eigenvectors[0], found.iterations, residual, converged=good)
        begin = start if start is not None else _random(operator.size, seed)
        reduced = lanczos_tridiagonal(operator, begin, setting["max_iter"])
        matrix = torch.diag(reduced.alphas) + torch.diag(reduced.betas, 1) + torch.diag(reduced.betas, -1)
        values, vectors = torch.linalg.eigh(matrix)
        vector = torch.zeros_like(begin)
        for weight, direction in zip(vectors[:, -1].tolist(), reduced.basis, strict=True):
            vector.add_(direction, alpha=weight)
        return Outcome(float(values[-1]), vector, reduced.iterations)


class _Counter:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


def _numpy_dtype(like: Tensor) -> Any:
    return torch.empty(0, dtype=like.dtype).numpy().dtype


def _random(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def methods() -> list[Method]:
    """Return every method, Foreshock first."""
    return [
        Foreshock(warm=True),
        Foreshock(warm=False),
        PyHessian(),
        Eigenthings("lanczos"),
        Eigenthings("power_iteration_one"),
        Eigenthings("lanczos_tridiagonal"),
        Curvlinops(warm=False),
        Curvlinops(warm=True),
    ]
