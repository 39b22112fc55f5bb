"""A coordinate network with sine activations that fits an image and its slopes (Sitzmann et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

FREQUENCY = 10.0  # ω₀; 30 is for photographs, this image has waves that are longer


def build_coordinates(
    *, batch_size: int | None, seed: int, side: int = 16, width: int = 48, layers: int = 2
) -> Task:
    """Build a network u(x, y) = Wₙ sin(… ω₀(W₁(x, y) + b₁)) that fits a plaid of two waves.

    The loss is the Sobolev error (u − f)² + ‖∇u − ∇f‖²/ω₀², mean over the points. What is held out are the
    middles between the points of the grid.

    Args:
        batch_size: Points in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        side: Points along each side of the grid, at least 2.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("side", side, least=2)
    check_count("width", width)
    check_count("layers", layers)
    line = torch.linspace(-1, 1, side)
    return Task(
        name="coordinates",
        model=build_seeded(lambda: SineNetwork(width, layers), seed=seed),
        loss_fn=sobolev_error,
        batches=stream_batches(_image(line), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=side**2,
        validation=_image((line[1:] + line[:-1]) / 2),
    )


class SineNetwork(nn.Module):
    """Map coordinates to a brightness through layers sin(ω₀ · linear)."""

    def __init__(self, width: int, layers: int) -> None:
        """Create the layers; weights are uniform as in the paper: 1/n at first, then √(6/n)/ω₀.

        Args:
            width: Units in each hidden layer.
            layers: Number of hidden layers.
        """
        super().__init__()
        sizes = [2] + [width] * layers
        self.hidden = nn.ModuleList(nn.Linear(sizes[i], width) for i in range(layers))
        self.output = nn.Linear(width, 1)
        for i, layer in enumerate([*self.hidden, self.output]):
            bound = 1 / 2 if i == 0 else math.sqrt(6 / width) / FREQUENCY
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, points: Tensor) -> Tensor:
        """Map points of shape (N, 2) to values of shape (N, 1)."""
        for layer in self.hidden:
            points = torch.sin(FREQUENCY * layer(points))
        values: Tensor = self.output(points)
        return values


def sobolev_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean of (u − f)² + ‖∇u − ∇f‖²/ω₀².

    Args:
        model: Maps points (N, 2) to values (N, 1).
        batch: Points (N, 2), values (N, 1), gradients (N, 2).
    """
    points, values, slopes = batch
    points = points.detach().clone().requires_grad_()
    fitted = model(points)
    (gradients,) = torch.autograd.grad(fitted.sum(), points, create_graph=True)
    steep = (gradients - slopes).square().sum(dim=1) / FREQUENCY**2
    error: Tensor = ((fitted - values).square().squeeze(1) + steep).mean()
    return error


def _image(line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    points = torch.cartesian_prod(line, line).requires_grad_()
    x, y = points[:, :1], points[:, 1:]
    values = torch.sin(5 * x + 2 * y) * torch.cos(3 * y - x) + 0.5 * torch.sin(9 * x * y)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return points.detach(), values.detach(), slopes
