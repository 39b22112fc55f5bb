r"""Whether the gradient turns round at each step, as it does above the edge of stability.

Along an eigenvector of the preconditioned Hessian with ratio r the deviation x of Adam's frozen recursion
obeys :math:`x_{t+1} = (1 + β_1 - 2(1 + β_1) r)\,x_t - β_1 x_{t-1}`. The roots have the product β₁ < 1, so
that a complex pair always decays; for r > 1 they are real, and the one outside the unit circle is −ρ < −1.
With g₀ the rest of the gradient, which hardly changes meanwhile, and u its part along the eigenvector,

.. math:: g_t = g_0 + (-ρ)^t u, \qquad
    g_t^\top g_{t-1} ≈ \|g_0\|^2 - ρ^{2t-1} \|u\|^2, \qquad g_t^\top g_{t-2} ≈ \|g_0\|^2 + ρ^{2t-2} \|u\|^2.

An instability that shows in ‖g‖² at all turns the gradient against the last one and back to the one before.
New targets make a gradient that has nothing to do with either, and then the same one again and again; other
batches make gradients of any angle. Momentum and displacement show the turn much later: of the part of g
along the eigenvector they contain the share (1 − β₁)/(ρ + β₁), a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foreshock.guarding.parameters import as_real

SAMPLED = 1024
"""Coordinates of each tensor that are compared, evenly spread: a copy of two gradients would be too large."""

Total = Callable[[Sequence[Sequence[float]]], Sequence[float]]
_STEPS = 2


class Alternation(NamedTuple):
    """How the coming gradient lies to those of the two steps before; NaN where they were not looked at.

    Attributes:
        with_last: Cosine of the angle to the gradient of the last step.
        with_second_last: To that of the step before.
    """

    with_last: float = math.nan
    with_second_last: float = math.nan


UNKNOWN = Alternation()
"""That of most steps."""


class _Sample(NamedTuple):
    keys: tuple[Tensor, ...]
    values: Tensor  # of one parameter after the other
    sizes: tuple[int, ...]

    @property
    def rows(self) -> Tensor:
        """One row a parameter, filled up with zeros."""
        if not self.sizes:
            return torch.zeros(0, 0)
        return pad_sequence(list(torch.split(self.values, list(self.sizes))), batch_first=True)


class GradientSamples:
    """Keep samples of the last two gradients.

    Example:
        >>> weight, samples = torch.zeros(2), GradientSamples()
        >>> for gradient in ([1.0, 1.0], [1.0, -1.0], [-2.0, 2.0]):
        ...     found = samples.follow([weight], [torch.tensor(gradient)])
        >>> [round(cosine, 6) for cosine in found]
        [-1.0, 0.0]
    """

    def __init__(self) -> None:
        self._kept: list[_Sample] = []  # the latest first

    def follow(
        self, keys: Sequence[Tensor], gradients: Sequence[Tensor], total: Total | None = None
    ) -> Alternation:
        """Compare a gradient with those of the last two calls, and keep a sample of it.

        Args:
            keys: The parameters.
            gradients: Their gradients, of any scale.
            total: Adds up columns over parameters and processes; None where this process has all of them.
        """
        now, kept = _sampled(tuple(keys), gradients), self._kept
        self._kept = [now, *kept][:_STEPS]
        # Of every few steps one grows a little, and seldom the next one as well. Where others have to be
        # waited for, all of them compare whenever one does.
        if total is None and not kept:
            return UNKNOWN
        numbers = _whole_products(now, kept) if total is None else total(_products(now, kept))
        square, last, last_square, second, second_square = numbers
        return Alternation(_cosine(last, last_square, square), _cosine(second, second_square, square))

    def forget(self) -> None:
        """Forget all: a step was made whose gradient was not looked at."""
        self._kept = []

    def state_dict(self, parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return copies of what is kept; parameters by their places.

        Args:
            parameters: All parameters of the optimizer.
        """
        places = {parameter: place for place, parameter in enumerate(parameters)}
        return [
            {"keys": [places[key] for key in one.keys], "values": one.rows}
            for one in self._kept
            if all(key in places for key in one.keys)
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], parameters: Sequence[Tensor]) -> None:
        """Continue from `state_dict()`, with what fits.

        Args:
            state: What `state_dict` returned.
            parameters: All parameters of the optimizer.
        """
        self._kept = []
        for one in state:
            if max(one["keys"], default=len(parameters)) >= len(parameters):
                break
            keys = tuple(parameters[place] for place in one["keys"])
            sizes = tuple(len(_places(as_real(key))) for key in keys)
            rows = one["values"]
            if rows.shape != (len(keys), max(sizes, default=0)):
                break
            values = [row[:size] for row, size in zip(rows, sizes, strict=True)]
            self._kept.append(_Sample(keys, torch.cat(values).to(keys[0].device), sizes))


def _places(whole: Tensor) -> range:
    """Return the coordinates of a tensor that are sampled."""
    count = whole.numel()
    # Odd, so that not the same few columns of a matrix are met again and again.
    return range(0, count, max(-(-count // SAMPLED), 1) | 1)


def _sampled(keys: tuple[Tensor, ...], gradients: Sequence[Tensor]) -> _Sample:
    rows = []
    for gradient in gradients:
        whole = as_real(gradient)
        places = _places(whole)
        if places.step == 1:
            rows.append(whole.reshape(-1))
        elif whole.is_contiguous():  # in one call: there may be a hundred of them
            rows.append(whole.as_strided((len(places),), (places.step,), whole.storage_offset()))
        else:
            rows.append(whole.reshape(-1)[:: places.step])
    if len({(row.dtype, row.device) for row in rows}) > 1:
        rows = [row.to(rows[0].device, torch.float32) for row in rows]
    values = torch.cat(rows).float() if rows else torch.zeros(0)
    return _Sample(keys, values, tuple([row.numel() for row in rows]))


def _whole_products(now: _Sample, kept: Sequence[_Sample]) -> list[float]:
    """Return gᵀg, and of each step before its product with g and with itself, over all parameters."""
    made = [torch.dot(now.values, now.values)]
    for i in range(_STEPS):
        before = kept[i].values if _fits(now, kept, i) else torch.full_like(now.values, math.nan)
        made += [torch.dot(now.values, before), torch.dot(before, before)]
    products: list[float] = torch.stack(made).tolist()
    return products


def _products(now: _Sample, kept: Sequence[_Sample]) -> list[list[float]]:
    """Return of each parameter the same, to be added up over processes."""
    rows = now.rows
    made = [rows * rows]
    for i in range(_STEPS):
        # What is missing in one process is missing in the sum, and so in all of them.
        before = kept[i].rows if _fits(now, kept, i) else torch.full_like(rows, math.nan)
        made += [rows * before, before * before]
    products: list[list[float]] = torch.stack(made).sum(dim=2).T.tolist()
    return products


def _fits(now: _Sample, kept: Sequence[_Sample], place: int) -> bool:
    """Return whether there is a sample before of the same coordinates."""
    if place >= len(kept):
        return False
    return kept[place].sizes == now.sizes and _same(kept[place].keys, now.keys)


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _cosine(product: float, square: float, other: float) -> float:
    return product / math.sqrt(square * other) if square > 0 and other > 0 else math.nan
