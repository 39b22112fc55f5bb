"""What changes about a training from one step to the next: parameters, options, the state of the optimizer.

A cause has to be told from numbers: a change is a record of what it was and what it is, of kind ``change``,
beside the event that says it in words.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.curvature import name_parameters
from foreshock.preconditioner import live_groups
from foreshock.representation import short_repr

_OPTIONS = ("betas", "eps", "weight_decay", "momentum", "alpha", "dampening", "nesterov", "amsgrad")
_NAMED = 8  # parameters that are named
_MOST = 50  # changes of parameters in a run: with experts that get no gradient there may be one at each step


@dataclass(frozen=True)
class Change:
    """A change of the training itself.

    Attributes:
        step: First step with what is new.
        what: ``"parameters"``: other ones get a gradient, are trained or are in another group;
            ``"options"``: an option of the optimizer other than the learning rate; ``"resume"``: the
            optimizer goes on from a saved state; ``"gradient scale"``; ``"data"``: whether the batch is that
            of the step before, in the same tensors.
        before: What it was: plain numbers by name.
        after: What it is.
        names: The parameters that are new among the trained ones, at most eight.
    """

    step: int
    what: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    names: tuple[str, ...] = ()

    __repr__ = short_repr


class ChangeWatch:
    """Compare the optimizers of one step with those of the step before.

    Cost a step: a look at each parameter group, and at whether each parameter has a gradient.

    Args:
        model: The model, for names.
        optimizers: The optimizers.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> watch = ChangeWatch(model, [optimizer])
        >>> watch.compare(0)
        []
        >>> optimizer.param_groups[0]["betas"] = (0.9, 0.95)
        >>> [change] = watch.compare(1)
        >>> change.what, change.after
        ('options', {'betas': [0.9, 0.95]})
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._trained: tuple[tuple[int, ...], ...] | None = None
        self._options: list[tuple[Any, ...]] | None = None
        self._scale: float | None = None
        self._seen: set[tuple[tuple[int, ...], ...]] = set()

    def compare(self, step: int, *, gradient_scale: float = 1.0) -> list[Change]:
        """Return what has changed since the last call.

        Args:
            step: Step number.
            gradient_scale: What ``.grad`` still has to be divided by.
        """
        groups = [group for one in self._optimizers for group in live_groups(one)]
        changes = [*self._compare_parameters(step, groups), *self._compare_options(step, groups)]
        before, self._scale = self._scale, gradient_scale
        if before is not None and gradient_scale < before:
            change = Change(step, "gradient scale", {"scale": before}, {"scale": gradient_scale})
            changes.append(change)
        return changes

    def _compare_parameters(self, step: int, groups: Sequence[Mapping[str, Any]]) -> list[Change]:
        trained = tuple(
            tuple([id(p) for p in group["params"] if p.grad is not None and p.requires_grad])
            for group in groups
        )
        before, self._trained = self._trained, trained
        if before is None or before == trained:
            return []
        # Sets that come and go, as those of experts, are said once each.
        self._seen.add(before)
        if trained in self._seen or len(self._seen) > _MOST:
            return []
        parameters = [p for group in groups for p in group["params"]]
        now = {one for members in trained for one in members}
        old = {one for members in before for one in members}
        named = name_parameters(self._model, parameters)
        names = tuple(name for name, p in named if id(p) in now - old)[:_NAMED]
        return [
            Change(
                step,
                "parameters",
                {"groups": len(before), "tensors": len(old)},
                {"groups": len(trained), "tensors": len(now), "new": len(now - old), "gone": len(old - now)},
                names,
            )
        ]

    def _compare_options(self, step: int, groups: Sequence[Mapping[str, Any]]) -> list[Change]:
        options = [tuple([group.get(name) for name in _OPTIONS]) for group in groups]
        before, self._options = self._options, options
        if before is None or _same(before, options):
            return []
        was: dict[str, Any] = {}
        now: dict[str, Any] = {}
        for old, new in zip(before, options, strict=False):
            for name, a, b in zip(_OPTIONS, old, new, strict=True):
                if not _equal(a, b):
                    was[name], now[name] = _plain(a), _plain(b)
        return [Change(step, "options", was, now)] if now else []


def _same(before: Sequence[tuple[Any, ...]], after: Sequence[tuple[Any, ...]]) -> bool:
    # Identity decides at nearly every step: tensors in a group are compared by it, not entry by entry.
    return len(before) == len(after) and all(
        all(map(operator.is_, old, new)) or all(map(_equal, old, new))
        for old, new in zip(before, after, strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    return one is other or _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else float(value)
