"""Leave a user's training as it was: what a probe may touch is saved before and put back after.

A forward pass in train mode moves BatchNorm's running statistics, draws dropout masks, and may do
whatever a user's loss function does. `isolated` puts back buffers, random number generators, ``.grad``
and train mode, bit by bit, also when the probe fails. `Replay` evaluates again and again from one start.
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
    """Run a block after which `model` and every random number generator are as before.

    Restored are buffers (content and identity), ``.grad`` of all parameters (identity; content is never
    written because ``.grad`` is None inside), train mode of every module, and the generators of torch
    (CPU, and the devices of the model), numpy and Python. Parameters are the caller's to restore.

    Args:
        model: The model that is about to be evaluated.
    """
    buffers = _saved_buffers(model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    numbers = RandomState.capture([*model.parameters(), *model.buffers()])
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        _restore_buffers(buffers)
        numbers.restore()


@dataclass(frozen=True)
class RandomState:
    """The state of all random number generators that a model may draw from.

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
        """Return the present state, of the CPU and of the devices that `tensors` live on."""
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
    calls. After the block the generators go on from where they were outside, and the buffers are at the
    start again.

    Args:
        model: The model that is evaluated; None if it has no buffers.
        tensors: Tensors on the devices whose generators are drawn from, besides those of the model.

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
        """Run one block from the start."""
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
        # Writing what is there already would invalidate graphs that saved the buffer. Its version counter
        # can't tell: batch norm's kernels do not raise it.
        if not torch.equal(buffer, saved):
            with torch.no_grad():
                buffer.copy_(saved)
        module._buffers[name] = buffer
