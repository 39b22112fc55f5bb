"""Where a step stopped being finite: input, forward pass, gradient, second moment or weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from foreshock.batches import cast_batch, tensors_in
from foreshock.curvature import LossFunction
from foreshock.isolation import alone, fresh, isolated, plain_module
from foreshock.representation import short_repr

_LARGEST_COPY = 50_000_000  # coordinates of a model that is copied in double precision
_NAMED = 8


@dataclass(frozen=True)
class Overflow:
    """What was not finite at a step, looked at with the weights and the batch of that step.

    Attributes:
        step: The step.
        what: ``"weight"``, ``"input"``, ``"forward"`` or ``"gradient"``: the first of them that is not
            finite. ``""`` if all of them are when the step is computed once more.
        names: The weights; for a forward pass the first module whose output is not finite.
        dtype: Type of that output, such as ``float16``; empty if unknown.
        largest: Largest modulus among what went into that module; NaN if unknown.
        batch: Whether the batch has numbers that are not finite, whatever else has.
        double_loss: The loss of the step in double precision; NaN if it is NaN or was not computed. A finite
            one proves that precision is the matter, and not the weights.
    """

    step: int
    what: str
    names: tuple[str, ...] = ()
    dtype: str = ""
    largest: float = math.nan
    double_loss: float = math.nan
    batch: bool = False

    __repr__ = short_repr


def locate_overflow(step: int, model: nn.Module, loss_fn: LossFunction | None, batch: Any) -> Overflow:
    """Return where a step stops being finite. Cost: two forward passes, one of them in double precision.

    Args:
        step: Step number.
        model: The model, with the weights of the step.
        loss_fn: ``loss_fn(model, batch)`` → mean loss; None to look at weights and inputs alone.
        batch: The batch of the step.

    Example:
        >>> layer = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> _ = [setattr(p, "data", torch.full_like(p, 1e30)) for p in layer.parameters()]
        >>> found = locate_overflow(3, layer, lambda m, x: m(x).mean(), torch.full((1, 1), 1e20))
        >>> found.what, found.names, found.double_loss > 1e49
        ('forward', ('0',), True)
    """
    lost = tuple(name for name, one in model.named_parameters() if not _finite(one))
    odd = not all(_finite(one) for one in tensors_in(batch))
    if lost:
        return Overflow(step, "weight", lost[:_NAMED], batch=odd)
    if odd:
        return Overflow(step, "input", batch=True)
    if loss_fn is None:
        return Overflow(step, "")
    plain = plain_module(model)
    watch = _ForwardWatch(plain)
    with alone(model), isolated(model, loss_fn), torch.no_grad(), watch.watching():
        loss = float(loss_fn(plain, fresh(batch)))
    double = _double_loss(plain, loss_fn, batch)
    if watch.name is None and math.isfinite(loss):
        return Overflow(step, "gradient", double_loss=double)
    name = () if watch.name is None else (watch.name,)
    return Overflow(step, "forward", name, watch.dtype, watch.largest, double)


class _ForwardWatch:
    """Notice the first module of a forward pass whose output is not finite although its inputs are."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self.name: str | None = None
        self.dtype, self.largest = "", math.nan

    @contextmanager
    def watching(self) -> Iterator[None]:
        handle = register_module_forward_hook(self._see)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.name is not None or module not in self._names:
            return
        wrong = next((one for one in tensors_in(output) if not _finite(one)), None)
        if wrong is None:
            return
        self.name, self.dtype = self._names[module], str(wrong.dtype).removeprefix("torch.")
        sizes = [float(one.detach().abs().max()) for one in tensors_in(inputs) if one.numel()]
        self.largest = max(sizes, default=math.nan)


def _double_loss(model: nn.Module, loss_fn: LossFunction, batch: Any) -> float:
    if sum(parameter.numel() for parameter in model.parameters()) > _LARGEST_COPY:
        return math.nan
    # A loss function may reach what is no part of the copy, and write to it.
    with suppress(Exception), isolated(model, loss_fn), torch.no_grad():
        return float(loss_fn(copy.deepcopy(model).double(), cast_batch(fresh(batch), torch.float64)))
    return math.nan  # a model that can't be copied, or has parts that are not double


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())
