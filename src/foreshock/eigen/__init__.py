"""Extreme eigenvalues of a symmetric operator, each with an estimate of its error.

A probe uses `largest_eigenvalue`; the rest is for attribution and analysis. `krylov` and `light` are the two
solvers, `stopping` says when a value is accurate enough, and `transformed` has the operators that reduce
other problems to that of the largest eigenvalue.
"""

from foreshock.eigen.krylov import KrylovSpace
from foreshock.eigen.light import LIGHT_VECTORS
from foreshock.eigen.results import EigenResult, EigenResults
from foreshock.eigen.solvers import (
    Solver,
    choose_solver,
    largest_eigenvalue,
    largest_eigenvalues,
    smallest_eigenvalue,
)
from foreshock.eigen.stopping import StoppingRule
from foreshock.eigen.transformed import DeflatedOperator, NegatedOperator

__all__ = [
    "LIGHT_VECTORS",
    "DeflatedOperator",
    "EigenResult",
    "EigenResults",
    "KrylovSpace",
    "NegatedOperator",
    "Solver",
    "StoppingRule",
    "choose_solver",
    "largest_eigenvalue",
    "largest_eigenvalues",
    "smallest_eigenvalue",
]
