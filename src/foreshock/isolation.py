"""Keep a probe from changing the training: save what it may change, and restore that afterwards.

A forward pass in train mode moves BatchNorm's running statistics, draws dropout masks, and may have any side
effect of the user's loss function. `isolated` restores buffers, random number generators, ``.grad`` and train
mode, bit by bit, also if the probe fails. `Replay` repeats evaluations from the same random numbers and
buffers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Run a block, then restore the model and all random number generators.

    Restored are buffers (content and identity), ``.grad`` of all parameters (identity; its content is never
    written to, because ``.grad`` is None inside the block), train mode of every module, and the generators
    of torch (CPU and the CUDA devices of the model), numpy and Python. Parameters are not restored: the
    caller must do that.

    Args:
        model: The model that is evaluated inside the block.

    Raises:
        TypeError: If it is no module.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> with isolated(layer):
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        >>> layer.running_mean.item()
        0.0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model is {type(model).__name__}; it must be a torch.nn.Module: the arguments are "
            "(model, loss_fn, batch), or (model, optimizer, loss_fn, batch) where the optimizer counts"
        )
    buffers = _saved_buffers(model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    numbers = RandomState.capture([*model.parameters(), *model.buffers()])
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        # Also if the probe fails: training goes on, and the failure is recorded.
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        _restore_buffers(buffers)
        numbers.restore()


@dataclass(frozen=True)
class RandomState:
    """The state of all random number generators that a model may use.

    Attributes:
        torch_cpu: torch's generator on the CPU.
        torch_cuda: torch's generators on CUDA devices, by index.
        numpy: numpy's global generator.
        python: Python's global generator.
    """

    torch_cpu: Tensor
    torch_cuda: dict[int, Tensor]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls, tensors: Sequence[Tensor]) -> Self:
        """Return the present state, on the CPU and on the devices of `tensors`.

        Args:
            tensors: Tensors on the devices that the model uses.
        """
        # Only the devices in use: the model cannot draw from the others.
        devices = {tensor.device for tensor in tensors}
        cuda = [device.index for device in devices if device.type == "cuda"]
        return cls(
            torch.get_rng_state(),
            {index: torch.cuda.get_rng_state(index) for index in cuda},
            np.random.get_state(),
            random.getstate(),
        )

    def restore(self) -> None:
        """Set every generator back to this state."""
        torch.set_rng_state(self.torch_cpu)
        for index, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, index)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


class Replay:
    """A block that starts from the same random numbers and buffers each time it is entered.

    Two evaluations of a loss then use the same dropout masks, and the same state of a layer that counts its
    calls. After the block the generators continue from their state outside of it, and the buffers have their
    content of the start again.

    Args:
        model: The model that is evaluated; None if it has no buffers.
        tensors: Tensors on further devices whose generators are used, besides those of the model.

    Example:
        >>> replay = Replay(None)
        >>> with replay():
        ...     first = torch.rand(3)
        >>> with replay():
        ...     torch.equal(first, torch.rand(3))
        True
    """

    def __init__(self, model: nn.Module | None, tensors: Sequence[Tensor] = ()) -> None:
        if model is not None:
            tensors = [*tensors, *model.parameters(), *model.buffers()]
        self._tensors = tuple(tensors)
        self._start = RandomState.capture(self._tensors)
        self._buffers = [] if model is None else _saved_buffers(model)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run one block from the random numbers and buffers of the start."""
        outside = RandomState.capture(self._tensors)
        self._start.restore()
        try:
            yield
        finally:
            _restore_buffers(self._buffers)
            outside.restore()


_SavedBuffer = tuple[nn.Module, str, Tensor, Tensor]


def _saved_buffers(model: nn.Module) -> list[_SavedBuffer]:
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _restore_buffers(buffers: Sequence[_SavedBuffer]) -> None:
    for module, name, buffer, saved in buffers:
        # Writing raises the version counter, which would invalidate graphs that saved the buffer: write only
        # if something changed. The counter itself does not show that, since batch norm's kernels do not raise
        # it.
        if not torch.equal(buffer, saved):
            with torch.no_grad():
                buffer.copy_(saved)
        # A module may also have replaced the buffer by another tensor.
        module._buffers[name] = buffer
