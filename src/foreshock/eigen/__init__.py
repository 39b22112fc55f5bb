"""Extreme eigenvalues of a symmetric operator, each with what is known of its error.

`largest_eigenvalue` is what a probe uses; the rest serves attribution and analysis. One concept a file:
`stopping` decides when enough is known, `krylov` and `light` are the two solvers, `transformed` the operators
that turn other questions into that of the largest eigenvalue.
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
