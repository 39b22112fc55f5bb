"""One snapshot of a training, in memory or read from a folder, and how it is put back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.preconditioner import as_optimizers
from foreshock.recorder.encoding import UnsupportedStateError, decode
from foreshock.recorder.state import GRADIENTS, RANDOM, Restoration, Training, check

LOSS, BATCH = "loss", "batch"


@dataclass(frozen=True)
class Snapshot:
    """A training between ``backward()`` and ``optimizer.step()`` of a step, where `observe` is called.

    What is restored has the gradients of that step: training goes on with ``optimizer.step()``, and then with
    the batch of the next step.

    Attributes:
        step: The monitor's number of the step.
        tensors: Tensors by name: ``parameter/NAME``, ``buffer/NAME``, ``gradient/NAME``,
            ``optimizer/0/NAME/exp_avg`` …
        tree: Everything else, as plain JSON that refers to the tensors.
        ids: What `observe` was given as the ids of the step's examples.
        path: Folder that it was read from; None in memory.
        about: Of one that was read: why and when it was written, and by which versions.
        note: Of one in memory: what the monitor knew of the run then.
    """

    step: int
    tensors: Mapping[str, Tensor] = field(repr=False)
    tree: Mapping[str, Any] = field(repr=False)
    ids: tuple[int | str, ...] = ()
    path: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    note: Any = field(default=None, repr=False)

    @property
    def loss(self) -> float:
        """The loss of the step; NaN if it is not known."""
        loss = self.tensors.get(LOSS)
        return math.nan if loss is None else float(loss)

    @property
    def batch(self) -> Any:
        """The batch of the step; None unless the recorder was asked to keep batches."""
        return None if self.tree.get(BATCH) is None else decode(self.tree[BATCH], self.tensors)

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def learning_rate(self) -> float:
        """The largest learning rate of a parameter group; NaN if none has one."""
        groups = [group for one in self.tree["optimizers"] for group in one["groups"]]
        options = [decode(group["options"], self.tensors) for group in groups]
        return max((float(one["lr"]) for one in options if "lr" in one), default=math.nan)

    def is_finite(self) -> bool:
        """Return whether training can go on from it: parameters, gradients and optimizer are finite."""
        numbers = (
            tensor
            for name, tensor in self.tensors.items()
            if name.startswith(("parameter/", "gradient/", "optimizer/"))
            and (tensor.is_floating_point() or tensor.is_complex())
        )
        return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)

    def restore(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        scheduler: Any = None,
        scaler: Any = None,
        others: Mapping[str, Any] | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Put the snapshot into a training: bit by bit what it was, or not at all.

        Parameters, buffers, gradients, the optimizer's state and options, which parameters are trained, which
        modules are in train mode, and the random numbers of torch, numpy and Python. Go on with
        ``optimizer.step()``.

        Args:
            model: The model, built as it was.
            optimizer: Its optimizer, or all of them in their order.
            scheduler: The scheduler, or all of them in their order, if the recorder was given one.
            scaler: The gradient scaler, if the recorder was given one.
            others: Whatever else the recorder was given, by the same names.
            without: What to leave as it is: ``"random"``, ``"gradients"``, ``"scheduler"``, ``"scaler"``, and
                names of `others`.

        Raises:
            UnsupportedStateError: If it does not fit, with what differs; then nothing was changed.

        Example:
            >>> from foreshock.recorder import Recorder
            >>> model = nn.Linear(2, 1)
            >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            >>> recorder = Recorder(every=1)
            >>> recorder.attach(model, [optimizer])
            >>> recorder.take(0, loss=0.5)
            >>> _ = model.weight.data.zero_()
            >>> recorder.newest().restore(model, optimizer)
            >>> bool((model.weight != 0).all())
            True
        """
        training = Training(model, as_optimizers(optimizer), named_others(scheduler, scaler, others))
        kept = {name: one for name, one in training.others.items() if name not in without}
        saved = {name: one for name, one in self.tree["others"].items() if not _left_out(name, without)}
        known = {RANDOM, GRADIENTS, "scheduler", "scaler", *self.tree["others"]}
        unknown = sorted(set(without) - known)
        if unknown:
            raise UnsupportedStateError(f"without has {unknown[0]!r}; it may have {', '.join(sorted(known))}")
        tree = {**self.tree, "others": saved}
        training = Training(model, training.optimizers, kept)
        check(tree, self.tensors, training)
        Restoration(tree, self.tensors, training, without=without).finish()


def named_others(scheduler: Any, scaler: Any, others: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return schedulers, scaler and the rest under one name each.

    Args:
        scheduler: One, or a sequence; None for none.
        scaler: The gradient scaler; None for none.
        others: The rest, by name.

    Raises:
        ValueError: If a name is taken.

    Example:
        >>> named_others(["a", "b"], None, {"average": "c"})
        {'scheduler.0': 'a', 'scheduler.1': 'b', 'average': 'c'}
    """
    several = isinstance(scheduler, Sequence) and not isinstance(scheduler, str)
    found = (
        {f"scheduler.{i}": one for i, one in enumerate(scheduler)} if several else {"scheduler": scheduler}
    )
    found |= {"scaler": scaler}
    for name, one in (others or {}).items():
        if name in found or name in (RANDOM, GRADIENTS):
            raise ValueError(f"others has {name!r}, a name that is taken: choose another")
        found[name] = one
    return {name: one for name, one in found.items() if one is not None}


def _left_out(name: str, without: Collection[str]) -> bool:
    return name in without or ("scheduler" in without and name.startswith("scheduler."))
