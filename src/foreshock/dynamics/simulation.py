"""Simulations of Adam on quadratics: many runs at once, with or without curvature noise, in any precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics.quadratic import AdamSettings, Quadratic, Real


@dataclass(frozen=True)
class QuadraticRun:
    """Adam on ½λθ², one row per step.

    Attributes:
        loss: ½λθ_t² before the update of step t, shape (steps,).
        stability_ratio: λ·c·η/(2(√v̂_t + ε)) of the update of step t, shape (steps,).
        second_moment: v_t, shape (steps,).
        squared_gradient: g_t², shape (steps,).
    """

    loss: NDArray[np.longdouble]
    stability_ratio: NDArray[np.longdouble]
    second_moment: NDArray[np.longdouble]
    squared_gradient: NDArray[np.longdouble]


@dataclass(frozen=True)
class QuadraticRuns:
    """Adam on a quadratic, one row per step and one column per run.

    Attributes:
        loss: ½θ_tᵀHθ_t before step t, with the H of the full data also if batches are noisy, shape (steps,
            runs).
        stability_ratio: λ_max(Ĥ_t)·η/2 of the update of step t, decoupled decay included, shape (steps,
            runs).
        second_moment: Σv_t without bias correction (AMSGrad: of the largest v so far), shape (steps, runs).
        squared_gradient: Σg_t² of the batch, shape (steps, runs).
        final: θ after the last step, shape (runs, d).
    """

    loss: NDArray[Real]
    stability_ratio: NDArray[Real]
    second_moment: NDArray[Real]
    squared_gradient: NDArray[Real]
    final: NDArray[Real]


@dataclass(frozen=True)
class Moment:
    """One step of all runs: the quantities before the update, and θ after it.

    Attributes:
        loss: Loss before the update, shape (runs,).
        stability_ratio: λ_max(Ĥ)·η/2 of the update, shape (runs,).
        second_moment: Σv, shape (runs,).
        squared_gradient: Σg², shape (runs,).
        theta: θ after the update, shape (runs, d).
    """

    loss: NDArray[Real]
    stability_ratio: NDArray[Real]
    second_moment: NDArray[Real]
    squared_gradient: NDArray[Real]
    theta: NDArray[Real]


def simulate(
    problem: Quadratic,
    settings: AdamSettings,
    *,
    steps: int,
    rng: np.random.Generator | None = None,
    dtype: type[Real] = np.float64,
) -> QuadraticRuns:
    """Run Adam on a quadratic for every setting at once.

    Cost: some twenty array operations of shape (runs, d) per step; a full Hessian adds its eigenvalues,
    O(runs·d³), in double precision.

    Args:
        problem: The quadratic.
        settings: Hyperparameters, one column for each run.
        steps: Number of updates, ≥ 1.
        rng: Source of the batches; needed only where the problem is noisy.
        dtype: Precision. Between spikes θ can fall below 1e-308, where double precision underflows and no
            further spike can start; use ``np.longdouble`` then, which has a wider range on x86 Linux and
            macOS, but is a double on Windows and Apple silicon.

    Returns:
        Loss, stability ratio and moments of all runs, each of shape (steps, runs), and the last θ.

    Raises:
        ValueError: If `steps` is below 1, or a noisy problem comes without `rng`.

    Example:
        >>> runs = simulate(Quadratic(1.0), AdamSettings(0.15, beta1=[0.0, 0.9], beta2=0.99), steps=4000)
        >>> (runs.stability_ratio.max(axis=0) > 1).tolist()
        [True, True]
    """
    columns: tuple[list[NDArray[Real]], ...] = ([], [], [], [])
    theta = np.zeros((settings.runs, problem.dimension), dtype=dtype)
    for moment in trajectory(problem, settings, steps=steps, rng=rng, dtype=dtype):
        row = (moment.loss, moment.stability_ratio, moment.second_moment, moment.squared_gradient)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        theta = moment.theta
    loss, ratio, second, squared = (np.stack(column) for column in columns)
    return QuadraticRuns(loss, ratio, second, squared, theta)


def trajectory(
    problem: Quadratic,
    settings: AdamSettings,
    *,
    steps: int,
    rng: np.random.Generator | None = None,
    dtype: type[Real] = np.float64,
) -> Iterator[Moment]:
    """Yield the steps of :func:`simulate` one by one, without keeping them.

    Args:
        problem: The quadratic.
        settings: Hyperparameters.
        steps: Number of updates, ≥ 1.
        rng: Source of the batches.
        dtype: Precision.

    Raises:
        ValueError: If `steps` is below 1, or a noisy problem comes without `rng`.

    Example:
        >>> last = list(trajectory(Quadratic(1.0), AdamSettings(0.1), steps=2))[-1]
        >>> last.theta.round(3).tolist()
        [[0.8]]
    """
    # Checked here and not in the generator, whose body would run only at its first step.
    if not steps >= 1:
        raise ValueError(f"steps is {steps!r}; it must be at least 1")
    if rng is None:
        if problem.batch_size is not None or problem.curvature_noise:
            raise ValueError(
                "rng is None, but the problem is noisy (curvature_noise or batch_size is set): pass a source "
                "of random numbers, such as numpy.random.default_rng(0)"
            )
        rng = np.random.default_rng(0)
    return _iterate(problem, settings, steps, rng, dtype)


def _iterate(
    problem: Quadratic, settings: AdamSettings, steps: int, rng: np.random.Generator, dtype: type[Real]
) -> Iterator[Moment]:
    names = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
    eta, beta1, beta2, epsilon, decay = (settings.column(name, dtype) for name in names)
    one = dtype(1)
    theta = np.zeros((settings.runs, problem.dimension), dtype) + np.asarray(problem.start, dtype)
    m, v, largest = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    # c without the bias correction of m, which is divided out below: (1 − β₁)/(1 + β₁)/(1 − ηw/2).
    factor = (one - beta1) / (one + beta1) / (one - eta * decay / 2)
    # β₁ᵗ and β₂ᵗ, multiplied up step by step; they stay zero without bias correction.
    power1, power2 = np.full_like(eta, settings.bias_correction), np.full_like(eta, settings.bias_correction)
    for _ in range(steps):
        power1, power2 = power1 * beta1, power2 * beta2
        # The ratio is that of the update of this step: v contains g before D is formed.
        loss = (theta * problem.times(theta)).sum(axis=1) / 2
        g = problem.gradient(theta, rng)
        m = beta1 * m + (one - beta1) * g
        v = beta2 * v + (one - beta2) * g * g
        largest = np.maximum(largest, v) if settings.amsgrad else v
        denominator = np.sqrt(largest / (one - power2)) + epsilon
        curvature = _largest_eigenvalue(problem, denominator)
        ratio = (factor * eta / (one - power1) / 2)[:, 0] * curvature
        theta = theta * (one - eta * decay) - eta / (one - power1) * m / denominator
        yield Moment(loss, ratio, largest.sum(axis=1), (g * g).sum(axis=1), theta)


def _largest_eigenvalue(problem: Quadratic, denominator: NDArray[Real]) -> NDArray[Real]:
    """Return λ_max(D⁻¹H) for each run, shape (runs,)."""
    if problem.is_diagonal:
        quotient: NDArray[Real] = np.asarray(problem.hessian, dtype=denominator.dtype) / denominator
        top: NDArray[Real] = quotient.max(axis=1)
        return top
    # D^{-1/2}HD^{-1/2} is symmetric and has the eigenvalues of D⁻¹H. LAPACK has no long double.
    root = 1 / np.sqrt(denominator.astype(np.float64))
    symmetric = root[:, :, None] * np.asarray(problem.hessian, dtype=np.float64) * root[:, None, :]
    largest: NDArray[Real] = np.linalg.eigvalsh(symmetric)[:, -1].astype(denominator.dtype)
    return largest


def simulate_adam_on_quadratic(
    steps: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    curvature: float = 1.0,
    epsilon: float = 0.0,
) -> QuadraticRun:
    """Run Adam from θ = 1 on ½λθ² in extended precision: one run of :func:`simulate`.

    Args:
        steps: Number of updates, ≥ 1.
        learning_rate: η > 0.
        betas: (β₁, β₂).
        curvature: λ > 0.
        epsilon: ε.

    Returns:
        The same of one run, each of shape (steps,).

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> run = simulate_adam_on_quadratic(2000, learning_rate=0.15, betas=(0.0, 0.99))
        >>> bool(run.stability_ratio.max() > 1)
        True
    """
    settings = AdamSettings(learning_rate, beta1=betas[0], beta2=betas[1], epsilon=epsilon)
    runs = simulate(Quadratic(curvature), settings, steps=steps, dtype=np.longdouble)
    columns = (runs.loss, runs.stability_ratio, runs.second_moment, runs.squared_gradient)
    return QuadraticRun(*(column[:, 0].astype(np.longdouble) for column in columns))
