"""All of a training run's state that a probe could touch, as comparable values."""

from __future__ import annotations

import random

import numpy as np
import torch


def training_state(model, optimizer=None):
    """Return content and identity of everything, in plain values that compare with ==."""
    tensors = [*model.parameters(), *model.buffers()]
    gradients = [p.grad for p in model.parameters()]
    numpy_state = np.random.get_state()
    return {
        "tensors": [(id(t), bits(t)) for t in tensors],
        "gradients": [(id(g), bits(g)) if g is not None else None for g in gradients],
        "modes": [module.training for module in model.modules()],
        "random": (bits(torch.get_rng_state()), random.getstate(), numpy_state[1].tolist(), numpy_state[2]),
        "optimizer": optimizer
        and [
            [bits(v) if isinstance(v, torch.Tensor) else v for v in state.values()]
            for state in optimizer.state.values()
        ],
    }


def bits(tensor):
    """Return the bytes of a tensor."""
    return tensor.detach().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
