"""Quadratic problems, and the hyperparameters of Adam to run on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Real = np.floating[Any]


@dataclass(frozen=True)
class Quadratic:
    """The loss ½θᵀHθ, whose Hessian may differ from batch to batch.

    Attributes:
        hessian: Eigenvalues of a diagonal H, shape (d,), or a symmetric H, shape (d, d); a scalar for d = 1.
        start: θ_0, a scalar or shape (d,).
        curvature_noise: ρ ≥ 0. The Hessian of a step is (1 + ρξ)H, with a standard normal ξ for each run and
            step.
        batch_size: B ≥ 1. The Hessian of a step is (1/B)Σxxᵀ over B fresh rows x ~ N(0, H): a linear
            regression without label noise. H must then be positive semidefinite. ``None``: no such noise.

    Example:
        >>> Quadratic([3.0, 1.0]).dimension
        2
    """

    hessian: ArrayLike
    start: ArrayLike = 1.0
    curvature_noise: float = 0.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a shape or value is impossible.
        """
        matrix = np.asarray(self.hessian, dtype=float)
        if not (matrix.ndim < 2 or (matrix.ndim == 2 and np.array_equal(matrix, matrix.T))):
            raise ValueError(
                f"hessian has shape {matrix.shape}; it must be a scalar, eigenvalues (d,) or a symmetric "
                "matrix (d, d)"
            )
        if not self.curvature_noise >= 0:
            raise ValueError(f"curvature_noise is {self.curvature_noise!r}; it must not be negative")
        if self.batch_size is not None and not self.batch_size >= 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; it must be at least 1, or None")
        if self.batch_size is not None and matrix.ndim == 2 and np.linalg.eigvalsh(matrix)[0] < 0:
            raise ValueError("hessian has a negative eigenvalue; rows can't have that covariance")
        if self.batch_size is not None and matrix.ndim < 2 and not np.all(matrix >= 0):
            raise ValueError("hessian has a negative eigenvalue; rows can't have that covariance")

    @property
    def dimension(self) -> int:
        """The number of parameters."""
        return len(np.atleast_1d(np.asarray(self.hessian)))

    @property
    def is_diagonal(self) -> bool:
        """Whether H was given by its eigenvalues along the coordinates."""
        return np.ndim(self.hessian) < 2

    def times(self, theta: NDArray[Real]) -> NDArray[Real]:
        """Return Hθ for each run, shape (runs, d).

        Args:
            theta: Parameters, shape (runs, d).
        """
        hessian = np.asarray(self.hessian, dtype=theta.dtype)
        return theta * hessian if self.is_diagonal else theta @ hessian

    def gradient(self, theta: NDArray[Real], rng: np.random.Generator) -> NDArray[Real]:
        """Return the gradient of one fresh batch for each run, shape (runs, d).

        Args:
            theta: Parameters, shape (runs, d).
            rng: Source of the batches; not used if there is no noise.
        """
        if self.batch_size is None:
            gradient = self.times(theta)
        else:
            # x = Q·diag(√λ)·z with z ~ N(0, 1) has the covariance H = Q·diag(λ)·Qᵀ; Q = 1 if H is diagonal.
            rows = rng.standard_normal((len(theta), self.batch_size, self.dimension)) * self._root()
            if not self.is_diagonal:
                rows = rows @ self._basis().T
            outputs = np.einsum("rbd,rd->rb", rows, theta)
            gradient = np.einsum("rbd,rb->rd", rows, outputs) / self.batch_size
        if self.curvature_noise:
            gradient = gradient * (1 + self.curvature_noise * rng.standard_normal((len(theta), 1)))
        return gradient

    def _root(self) -> NDArray[np.float64]:
        matrix = np.atleast_1d(np.asarray(self.hessian, dtype=float))
        values = matrix if self.is_diagonal else np.linalg.eigvalsh(matrix)
        # Zero eigenvalues come out of eigvalsh slightly negative.
        root: NDArray[np.float64] = np.sqrt(np.maximum(values, 0.0))
        return root

    def _basis(self) -> NDArray[np.float64]:
        basis: NDArray[np.float64] = np.linalg.eigh(np.asarray(self.hessian, dtype=float)).eigenvectors
        return basis


@dataclass(frozen=True)
class AdamSettings:
    """Hyperparameters of Adam: each is a number for all runs, or one per run, shape (runs,).

    Attributes:
        learning_rate: η > 0.
        beta1: β₁ in [0, 1).
        beta2: β₂ in (0, 1).
        epsilon: ε ≥ 0, outside the root.
        weight_decay: w ≥ 0, decoupled (AdamW).
        bias_correction: Whether m and v are divided by 1 − β₁ᵗ and 1 − β₂ᵗ.
        amsgrad: Whether the largest v so far is used, as in torch.

    Example:
        >>> AdamSettings(0.1, beta1=[0.0, 0.9], beta2=0.99).runs
        2
    """

    learning_rate: ArrayLike
    beta1: ArrayLike = 0.9
    beta2: ArrayLike = 0.999
    epsilon: ArrayLike = 0.0
    weight_decay: ArrayLike = 0.0
    bias_correction: bool = True
    amsgrad: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value lies outside its interval, or the shapes do not fit.
        """
        beta1, beta2 = np.asarray(self.beta1), np.asarray(self.beta2)
        if not np.all((beta1 >= 0) & (beta1 < 1)):
            raise ValueError(f"beta1 is {self.beta1!r}; it must lie in [0, 1)")
        if not np.all((beta2 > 0) & (beta2 < 1)):
            raise ValueError(f"beta2 is {self.beta2!r}; it must lie in (0, 1)")
        if not np.all(np.asarray(self.learning_rate) > 0):
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it must be positive")
        if not (np.all(np.asarray(self.epsilon) >= 0) and np.all(np.asarray(self.weight_decay) >= 0)):
            raise ValueError(
                f"epsilon is {self.epsilon!r} and weight_decay is {self.weight_decay!r}; epsilon and "
                "weight_decay must not be negative"
            )
        if len(self._shape()) > 1:
            raise ValueError(
                f"the settings have shape {self._shape()} together; each must be a number, or one value for "
                "each run, shape (runs,)"
            )

    @property
    def runs(self) -> int:
        """The number of runs."""
        return int(np.prod(self._shape(), dtype=int))

    def column(self, name: str, dtype: type[Real]) -> NDArray[Real]:
        """Return one hyperparameter for all runs, shape (runs, 1).

        Args:
            name: Name of the field.
            dtype: Precision.
        """
        values = np.asarray(getattr(self, name), dtype=dtype)
        return np.broadcast_to(values, self._shape() or (1,)).reshape(-1, 1)

    def _shape(self) -> tuple[int, ...]:
        names = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
        return np.broadcast_shapes(*(np.shape(getattr(self, name)) for name in names))
