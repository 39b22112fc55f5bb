"""Which optimizers can be guarded, and how: D of the step about to be taken, and how v is raised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.families.moments import (
    Write,
    raise_average,
    raise_factored,
    raise_maximum,
    raise_square_average,
)
from foreshock.guarding.families.slots import ADAM, Slot
from foreshock.preconditioner import ParameterStep, SecondMoment, find_reader, stock_name, unwrap
from foreshock.preconditioner.families import REFUSED as UNREADABLE
from foreshock.stability import momentum_factor, with_decoupled_decay
from foreshock.vectors import local

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        **UNREADABLE,
        "torch.optim.SGD": "it has no second moment to raise: lower the learning rate, or clip",
        "torch.optim.Muon": "its step is not diagonal and has no second moment: guard the AdamW beside it "
        "on its own, or clip",
        "torch.optim.Adagrad": "its second moment never falls, so that it makes no such spikes",
        "torch.optim.Adadelta": "its step size is itself an average, which a raise of v would enlarge",
    }
)

_UNKNOWN = "it has a step of its own, and how to raise its second moment is not known"


@dataclass(frozen=True)
class Metric:
    """A⁻¹ of some parameters, A = diag(cη/2D).

    Attributes:
        denominators: D_t, gradient of now included, tensors that may be written to.
        rates: cη/2 of each tensor.
    """

    denominators: list[Tensor]
    rates: list[float]


@dataclass(frozen=True)
class Family:
    """How to guard one family of optimizers.

    Attributes:
        metric: Parameters with a state → their A⁻¹ in the step about to be taken.
        raised: What to write so that v_t of a parameter is k times what it would be, k ≥ 1 a number or one
            for each coordinate; nothing where no write would do that.
        rate: cη/2 of one parameter of Adam; 0 where `metric` has to be asked.
        momentum: A parameter's decay of the first moment, and the direct share of the gradient, in the step
            about to be taken.
        second_moment: The parameter's v_{t−1} and β₂, or None if it has no decaying average of g².
        diagonal: Whether coordinates of a tensor can be raised one by one.
        decoupled: Whether weight decay is decoupled.
    """

    metric: Callable[[Sequence[Slot]], Metric]
    raised: Callable[[Slot, Tensor | float], list[Write]]
    second_moment: Callable[[Slot], SecondMoment | None]
    rate: Callable[[Slot], float]
    momentum: Callable[[Slot], tuple[float, float]]
    diagonal: bool = True
    decoupled: bool = False


def find_family(optimizer: Optimizer) -> Family:
    """Return how to guard an optimizer.

    Args:
        optimizer: A live optimizer, or a wrapper around one that `foreshock.preconditioner.unwrap` knows.

    Raises:
        TypeError: If it can't be guarded, with the reason and what to do instead.
    """
    inner = unwrap(optimizer)
    name = stock_name(inner)
    if name is None or (name not in ADAM and name not in _RAISED):
        raise TypeError(f"{type(inner).__name__} can't be guarded: {_reason(inner, name)}. {_known()}")
    reader = find_reader(inner)
    moment = lambda slot: reader.second_moment(slot.state, slot.group)  # noqa: E731
    momentum = partial(_momentum, reader.step)
    if name in ADAM:
        decoupled = name.endswith("W")
        metric = partial(_adam_metric, decoupled=decoupled)
        rate = partial(_adam_rate, decoupled=decoupled)
        return Family(metric, raise_average, moment, rate, momentum, decoupled=decoupled)
    factored = name in _FACTORED
    metric = partial(_read_metric, reader.step)
    unknown = lambda _: 0.0  # noqa: E731
    return Family(metric, _RAISED[name], moment, unknown, momentum, diagonal=not factored, decoupled=factored)


def _reason(inner: Optimizer, name: str | None) -> str:
    """Return why an optimizer can't be guarded; a reader, which a monitor needs, would not help."""
    cls = type(inner)
    public = f"torch.optim.{cls.__name__}" if cls.__module__.startswith("torch.optim.") else ""
    return _REFUSED.get(name or public, _UNKNOWN)


def _known() -> str:
    names = sorted(name.rpartition(".")[2] for name in (*ADAM, *_RAISED))
    return f"What can be: {', '.join(names)}, and subclasses of them that don't override step"


def _adam_metric(slots: Sequence[Slot], *, decoupled: bool) -> Metric:
    denominators: list[Tensor] = []
    rates: list[float] = []
    for _, members in itertools.groupby(slots, key=lambda slot: id(slot.group)):
        together = list(members)
        group = together[0].group
        beta2 = float(group["betas"][1])
        second = _averaged_squares(together, beta2)
        torch._foreach_sqrt_(second)
        torch._foreach_div_(second, [(1 - beta2**slot.updates) ** 0.5 for slot in together])
        torch._foreach_add_(second, float(group["eps"]))
        denominators += second
        rates += [_adam_rate(together[0], decoupled=decoupled)] * len(together)
    return Metric(denominators, rates)


def _adam_rate(slot: Slot, *, decoupled: bool) -> float:
    group = slot.group
    rate = float(group["lr"])
    shrinkage = rate * float(group["weight_decay"]) * bool(group.get("decoupled_weight_decay", decoupled))
    return with_decoupled_decay(momentum_factor(float(group["betas"][0])), shrinkage) * rate / 2


def _averaged_squares(slots: Sequence[Slot], beta2: float) -> list[Tensor]:
    """Return v_t, under amsgrad its maximum, as new tensors of at least float32."""
    plain = all(slot.sign == 1 and not slot.coupled_decay for slot in slots)
    gradients = [slot.gradient if plain else slot.used_gradient for slot in slots]
    moments = [_single(slot.state["exp_avg_sq"]) for slot in slots]
    gradients = [_single(gradient) for gradient in gradients]
    second = list(torch._foreach_mul(moments, beta2))
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
    if slots[0].group["amsgrad"]:
        torch._foreach_maximum_(second, [_single(slot.state["max_exp_avg_sq"]) for slot in slots])
    return second


def _read_metric(step: Callable[..., ParameterStep], slots: Sequence[Slot]) -> Metric:
    records = [step(slot.live) for slot in slots]
    return Metric(
        [_single(record.denominator).clone() for record in records],
        [record.momentum_factor * record.learning_rate / 2 for record in records],
    )


def _momentum(step: Callable[..., ParameterStep], slot: Slot) -> tuple[float, float]:
    record = step(slot.live)
    return record.momentum_decay, record.direct_share


def _single(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least: sums of half-precision products lose all digits."""
    tensor = local(tensor.detach())
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


_FACTORED = frozenset({"torch.optim.Adafactor"})
_RAISED: Mapping[str, Callable[[Slot, Tensor | float], list[Write]]] = MappingProxyType(
    {
        "torch.optim.Adafactor": raise_factored,
        "torch.optim.Adamax": raise_maximum,
        "torch.optim.NAdam": raise_average,
        "torch.optim.RAdam": raise_average,
        "torch.optim.RMSprop": raise_square_average,
    }
)
