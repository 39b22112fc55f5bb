"""Curvature of a model on a batch in one call, without a monitor or a training loop.

All functions restore the model, its gradients and the random number generators. `batch` is whatever
``loss_fn(model, batch)`` takes, or `MicroBatches` for several batches that count as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import MicroBatches, count_examples
from foreshock.curvature.blocks import BlockShare, block_shares
from foreshock.curvature.choosing import choose_together
from foreshock.curvature.density import SpectralDensity, spectral_density
from foreshock.curvature.form import (
    gathered_step,
    next_step,
    one_call_solve,
    random_start,
    symmetric_form,
    trained_parameters,
)
from foreshock.curvature.noise import measure_noise
from foreshock.curvature.one_call import names_of, one_call
from foreshock.curvature.probe import CurvatureReading, ProbeSettings, probe_curvature
from foreshock.curvature.terms import LossFunction, loss_terms, part_terms
from foreshock.distributed.joint import COUNTS
from foreshock.dynamics import population_factor
from foreshock.eigen import EigenResults, StoppingRule
from foreshock.operators import BackendChoice
from foreshock.operators.cost import GRADIENT_PASSES
from foreshock.preconditioner import as_optimizers, moving_parameters
from foreshock.representation import short_repr


@dataclass(frozen=True)
class Sharpness:
    """The largest eigenvalue of the Hessian, with its error and its eigenvector's blocks.

    Attributes:
        value: Estimate of λ_max(H), a lower bound except for rounding.
        error: Estimated absolute error of `value`.
        residual: ‖Hq − λq‖ of the unit eigenvector q; some eigenvalue lies within it of `value`.
        eigenvalues: The largest eigenvalues, as many as were requested, in decreasing order.
        converged: Whether all of them met the tolerance. If not, raise `StoppingRule.max_products`.
        products: Number of Hessian products spent.
        backend: How products were computed, and why.
        blocks: Share of every parameter tensor in the top eigenvector, the largest first.
    """

    value: float
    error: float
    residual: float
    eigenvalues: tuple[float, ...]
    converged: bool
    products: int
    backend: BackendChoice
    blocks: tuple[BlockShare, ...]

    @classmethod
    def of(
        cls, found: EigenResults, backend: BackendChoice, named: Sequence[tuple[str, Tensor]]
    ) -> Sharpness:
        """Return what a solver found, with the shares of the parameters in the top eigenvector.

        Args:
            found: Its eigenvalues and vectors, the largest first.
            backend: How products were computed.
            named: Names and parameters, in the order of the vector's coordinates.
        """
        top = found[0]
        return cls(
            value=top.value,
            error=top.error,
            residual=top.residual,
            eigenvalues=found.values,
            converged=found.converged,
            products=found.products,
            backend=backend,
            blocks=block_shares(top.vector, named),
        )

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        doubt = "" if self.converged else ", not converged: the true value may be larger"
        top = ", ".join(map(str, self.blocks[:3]))
        how = f"{self.products} products by {self.backend.name}"
        return f"λ_max(H) {self.value:.5g} ± {self.error:.2g}{doubt} ({how}); top eigenvector: {top}"

    def _repr_html_(self) -> str:
        from foreshock.cards import Card

        rows = (
            ("eigenvalues", ", ".join(f"{one:.5g}" for one in self.eigenvalues)),
            ("error", f"{self.error:.2g}"),
            ("top eigenvector", ", ".join(map(str, self.blocks[:5]))),
            ("products", f"{self.products} by {self.backend}"),
            ("not converged", "" if self.converged else "the true value may be larger"),
        )
        return Card(f"Sharpness λ_max(H) = {self.value:.5g}", rows)._repr_html_()


@dataclass(frozen=True)
class MeanSquareStability:
    """Mean-square stability under the noise of mini-batches, from several fresh batches.

    Curvatures are in multiples of the full-batch edge, with the step sizes of all parameter groups included.
    w is the top eigenvector of S, the symmetric form of all batches together; S_B is that of one batch.

    Attributes:
        ratio: μ + (n/c)·σ²/μ, the mean-square ratio; one is the edge. NaN if μ ≤ 0.
        mean: μ = wᵀSw.
        variance: Unbiased estimate of σ² = E‖(S_B − S)w‖².
        noise_factor: n/c: momentum multiplies the mean curvature by c and its noise by n.
        batches: Number of batches.
        curvature: The curvature of all batches together.
    """

    ratio: float
    mean: float
    variance: float
    noise_factor: float
    batches: int
    curvature: CurvatureReading

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        parts = f"{self.mean:.3g} of curvature and {self.ratio - self.mean:.3g} of noise"
        return f"mean-square ratio {self.ratio:.3g} of the edge: {parts}, from {self.batches} batches"

    def _repr_html_(self) -> str:
        from foreshock.cards import Card

        rows = (
            ("edge", "1; above it the optimizer amplifies small deviations"),
            ("of curvature", f"{self.mean:.4g}"),
            ("of its noise", f"{self.ratio - self.mean:.4g}"),
            ("batches", f"{self.batches}"),
            ("all together", str(self.curvature)),
        )
        return Card(f"Mean-square ratio = {self.ratio:.4g}", rows)._repr_html_()


def sharpness(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    parameters: Iterable[Tensor] | None = None,
    count: int = 1,
    stop: StoppingRule | None = None,
) -> Sharpness:
    """Return λ_max(H), the largest eigenvalue of the Hessian of the loss on a batch.

    Cost: 5 F to choose the backend, 1.5 F for the graph and 2.5 F for each of about ten products.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batch: A batch, or `MicroBatches`. λ_max of a part of the data overestimates that of all of it.
        parameters: Some of the model's parameters, such as ``model.head.parameters()``, whose block of the
            Hessian is measured with the others held fixed; None for all.
        count: How many of the largest eigenvalues to find, ≥ 1.
        stop: When they are accurate enough; by default at an estimated relative error of 0.5 %.

    Returns:
        The result; check its `converged`.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar or does not depend on the model, if `count` is below one, or
            if `parameters` has none to measure.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(sharpness(model, lambda model, batch: (model(batch) ** 2).mean(), batch).value, 4)
        4.0

        One layer at a time, with the others held fixed:

        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> loss_fn = lambda model, batch: (model(batch) ** 2).mean()
        >>> layers = {name: list(layer.parameters()) for name, layer in model.named_children()}
        >>> [name for name, own in layers.items() if own and sharpness(model, loss_fn, batch, parameters=own)]
        ['0', '2']
    """
    loss = loss_terms(model, loss_fn, batch)
    with one_call(model, loss_fn, batch, lambda: trained_parameters(model, parameters)) as (joint, chosen):
        choice = choose_together(loss, chosen, model=model, joint=joint)
        with ProbeSettings(choice, model=model, joint=joint).operator(loss, chosen) as hessian:
            found = one_call_solve(hessian, chosen, count, stop, joint=joint)
        return Sharpness.of(found, choice, names_of(model, chosen, joint))


def preconditioned_sharpness(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    loss_fn: LossFunction,
    batch: Any,
    *,
    parameters: Iterable[Tensor] | None = None,
    stop: StoppingRule | None = None,
) -> CurvatureReading:
    """Return the preconditioned curvature for the step that the optimizer would take on this batch.

    The gradient of the batch is computed here, because the preconditioner D of a step contains the gradient
    of that step. ``.grad`` is neither needed nor changed.

    Cost: 1 F for the gradient, 5 F to choose the backend, and one probe; see `probe_curvature`.

    Args:
        model: The model.
        optimizer: Its live optimizer, or several; its state may be empty.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batch: A batch, or `MicroBatches`.
        parameters: Some of the model's parameters, such as ``model.head.parameters()``, whose block is
            measured with the others held fixed; None for all.
        stop: When λ_max is accurate enough; by default at 0.5 % near the edge and 2 % far from it.

    Returns:
        The reading; its `stability_ratio` is one at the edge of stability.

    Raises:
        TypeError: If the loss is not a tensor, or the optimizer not registered.
        ValueError: If the loss is not a scalar or does not depend on the model, if the step would move no
            parameter, or if `parameters` has none that the optimizer trains.
        FloatingPointError: If the loss or a product is not finite.

    Example:
        Gradient descent at η = 0.1 with λ_max = 4 is at 4·0.1/2 = 0.2 of the edge:

        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss_fn = lambda model, batch: (model(batch) ** 2).mean()
        >>> batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(preconditioned_sharpness(model, optimizer, loss_fn, batch).stability_ratio, 4)
        0.2
    """
    loss = loss_terms(model, loss_fn, batch)
    only = None if parameters is None else list(trained_parameters(model, parameters))
    # One block for all, since next_step leaves its gradient in .grad.
    with one_call(model, loss_fn, batch, lambda: moving_parameters(as_optimizers(optimizer))) as (joint, _):
        preconditioner = next_step(model, optimizer, loss, only, joint=joint)
        choice = choose_together(loss, preconditioner.parameters, model=model, joint=joint)
        settings = ProbeSettings(choice, stop, model, joint)
        reading, _ = probe_curvature(loss, preconditioner, step=0, settings=settings)
    return replace(reading, passes=reading.passes + choice.passes + GRADIENT_PASSES)


def mean_square_stability(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    loss_fn: LossFunction,
    batches: Sequence[Any],
    *,
    examples: int | None = None,
) -> MeanSquareStability:
    """Return the mean-square ratio for the optimizer's next step, from fresh batches of the training size.

    In mini-batch training λ_max(Ĥ) < 2/η does not imply stability: the noise of the curvature counts too
    (for SGD see arXiv 2306.07850; for momentum, `foreshock.dynamics.mean_square_ratio`). The noise is
    measured along the top eigenvector of all batches together. The preconditioner contains the gradient of
    all batches together, as in `preconditioned_sharpness`.

    Cost: `preconditioned_sharpness` over all batches, and 2 F of one batch for each of them.

    Args:
        model: The model.
        optimizer: Its live optimizer, or several.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batches: At least two batches of the training size, drawn as in training; a dozen is enough.
        examples: Size of the training set if training makes several passes over it: batches drawn without
            replacement differ less than independent ones. None for data that are always fresh.

    Raises:
        TypeError: If the loss is not a tensor, or the optimizer not registered.
        ValueError: If there are fewer than two batches, if the loss is not a scalar or does not depend on
            the model, if the step would move no parameter, or if `examples` is less than a batch has.
        FloatingPointError: If the loss or a product is not finite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = [torch.full((4, 1), value) for value in (1.0, 2.0)]
        >>> loss_fn = lambda model, batch: (model(batch) ** 2).mean()
        >>> found = mean_square_stability(model, optimizer, loss_fn, batches)
        >>> round(found.mean, 4), round(found.variance, 4), round(found.ratio, 4)
        (0.25, 0.045, 0.43)
    """
    parts = MicroBatches(batches)
    terms = part_terms(model, loss_fn, parts)
    size = sum(map(count_examples, batches)) / len(batches)
    with one_call(model, loss_fn, parts, lambda: moving_parameters(as_optimizers(optimizer))) as (joint, _):
        preconditioner = next_step(model, optimizer, terms, joint=joint)
        choice = choose_together(terms, preconditioner.parameters, model=model, joint=joint)
        settings = ProbeSettings(choice, None, model, joint)
        curvature, memory = probe_curvature(terms, preconditioner, step=0, settings=settings)
        # Along the top eigenvector: from the gradient, the direction would take many measurements to turn.
        own, _ = measure_noise(
            terms,
            gathered_step(preconditioner, joint),
            step=0,
            direction=joint.gather(memory.starts[0]),
            model=model,
            joint=joint,
        )
        # Of several processes each has a summand, and the batches of training are those of all.
        mean, variance, size = joint.everyones(own.mean, own.variance, size, topic=COUNTS)
    reading = replace(own, mean=mean, variance=variance)
    # The reading has the variance of the mean of all k batches, which is 1/k of that between single ones.
    variance = reading.variance * len(batches) * population_factor(size, examples)
    # Along a direction of no positive curvature there is no edge to compare with.
    noise = reading.noise_factor * variance / reading.mean if reading.mean > 0 else math.nan
    return MeanSquareStability(
        ratio=reading.mean + noise,
        mean=reading.mean,
        variance=variance,
        noise_factor=reading.noise_factor,
        batches=len(batches),
        curvature=curvature,
    )


def spectrum(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    parameters: Iterable[Tensor] | None = None,
    probes: int = 4,
    steps: int = 40,
) -> SpectralDensity:
    """Return the spectral density of the Hessian, or of the preconditioned Hessian, on a batch.

    Cost: 5 F to choose the backend, then `probes` × `steps` products of 2.5 F.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batch: A batch, or `MicroBatches`.
        optimizer: With it, the spectrum is that of A^{1/2}HA^{1/2}, in multiples of the edge; None for H.
        parameters: Some of the model's parameters, such as ``model.head.parameters()``, whose block of the
            Hessian is measured with the others held fixed; None for all.
        probes: Number of random vectors to average over, ≥ 1.
        steps: Lanczos steps from each, ≥ 2.

    Returns:
        The density: its moments, edges and quantiles, and its values on a grid.

    Raises:
        TypeError: If the loss is not a tensor, or the optimizer not registered.
        ValueError: If the loss is not a scalar or does not depend on the model, if `probes` or `steps` are
            too few, or if `parameters` has none to measure.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> found = spectrum(model, lambda model, batch: (model(batch) ** 2).mean(), batch)
        >>> round(found.lower, 4), round(found.upper, 4), round(found.trace, 4)
        (1.0, 4.0, 5.0)
    """
    loss = loss_terms(model, loss_fn, batch)
    only = None if parameters is None else list(trained_parameters(model, parameters))

    def measured() -> Sequence[Tensor]:
        if optimizer is not None:
            return moving_parameters(as_optimizers(optimizer))
        return trained_parameters(model) if only is None else only

    with one_call(model, loss_fn, batch, measured) as (joint, chosen):
        preconditioner = None
        if optimizer is not None:
            preconditioner = next_step(model, optimizer, loss, only, joint=joint)
            chosen = preconditioner.parameters
        choice = choose_together(loss, chosen, model=model, joint=joint)
        with ProbeSettings(choice, model=model, joint=joint).operator(loss, chosen) as hessian:
            operator = hessian if preconditioner is None else symmetric_form(hessian, preconditioner)
            start = random_start(chosen, joint=joint)
            return spectral_density(operator, start, probes=probes, steps=steps)
