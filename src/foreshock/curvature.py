"""One probe: the loss on a batch and the step about to be taken → a curvature reading."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.operators import HessianOperator, PreconditionedOperator
from foreshock.preconditioner import Preconditioner
from foreshock.vectors import rayleigh_quotient


@dataclass(frozen=True)
class CurvatureReading:
    """The preconditioned curvature at one step, as seen by the step about to be taken.

    Ratios are multiples of the threshold 2/η, step sizes of all parameter groups folded in: one is the edge.
    The unscaled curvatures exist only if all groups share one η and are None otherwise.

    Attributes:
        step: Step of the reading.
        stability_ratio: λ_max(Ĥ)·η/2, a lower bound of it within `error_bound`.
        error_bound: Estimated absolute error of `stability_ratio`.
        preconditioned_sharpness: λ_max(Ĥ).
        threshold: 2/η.
        gradient_stability_ratio: gᵀĤg/‖g‖² · η/2 (Bai et al. 2025).
        gradient_directional_curvature: gᵀĤg/‖g‖².
        update_stability_ratio: c·uᵀHu/(uᵀDu) · η/2, u = D⁻¹m̂: a true Rayleigh quotient.
        update_directional_curvature: c·uᵀHu/(uᵀDu).
        alignment: Modulus of cos(q, D^{−1/2}g), q the top eigenvector of the symmetric form.
        predicted_loss_change: gᵀΔθ + ½ΔθᵀHΔθ of the step, decoupled decay left out. Above zero: the
            second-order model says that this very step raises the loss.
        products: Hessian products spent.
        converged: Whether λ_max met its tolerance.
        backend: How the products were computed.
        seconds: Wall time of the probe.
    """

    step: int
    stability_ratio: float
    error_bound: float
    preconditioned_sharpness: float | None
    threshold: float | None
    gradient_stability_ratio: float
    gradient_directional_curvature: float | None
    update_stability_ratio: float
    update_directional_curvature: float | None
    alignment: float
    predicted_loss_change: float
    products: int
    converged: bool
    backend: str
    seconds: float

    @property
    def relative_error(self) -> float:
        """`error_bound` relative to the ratio; infinite for a ratio of zero."""
        return self.error_bound / abs(self.stability_ratio) if self.stability_ratio else math.inf


def probe_curvature(
    closure: Callable[[], Tensor],
    preconditioner: Preconditioner,
    *,
    step: int,
    start: Tensor | None = None,
    stop: StoppingRule | None = None,
) -> tuple[CurvatureReading, Tensor]:
    """Measure the preconditioned curvature for the step about to be taken.

    Cost: about 3 F for the graph and 2 F for each product: two for the directions, and for λ_max about
    four from a warm start.

    Args:
        closure: Returns the mean loss of the batch, a scalar tensor; evaluated once.
        preconditioner: The step about to be taken; its learning rates must not all be zero.
        step: Step number to put into the reading.
        start: The eigenvector that the last probe returned, shape (n,); None for a cold start.
        stop: When λ_max is good enough.

    Returns:
        The reading, and the top eigenvector of the symmetric form, shape (n,), for the next start.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar or does not depend on the parameters, or nothing moves.
        FloatingPointError: If the loss or a product is not finite.
    """
    began = time.perf_counter()
    if not preconditioner.largest_rate > 0:
        raise ValueError(
            "every learning rate is 0, or no parameter has a gradient: nothing moves in this step"
        )
    with HessianOperator(closure, preconditioner.parameters) as hessian:
        if not math.isfinite(float(hessian.loss)):
            raise FloatingPointError(f"the loss of the probed batch is {float(hessian.loss)}")
        scale_root = preconditioner.scale_root()
        gradient = preconditioner.gradient()
        operator = PreconditionedOperator(
            hessian,
            scale_root,
            shift=preconditioner.coupled_decay(),
            sign=preconditioner.sign,
        )
        scaled = gradient * scale_root
        top = largest_eigenvalue(operator, _mixed_start(start, scaled), stop)
        along_gradient = rayleigh_quotient(gradient, operator.curvature(gradient) * scale_root**2)
        descent = preconditioner.descent()
        along_descent = operator.curvature(descent)
    metric = torch.where(scale_root > 0, scale_root, torch.inf) ** -2
    along_update = rayleigh_quotient(descent, along_descent, metric)
    change = torch.dot(descent, along_descent / 2 - gradient)
    alignment = torch.dot(top.vector, scaled) / torch.linalg.vector_norm(scaled)
    rate = preconditioner.common_rate
    unscaled = [
        None if rate is None else ratio * 2 / rate for ratio in (top.value, 1.0, along_gradient, along_update)
    ]
    reading = CurvatureReading(
        step=step,
        stability_ratio=top.value,
        error_bound=top.error,
        preconditioned_sharpness=unscaled[0],
        threshold=unscaled[1],
        gradient_stability_ratio=along_gradient,
        gradient_directional_curvature=unscaled[2],
        update_stability_ratio=along_update,
        update_directional_curvature=unscaled[3],
        alignment=abs(float(alignment)),
        predicted_loss_change=float(change),
        products=hessian.products,
        converged=top.converged,
        backend="double backward",
        seconds=time.perf_counter() - began,
    )
    return reading, top.vector


def _mixed_start(previous: Tensor | None, scaled_gradient: Tensor) -> Tensor:
    """Return the last eigenvector with a little of the gradient, or the gradient with some noise.

    The mixture keeps a start that is exactly an eigenvector from hiding another one that overtook it: what
    grows shows in the gradient first.
    """
    generator = torch.Generator(scaled_gradient.device).manual_seed(0)
    noise = torch.randn(
        scaled_gradient.shape,
        generator=generator,
        dtype=scaled_gradient.dtype,
        device=scaled_gradient.device,
    )
    parts = [(previous, 1.0), (scaled_gradient, 0.1), (noise, 0.01)]
    start = torch.zeros_like(scaled_gradient)
    for part, weight in parts:
        if part is not None:
            norm = float(torch.linalg.vector_norm(part))
            if 0 < norm < math.inf:
                start.add_(part, alpha=weight / norm)
    return start
