r"""The density of all eigenvalues, by stochastic Lanczos quadrature.

Started from a unit vector q, Lanczos gives Ritz values θ_i, and the first components τ_i of their vectors in
the Krylov basis. The θ_i and τ_i² are the nodes and weights of the Gauss quadrature

.. math:: q^T f(S)\, q \approx \sum_i τ_i^2 f(θ_i),

exact for polynomials of degree 2m − 1 after m products (Golub and Meurant 2010, chapter 6). If q has
independent random entries ±1/√n, the expectation of the left side is tr f(S)/n. The average over a few such
probes therefore estimates the smoothed density of the eigenvalues, without computing any single one (Ubaru,
Chen and Saad 2017; for networks Ghorbani, Krishnan and Xiao 2019). The scatter between probes gives the
standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreshock.eigen import KrylovSpace
from foreshock.operators import LinearOperator
from foreshock.representation import short_repr
from foreshock.vectors import dimension, is_spread_vector, random_like

Array = NDArray[np.float64]

_SMOOTHING = 0.01  # of the width of the spectrum, where it is drawn in a notebook


@dataclass(frozen=True)
class SpectralDensity:
    """An estimate of the distribution of the n eigenvalues of a symmetric operator.

    The distribution is normalised to one: an isolated eigenvalue weighs 1/n.

    Attributes:
        nodes: Ritz values of each probe in decreasing order, shape (probes, steps).
        weights: Their quadrature weights, shape (probes, steps); each row adds up to one. Rows of probes
            that reached an invariant subspace early are padded with zeros.
        lower: Smallest Ritz value, an upper bound of the smallest eigenvalue.
        upper: Largest Ritz value, a lower bound of the largest eigenvalue.
        size: The number n of eigenvalues.
        products: Number of products spent.
    """

    nodes: Array
    weights: Array
    lower: float
    upper: float
    size: int
    products: int

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        edges = f"from {self.lower:.4g} to {self.upper:.4g}"
        trace = f"trace {self.trace:.4g} ± {self.trace_error:.2g}"
        return f"spectrum of {self.size} eigenvalues {edges}, {trace} ({self.products} products)"

    def _repr_html_(self) -> str:
        from foreshock.cards import Card, Curve

        curve = None
        if self.upper > self.lower:
            width = _SMOOTHING * (self.upper - self.lower)
            grid = self.grid(width)
            density = self.density(grid, width)
            # Six decades: below them the curve is only the tails of the smoothing.
            curve = Curve(grid, np.maximum(density, density.max() * 1e-6), "density", "eigenvalue", 0.0)
        rows = (
            ("trace", f"{self.trace:.4g} ± {self.trace_error:.2g}"),
            ("range", f"{self.lower:.4g} to {self.upper:.4g}"),
            ("products", str(self.products)),
        )
        return Card(f"Spectrum of {self.size:,} eigenvalues", rows, curve)._repr_html_()

    @property
    def trace(self) -> float:
        """Estimate of tr S."""
        return self._mean(self._moments(1))

    @property
    def trace_error(self) -> float:
        """Standard error of `trace`, from the scatter between probes; NaN for a single probe."""
        return self._standard_error(self._moments(1))

    @property
    def trace_of_square(self) -> float:
        """Estimate of tr S², the sum of the squared eigenvalues."""
        return self._mean(self._moments(2))

    @property
    def trace_of_square_error(self) -> float:
        """Standard error of `trace_of_square`; NaN for a single probe."""
        return self._standard_error(self._moments(2))

    def grid(self, width: float, points: int = 500) -> Array:
        """Return evenly spaced points from four widths below `lower` to four above `upper`, shape (points,).

        Args:
            width: Standard deviation of the smoothing, > 0.
            points: Number of points, ≥ 2.

        Raises:
            ValueError: If `width` is not positive.
        """
        _check_width(width)
        # A Gaussian has 6e-5 of its mass beyond four standard deviations: the curve ends at zero for the eye.
        return np.linspace(self.lower - 4 * width, self.upper + 4 * width, points)

    def density(self, grid: ArrayLike, width: float) -> Array:
        r"""Return the density smoothed by a Gaussian, :math:`\sum_i τ_i^2\, N(x; θ_i, \text{width}^2)`.

        Args:
            grid: Points x, shape (points,).
            width: Standard deviation of the Gaussian, > 0. Details finer than the spacing of the Ritz values
                are artefacts of the quadrature.

        Returns:
            The mean over the probes, shape (points,); its integral is one.

        Raises:
            ValueError: If `width` is not positive.
        """
        mean: Array = self._densities(grid, width).mean(axis=0)
        return mean

    def density_error(self, grid: ArrayLike, width: float) -> Array:
        """Return the standard error of `density` between the probes, shape (points,); NaN for a single probe.

        Args:
            grid: Points, shape (points,).
            width: Standard deviation of the Gaussian, > 0.

        Raises:
            ValueError: If `width` is not positive.
        """
        densities = self._densities(grid, width)
        if len(densities) < 2:
            return np.full(densities.shape[1], math.nan)
        error: Array = densities.std(axis=0, ddof=1) / math.sqrt(len(densities))
        return error

    def quantiles(self, shares: ArrayLike) -> Array:
        """Return the quantiles: the smallest nodes at or below which the given shares of eigenvalues lie.

        Args:
            shares: Numbers in [0, 1], shape (k,).

        Returns:
            Shape (k,).

        Raises:
            ValueError: If a share lies outside [0, 1].
        """
        wanted = np.atleast_1d(np.asarray(shares, dtype=np.float64))
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"shares are {shares!r}; they must lie in [0, 1]")
        present = self.weights.ravel() > 0
        nodes, weights = self.nodes.ravel()[present], self.weights.ravel()[present]
        order = np.argsort(nodes)
        cumulative = np.cumsum(weights[order])
        # Rounding of the sums must not push a share of exactly one past the last node.
        index = np.searchsorted(cumulative / cumulative[-1], wanted - 1e-12)
        found: Array = nodes[order][index]
        return found

    def _moments(self, power: int) -> Array:
        # n·qᵀSᵖq of each probe, exact for p ≤ 2m − 1: an unbiased estimate of tr Sᵖ (Hutchinson 1990).
        moments: Array = self.size * (self.weights * self.nodes**power).sum(axis=1)
        return moments

    def _mean(self, moments: Array) -> float:
        return float(moments.mean())

    def _standard_error(self, moments: Array) -> float:
        if len(moments) < 2:
            return math.nan
        return float(moments.std(ddof=1)) / math.sqrt(len(moments))

    def _densities(self, grid: ArrayLike, width: float) -> Array:
        _check_width(width)
        points = np.asarray(grid, dtype=np.float64)
        total = np.zeros((len(self.nodes), len(points)))
        # Column by column: the array of all nodes at all points would be m times as large.
        for column in range(self.nodes.shape[1]):
            distance = (points[None, :] - self.nodes[:, column, None]) / width
            total += self.weights[:, column, None] * np.exp(-(distance**2) / 2)
        return total / (width * math.sqrt(2 * math.pi))


def spectral_density(
    operator: LinearOperator, like: Tensor, *, probes: int = 8, steps: int = 40, seed: int = 0
) -> SpectralDensity:
    """Estimate how the eigenvalues of a symmetric operator are distributed.

    Cost: probes × steps products. Memory: steps + 2 vectors of size n. The global random number generators
    are not used.

    Args:
        operator: The symmetric operator S.
        like: Any tensor of shape (n,) with the dtype and device of the vectors that S takes.
        probes: Number of random vectors, ≥ 1; a single one has no standard errors.
        steps: Products per probe, ≥ 2. The ends of the spectrum and isolated eigenvalues take 10 to 40, the
            bulk 40 to 100.
        seed: Seed of the random vectors.

    Returns:
        The density, with its moments and their standard errors.

    Raises:
        ValueError: If `probes` or `steps` are too few, or `like` is not a vector.
        FloatingPointError: If a product is not finite.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        >>> scale = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
        >>> with HessianOperator(lambda: (scale * x**2).sum() / 2, [x]) as hessian:
        ...     spectrum = spectral_density(hessian, x.detach(), probes=3, steps=4)
        >>> round(spectrum.trace, 6), round(spectrum.trace_of_square, 6), round(spectrum.upper, 6)
        (12.0, 50.0, 6.0)
    """
    if not probes >= 1 or not steps >= 2:
        raise ValueError(
            f"probes is {probes!r} and steps is {steps!r}; probes must be at least 1 and steps at least 2 "
            "(4 and 40 are the usual numbers)"
        )
    if like.dim() != 1 or like.numel() == 0:
        raise ValueError(
            f"like has shape {tuple(like.shape)}; it must be a vector of the operator's size, (n,): pass a "
            "flat one, as foreshock.vectors.flatten makes of a list of tensors"
        )
    generator = torch.Generator(like.device).manual_seed(seed)
    starts = (_random_signs(like, generator, seed * probes + number) for number in range(probes))
    spaces = [_quadrature(operator, start, steps) for start in starts]
    longest = max(len(nodes) for nodes, _ in spaces)
    rows = [(_padded(nodes, longest), _padded(weights, longest, 0.0)) for nodes, weights in spaces]
    return SpectralDensity(
        nodes=np.stack([nodes for nodes, _ in rows]),
        weights=np.stack([weights for _, weights in rows]),
        lower=min(float(nodes.min()) for nodes, _ in spaces),
        upper=max(float(nodes.max()) for nodes, _ in spaces),
        size=dimension(like),
        products=sum(len(nodes) for nodes, _ in spaces),
    )


def _quadrature(operator: LinearOperator, start: Tensor, steps: int) -> tuple[Array, Array]:
    """Return the Gauss nodes and weights of one probe, in decreasing order of nodes."""
    space = KrylovSpace([start], [operator(start)])
    while len(space.basis) < min(steps, dimension(start)) and not space.exhausted:
        space.extend(operator)
    return space.values, space.start_weights


def _random_signs(like: Tensor, generator: torch.Generator, seed: int) -> Tensor:
    # Of all vectors with independent entries, random signs give the trace with the least variance (Hutchinson
    # 1990): 2·Σ_{i≠j} S_ij², to which Gaussian entries add 2·Σ S_ii².
    if is_spread_vector(like):
        return torch.where(random_like(like, seed) < 0, -1.0, 1.0).to(like.dtype) / math.sqrt(dimension(like))
    bits = torch.randint(2, like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return bits.mul_(2).sub_(1).div_(math.sqrt(like.numel()))


def _padded(values: Array, length: int, fill: float | None = None) -> Array:
    # Padding nodes have weight zero; repeating the last one keeps the row sorted and within the spectrum.
    last = float(values[-1]) if fill is None else fill
    return np.concatenate([values, np.full(length - len(values), last)])


def _check_width(width: float) -> None:
    if not width > 0:
        raise ValueError(
            f"width is {width!r}; it must be positive: a hundredth of upper − lower is a good start"
        )
