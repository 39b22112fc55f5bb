"""Read the state of live optimizers: D and the update about to be made, Σv and the gradient norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from foreshock.dynamics import SecondMomentSums
from foreshock.failures import ProbeRefusedError
from foreshock.preconditioner.families import BUILT_IN
from foreshock.preconditioner.live import (
    LiveParameter,
    Reader,
    as_optimizers,
    live_groups,
    moving_parameters,
    options_on_host,
    unwrap,
    updates_made,
)
from foreshock.preconditioner.record import ParameterStep, Preconditioner
from foreshock.preconditioner.registry import find_reader
from foreshock.vectors import is_sharded, local, refuse_complex, total_norm


@torch.no_grad()
def read_preconditioner(
    optimizers: Optimizer | Sequence[Optimizer], *, gradient_scale: float = 1.0
) -> Preconditioner:
    """Return the step that is about to be taken, from live optimizer state and ``.grad``.

    Call it between ``backward()`` and ``step()``. Nothing is changed. Cost: about one optimizer step.

    Args:
        optimizers: A live optimizer of a registered class, or several that have different parameters, such
            as Muon for matrices and AdamW for the rest.
        gradient_scale: The factor that ``.grad`` still contains: ``scaler.get_scale()`` of a gradient scaler
            before its ``unscale_``. A ``grad_scale`` attribute of the optimizer is divided out in addition.

    Raises:
        TypeError: If an optimizer's class is not registered, a gradient is not dense, or a parameter complex.
        ValueError: If `gradient_scale` is not a positive number, or a parameter has two optimizers.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = optim.Adam([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> read_preconditioner(optimizer).displacement()  # the first step of Adam is −η·sign(g)
        tensor([-0.1000, -0.1000])
    """
    parameters: list[Tensor] = []
    steps: list[ParameterStep | None] = []
    for parameter, step in _steps(optimizers, gradient_scale):
        parameters.append(parameter)
        steps.append(step)
    # By identity: == compares tensors entry by entry.
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError(
            "a parameter belongs to two of the optimizers, which would move it twice in one step: pass each "
            "optimizer once, and give each parameter to one of them"
        )
    return Preconditioner(tuple(parameters), tuple(steps))


@torch.no_grad()
def read_steps(
    optimizers: Optimizer | Sequence[Optimizer], *, gradient_scale: float = 1.0
) -> Iterator[tuple[Tensor, ParameterStep | None]]:
    """Yield each parameter that requires a gradient with its coming step; None for one without a gradient.

    One tensor's step is in memory at a time, where `read_preconditioner` has all of them.

    Args:
        optimizers: As for `read_preconditioner`.
        gradient_scale: As for `read_preconditioner`.

    Raises:
        TypeError: If an optimizer's class is not registered, a gradient is not dense, or a parameter complex.
        ValueError: If `gradient_scale` is not a positive number.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> (weight**2).sum().backward()
        >>> [step.gradient for _, step in read_steps(optim.SGD([weight], lr=0.1))]
        [tensor([6., 8.])]
    """
    yield from _steps(optimizers, gradient_scale)


def _steps(
    optimizers: Optimizer | Sequence[Optimizer], gradient_scale: float
) -> Iterator[tuple[Tensor, ParameterStep | None]]:
    # `read_steps` without its no_grad, which a generator enters anew for each parameter.
    _require_scale(gradient_scale)
    for optimizer in as_optimizers(optimizers):
        reader, scale = find_reader(optimizer), gradient_scale * _own_scale(optimizer)
        for parameter, state, group in _parameters(optimizer):
            refuse_complex([parameter])
            if parameter.grad is None:
                yield parameter, None
                continue
            gradient, here = _dense_gradient(local(parameter.grad), scale), parameter
            if is_sharded([parameter]):
                _require_elementwise(optimizer, reader)
                here, state = local(parameter.detach()), _local_state(state)
            yield parameter, reader.step(LiveParameter(here, gradient, state, group))


@torch.no_grad()
def read_preconditioner_at(
    optimizers: Optimizer | Sequence[Optimizer],
    coordinates: Sequence[Tensor | None],
    *,
    gradient_scale: float = 1.0,
) -> Preconditioner | None:
    """Return the coming step of some coordinates only; None if their step depends on others.

    Cost: in proportion to the coordinates.

    Args:
        optimizers: As for `read_preconditioner`.
        coordinates: For each parameter that requires a gradient, in the optimizer's order, the indices of its
            coordinates, flat, shape (m,); None for none of them.
        gradient_scale: As for `read_preconditioner`.

    Returns:
        The step, with parameters of shape (m,); None too if the parameters are not as many as `coordinates`.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = optim.SGD([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> read_preconditioner_at(optimizer, [torch.tensor([1])]).gradient()
        tensor([8.])
    """
    parameters: list[Tensor] = []
    steps: list[ParameterStep | None] = []
    found = as_optimizers(optimizers)
    if not all(isinstance(unwrap(one), _ELEMENTWISE) for one in found):
        return None
    live = [(one, *entry) for one in found for entry in _parameters(one)]
    if len(live) != len(coordinates):
        return None
    for (optimizer, parameter, state, group), chosen in zip(live, coordinates, strict=True):
        if is_sharded([parameter]) or (parameter.grad is not None and parameter.grad.is_sparse):
            return None
        if chosen is None or parameter.grad is None:
            parameters.append(parameter.new_empty(0))
            steps.append(None)
            continue
        part = torch.take(parameter.detach(), chosen)
        gradient = torch.take(parameter.grad, chosen) / (gradient_scale * _own_scale(optimizer))
        kept = {
            name: torch.take(value, chosen) if _has_shape(value, parameter) else value
            for name, value in state.items()
        }
        parameters.append(part)
        steps.append(find_reader(optimizer).step(LiveParameter(part, gradient, kept, group)))
    return Preconditioner(tuple(parameters), tuple(steps))


# Each coordinate of their step depends on its own gradient and state alone.
_ELEMENTWISE = (
    optim.Adam,
    optim.AdamW,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.SGD,
    optim.Adamax,
    optim.Adagrad,
)


def _has_shape(value: Any, parameter: Tensor) -> bool:
    # The number of steps is a tensor without dimensions, as a parameter may be, which has one coordinate.
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


@torch.no_grad()
def read_second_moment_sums(
    optimizers: Optimizer | Sequence[Optimizer],
    *,
    gradient_scale: float = 1.0,
    weights: Mapping[int, float] | None = None,
) -> list[SecondMomentSums]:
    """Return Σg² and Σv_{t−1} of each parameter group, from which the lag of v is computed at every step.

    Groups without a decaying average of g² (SGD, Adagrad, Adamax, Muon, β₂ = 0) are left out. g is ``.grad``
    without coupled weight decay. Of distributed parameters the sums are over this process's shards.

    Cost: two norms, and two transfers from the device for each group.

    Args:
        optimizers: A live optimizer of a registered class, or several.
        gradient_scale: The factor that ``.grad`` still contains; see `read_preconditioner`.
        weights: A factor on the terms of each parameter, by identity, where processes have copies of it.

    Raises:
        TypeError: If an optimizer's class is not registered.
        ValueError: If `gradient_scale` is not a positive number.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> (weight**2).sum().backward()
        >>> [sums] = read_second_moment_sums(optim.Adam([weight]))
        >>> sums.squared_gradient, sums.previous, sums.step
        (100.0, 0.0, 1)
    """
    _require_scale(gradient_scale)
    sums = []
    for optimizer in as_optimizers(optimizers):
        inner, reader = unwrap(optimizer), find_reader(optimizer)
        scale = gradient_scale * _own_scale(optimizer)
        for group in live_groups(optimizer):
            moving = [p for p in group["params"] if p.grad is not None]
            states, options = _on_host(reader, [inner.state.get(p, {}) for p in moving], group)
            read = [reader.second_moment(state, options) for state in states]
            known = [moment for moment in read if moment is not None]
            # β₂ belongs to the group, and t is that of its first parameter: those that train together share
            # it. At β₂ = 0 v is g² itself and cannot lag.
            if not known or not 0 < known[0].beta2 < 1:
                continue
            used = [(p, moment) for p, moment in zip(moving, read, strict=True) if moment is not None]
            gradients = [p.grad for p, _ in used]
            earlier = [(p, moment.previous) for p, moment in used if moment.previous is not None]
            totals = [total_norm(gradients, weights=_weights(used, weights))]
            if earlier:
                # v ≥ 0, so its 1-norm is its sum: one fused kernel for all tensors.
                moments = [moment for _, moment in earlier]
                totals.append(total_norm(moments, order=1, weights=_weights(earlier, weights)))
            norm, *previous = _fetched(totals)
            sums.append(
                SecondMomentSums((norm / scale) ** 2, sum(previous, 0.0), known[0].beta2, known[0].step)
            )
    return sums


@torch.no_grad()
def read_gradient_norm(
    optimizers: Optimizer | Sequence[Optimizer],
    *,
    gradient_scale: float = 1.0,
    weights: Mapping[int, float] | None = None,
) -> float:
    """Return ‖g‖ over all parameters of the optimizers; 0 if none has a gradient. Cost: one norm.

    Of distributed parameters it is that of this process's shards.

    Args:
        optimizers: One optimizer of any class, or several.
        gradient_scale: The factor that ``.grad`` still contains; see `read_preconditioner`.
        weights: As for `read_second_moment_sums`.

    Raises:
        ValueError: If `gradient_scale` is not a positive number.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> (weight**2).sum().backward()
        >>> read_gradient_norm(optim.Adam([weight]))
        10.0
    """
    _require_scale(gradient_scale)
    norms = []
    for optimizer in as_optimizers(optimizers):
        moving = [(p, p.grad) for p in moving_parameters([optimizer]) if p.grad is not None]
        if moving:
            norm = total_norm([gradient for _, gradient in moving], weights=_weights(moving, weights))
            norms.append(float(norm) / (gradient_scale * _own_scale(optimizer)))
    return math.hypot(*norms)


def _weights(
    members: Sequence[tuple[Tensor, Any]], weights: Mapping[int, float] | None
) -> list[float] | None:
    return None if weights is None else [weights.get(id(parameter), 1.0) for parameter, _ in members]


def _parameters(optimizer: Optimizer) -> Iterator[tuple[Tensor, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each trained parameter with its state and its group, numbers in them on the host."""
    reader, kept = find_reader(optimizer), unwrap(optimizer).state
    for group in live_groups(optimizer):
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        states, options = _on_host(reader, [kept.get(one, {}) for one in trained], group)
        for parameter, state in zip(trained, states, strict=True):
            yield parameter, state, options


def _on_host(
    reader: Reader, states: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    """Return states and group with their numbers on the host, where those are tensors on a device.

    Each reader asks for β, η and t of each parameter, and each of these would make the host wait. A reader
    from outside may expect tensors, and gets what there is.
    """
    if not any(reader is one for one in BUILT_IN.values()):
        return states, group
    counted = [state for state in states if isinstance(state.get("step"), Tensor)]
    made = iter(updates_made(counted))
    fetched = [
        {**state, "step": next(made)} if isinstance(state.get("step"), Tensor) else state for state in states
    ]
    return fetched, options_on_host(group)


def _fetched(scalars: Sequence[Tensor]) -> list[float]:
    """Return scalars as numbers; one transfer if they are of one device and type."""
    if len({(one.device, one.dtype) for one in scalars}) > 1:
        return [float(one) for one in scalars]
    return list(torch.stack([local(one) for one in scalars]).tolist())


def _local_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: local(value) if isinstance(value, Tensor) else value for name, value in state.items()}


def _require_elementwise(optimizer: Optimizer, reader: Reader) -> None:
    """Refuse steps in which a coordinate depends on others, which another process may have."""
    name = type(unwrap(optimizer)).__name__
    if not reader.elementwise or name == "Muon":
        raise ProbeRefusedError(
            f"the step of {name} depends on whole matrices, of which each process has a part (FSDP2, tensor "
            "parallelism): no curvature is measured; watch without a loss_fn, or use AdamW or another "
            "optimizer that moves each coordinate by itself"
        )


def _dense_gradient(gradient: Tensor, scale: float) -> Tensor:
    if gradient.layout is not torch.strided:
        raise TypeError(
            f"a gradient has the layout {gradient.layout}, which moves only some rows; only dense gradients "
            "are read: build the embedding with sparse=False"
        )
    # Not divided in place: .grad is the user's, and the scaler will unscale it itself.
    gradient = gradient.detach()
    return gradient if scale == 1 else gradient / scale


def _own_scale(optimizer: Optimizer) -> float:
    """Return the scale by which a fused optimizer divides in its own step, set by torch.amp.GradScaler."""
    scale = getattr(unwrap(optimizer), "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _require_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(
            f"gradient_scale is {scale!r}; it must be a positive number: pass scaler.get_scale() before "
            "unscale_, and leave it out after"
        )
