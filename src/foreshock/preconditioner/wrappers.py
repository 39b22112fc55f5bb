"""Wrappers around optimizers: those of accelerate and Lightning, and ZeroRedundancyOptimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch.optim import Optimizer

# The attribute that holds the inner optimizer, by the name of the wrapper's class: nothing has to be
# imported.
_INNER: Mapping[str, str] = MappingProxyType(
    {
        "accelerate.optimizer.AcceleratedOptimizer": "optimizer",
        "lightning.pytorch.core.optimizer.LightningOptimizer": "optimizer",
        "pytorch_lightning.core.optimizer.LightningOptimizer": "optimizer",
        "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer": "optim",
    }
)


def qualified_name(cls: type) -> str:
    """Return the module and name of a class.

    Args:
        cls: Any class.
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def unwrap(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps and has the state.

    Args:
        optimizer: An optimizer, or a wrapper around one: accelerate's, Lightning's, or torch's
            ZeroRedundancyOptimizer, whose inner optimizer has this process's share of the parameters.
    """
    return _chain(optimizer)[-1]


def as_optimizers(optimizers: Optimizer | Sequence[Optimizer]) -> tuple[Optimizer, ...]:
    """Return one optimizer or several as a tuple, without unwrapping them.

    Args:
        optimizers: One optimizer, or several for different parameters of a model.

    Raises:
        ValueError: If there is none.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> as_optimizers(optimizer) == as_optimizers([optimizer])
        True
    """
    several = tuple(optimizers) if isinstance(optimizers, Sequence) else (optimizers,)
    if not several:
        raise ValueError("no optimizer was given: pass one, or a sequence of at least one")
    return several


def live_groups(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    """Yield the parameter groups with the options that the next step will use.

    A scheduler changes the groups of the optimizer that it was given, which may be the wrapper.
    ZeroRedundancyOptimizer copies its options to the inner optimizer only inside ``step()``. The options of
    the wrapper are therefore the valid ones.

    Args:
        optimizer: An optimizer or a wrapper around one.
    """
    outer, inner = optimizer, unwrap(optimizer)
    for theirs, ours in zip(outer.param_groups, inner.param_groups, strict=True):
        # The parameters are those of the inner optimizer, which in ZeroRedundancyOptimizer has a share only.
        yield ours if theirs is ours else {**ours, **theirs, "params": ours["params"]}


def _chain(optimizer: Optimizer) -> list[Optimizer]:
    chain = [optimizer]
    while (name := _inner_name(type(chain[-1]))) is not None:
        chain.append(getattr(chain[-1], name))
    return chain


def _inner_name(cls: type) -> str | None:
    return next((_INNER[name] for base in cls.__mro__ if (name := qualified_name(base)) in _INNER), None)
