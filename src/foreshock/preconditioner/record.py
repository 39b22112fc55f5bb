r"""What the optimizer is about to do, as records.

The step about to be taken is θ ← θ − η·n/D − ηw·θ for every parameter tensor, n the bias-corrected
first moment and D = √v̂ + ε the preconditioner *of this step*: it contains the present gradient,
which torch adds to v only inside ``step()``. With the momentum factor c of `stability`, each
parameter's step size is folded into

.. math:: A = \operatorname{diag}\Bigl(\frac{c\,η}{2D}\Bigr),

so that the stability ratio is λ_max(A^{1/2} H A^{1/2}) whatever the parameter groups: with one group it
equals λ_max(Ĥ)·η/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.dynamics import LinearRecursion
from foreshock.representation import short_repr
from foreshock.vectors import flatten, split


@dataclass(frozen=True)
class ParameterStep:
    """The step about to be taken, for one parameter tensor; tensors have its shape.

    `gradient` and `numerator` may share memory with ``.grad``: they are valid until that is written.

    Attributes:
        gradient: g_t as the optimizer uses it: coupled weight decay added, sign turned by `maximize`.
        numerator: n, gradient included: the bias-corrected first moment m̂_t, or what stands for it.
        denominator: D_t, gradient included: √v̂_t + ε, or what stands for it.
        learning_rate: η ≥ 0, relative step sizes and rectification included.
        momentum_factor: c, decoupled weight decay included.
        momentum_decay: β in [0, 1), the decay of the first moment or momentum buffer; 0 without one.
        direct_share: a/c in [0, 1], the share of the gradient itself in c: Nesterov momentum and NAdam.
        coupled_decay: wd of L2 regularisation, which adds wd·I to the Hessian.
        decoupled_decay: w, such that the parameter shrinks by ηw.
        sign: −1 if the optimizer maximizes, which turns the sign of the Hessian, else 1.
        linear: Whether the step is linear in the gradient at fixed D; if not, it has no edge of stability.
    """

    gradient: Tensor
    numerator: Tensor
    denominator: Tensor
    learning_rate: float
    momentum_factor: float
    momentum_decay: float = 0.0
    direct_share: float = 0.0
    coupled_decay: float = 0.0
    decoupled_decay: float = 0.0
    sign: float = 1.0
    linear: bool = True

    __repr__ = short_repr

    def displacement(self, parameter: Tensor) -> Tensor:
        """Return what the step adds to `parameter`, −η·n/D − ηw·θ."""
        moved = self.numerator / self.denominator * -self.learning_rate
        return moved.sub_(parameter.detach(), alpha=self.learning_rate * self.decoupled_decay)


@dataclass(frozen=True)
class Preconditioner:
    """The step about to be taken, over all parameters that the optimizer moves.

    Attributes:
        parameters: The parameter tensors that require a gradient, in the optimizer's order.
        steps: One record a tensor; None if it has no gradient and will not move.
    """

    parameters: tuple[Tensor, ...]
    steps: tuple[ParameterStep | None, ...]

    __repr__ = short_repr

    @property
    def active(self) -> tuple[ParameterStep, ...]:
        """The records of the tensors that will move."""
        return tuple(step for step in self.steps if step is not None)

    @property
    def covered(self) -> tuple[ParameterStep, ...]:
        """The moving records that the stability ratio is about: those whose step is linear."""
        return tuple(step for step in self.active if step.linear)

    @property
    def coverage(self) -> float:
        """Share of the moving coordinates that the stability ratio is about; NaN if nothing moves."""
        moving = sum(step.gradient.numel() for step in self.active)
        return sum(step.gradient.numel() for step in self.covered) / moving if moving else math.nan

    @property
    def common_rate(self) -> float | None:
        """η if it is the same for every covered tensor, else None."""
        return _common([step.learning_rate for step in self.covered])

    @property
    def largest_rate(self) -> float:
        """The largest η of a covered tensor; 0 if nothing moves."""
        return max((step.learning_rate for step in self.covered), default=0.0)

    @property
    def recursion(self) -> LinearRecursion:
        """The linear recursion of the covered steps, in units in which the step size is cη.

        With ``learning_rate=2`` and curvatures of A^{1/2}HA^{1/2}, its full-batch ratio is the stability
        ratio itself. Groups whose momentum differs have one each; it is that of the most coordinates.
        Decoupled weight decay is folded into c, whose bias correction multiplies mean and noise alike.
        """
        sizes: dict[tuple[float, float], int] = {}
        for step in self.covered:
            key = (step.momentum_decay, step.direct_share)
            sizes[key] = sizes.get(key, 0) + step.gradient.numel()
        decay, share = max(sizes, key=sizes.__getitem__, default=(0.0, 0.0))
        return LinearRecursion(decay=decay, gain=1.0, direct=share, averaged=(1 + decay) * (1 - share))

    @property
    def sign(self) -> float:
        """−1 if the optimizer maximizes, else 1.

        Raises:
            ValueError: If some parameter groups maximize and others don't.
        """
        signs = {step.sign for step in self.active}
        if len(signs) > 1:
            raise ValueError(
                "some parameter groups maximize and others minimize: such a game has no symmetric "
                "preconditioned Hessian; monitor one of the players"
            )
        return signs.pop() if signs else 1.0

    def scale_root(self) -> Tensor:
        """Return the diagonal of A^{1/2}, shape (n,); zero where nothing moves or the step is not linear.

        Raises:
            ValueError: If no step is linear.
        """
        if self.active and not self.covered:
            raise ValueError(
                "no step is linear in its gradient (Muon's is not), so there is no edge of stability to "
                "measure: pass the optimizer of the other parameters too"
            )
        vector = self._zeros()
        for part, step in self._parts(vector):
            if not step.linear:
                continue
            factor = step.momentum_factor * step.learning_rate / 2
            part.copy_(torch.sqrt(factor / step.denominator.to(part.dtype)))
            # D = 0 takes ε = 0 and a gradient that was always zero: nothing there can move.
            part[step.denominator == 0] = 0
        return vector

    def coupled_decay(self) -> Tensor | None:
        """Return the diagonal that L2 regularisation adds to the Hessian, shape (n,), if there is one."""
        if not any(step.coupled_decay for step in self.active):
            return None
        vector = self._zeros()
        for part, step in self._parts(vector):
            part.fill_(step.coupled_decay)
        return vector

    def gradient(self) -> Tensor:
        """Return g_t as the optimizer uses it, shape (n,)."""
        return self._flat([None if step is None else step.gradient for step in self.steps])

    def descent(self) -> Tensor:
        """Return η·n/D, by which the step is taken back, shape (n,); weight decay left out."""
        vector = self._zeros()
        for part, step in self._parts(vector):
            part.copy_(step.numerator / step.denominator * step.learning_rate)
        return vector

    def displacement(self) -> Tensor:
        """Return what the step adds to the parameters, shape (n,); weight decay included."""
        return self._flat(
            [
                None if step is None else step.displacement(parameter)
                for parameter, step in zip(self.parameters, self.steps, strict=True)
            ]
        )

    def _zeros(self) -> Tensor:
        return self._flat([None] * len(self.parameters))

    def _flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return flatten(tensors, self.parameters)

    def _parts(self, vector: Tensor) -> list[tuple[Tensor, ParameterStep]]:
        pairs = zip(split(vector, self.parameters), self.steps, strict=True)
        return [(part, step) for part, step in pairs if step is not None]


def _common(values: Sequence[float]) -> float | None:
    return values[0] if values and all(value == values[0] for value in values) else None
