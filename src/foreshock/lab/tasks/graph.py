"""A graph network that counts the triangles of random graphs, Poisson deviance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

HELD_OUT = 100
DATA_SEED = 0  # the graphs stay the same for every seed of the weights
LEAST_SHARE, MOST_SHARE = 0.2, 0.7  # of the pairs of nodes that are joined


def build_graph(
    *, batch_size: int | None, seed: int, graphs: int = 100, nodes: int = 10, width: int = 32, layers: int = 3
) -> Task:
    """Build a graph isomorphism network (Xu et al. 2019) that gives the logarithm of a Poisson rate.

    Args:
        batch_size: Graphs in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        graphs: Number of random graphs, whose nodes are joined independently of each other.
        nodes: Nodes of each graph, at least 3.
        width: Features of a node.
        layers: Rounds of message passing.

    Raises:
        ValueError: If an option is out of range.
    """
    check_count("nodes", nodes, least=3)
    for name, value in (("graphs", graphs), ("width", width), ("layers", layers)):
        check_count(name, value)
    generator = torch.Generator().manual_seed(DATA_SEED)
    count = graphs + HELD_OUT
    share = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * torch.rand(count, 1, 1, generator=generator)
    upper = (torch.rand(count, nodes, nodes, generator=generator) < share).float().triu(1)
    joined = upper + upper.transpose(1, 2)
    triangles = (joined @ joined @ joined).diagonal(dim1=1, dim2=2).sum(dim=1) / 6
    return Task(
        name="graph",
        model=build_seeded(lambda: GraphNetwork(width, layers), seed=seed),
        loss_fn=poisson_deviance,
        batches=stream_batches((joined[:graphs], triangles[:graphs]), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=graphs,
        validation=(joined[graphs:], triangles[graphs:]),
    )


class GraphNetwork(nn.Module):
    """Pass messages along the edges, average over the nodes, and give one number."""

    def __init__(self, width: int, layers: int) -> None:
        """Create the layers.

        Args:
            width: Features of a node.
            layers: Rounds of message passing.
        """
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.Sequential(nn.Linear(width if i else 1, width), nn.SiLU(), nn.Linear(width, width))
            for i in range(layers)
        )
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, joined: Tensor) -> Tensor:
        """Map adjacency matrices of shape (N, nodes, nodes) to numbers of shape (N,)."""
        features = joined.sum(dim=2, keepdim=True) / joined.shape[1]
        mixing = joined / joined.shape[1] + torch.eye(joined.shape[1], device=joined.device)
        for transform in self.rounds:
            features = functional.silu(transform(mixing @ features))
        number: Tensor = self.output(features.mean(dim=1)).squeeze(1)
        return number


def poisson_deviance(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean of exp z − yz − (y − y ln y), half the Poisson deviance: zero where exp z = y.

    Args:
        model: Maps inputs to logarithms z of rates, shape (N,).
        batch: Inputs and counts y, shape (N,).
    """
    inputs, counts = batch
    logarithm = model(inputs)
    least = counts - torch.xlogy(counts, counts)
    deviance: Tensor = (logarithm.exp() - counts * logarithm - least).mean()
    return deviance
