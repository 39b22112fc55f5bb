"""Physics-informed networks: a tanh network that minimises the residual of a differential equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.mlp import perceptron
from foreshock.lab.tasks.streams import check_batch_size, draw_batches, stream_batches
from foreshock.lab.tasks.task import Batch, LossFunction, Task, build_seeded

VISCOSITY = 0.01 / math.pi  # the usual test case, whose solution forms a shock at x = 0
DATA_SEED = 0  # the points stay the same for every seed of the weights
HELD_OUT = 256
FREQUENCY = 4


def build_pinn(
    *,
    batch_size: int | None,
    seed: int,
    equation: str = "poisson",
    points: int | None = 128,
    width: int = 32,
    layers: int = 2,
) -> Task:
    """Build a network whose ansatz meets the boundary conditions; the loss is the mean squared residual.

    Poisson: u'' = f on [−1, 1], u(±1) = 0, solved by u = sin πx + ¼ sin 4πx; the residual is divided by
    (4π)². Burgers: u_t + u·u_x = (0.01/π)·u_xx on x ∈ [−1, 1], t ∈ [0, 1], u(x, 0) = −sin πx, u(±1, t) = 0.

    Args:
        batch_size: Collocation points in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        equation: "poisson" or "burgers".
        points: Number of fixed points; None to draw the points of every batch afresh.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Raises:
        ValueError: If an option is out of range.
    """
    check_choice("equation", equation, EQUATIONS)
    check_count("width", width)
    check_count("layers", layers)
    inputs, residual = EQUATIONS[equation]
    return Task(
        name="pinn",
        model=build_seeded(lambda: perceptron(inputs, width=width, layers=layers), seed=seed),
        loss_fn=_mean_square(residual),
        batches=_batches(points, inputs, batch_size, seed),
        batch_size=batch_size,
        examples=points,
        validation=_draw(HELD_OUT, inputs, torch.Generator().manual_seed(DATA_SEED + 1)),
    )


def _batches(points: int | None, inputs: int, batch_size: int | None, seed: int) -> Iterator[Batch]:
    if points is not None:
        check_count("points", points)
        fixed = _draw(points, inputs, torch.Generator().manual_seed(DATA_SEED))
        return stream_batches(fixed, batch_size=batch_size, seed=seed)
    if batch_size is None:
        raise ValueError("batch_size is None, but resampled points have no full batch; pass an integer.")
    check_batch_size(batch_size, examples=None)
    return draw_batches(lambda generator: _draw(batch_size, inputs, generator), seed=seed)


def _draw(count: int, inputs: int, generator: torch.Generator) -> tuple[Tensor]:
    """Return points (count, inputs): x uniform in [−1, 1], and t in [0, 1] if there is one."""
    unit = torch.rand(count, inputs, generator=generator)
    x = 2 * unit[:, :1] - 1
    return (torch.cat([x, unit[:, 1:]], dim=1),)


def _mean_square(residual: Callable[[nn.Module, Tensor], Tensor]) -> LossFunction:
    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        (points,) = batch
        return residual(model, points.detach().clone().requires_grad_()).square().mean()

    return loss_fn


def _derivatives(values: Tensor, points: Tensor) -> Tensor:
    (derivatives,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return derivatives


def _poisson(model: nn.Module, x: Tensor) -> Tensor:
    u = (1 - x**2) * model(x)
    second = _derivatives(_derivatives(u, x), x)
    forcing = -(math.pi**2) * torch.sin(math.pi * x)
    forcing = forcing - (FREQUENCY * math.pi) ** 2 / 4 * torch.sin(FREQUENCY * math.pi * x)
    residual: Tensor = (second - forcing) / (FREQUENCY * math.pi) ** 2
    return residual


def _burgers(model: nn.Module, points: Tensor) -> Tensor:
    x, t = points[:, :1], points[:, 1:]
    u = -torch.sin(math.pi * x) + t * (1 - x**2) * model(points)
    first = _derivatives(u, points)
    u_x, u_t = first[:, :1], first[:, 1:]
    u_xx = _derivatives(u_x, points)[:, :1]
    residual: Tensor = u_t + u * u_x - VISCOSITY * u_xx
    return residual


EQUATIONS: dict[str, tuple[int, Callable[[nn.Module, Tensor], Tensor]]] = {
    "poisson": (1, _poisson),
    "burgers": (2, _burgers),
}
"""Number of inputs and residual of each equation."""
