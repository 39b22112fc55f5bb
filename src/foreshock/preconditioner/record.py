r"""Records of the step that an optimizer is about to take.

For every parameter tensor the step is θ ← θ − η·n/D − ηw·θ, where n is the bias-corrected first moment and
D = √v̂ + ε the preconditioner *of this step*: it contains the present gradient, which torch adds to v only
inside ``step()``. Each parameter's step size, with the momentum factor c of `foreshock.stability`, is part of

.. math:: A = \operatorname{diag}\Bigl(\frac{c\,η}{2D}\Bigr),

so that the stability ratio is λ_max(A^{1/2} H A^{1/2}) for any parameter groups. With a single group it
equals λ_max(Ĥ)·η/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreshock.dynamics import LinearRecursion
from foreshock.representation import short_repr
from foreshock.vectors import flatten, local, split


@dataclass(frozen=True)
class ParameterStep:
    """The step about to be taken, for one parameter tensor; all tensors have its shape.

    `gradient` and `numerator` may share memory with ``.grad``: they are valid until that is written to.

    Attributes:
        gradient: g_t as the optimizer uses it: with coupled weight decay added, and negated if it maximizes.
        numerator: n, which contains g_t: the bias-corrected first moment m̂_t, or its counterpart.
        denominator: D_t, which contains g_t: √v̂_t + ε, or its counterpart.
        learning_rate: η ≥ 0, including relative step sizes and rectification.
        momentum_factor: c, including decoupled weight decay.
        momentum_decay: β in [0, 1), the decay of the first moment or momentum buffer; 0 without one.
        direct_share: a/c in [0, 1], the share of the gradient itself in c; not zero with Nesterov momentum
            and NAdam.
        coupled_decay: wd of L2 regularisation, which adds wd·I to the Hessian.
        decoupled_decay: w of decoupled weight decay, by which the parameter shrinks by ηw.
        sign: −1 if the optimizer maximizes, which negates the Hessian; else 1.
        linear: Whether the step is linear in the gradient at fixed D. If not, it has no edge of stability.
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
        """Return Δθ = −η·n/D − ηw·θ, which the step adds to a parameter.

        Args:
            parameter: θ, of the same shape.
        """
        moved = self.numerator / self.denominator * -self.learning_rate
        return moved.sub_(parameter.detach(), alpha=self.learning_rate * self.decoupled_decay)


