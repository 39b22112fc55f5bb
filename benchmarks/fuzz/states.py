"""Checkpoints whose optimizer state, model or file somebody damaged: a seed makes the same ones each time."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn, optim

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "Adam": lambda parameters: optim.Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "NAdam": lambda parameters: optim.NAdam(parameters, lr=0.01),
    "RMSprop": lambda parameters: optim.RMSprop(parameters, lr=0.01, centered=True, momentum=0.9),
    "Adafactor": lambda parameters: optim.Adafactor(parameters, lr=0.01),
    "Adagrad": lambda parameters: optim.Adagrad(parameters, lr=0.01),
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.01, momentum=0.9),
}
_NAN = float("nan")
# Made anew for each use: whoever loads one may write into it.
_VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 10**30,
    lambda: _NAN,
    lambda: float("inf"),
    lambda: "text",
    lambda: "\x1b]52;c;bWFsd2FyZQ==\x07",
    lambda: b"\xff",
    lambda: 1j,
    list,
    dict,
    lambda: [1, 2],
    lambda: (0.9, 0.99, 0.9),
    lambda: {"a": torch.ones(1)},
    lambda: torch.ones(5, 3),
    lambda: torch.ones(3, 5),
    lambda: torch.ones(5),
    lambda: torch.ones(0),
    lambda: torch.tensor(2.0),
    lambda: torch.tensor(_NAN),
    lambda: torch.full((5, 3), _NAN),
    lambda: torch.full((5, 3), -1.0),
    lambda: torch.full((5, 3), float("inf")),
    lambda: torch.ones(5, 3, dtype=torch.int64),
    lambda: torch.ones(5, 3, dtype=torch.bool),
    lambda: torch.ones(5, 3, dtype=torch.complex64),
    lambda: torch.ones(5, 3, dtype=torch.float64),
    lambda: torch.ones(5, 3).to_sparse(),
    lambda: torch.ones(5, 3, device="meta"),
    lambda: nn.Parameter(torch.ones(5, 3)),
)
_KEYS: tuple[Any, ...] = ("0", -1, 4, 10**30, (0, "x"), "exp_avg_sq", "state", None, 1.5, "\x1b[2J")


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the loss of the networks of `made`."""
    return model(batch).square().mean()


def made(name: str, *, steps: int = 0) -> tuple[nn.Module, optim.Optimizer]:
    """Return a small network and its optimizer after some steps.

    Args:
        name: Name in `OPTIMIZERS`.
        steps: How many steps were taken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        optimizer = OPTIMIZERS[name](model.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model, torch.randn(8, 3)).backward()
            optimizer.step()
    return model, optimizer


def sound_checkpoint(name: str) -> dict[str, Any]:
    """Return what a training script saves.

    Args:
        name: Name of the optimizer in `OPTIMIZERS`.
    """
    model, optimizer = made(name, steps=3)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def damaged_checkpoint(content: dict[str, Any], choose: random.Random) -> bytes:
    """Return the bytes of a checkpoint with up to three kinds of damage.

    Args:
        content: A sound checkpoint.
        choose: What draws the damage.
    """
    found = copy.deepcopy(content)
    in_bytes = choose.random() < 0.2
    for _ in range(0 if in_bytes else choose.choice((1, 1, 2, 3))):
        _damage(found, choose)
    file = io.BytesIO()
    torch.save(found, file)
    raw = bytearray(file.getvalue())
    if in_bytes:
        raw = choose.choice((_flipped, _cut, _noise))(raw, choose)
    return bytes(raw)


def _damage(content: dict[str, Any], choose: random.Random) -> None:
    """Replace, take out, rename or add a value in one container, mostly in one of the optimizer."""
    inside = list(_containers(content.get("optimizer"))) if choose.random() < 0.8 else []
    container = choose.choice(inside or list(_containers(content)))
    if isinstance(container, list):
        container.append(choose.choice(_VALUES)())
        return
    key = choose.choice(list(container)) if container else "0"
    way = choose.random()
    if way < 0.6:
        container[key] = choose.choice(_VALUES)()
    elif way < 0.75:
        container.pop(key, None)
    elif way < 0.9:
        container[choose.choice(_KEYS)] = container.pop(key, None)
    else:
        container[choose.choice(_KEYS)] = choose.choice(_VALUES)()


def _containers(value: Any) -> Iterator[dict[Any, Any] | list[Any]]:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def _flipped(raw: bytearray, choose: random.Random) -> bytearray:
    for _ in range(choose.choice((1, 5, 100))):
        raw[choose.randrange(len(raw))] = choose.randrange(256)
    return raw


def _cut(raw: bytearray, choose: random.Random) -> bytearray:
    return raw[: choose.randrange(len(raw))]


def _noise(raw: bytearray, choose: random.Random) -> bytearray:
    return bytearray(choose.randbytes(choose.choice((0, 1, 10, 2000))))
