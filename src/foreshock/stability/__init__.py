r"""Closed-form stability thresholds of adaptive optimizers, and the growth above them.

On a quadratic with Hessian H, and with D frozen, every optimizer here is a linear recursion. Along one
eigenvector with eigenvalue λ of D⁻¹H (D = diag(√v̂ + ε), or the identity) it reads

.. math:: m_t = β\,m_{t-1} + γλδ_t, \qquad δ_{t+1} = (1 - ηw)\,δ_t - η\,(aλδ_t + b\,m_t),

γ = 1 − β for a moving average, γ = 1 for heavy ball; a the weight of the gradient itself (Nesterov,
NAdam), b that of m; w the decoupled weight decay. With s = 1 − ηw its matrix has

.. math:: T = s + β - ηλ(a + bγ), \qquad \det = β(s - ηλa).

Jury's criterion, \|det\| < 1 and \|T\| < 1 + det, leaves for λ > 0, β in [0, 1), a, b ≥ 0, \|s\| ≤ 1 just
1 + T + det > 0: det > −1 asks for ηλa < 1/β + s, which follows from ηλa < 1 + s. Hence stable iff

.. math:: \frac{ηλ}{2}\,c < 1, \qquad c = \Bigl(a + \frac{bγ}{1 + β}\Bigr)\Big/\Bigl(1 - \frac{ηw}{2}\Bigr).

c is the *momentum factor*: folded into Ĥ = c·D⁻¹H it makes the condition λ_max(Ĥ) < 2/η for all of them
(Bai et al. 2025, arXiv 2506.04805, Lemmas B.1 and B.2, for Adam; the same statement as Cohen et al. 2022,
arXiv 2207.14484). Coupled weight decay is no part of c: it adds wd·I to H.
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
