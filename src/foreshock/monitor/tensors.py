"""The table of tensors, made from live optimizer state: one pass over the parameters, one host read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.curvature import block_shares, name_parameters
from foreshock.explain import TensorRow, TensorTable, make_table
from foreshock.preconditioner import (
    ParameterStep,
    as_optimizers,
    find_reader,
    live_groups,
    moving_parameters,
    read_steps,
    unwrap,
)
from foreshock.vectors import local, local_size

_SUMS = 8  # numbers of each tensor
_UNKNOWN = -1.0  # of sums of squares


class TensorReader:
    """Make the table of tensors of a run, with the growth of their norms since it was first asked.

    Args:
        model: The model, whose names the rows get.
        optimizers: Its optimizers.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._norms: dict[str, float] = {}
        self._since: int | None = None

    def read(
        self, step: int, reason: str, *, gradient_scale: float = 1.0, vector: Tensor | None = None
    ) -> TensorTable:
        """Return the table of the update about to be taken. Nothing is changed.

        Cost: about one optimizer step, and the memory of one tensor's.

        Args:
            step: Step number.
            reason: Why it is made, see `TensorTable`.
            gradient_scale: What ``.grad`` still has to be divided by.
            vector: The top eigenvector that was measured last, of the symmetric form, over all parameters
                that require a gradient, in the optimizers' order; None if there is none.
        """
        parameters, sums, steps = self._sums(gradient_scale)
        if not parameters:
            return make_table(step, reason, (), since=self._since)
        names = [name for name, _ in name_parameters(self._model, parameters)]
        shares = _shares(vector, names, parameters)
        # One transfer for all tensors.
        values = torch.stack(sums).double().tolist()
        self.remember(step)
        rows = [
            self._row(name, parameter, numbers, moves=moves, share=shares.get(name, math.nan))
            for name, parameter, numbers, moves in zip(names, parameters, values, steps, strict=True)
        ]
        return make_table(step, reason, rows, since=self._since)

    @torch.no_grad()
    def remember(self, step: int) -> None:
        """Remember the norms that growth is compared with, unless there are some. Cost: one norm, once.

        Args:
            step: Step number.
        """
        if self._since is not None:
            return
        parameters = moving_parameters(self._optimizers)
        if not parameters:
            return
        squares = [_wide(local(one)).square().sum() for one in parameters]
        # One transfer, and in double precision, as `read` has them.
        sums = torch.stack([one.to(squares[0].device).double() for one in squares]).tolist()
        names = [name for name, _ in name_parameters(self._model, parameters)]
        self._since, self._norms = step, dict(zip(names, map(math.sqrt, sums), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the norms of the first table, for a run that is resumed."""
        return {"since": self._since, "norms": dict(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._since, self._norms = state["since"], dict(state["norms"])

    @torch.no_grad()
    def _sums(self, gradient_scale: float) -> tuple[list[Tensor], list[Tensor], list[bool]]:
        averaging = _with_second_moment(self._optimizers)
        parameters, sums, moves = [], [], []
        for parameter, step in read_steps(self._optimizers, gradient_scale=gradient_scale):
            parameters.append(parameter)
            moves.append(step is not None)
            # Of a distributed tensor the part of this process: nothing is exchanged for a table.
            sums.append(_measure(local(parameter), step, averaged=id(parameter) in averaging))
        device = parameters[0].device if parameters else None
        return parameters, [one.to(device) for one in sums], moves

    def _row(
        self, name: str, parameter: Tensor, values: Sequence[float], *, moves: bool, share: float
    ) -> TensorRow:
        weight, gradient, update, moment, burst, moving, kept, half = values
        size, norm, nan = local(parameter).numel(), math.sqrt(weight), math.nan
        before = self._norms.get(name, nan)
        return TensorRow(
            name=name,
            size=size,
            gradient_norm=math.sqrt(gradient) if moves else nan,
            update_rms=math.sqrt(update / size) if moves and size else nan,
            relative_update=math.sqrt(update / weight) if moves and weight > 0 else nan,
            lag=moment / gradient if gradient > 0 and moment != _UNKNOWN else nan,
            burst=math.sqrt(burst / size) if moves and size and burst != _UNKNOWN else nan,
            share=share,
            norm=norm,
            norm_growth=norm / before if before > 0 else nan,
            lost=kept / moving if half and moving > 0 else nan,
            non_finite=_non_finite(weight, moment, gradient),
        )


def _wide(parameter: Tensor) -> Tensor:
    """Return a parameter, detached, in float32 or wider."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


def _measure(parameter: Tensor, step: ParameterStep | None, *, averaged: bool) -> Tensor:
    """Return the sums of one tensor, as numbers on its device.

    Σθ², Σg², ΣΔθ², Σv̂, Σg²/v̂ (−1 without v̂); how many coordinates are moved, how many of them rounding leaves
    where they are, and whether the parameter is of half precision.
    """
    theta = parameter.detach()
    values = _wide(parameter)
    wide = values.dtype
    sums = torch.zeros(_SUMS, dtype=wide, device=theta.device)
    sums[0] = values.square().sum()
    if step is None:
        sums[3:5] = _UNKNOWN
        return sums
    gradient, root = step.gradient.to(wide), step.denominator.to(wide)
    update = step.displacement(parameter)
    sums[1], sums[2] = gradient.square().sum(), update.to(wide).square().sum()
    if averaged:
        sums[3] = root.square().sum()
        # A zero gradient over a zero v is no burst.
        sums[4] = torch.where(gradient == 0, 0, gradient / root).square().sum()
    else:
        sums[3:5] = _UNKNOWN
    if theta.dtype.itemsize < 4:
        moving = update != 0
        sums[5], sums[6] = moving.sum(), (moving & (theta + update.to(theta.dtype) == theta)).sum()
        sums[7] = 1
    return sums


def _with_second_moment(optimizers: Sequence[Optimizer]) -> set[int]:
    """Return the ids of the parameters whose optimizer keeps a decaying average of g²."""
    found: set[int] = set()
    for optimizer in as_optimizers(optimizers):
        reader, states = find_reader(optimizer), unwrap(optimizer).state
        for group in live_groups(optimizer):
            for parameter in group["params"]:
                if reader.second_moment(states.get(parameter, {}), group) is not None:
                    found.add(id(parameter))
    return found


def _shares(vector: Tensor | None, names: Sequence[str], parameters: Sequence[Tensor]) -> dict[str, float]:
    size = local_size(parameters)
    if vector is None or vector.shape != (size,) or not bool(torch.isfinite(vector).all() & vector.any()):
        return {}
    pairs = zip(names, parameters, strict=True)
    return {block.name: block.share for block in block_shares(vector, list(pairs))}


def _non_finite(weight: float, moment: float, gradient: float) -> str:
    # The weight first: where it is not finite, nothing else of the step can be.
    if not math.isfinite(weight):
        return "weight"
    if not math.isfinite(gradient):
        return "gradient"
    return "" if math.isfinite(moment) else "second moment"
