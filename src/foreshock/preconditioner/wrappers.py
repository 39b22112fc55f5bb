"""Optimizers that wrap another one: accelerate, Lightning, ZeroRedundancyOptimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch.optim import Optimizer

# Known by name, so that nothing has to be imported.
_INNER: Mapping[str, str] = MappingProxyType(
    {
        "accelerate.optimizer.AcceleratedOptimizer": "optimizer",
        "lightning.pytorch.core.optimizer.LightningOptimizer": "optimizer",
        "pytorch_lightning.core.optimizer.LightningOptimizer": "optimizer",
        "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer": "optim",
    }
)


def qualified_name(cls: type) -> str:
    """Return module and name of a class.

    Args:
        cls: Any class.
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def unwrap(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps, and has the state.

    Args:
        optimizer: An optimizer, or a wrapper around one: accelerate's, Lightning's or torch's
            ZeroRedundancyOptimizer, of which it is this process's share.
    """
    return _chain(optimizer)[-1]


def as_optimizers(optimizers: Optimizer | Sequence[Optimizer]) -> tuple[Optimizer, ...]:
    """Return the optimizers as a tuple, wrappers left on.

    Args:
        optimizers: One, or several that share the parameters of a model between them.

    Raises:
        ValueError: If there is none.
    """
    several = tuple(optimizers) if isinstance(optimizers, Sequence) else (optimizers,)
    if not several:
        raise ValueError("no optimizer was given")
    return several


def live_groups(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    """Yield the parameter groups as the next step will see them.

    A scheduler changes the groups of the optimizer it was given. ZeroRedundancyOptimizer copies its options
    to the inner optimizer only inside ``step()``: until then the outer ones are right.

    Args:
        optimizer: An optimizer or a wrapper.
    """
    outer, inner = optimizer, unwrap(optimizer)
    for theirs, ours in zip(outer.param_groups, inner.param_groups, strict=True):
        yield ours if theirs is ours else {**ours, **theirs, "params": ours["params"]}


def _chain(optimizer: Optimizer) -> list[Optimizer]:
    chain = [optimizer]
    while (name := _inner_name(type(chain[-1]))) is not None:
        chain.append(getattr(chain[-1], name))
    return chain


def _inner_name(cls: type) -> str | None:
    return next((_INNER[name] for base in cls.__mro__ if (name := qualified_name(base)) in _INNER), None)
