"""Which reader understands which optimizer, and the reading itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, optim
from torch.optim import Optimizer

from foreshock.dynamics import SecondMomentSums
from foreshock.preconditioner.adam import read_adam_second_moment, read_adam_step
from foreshock.preconditioner.record import ParameterStep, Preconditioner
from foreshock.vectors import total_norm


@dataclass(frozen=True)
class Reader:
    """How to read one family of optimizers.

    Attributes:
        step: (parameter, its state, its group) → the step about to be taken.
        second_moment: (state, group) → (v before the step or None, β₂, number t of the step).
    """

    step: Callable[[Tensor, Mapping[str, Any], Mapping[str, Any]], ParameterStep]
    second_moment: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Tensor | None, float, int]]


_READERS: dict[type[Optimizer], Reader] = {
    optim.Adam: Reader(partial(read_adam_step, decoupled=False), read_adam_second_moment),
    optim.AdamW: Reader(partial(read_adam_step, decoupled=True), read_adam_second_moment),
}


def register_preconditioner(optimizer_class: type[Optimizer], reader: Reader) -> None:
    """Teach Foreshock a further optimizer.

    Args:
        optimizer_class: The class; subclasses that don't override ``step`` are understood too.
        reader: How to read it. Check it by comparing `ParameterStep.displacement` with one real step.

    Raises:
        TypeError: If `optimizer_class` is not an optimizer class.
    """
    if not (inspect.isclass(optimizer_class) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"{optimizer_class!r} is not a subclass of torch.optim.Optimizer")
    _READERS[optimizer_class] = reader


def find_reader(optimizer: Optimizer) -> Reader:
    """Return the reader for an optimizer.

    Args:
        optimizer: A live optimizer.

    Raises:
        TypeError: If its class is not registered, with the names that are.
    """
    cls = type(optimizer)
    for base in cls.__mro__:
        if base in _READERS and _same_step(cls, base):
            return _READERS[base]
    known = ", ".join(sorted(known.__name__ for known in _READERS))
    raise TypeError(
        f"{cls.__module__}.{cls.__qualname__} is not an optimizer Foreshock can read (it reads {known}, "
        "and subclasses of them that don't override step): teach it with "
        "foreshock.register_preconditioner(cls, reader)"
    )


def read_preconditioner(optimizer: Optimizer) -> Preconditioner:
    """Return the step that `optimizer` is about to take, from its live state and ``.grad``.

    Call it between ``backward()`` and ``step()``. Nothing is changed. Cost: about one optimizer step.

    Args:
        optimizer: A live optimizer of a registered class.

    Raises:
        TypeError: If the optimizer's class is not registered, or a gradient is sparse.
    """
    reader = find_reader(optimizer)
    parameters: list[Tensor] = []
    steps: list[ParameterStep | None] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                state = optimizer.state.get(parameter, {})
                parameters.append(parameter)
                moves = parameter.grad is not None
                steps.append(reader.step(parameter, state, group) if moves else None)
    return Preconditioner(tuple(parameters), tuple(steps))


def read_second_moment_sums(optimizer: Optimizer) -> list[SecondMomentSums]:
    """Return Σg² and Σv_{t−1} by parameter group, the free part of the lag statistics.

    The gradient is ``.grad`` as it is, coupled weight decay left out. Cost: two norms.

    Args:
        optimizer: A live optimizer of a registered class.

    Raises:
        TypeError: If the optimizer's class is not registered.
    """
    reader = find_reader(optimizer)
    sums = []
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.grad is not None]
        if not moving:
            continue
        read = [reader.second_moment(optimizer.state.get(p, {}), group) for p in moving]
        moments = [moment for moment, _, _ in read if moment is not None]
        beta2, step = read[0][1:]
        squared = float(total_norm([p.grad for p in moving])) ** 2
        previous = float(total_norm(moments, order=1)) if moments else 0.0
        sums.append(SecondMomentSums(squared, previous, beta2, step))
    return sums


def _same_step(cls: type[Optimizer], base: type[Optimizer]) -> bool:
    # torch wraps `step` of a class at its first construction, hence the unwrapping.
    return inspect.unwrap(cls.step) is inspect.unwrap(base.step)