@dataclass(frozen=True)
class Preconditioner:
    """The step about to be taken, over all parameters that the optimizer moves.

    Vectors over all of them have shape (n,), with n the total size of `parameters`.

    Attributes:
        parameters: The parameter tensors that require a gradient, in the optimizer's order.
        steps: One record per tensor; None if it has no gradient and will not move.
        spread: Makes of a vector one whose sums are over all processes that have parts of it; None where this
            process has all of it. Of distributed parameters the records are of this process's shards.

    Example:
        >>> from foreshock.preconditioner import read_preconditioner
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> (weight**2).sum().backward()
        >>> step = read_preconditioner(optimizer)
        >>> step.gradient(), step.displacement()
        (tensor([6., 8.]), tensor([-3., -4.]))
    """

    parameters: tuple[Tensor, ...]
    steps: tuple[ParameterStep | None, ...]
    spread: Callable[[Tensor], Tensor] | None = None

    __repr__ = short_repr

    @property
    def active(self) -> tuple[ParameterStep, ...]:
        """The records of the tensors that will move."""
        return tuple(step for step in self.steps if step is not None)

    @property
    def covered(self) -> tuple[ParameterStep, ...]:
        """The records of the moving tensors that the stability ratio covers: those whose step is linear."""
        return tuple(step for step in self.active if step.linear)

    @property
    def coverage(self) -> float:
        """Share of the moving coordinates that the stability ratio covers; NaN if nothing moves."""
        if len(self.covered) == len(self.active):
            return 1.0 if self.active else math.nan
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
        ratio itself. If groups differ in their momentum, it is the recursion of most coordinates. Decoupled
        weight decay and bias correction are part of c: they multiply the mean curvature and its noise alike.
        """
        sizes: dict[tuple[float, float], int] = {}
        for parameter, step in zip(self.parameters, self.steps, strict=True):
            if step is not None and step.linear:
                key = (step.momentum_decay, step.direct_share)
                sizes[key] = sizes.get(key, 0) + parameter.numel()
        decay, share = max(sizes, key=sizes.__getitem__, default=(0.0, 0.0))
        # In units of c, a = φ and a + bγ/(1 + β) = 1; with γ = 1 that leaves b = (1 + β)(1 − φ).
        return LinearRecursion(decay=decay, gain=1.0, direct=share, averaged=(1 + decay) * (1 - share))

    @property
    def sign(self) -> float:
        """−1 if the optimizer maximizes, else 1.

        Raises:
            ValueError: If some parameter groups maximize and others minimize.
        """
        # −H in one block and H in another, with the mixed derivatives in between, is not symmetric.
        signs = {step.sign for step in self.active}
        if len(signs) > 1:
            raise ValueError(
                "some parameter groups maximize and others minimize: such a game has no symmetric "
                "preconditioned Hessian; pass the optimizer of one player only"
            )
        return signs.pop() if signs else 1.0

    def scale_root(self) -> Tensor:
        """Return the diagonal of A^{1/2}, shape (n,), zero where nothing moves or the step is not linear.

        It is computed once, so that it must not be written to.

        Raises:
            ValueError: If no step is linear.
        """
        if self.active and not self.covered:
            raise ValueError(
                "no step is linear in its gradient (Muon's is not), so there is no edge of stability to "
                "measure: pass the optimizer of the other parameters too"
            )
        return self._scale_root

    @cached_property
    def _scale_root(self) -> Tensor:
        # D = 0 requires ε = 0 and a gradient that was always zero: such a coordinate does not move.
        linear = [step if step is not None and step.linear else None for step in self.steps]
        vector = self._flat([None if step is None else step.denominator for step in linear])
        still = vector == 0
        vector.reciprocal_()
        pairs = zip(split(vector, self.parameters), linear, strict=True)
        moving = [(part, step) for part, step in pairs if step is not None]
        factors = [step.momentum_factor * step.learning_rate / 2 for _, step in moving]
        if moving:
            torch._foreach_mul_([part for part, _ in moving], factors)
        return self._spread(vector.sqrt_().masked_fill_(still, 0))

    def coupled_decay(self) -> Tensor | None:
        """Return the diagonal that L2 regularisation adds to the Hessian, shape (n,); None without any."""
        if not any(step.coupled_decay for step in self.active):
            return None
        vector = self._zeros()
        for part, step in self._parts(vector):
            part.fill_(step.coupled_decay)
        return self._spread(vector)

    def gradient(self) -> Tensor:
        """Return g_t as the optimizer uses it, shape (n,)."""
        return self._spread(self._flat([None if step is None else step.gradient for step in self.steps]))

    def descent(self) -> Tensor:
        """Return η·n/D, the negative of the step without decoupled weight decay, shape (n,)."""
        vector = self._zeros()
        for part, step in self._parts(vector):
            part.copy_(step.numerator / step.denominator * step.learning_rate)
        return self._spread(vector)

    def displacement(self) -> Tensor:
        """Return Δθ, which the step adds to the parameters, shape (n,); weight decay included."""
        moved = [
            None if step is None else step.displacement(local(parameter.detach()))
            for parameter, step in zip(self.parameters, self.steps, strict=True)
        ]
        return self._spread(self._flat(moved))

    def _spread(self, vector: Tensor) -> Tensor:
        return vector if self.spread is None else self.spread(vector)

    def _zeros(self) -> Tensor:
        return self._flat([None] * len(self.parameters))

    def _flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return flatten(tensors, self.parameters)

    def _parts(self, vector: Tensor) -> list[tuple[Tensor, ParameterStep]]:
        pairs = zip(split(vector, self.parameters), self.steps, strict=True)
        return [(part, step) for part, step in pairs if step is not None]


def _common(values: Sequence[float]) -> float | None:
    # Exactly equal: groups whose rates differ at all have no common threshold 2/η.
    return values[0] if values and all(value == values[0] for value in values) else None
