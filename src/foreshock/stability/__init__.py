r"""Closed-form stability thresholds of adaptive optimizers, and the growth above them.

On a quadratic with Hessian H, and with D frozen, every optimizer here is a linear recursion. Along an
eigenvector of D⁻¹H with the eigenvalue λ (D = diag(√v̂ + ε), or the identity) it is

.. math:: m_t = β\,m_{t-1} + γλδ_t, \qquad δ_{t+1} = (1 - ηw)\,δ_t - η\,(aλδ_t + b\,m_t),

with γ = 1 − β for a moving average and γ = 1 for heavy ball; a is the weight of the gradient itself (Nesterov
momentum, NAdam), b that of m, and w the decoupled weight decay. With s = 1 − ηw, the trace and determinant of
its matrix are

.. math:: T = s + β - ηλ(a + bγ), \qquad \det = β(s - ηλa).

The recursion is stable iff \|det\| < 1 and \|T\| < 1 + det (Jury's criterion). For λ > 0, β in [0, 1),
a, b ≥ 0 and \|s\| ≤ 1, the only condition that can fail is 1 + T + det > 0: the other lower bound, det > −1,
requires ηλa < 1/β + s, which follows from ηλa < 1 + s. Hence the recursion is stable iff

.. math:: \frac{ηλ}{2}\,c < 1, \qquad c = \Bigl(a + \frac{bγ}{1 + β}\Bigr)\Big/\Bigl(1 - \frac{ηw}{2}\Bigr).

c is the *momentum factor*. With Ĥ = c·D⁻¹H the condition is λ_max(Ĥ) < 2/η for all of these optimizers (for
Adam: Bai et al. 2025, arXiv 2506.04805, Lemmas B.1 and B.2; equivalent to Cohen et al. 2022,
arXiv 2207.14484). Coupled weight decay is not part of c: it adds wd·I to H.
"""

from __future__ import annotations

from foreshock.stability.growth import growing_ratio, growth_factor, stability_ratio, steps_to_visible
from foreshock.stability.momentum import (
    adam_threshold,
    blended_momentum_factor,
    gradient_descent_threshold,
    heavy_ball_factor,
    heavy_ball_threshold,
    momentum_factor,
    nadam_threshold,
    with_decoupled_decay,
)

__all__ = [
    "adam_threshold",
    "blended_momentum_factor",
    "gradient_descent_threshold",
    "growing_ratio",
    "growth_factor",
    "heavy_ball_factor",
    "heavy_ball_threshold",
    "momentum_factor",
    "nadam_threshold",
    "stability_ratio",
    "steps_to_visible",
    "with_decoupled_decay",
]
