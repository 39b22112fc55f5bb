"""Leave a user's training as it was: what a probe may touch is saved before and put back after.

A forward pass in train mode moves BatchNorm's running statistics, draws dropout masks, and may do
whatever a user's loss function does. `isolated` puts back buffers, random number generators, ``.grad``
and train mode, bit by bit, also when the probe fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

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
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    with _same_random_numbers(model):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, training in modes:
                module.training = training
            for module, name, buffer, saved in buffers:
                _restore_buffer(module, name, buffer, saved)


def _restore_buffer(module: nn.Module, name: str, buffer: Tensor, saved: Tensor) -> None:
    # Writing what is there already would invalidate graphs that saved the buffer. Its version counter can't
    # tell: batch norm's kernels do not raise it.
    if not torch.equal(buffer, saved):
        with torch.no_grad():
            buffer.copy_(saved)
    module._buffers[name] = buffer


@contextmanager
def _same_random_numbers(model: nn.Module) -> Iterator[None]:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted(device.index for device in devices if device.type == "cuda")
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda, device_type="cuda"):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
