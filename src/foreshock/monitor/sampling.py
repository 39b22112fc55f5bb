"""A few coordinates of gradients, parameters and optimizer state, from step to step: what sums leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.monitor.comparison import Samples, Vector
from foreshock.preconditioner import find_reader, live_groups, unwrap
from foreshock.vectors import split, vector_dtype

_COORDINATES = 2048
_TENSORS = 8


@dataclass(frozen=True)
class _Average:
    """A moving average that an optimizer keeps: key in its state, decay, and whether it is of squares."""

    key: str
    decay: float
    squares: bool


@dataclass(frozen=True)
class _Picked:
    """A parameter, of which some coordinates are looked at."""

    parameter: Tensor
    optimizer: Optimizer
    group: Mapping[str, Any]
    stride: int
    count: int
    coupled: bool

    def of(self, tensor: Tensor) -> Tensor:
        """Return a copy of these coordinates of a tensor of the parameter's shape."""
        view = tensor.detach().reshape(-1)[:: self.stride][: self.count]
        return view.to(vector_dtype([view]), copy=True)

    def average(self) -> _Average | None:
        """Return the average of the gradient that the optimizer keeps, or of its square."""
        state, group = unwrap(self.optimizer).state.get(self.parameter, {}), self.group
        betas = group.get("betas")
        candidates = [
            _Average("exp_avg", float(betas[0]) if betas is not None else 0.0, squares=False),
            _Average("momentum_buffer", float(group.get("momentum", 0.0)), squares=False),
            _Average("exp_avg_sq", float(betas[1]) if betas is not None else 0.0, squares=True),
            _Average("square_avg", float(group.get("alpha", 0.0)), squares=True),
        ]
        for one in candidates:
            kept = state.get(one.key)
            # Quantised states are subclasses, factored ones have another shape.
            if type(kept) is Tensor and kept.shape == self.parameter.shape and kept.is_floating_point():
                return one
        return None


@dataclass(frozen=True)
class _Snapshot:
    """The coordinates at one step; None where something is missing."""

    step: int
    parameter: list[Tensor]
    gradient: list[Tensor | None]
    average: list[Tensor | None]


class GradientSampler:
    """Follow some coordinates from one observed step to the next.

    Args:
        optimizers: The optimizers; of up to eight of their tensors up to 2,048 coordinates are followed.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._picked = _pick(optimizers)
        # What the optimizers know before the first step is what that step is compared with.
        self._last = _Snapshot(-1, self._parameters(), [None] * len(self._picked), self._averages())
        self._now = self._last

    def take(self, step: int) -> None:
        """Take the coordinates of a step, and keep those of the step taken before beside them.

        Args:
            step: Step number; coordinates that were taken at it already stay.
        """
        if self._now.step == step:
            return
        gradients = [None if (g := _dense(one.parameter)) is None else one.of(g) for one in self._picked]
        now = _Snapshot(step, self._parameters(), gradients, self._averages())
        self._last, self._now = self._now, now

    def samples(
        self, gradient: Tensor | None, parameters: Sequence[Tensor], *, scale: float
    ) -> tuple[Samples, bool | None]:
        """Return the coordinates of the step taken last, and whether the optimizer made a step before it.

        Args:
            gradient: Gradient of a probe, shape (n,), to be sampled too; None without one.
            parameters: The tensors it is over.
            scale: What ``.grad`` still has to be divided by.
        """
        parts: dict[int, Tensor] = {}
        if gradient is not None:
            pieces = zip(parameters, split(gradient, parameters), strict=True)
            parts = {id(parameter): piece for parameter, piece in pieces}
        names = ("gradient", "probe", "parameter", "previous", "absorbed", "decay")
        columns: dict[str, list[Tensor]] = {name: [] for name in names}
        for index, one in enumerate(self._picked):
            current = self._now.gradient[index]
            if current is None or (gradient is not None and id(one.parameter) not in parts):
                continue
            unknown = torch.full_like(current, torch.nan)
            absorbed = self._absorbed(index)
            previous = self._last.gradient[index] if self._follows else None
            start = self._last.parameter[index] if self._follows else self._now.parameter[index]
            decay = float(one.group.get("weight_decay", 0.0)) if one.coupled else 0.0
            columns["gradient"].append(current / scale)
            columns["probe"].append(one.of(parts[id(one.parameter)]) if parts else unknown)
            columns["parameter"].append(self._now.parameter[index])
            columns["previous"].append(unknown if previous is None else previous / scale)
            columns["absorbed"].append(unknown if absorbed is None else absorbed)
            columns["decay"].append(decay * start)
        return _as_samples(columns), self._stepped()

    @property
    def _follows(self) -> bool:
        """Whether the two steps taken last follow each other."""
        return self._now.step == self._last.step + 1

    def _stepped(self) -> bool | None:
        """Return whether parameters have moved since the last step; None if it is not known."""
        if not self._follows:
            return None
        pairs = zip(self._last.parameter, self._now.parameter, strict=True)
        return any(not torch.equal(before, now) for before, now in pairs)

    def _parameters(self) -> list[Tensor]:
        return [one.of(one.parameter) for one in self._picked]

    def _absorbed(self, index: int) -> Tensor | None:
        """Return the modulus of what an average took up since the last step; None if that is not known."""
        average, kept = self._picked[index].average(), self._now.average[index]
        if average is None or kept is None or not self._follows:
            return None
        before = self._last.average[index]
        if before is None:
            before = torch.zeros_like(kept)  # what an optimizer without state starts from
        change = kept - average.decay * before
        return change.clamp(min=0).sqrt() if average.squares else change.abs()

    def _averages(self) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for one in self._picked:
            kind = one.average()
            state = unwrap(one.optimizer).state.get(one.parameter, {})
            found.append(None if kind is None else one.of(state[kind.key]))
        return found


def _pick(optimizers: Sequence[Optimizer]) -> list[_Picked]:
    candidates = [
        (optimizer, group, parameter)
        for optimizer in optimizers
        for group in live_groups(optimizer)
        for parameter in group["params"]
        if parameter.requires_grad and parameter.numel() and not hasattr(parameter, "to_local")
    ]
    chosen = candidates[:: max(-(-len(candidates) // _TENSORS), 1)]
    each = _COORDINATES // max(len(chosen), 1)
    picked = []
    for optimizer, group, parameter in chosen:
        coupled = not find_reader(optimizer).decoupled_decay and not group.get(
            "decoupled_weight_decay", False
        )
        stride = max(parameter.numel() // each, 1)
        picked.append(_Picked(parameter, optimizer, group, stride, each, coupled))
    return picked


def _dense(parameter: Tensor) -> Tensor | None:
    gradient = parameter.grad
    return None if gradient is None or gradient.layout is not torch.strided else gradient


def _as_samples(columns: Mapping[str, list[Tensor]]) -> Samples:
    if not columns["gradient"]:
        empty = np.zeros(0)
        return Samples(empty, empty, empty)
    # One transfer for all of them.
    device = columns["gradient"][0].device
    rows = torch.stack([torch.cat([part.to(device) for part in column]) for column in columns.values()])
    gradient, probe, theta, before, absorbed, decay = rows.cpu().double().numpy()
    return Samples(gradient, probe, theta, _known(before), _known(absorbed), decay)


def _known(vector: Vector) -> Vector | None:
    """Return a vector; None unless every entry is known."""
    return vector if np.isfinite(vector).all() else None
