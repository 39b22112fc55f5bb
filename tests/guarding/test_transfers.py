"""On an accelerator each number that the host reads makes it wait: there are few, however large the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim
from torch.utils._python_dispatch import TorchDispatchMode

from foreshock.guarding import guard, parameters
from guarding.training import Script, asked, data, squared


class Reads(TorchDispatchMode):
    """Count the numbers that are read from tensors, as on an accelerator a transfer each."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def reads(layers, decisions, way):
    """Return what the guard reads at its fourth step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), *[nn.Linear(4, 4) for _ in range(layers)], nn.Linear(4, 2))
    optimizer = optim.Adam(model.parameters(), **way)
    counts = []
    for guarded in (False, True):
        if guarded:
            guard(optimizer, Script(decisions))
        for _ in range(4):
            squared(model, data()).backward()
            with Reads() as reading:
                optimizer.step()
        counts.append(reading.count)
    return counts[1] - counts[0]


@pytest.mark.parametrize("decisions", [{}, {3: asked("raise along", 1.5)}], ids=["idle", "acting"])
@pytest.mark.parametrize("rate", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@pytest.mark.parametrize("small", [parameters.SMALL, 0], ids=["together", "one by one"])
def test_reads_do_not_grow_with_the_number_of_parameters(decisions, rate, small, monkeypatch):
    """The step counts of all parameters come in one transfer, too."""
    monkeypatch.setattr(parameters, "SMALL", small)
    few, many = (
        reads(layers, decisions, {"lr": rate, "foreach": not torch.is_tensor(rate)}) for layers in (1, 9)
    )
    assert many == few
