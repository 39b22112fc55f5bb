r"""One probe: from the loss on a batch and the step about to be taken to a curvature reading.

A probe spends two Hessian products on the gradient g and the update u = η·n/D, which give the directional
curvatures and the predicted change of the loss. The same two products then enlarge the subspace in which
λ_max is sought, so that they are not spent on the directions alone. All eigenvalues are those of the
symmetric form S = A^{1/2}HA^{1/2}, A = diag(cη/2D), in multiples of the edge of stability 2/η: an
eigenvector q of S belongs to the direction A^{1/2}q of the parameters, and a direction d of the parameters
to y = A^{-1/2}d.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreshock.curvature.blocks import BlockShare, block_shares, name_parameters
from foreshock.curvature.choosing import shared_terms
from foreshock.curvature.form import random_start, symmetric_form
from foreshock.distributed import ALONE, Joint, LayerwiseProbe
from foreshock.eigen import EigenResult, StoppingRule, largest_eigenvalue
from foreshock.operators import (
    BackendChoice,
    Evaluation,
    HessianOperator,
    Loss,
    LossOperator,
    PreconditionedOperator,
    ReducedOperator,
    hessian_operator,
)
from foreshock.preconditioner import Preconditioner
from foreshock.representation import short_repr
from foreshock.vectors import random_like, rayleigh_quotient, reciprocal

_BLOCKS = 8  # blocks in a reading: enough to see where the top eigenvector lives, and a short log row
_DEPTH = 8  # parts of a module's name: the parameters of deeper modules are counted together


@dataclass(frozen=True)
class CurvatureReading:
    """The preconditioned curvature at one step, as seen by the step about to be taken.

    Ratios are multiples of the threshold 2/η, step sizes of all parameter groups folded in: one is the edge.
    The unscaled curvatures exist only if all groups share one η and are None otherwise.

    Attributes:
        step: Step of the reading.
        stability_ratio: λ_max(Ĥ)·η/2, a lower bound of it within `error_bound`.
        error_bound: Estimated absolute error of `stability_ratio`; see `foreshock.eigen.StoppingRule`.
        preconditioned_sharpness: λ_max(Ĥ).
        threshold: 2/η.
        gradient_stability_ratio: gᵀĤg/‖g‖² · η/2 (Bai et al. 2025).
        gradient_directional_curvature: gᵀĤg/‖g‖².
        update_stability_ratio: c·uᵀHu/(uᵀDu) · η/2, u = D⁻¹m̂: a true Rayleigh quotient.
        update_directional_curvature: c·uᵀHu/(uᵀDu).
        alignment: Modulus of cos(q, D^{−1/2}g), q the top eigenvector of the symmetric form.
        predicted_loss_change: gᵀΔθ + ½ΔθᵀHΔθ of the step without decoupled decay. If it is positive, this
            step raises the loss according to the second-order model.
        products: Hessian products spent.
        converged: Whether λ_max met its tolerance.
        backend: How the products were computed.
        seconds: Wall time of the probe.
        blocks: The modules with the largest shares of the top eigenvector, the largest first.
        excess_loss: (qᵀA^{1/2}g)²/(2r), with r the stability ratio: the part of the loss along the top
            eigenvector in the quadratic model, which grows into a spike. NaN if r is not positive.
        coverage: Share of the moving coordinates that the reading covers. If it is below one, some steps are
            not linear in their gradient (Muon's), and their coordinates are held fixed: the directions are
            restricted to the others, and `predicted_loss_change` is NaN.
        complete: Whether the top eigenvector was sought; False if only the curvature along the last one was
            measured, see `refresh_curvature`.
        passes: What the reading cost in F, forward and backward passes of the batch: the graph or the first
            gradient, all products, and in the first reading of a run the choice of the backend. Counted, not
            timed; see ``foreshock.operators.cost``.
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
    blocks: tuple[BlockShare, ...] = ()
    excess_loss: float = math.nan
    coverage: float = 1.0
    complete: bool = True
    passes: float = math.nan

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        text = f"stability ratio {self.stability_ratio:.4g} ± {self.error_bound:.2g}"
        if self.preconditioned_sharpness is not None:
            text += f" (λ_max(Ĥ) {self.preconditioned_sharpness:.4g}, threshold 2/η {self.threshold:.4g})"
        if not self.complete:
            text += " along the last top eigenvector"
        elif not self.converged:
            text += ", not converged: the true value may be larger"
        return text + (f"; top eigenvector: {', '.join(map(str, self.blocks[:3]))}" if self.blocks else "")

    def _repr_html_(self) -> str:
        from foreshock.cards import Card

        doubt = "the last top eigenvector was not looked for anew" if not self.complete else ""
        if self.complete and not self.converged:
            doubt = "not converged: the true value may be larger"
        edge = self.preconditioned_sharpness
        rows = (
            ("edge", "1; above it the optimizer amplifies small deviations"),
            ("error", f"{self.error_bound:.2g}"),
            ("λ_max(Ĥ)", "" if edge is None else f"{edge:.5g}, threshold 2/η {self.threshold:.5g}"),
            ("along the gradient", f"{self.gradient_stability_ratio:.4g}, alignment {self.alignment:.3g}"),
            ("top eigenvector", ", ".join(map(str, self.blocks[:5]))),
            ("products", f"{self.products} by {self.backend}"),
            ("note", doubt),
        )
        return Card(f"Stability ratio λ_max(Ĥ)·η/2 = {self.stability_ratio:.4g}", rows)._repr_html_()

    @property
    def relative_error(self) -> float:
        """`error_bound` relative to the ratio; infinite for a ratio of zero."""
        return self.error_bound / abs(self.stability_ratio) if self.stability_ratio else math.inf


@dataclass(frozen=True)
class ProbeMemory:
    """What the next probe can start from, to need fewer products.

    Attributes:
        starts: The top eigenvector of the symmetric form and the next one, each of shape (n,). Started from
            both, the next solve notices when the second overtakes the first. A direction outside of both
            that overtakes them appears in the gradient, which is the third start.
        gain: ‖Hv‖/‖v‖ of the last product, from which finite differences predict their step; None for
            double backward.
        evaluation: Loss and gradient of the batch, as the probe computed them, for who wants to compare them
            with those of training; the next probe needs none.
    """

    starts: tuple[Tensor, ...]
    gain: float | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe measures.

    Attributes:
        backend: How Hessian products are computed; None for double backward.
        stop: When λ_max is accurate enough; None for 0.5 % near the edge and 2 % far from it.
        model: The model that the loss evaluates: its buffers are restored between evaluations, and its
            modules name the blocks. None: no buffers are restored, and no blocks are reported.
        joint: The processes whose parts of the batch it is made over; this one alone by default.
    """

    backend: BackendChoice | None = None
    stop: StoppingRule | None = None
    model: nn.Module | None = None
    joint: Joint = ALONE

    def operator(self, loss: Loss, parameters: Sequence[Tensor], gain: float | None = None) -> LossOperator:
        """Return the Hessian of a loss, to be used in a ``with`` block.

        Args:
            loss: Returns the mean loss, a scalar tensor; or one `LossTerm` per micro-batch.
            parameters: The tensors to differentiate with respect to.
            gain: ‖Hv‖/‖v‖ of the last probe, for finite differences.
        """
        found: LossOperator
        whole, loss = self.joint.whole(parameters), shared_terms(loss, self.joint)
        if self.backend is None:
            found = HessianOperator(loss, whole, model=self.model)
        else:
            spread = self.joint.reduced if isinstance(self.joint, LayerwiseProbe) else None
            found = hessian_operator(self.backend, loss, whole, model=self.model, gain=gain, spread=spread)
        return found if self.joint is ALONE else ReducedOperator(found, self.joint)


def probe_curvature(
    loss: Loss,
    preconditioner: Preconditioner,
    *,
    step: int,
    memory: ProbeMemory | None = None,
    settings: ProbeSettings | None = None,
) -> tuple[CurvatureReading, ProbeMemory]:
    """Measure the preconditioned curvature for the step about to be taken. Call it inside `isolated`.

    Cost: 1.5 F for the graph and 2.5 F for each product: one product for each of the two directions, and
    five or more for λ_max from a warm start.

    Args:
        loss: Returns the mean loss of the batch, a scalar tensor; or one `LossTerm` per micro-batch.
        preconditioner: The step about to be taken; its learning rates must not all be zero.
        step: Step number to put into the reading.
        memory: What the last probe returned; None for a cold start. If the parameters have changed since,
            only its vectors of the present size are used.
        settings: How to measure.

    Returns:
        The reading, and what to pass to the next probe.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar or does not depend on the parameters, or if the step moves no
            parameter.
        FloatingPointError: If the loss or a product is not finite.

    Example:
        Gradient descent on ½·8·θ² at η = 0.1 is at 8·0.1/2 = 0.4 of the edge:

        >>> from foreshock.preconditioner import read_preconditioner
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> loss = lambda: (4 * weight**2).sum()
        >>> loss().backward()
        >>> reading, _ = probe_curvature(loss, read_preconditioner(optimizer), step=1)
        >>> round(reading.stability_ratio, 6), reading.products
        (0.4, 4)
    """
    began = time.perf_counter()
    settings = settings or ProbeSettings()
    if not preconditioner.largest_rate > 0:
        raise ValueError(
            "every learning rate is 0, or no parameter has a gradient, so this step moves nothing and has no "
            "edge of stability: probe between backward() and step(), at a learning rate above 0"
        )
    gain = None if memory is None else memory.gain
    with settings.operator(loss, preconditioner.parameters, gain) as hessian:
        if not math.isfinite(float(hessian.loss)):
            raise FloatingPointError(
                f"the loss of the probed batch is {float(hessian.loss)}, which has no curvature: look for "
                "NaN or Inf in the batch and in the parameters"
            )
        directions = _Directions.measure(hessian, preconditioner)
        # The last eigenvector and its runner-up, if there are any, and always two that are new at each step:
        # a random one, and the gradient with noise. From one vector a direction that overtakes, or of which
        # the vector happens to have little, stays hidden behind a small residual: without the random one, one
        # of 2,100 networks was a third off at a residual of a percent.
        fresh = directions.cold_start(2 * step)
        last = [settings.joint.vector(start) for start in _usable(memory, fresh)]
        top = largest_eigenvalue(
            directions.operator,
            (*last, random_start(preconditioner.parameters, 2 * step + 1, settings.joint), fresh),
            settings.stop or StoppingRule(threshold=1.0),
            extra=directions.pairs(),
        )
        gain = getattr(hessian, "gain", None)  # of differences only
    # Ratios are in multiples of 2/η; the curvatures themselves exist only if all groups share one η.
    rate = preconditioner.common_rate
    unscaled = [
        None if rate is None else ratio * 2 / rate
        for ratio in (top.value, 1.0, directions.gradient_ratio, directions.update_ratio)
    ]
    reading = CurvatureReading(
        step=step,
        stability_ratio=top.value,
        error_bound=top.error,
        preconditioned_sharpness=unscaled[0],
        threshold=unscaled[1],
        gradient_stability_ratio=directions.gradient_ratio,
        gradient_directional_curvature=unscaled[2],
        update_stability_ratio=directions.update_ratio,
        update_directional_curvature=unscaled[3],
        alignment=directions.alignment(top.vector),
        predicted_loss_change=directions.predicted_change,
        products=hessian.products,
        converged=top.converged,
        backend=hessian.backend,
        blocks=largest_blocks(top.vector, preconditioner, settings),
        excess_loss=directions.excess_loss(top),
        coverage=preconditioner.coverage,
        passes=hessian.passes,
        seconds=time.perf_counter() - began,
    )
    return reading, ProbeMemory(top.starts, gain, Evaluation(hessian.loss, hessian.gradient))


def _usable(memory: ProbeMemory | None, like: Tensor) -> tuple[Tensor, ...]:
    # Another number of parameters, because a layer was frozen, for example, makes the vectors useless.
    return () if memory is None else tuple(start for start in memory.starts if start.shape == like.shape)


@dataclass(frozen=True)
class _Directions:
    """The gradient and the update, each with its Hessian product, in the coordinates of the parameters.

    `descent` is −Δθ without decoupled decay, `whole` whether all moving coordinates are covered.
    """

    operator: PreconditionedOperator
    scale_root: Tensor
    gradient: Tensor
    gradient_product: Tensor
    descent: Tensor
    descent_product: Tensor
    whole: bool

    @classmethod
    def measure(cls, hessian: LossOperator, preconditioner: Preconditioner) -> _Directions:
        scale_root = preconditioner.scale_root()
        operator = symmetric_form(hessian, preconditioner, scale_root)
        gradient, descent = preconditioner.gradient(), preconditioner.descent()
        whole = preconditioner.coverage == 1
        if not whole:
            # A step that is not linear in its gradient has A = 0. Its coordinates are held fixed, or the
            # directions would have parts that no ratio accounts for.
            covered = scale_root > 0
            gradient, descent = gradient * covered, descent * covered
        return cls(
            operator,
            scale_root,
            gradient,
            operator.curvature(gradient),
            descent,
            operator.curvature(descent),
            whole,
        )

    @property
    def gradient_ratio(self) -> float:
        # gᵀAHg/‖g‖², the λ_grad of Bai et al. (2025) in the Euclidean metric. AH is not symmetric, so this is
        # no Rayleigh quotient of S and can exceed its λ_max.
        return rayleigh_quotient(self.gradient, self.gradient_product * self.scale_root**2)

    @property
    def update_ratio(self) -> float:
        # uᵀHu/(uᵀA⁻¹u), a Rayleigh quotient of S at y = A^{-1/2}u: never above λ_max.
        return rayleigh_quotient(self.descent, self.descent_product, self._inverse_root() ** 2)

    @property
    def predicted_change(self) -> float:
        # gᵀΔθ + ½ΔθᵀHΔθ with Δθ = −descent.
        change = torch.dot(self.descent, self.descent_product / 2 - self.gradient)
        return float(change) if self.whole else math.nan

    def alignment(self, vector: Tensor) -> float:
        scaled = self.gradient * self.scale_root
        return abs(float(torch.dot(vector, scaled) / torch.linalg.vector_norm(scaled)))

    def excess_loss(self, top: EigenResult) -> float:
        slope = float(torch.dot(top.vector, self.gradient * self.scale_root))
        return slope**2 / (2 * top.value) if top.value > 0 else math.nan

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return (y, S·y) of the directions that have a y, in the coordinates of the symmetric form."""
        inverse = self._inverse_root()
        known = [(self.descent * inverse, self.descent_product * self.scale_root)]
        # y = A^{-1/2}d exists only if d vanishes wherever A does. The update does so by itself; the gradient
        # need not, and H would carry what was cut off into the other coordinates of S·y.
        if bool((self.scale_root > 0).all()):
            known.append((self.gradient * inverse, self.gradient_product * self.scale_root))
        return [(y, product) for y, product in known if bool(y.any())]

    def cold_start(self, seed: int) -> Tensor:
        """Return the preconditioned gradient with a tenth of its length in noise.

        A Krylov space from the gradient alone never leaves the eigenvectors that the gradient has a component
        along; the noise has one along all of them.

        Args:
            seed: Of the noise. New noise at each step finds what the last one happened to miss.
        """
        noise = random_like(self.gradient, seed)
        noise /= torch.linalg.vector_norm(noise)
        scaled = self.gradient * self.scale_root
        norm = float(torch.linalg.vector_norm(scaled))
        return noise.mul_(0.1).add_(scaled, alpha=1 / norm) if 0 < norm < math.inf else noise

    def _inverse_root(self) -> Tensor:
        return reciprocal(self.scale_root)


def largest_blocks(
    vector: Tensor, preconditioner: Preconditioner, settings: ProbeSettings
) -> tuple[BlockShare, ...]:
    """Return the modules with the largest shares of an eigenvector, the largest first; none without a model.

    Args:
        vector: Eigenvector of the symmetric form, shape (n,).
        preconditioner: The step whose parameters it is of.
        settings: How the probe measures, with the model that names them.
    """
    if settings.model is None:
        return ()
    whole = name_parameters(settings.model, settings.joint.whole(preconditioner.parameters))
    named = [(name, one) for (name, _), one in zip(whole, preconditioner.parameters, strict=True)]
    return block_shares(vector, named, depth=_DEPTH)[:_BLOCKS]
