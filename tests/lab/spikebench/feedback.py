r"""The mean-square edge in d dimensions, for the noise of mini-batches of a mean-type loss.

Let S = D^{−1/2}HD^{−1/2} with eigenvalues λ_i, and let a batch of B independent rows x have
S_B = (1/B)Σxxᵀ, E[xxᵀ] = S: a mean of per-example losses with one output each, near interpolation, where H is
its Gauss–Newton part (K independent outputs that are averaged count as K rows). For Gaussian x

.. math:: E[S_B M S_B] - SMS = \tfrac1B\,[SMS + \operatorname{tr}(SM)\,S],

so that in the eigenbasis of S, with M = E[δδᵀ] and Q = Σ_jλ_jM_jj, mode i feels a curvature noise of
power (λ_i²M_ii + λ_iQ)/B, and M_ii = K_i(λ_i²M_ii + λ_iQ)/B at the edge, K_i the noise gain ‖G_i‖₂² of
`foreshock.dynamics`. Eliminating M_ii, all modes together are stable in mean square iff

.. math:: F = \sum_i \frac{K_iλ_i^2/B}{1 - K_iλ_i^2/B} < 1, \qquad K_iλ_i^2 < B

(off-diagonal entries of M decouple and are bounded by the diagonal). For Adam, with its bias
correction b = 1/(1 − β₁ᵗ), K_iλ_i² = ηbλ_i/(2 − ηcλ_i). Let ηcλ_i ≪ 2 for all modes but the top one, λ, and

.. math:: r_0 = \frac{ηcλ}{2}, \qquad R_2 = \frac{ηb(\operatorname{tr} S - λ)}{2B}, \qquad e = \frac{ηbλ}{2B},

the full-batch ratio, the noise of the bulk, and the noise of the top mode with itself. Then

.. math:: F = R_2 + \frac{e}{1 - r_0 - e}.

The estimator R = r₀ + R₂ *adds* what F multiplies: F = 1 reads (1 − r₀)(1 − R₂) = e(2 − R₂). The directional
estimate along the top eigenvector w is MSS_w = r₀ + R₂ + 2e, as the same batches have
E‖(S_B − S)w‖² = λ(λ + tr S)/B: the same physics as R, the one from a trace and an assumption on the batches,
the other from a variance. Both count the noise that δ along w throws into all modes as if it returned to w.
Hence MSS_w < 1 implies F < 1 (put R₂ ≤ 1 − r₀ − 2e into F) and is necessary only in one dimension; at the
edge R lies between 1 − 2e and 2: below one where the noise of the top mode with itself leads (momentum makes
e = r₀b/(cB) large: 19r₀/B at β₁ = 0.9), above one where that of the bulk does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from foreshock.dynamics.mean_square import mean_square_ratio, noise_gain
from foreshock.dynamics.recursion import LinearRecursion


def noise_trace_ratio(
    recursion: LinearRecursion, *, learning_rate: float, sharpness: float, trace: float, batch_size: float
) -> float:
    r"""Return R, the mean-square ratio with the noise summed over all modes.

    .. math:: R = r_0(λ) + \frac{ηn}{2B}\,(\operatorname{tr} - λ), \qquad n = a + \frac{bγ}{1 - β}

    with r₀ the full-batch ratio; for Adam ηλ/τ + η(tr − λ)/(2B), τ = 2(1 + β₁)/(1 − β₁), once the bias
    correction is over. Assumptions and accuracy: the module's docstring. Decoupled weight decay enters
    r₀ only; its damping of the small modes, which lowers R, is left out.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        sharpness: λ_max(D⁻¹H), without the momentum factor.
        trace: tr(D⁻¹H).
        batch_size: B > 0, the number of independent rows in a batch; infinity for the full data. With N
            rows in all and no replacement within a batch, B(N − 1)/(N − B).

    Returns:
        R; the edge is near one, within the bounds of the module's docstring. :func:`noise_trace_feedback`
        takes the same numbers and is sharper.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> adam = LinearRecursion(decay=0.9, gain=0.1, direct=0.0, averaged=1.0)
        >>> round(noise_trace_ratio(adam, learning_rate=0.1, sharpness=190.0, trace=990.0, batch_size=100), 6)
        0.9
    """
    _require_batch_size(batch_size)
    top = mean_square_ratio(recursion, learning_rate=learning_rate, mean=sharpness, variance=0.0)
    return top + _bulk(recursion, learning_rate, trace - sharpness) / batch_size


def noise_trace_feedback(
    recursion: LinearRecursion, *, learning_rate: float, sharpness: float, trace: float, batch_size: float
) -> float:
    """Return F from the trace and the largest eigenvalue alone: E‖δ‖² decays iff it is below one.

    Sharper than :func:`noise_trace_ratio` under the same assumptions; the module's docstring compares them.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        sharpness: λ_max(D⁻¹H) ≥ 0, without the momentum factor.
        trace: tr(D⁻¹H).
        batch_size: B > 0, as for :func:`noise_trace_ratio`.

    Returns:
        F; infinity where the top mode alone, with its own noise, is unstable.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> adam = LinearRecursion(decay=0.9, gain=0.1, direct=0.0, averaged=1.0)
        >>> feedback = noise_trace_feedback(
        ...     adam, learning_rate=0.1, sharpness=190.0, trace=990.0, batch_size=100
        ... )
        >>> round(feedback, 6)  # R is 0.9
        0.634568
    """
    top = gaussian_noise_feedback(
        recursion, learning_rate=learning_rate, eigenvalues=[sharpness], batch_size=batch_size
    )
    return top + _bulk(recursion, learning_rate, trace - sharpness) / batch_size


def gaussian_noise_feedback(
    recursion: LinearRecursion, *, learning_rate: float, eigenvalues: Sequence[float], batch_size: float
) -> float:
    """Return F, the noise fed back over all modes: E‖δ‖² decays iff it is below one.

    Exact for batches of Gaussian rows and every optimizer; the module's docstring has the formula.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        eigenvalues: Eigenvalues λ_i ≥ 0 of D⁻¹H, without the momentum factor.
        batch_size: B > 0.

    Returns:
        F; infinity where one mode alone, with its own noise, is unstable.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> descent = LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0)
        >>> feedback = gaussian_noise_feedback(
        ...     descent, learning_rate=0.5, eigenvalues=[1.0], batch_size=1.0
        ... )
        >>> round(feedback, 12)
        0.5
    """
    _require_batch_size(batch_size)
    total = 0.0
    for value in eigenvalues:
        if not value >= 0:
            raise ValueError(f"an eigenvalue is {value!r}; those of a covariance are not negative")
        if value == 0:
            continue
        gain = noise_gain(recursion, learning_rate=learning_rate, mean=value) * value * value / batch_size
        if not gain < 1:
            return math.inf
        total += gain / (1 - gain)
    return total


def _bulk(recursion: LinearRecursion, learning_rate: float, rest: float) -> float:
    """Return Σ Kλ² = ηnΣλ/2 over modes with ηλ ≪ 1, where Σλ is `rest`."""
    if not math.isfinite(rest):
        raise ValueError(f"trace minus sharpness is {rest!r}; both must be measured, and finite")
    at_rest = recursion.direct + recursion.averaged * recursion.gain / (1 - recursion.decay)
    return learning_rate * at_rest * rest / 2


def _require_batch_size(batch_size: float) -> None:
    if not batch_size > 0:
        raise ValueError(f"batch_size is {batch_size!r}; it must be positive")
