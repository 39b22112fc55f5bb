"""Which optimizers can be guarded, and how: D of the step about to be taken, and how v is raised.

An optimizer can be guarded if its `foreshock.preconditioner.Reader` says how its second moment is raised; one
from outside is registered by `foreshock.register_preconditioner`. What the reader of Adam and AdamW computes
parameter by parameter is computed here for all parameters at once: it is needed often.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.parameters import Slot
from foreshock.preconditioner import (
    Reader,
    SecondMoment,
    Write,
    find_raising_reader,
    if_step_is_taken,
    raising_names,
    stock_name,
    unwrap,
)
from foreshock.preconditioner.families import BUILT_IN
from foreshock.preconditioner.families import REFUSED as UNREADABLE
from foreshock.stability import momentum_factor, with_decoupled_decay
from foreshock.vectors import local

_ADAM = ("torch.optim.Adam", "torch.optim.AdamW")

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

_UNKNOWN = (
    "it has a step of its own, and how to raise its second moment is not known: say so in the "
    "raise_second_moment of its Reader, foreshock.register_preconditioner(cls, Reader(...))"
)


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
        reader: How to read and raise it.
        plain_adam: Whether the step is that of Adam or AdamW of torch.
    """

    reader: Reader
    plain_adam: bool = False

    def metric(self, slots: Sequence[Slot]) -> Metric:
        """Return A⁻¹ in the step about to be taken.

        Args:
            slots: Parameters with a state.
        """
        if self.plain_adam:
            return _adam_metric(slots)
        # Copies: D of some readers is a view of the state or of one number, and sums are formed in place.
        records = [self.reader.step(slot.live) for slot in slots]
        return Metric(
            [_single(record.denominator).clone() for record in records],
            [record.momentum_factor * record.learning_rate / 2 for record in records],
        )

    def rate(self, slot: Slot) -> float:
        """Return cη/2 of one parameter where that is free, of Adam; 0 where `metric` has to be asked."""
        return _adam_rate(slot) if self.plain_adam else 0.0

    def momentum(self, slot: Slot) -> tuple[float, float]:
        """Return a parameter's decay of the first moment, and the direct share of the gradient."""
        record = self.reader.step(slot.live)
        return record.momentum_decay, record.direct_share

    def second_moment(self, slot: Slot) -> SecondMoment | None:
        """Return a parameter's v_{t−1} and β₂; None if it has no decaying average of g²."""
        return self.reader.second_moment(slot.state, slot.group)

    def raised(self, slot: Slot, factor: Tensor | float) -> Sequence[Write]:
        """Return what to write so that v_t of a parameter is k times what it would be.

        Args:
            slot: The parameter.
            factor: k ≥ 1, a number or, of an elementwise family, one for each coordinate.
        """
        if self.reader.raise_second_moment is None:
            return ()
        return self.reader.raise_second_moment(slot.live, factor)


def find_family(optimizer: Optimizer) -> Family:
    """Return how to guard an optimizer.

    Args:
        optimizer: A live optimizer, or a wrapper around one that `foreshock.preconditioner.unwrap` knows.

    Raises:
        TypeError: If it can't be guarded, with the reason and what to do instead.
    """
    inner = unwrap(optimizer)
    reader, name = find_raising_reader(inner), stock_name(inner)
    if reader is None:
        raise TypeError(
            f"{type(inner).__name__} can't be guarded: {_reason(inner, name)}. What can be: "
            f"{', '.join(raising_names())}, and subclasses of them that don't override step"
        )
    # Another reader may be registered for Adam itself: then that one counts, and not what is known of Adam.
    return Family(reader, plain_adam=name in _ADAM and reader is BUILT_IN[name])


def _reason(inner: Optimizer, name: str | None) -> str:
    cls = type(inner)
    public = f"torch.optim.{cls.__name__}" if cls.__module__.startswith("torch.optim.") else ""
    return _REFUSED.get(name or public) or f"{_UNKNOWN}{if_step_is_taken(cls)}"


def _adam_metric(slots: Sequence[Slot]) -> Metric:
    denominators: list[Tensor] = []
    rates: list[float] = []
    # A parameter group has one β₂ and one ε, which the kernels over many tensors take as one number.
    for _, members in itertools.groupby(slots, key=lambda slot: id(slot.group)):
        together = list(members)
        group = together[0].group
        beta2 = float(group["betas"][1])
        second = _averaged_squares(together, beta2)
        torch._foreach_sqrt_(second)
        torch._foreach_div_(second, [(1 - beta2**slot.updates) ** 0.5 for slot in together])
        torch._foreach_add_(second, float(group["eps"]))
        denominators += second
        rates += [_adam_rate(together[0])] * len(together)
    return Metric(denominators, rates)


def _adam_rate(slot: Slot) -> float:
    group = slot.group
    rate = float(group["lr"])
    decoupled = bool(group.get("decoupled_weight_decay", slot.decoupled))
    shrinkage = rate * float(group["weight_decay"]) * decoupled
    return with_decoupled_decay(momentum_factor(float(group["betas"][0])), shrinkage) * rate / 2


def _averaged_squares(slots: Sequence[Slot], beta2: float) -> list[Tensor]:
    """Return v_t, under amsgrad its maximum, as new tensors of at least float32."""
    unchanged = all(slot.sign == 1 and not slot.coupled_decay for slot in slots)
    gradients = [slot.gradient if unchanged else slot.used_gradient for slot in slots]
    moments = [_single(slot.state["exp_avg_sq"]) for slot in slots]
    gradients = [_single(gradient) for gradient in gradients]
    second = list(torch._foreach_mul(moments, beta2))
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
    if slots[0].group["amsgrad"]:
        torch._foreach_maximum_(second, [_single(slot.state["max_exp_avg_sq"]) for slot in slots])
    return second


def _single(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least: sums of half-precision products lose all digits."""
    tensor = local(tensor.detach())
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
