"""What a monitor watches: a model and its optimizers, checked before training and described for the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.curvature import LossFunction, check_loss_function
from foreshock.distributed import Grid, is_spread, training_peers, why_not_spread
from foreshock.isolation import several_processes
from foreshock.preconditioner import find_reader, live_groups, moving_parameters, unwrap
from foreshock.vectors import local_size

_LAYERS = 200  # names in the header, some ten kilobytes


@dataclass(frozen=True)
class Subject:
    """A training run as its user describes it; the arguments of the same names of `foreshock.Monitor`.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        loss_fn: ``loss_fn(model, batch)`` → mean loss; None if no curvature is to be measured.
        examples: Size of the training set; None if it is large or unknown.
        learning_rate_at: The schedule's learning rate at a step number; None for a rate that stays.

    Raises:
        TypeError: If an optimizer's class is not registered, or `loss_fn` can't be called with a
            model and a batch.
        ValueError: If `examples` is below one, or the optimizers have parameters that are not the model's, or
            none to train, or complex ones.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    loss_fn: LossFunction | None = None
    examples: int | None = None
    learning_rate_at: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be watched: before training, an error is cheap."""
        if self.loss_fn is not None:
            check_loss_function(self.loss_fn)
        if self.examples is not None and not self.examples >= 1:
            raise ValueError(f"examples is {self.examples!r}; pass the size of the training set, or None")
        for optimizer in self.optimizers:
            find_reader(optimizer)  # raises for a class that can't be read
        self._check_parameters()

    @property
    def size(self) -> int:
        """Number of coordinates that the optimizers train."""
        return sum(parameter.numel() for parameter in moving_parameters(self.optimizers))

    @property
    def local_size(self) -> int:
        """Number of coordinates of them that this process has."""
        return local_size(moving_parameters(self.optimizers))

    @property
    def beta2(self) -> float | None:
        """β₂ of the first parameter group that has one; None if none has."""
        for optimizer in self.optimizers:
            for group in live_groups(optimizer):
                # RMSprop calls its decay alpha.
                betas = group.get("betas")
                decay = float(betas[1]) if betas is not None else float(group.get("alpha", math.nan))
                if 0 < decay < 1:
                    return decay
        return None

    def tensors(self) -> list[Tensor]:
        """Return the tensors of the model, and what the optimizers train."""
        return [*self.model.parameters(), *self.model.buffers(), *moving_parameters(self.optimizers)]

    @property
    def has_copies(self) -> bool:
        """Whether each process trains a copy of all parameters, which DistributedDataParallel keeps alike."""
        peers = training_peers(self.model)
        return peers is not None and peers.grid is None and not self.is_parted

    @property
    def is_parted(self) -> bool:
        """Whether the optimizer of each process has other parameters than those of the others."""
        return any(type(one).__name__ == "ZeroRedundancyOptimizer" for one in self.optimizers)

    def future_rates(self, step: int) -> Callable[[int], float] | None:
        """Return k ↦ η_{t+k}/η_t; None if the schedule is unknown or its present rate is not positive.

        Args:
            step: The present step t.
        """
        rate_at = self.learning_rate_at
        if rate_at is None:
            return None
        present = float(rate_at(step))
        if not 0 < present < math.inf:
            return None
        return lambda ahead: float(rate_at(step + ahead)) / present

    def describe(self) -> dict[str, Any]:
        """Return what the log's header says of the run, as plain values."""
        group = self.optimizers[0].param_groups[0]
        description: dict[str, Any] = {
            "model": type(self.model).__name__,
            "optimizer": " + ".join(type(unwrap(optimizer)).__name__ for optimizer in self.optimizers),
            "parameters": self.size,
            "groups": sum(len(optimizer.param_groups) for optimizer in self.optimizers),
            "learning_rate": float(group["lr"]),
        }
        if "betas" in group:
            description["betas"] = [float(beta) for beta in group["betas"]]
        if several_processes():
            description["ranks"] = torch.distributed.get_world_size()
            description["copies"] = self.has_copies
        description["layers"] = layer_types(self.model)
        return description

    def _check_parameters(self) -> None:
        owned = {id(parameter) for parameter in self.model.parameters()}
        moving = moving_parameters(self.optimizers)
        strangers = [parameter for parameter in moving if id(parameter) not in owned]
        if strangers:
            raise ValueError(
                f"{len(strangers)} of the optimizer's {len(moving)} parameters are not the model's (the "
                f"first has shape {tuple(strangers[0].shape)}): build the optimizer after the model was "
                "moved or wrapped, and put several models into one nn.ModuleList"
            )
        if not moving:
            raise ValueError("the optimizer has no parameter that requires a gradient")
        if any(parameter.is_complex() for parameter in moving):
            raise ValueError("complex parameters are not supported: their Hessian is not one real matrix")


def copy_weights(subject: Subject) -> dict[int, float] | None:
    """Return one over the number of processes that have a copy of each parameter, by identity.

    Args:
        subject: What is watched.

    Returns:
        None where each process has all parameters, or it can't be seen who has what.
    """
    if not is_spread(subject.model) or not torch.distributed.is_initialized():
        return None
    parameters = moving_parameters(subject.optimizers)
    if why_not_spread(subject.model):
        return {}
    pieces = Grid.of(subject.model).pieces(parameters)
    return {id(one): piece.weight for one, piece in zip(parameters, pieces, strict=True)}


def layer_types(model: nn.Module) -> dict[str, str]:
    """Return the class names of the modules that have parameters, in themselves or below, by their names.

    Of more than 200, those whose names differ in numbers alone and that are of one class share a name with
    ``*`` for each number, so that the log's header stays small however deep the model is.

    Args:
        model: The model.

    Example:
        >>> import torch
        >>> head = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
        >>> layer_types(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 2), head))
        {'0': 'Conv2d', '1': 'Sequential', '1.0': 'Linear'}
    """
    types = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    }
    if len(types) <= _LAYERS:
        return types
    shared: dict[str, set[str]] = {}
    for name, kind in types.items():
        shared.setdefault(_numberless(name), set()).add(kind)
    # Where classes differ under one name with stars, no type is said: a wrong one would mislead.
    return {name: kinds.pop() for name, kinds in list(shared.items())[:_LAYERS] if len(kinds) == 1}


def _numberless(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))
