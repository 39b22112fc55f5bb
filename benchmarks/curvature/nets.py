"""Small random networks whose dense Hessian is known: thousands of them, of many kinds.

Each is float64 and has between 20 and 250 trained parameters. Besides plain networks there are those with
tied weights, frozen layers and batch normalisation, and twins: two or three copies side by side that differ
by little, so that the largest eigenvalues nearly coincide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]

_ACTIVATIONS = (nn.Tanh, nn.GELU, nn.Sigmoid, nn.Softplus, nn.SiLU)
_STEPS = (0, 0, 20, 100)  # of training with Adam before the network is measured


@dataclass(frozen=True)
class Net:
    """One network with its data.

    Attributes:
        name: Architecture and variation.
        seed: Everything random about it.
        model: The model, in train mode.
        criterion: Mean loss of outputs and targets; a module with a `reduction`, as some tools need it.
        batch: Inputs and targets.
        optimizer: Adam, after the training steps.
    """

    name: str
    seed: int
    model: nn.Module
    criterion: nn.Module
    batch: Batch
    optimizer: torch.optim.Optimizer

    @property
    def parameters(self) -> list[Tensor]:
        """The trained tensors."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def loss_fn(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        loss: Tensor = self.criterion(model(batch[0]), batch[1])
        return loss

    def step(self, count: int = 1) -> None:
        """Train a few steps further."""
        for _ in range(count):
            self.backward()
            self.optimizer.step()

    def backward(self) -> None:
        """Put the gradient into ``.grad``, as before a step."""
        self.optimizer.zero_grad()
        self.loss_fn(self.model, self.batch).backward()  # type: ignore[no-untyped-call]

    def hessian(self) -> Tensor:
        """Return the dense Hessian, shape (n, n), by double backward of all rows at once."""
        parameters = self.parameters
        loss = self.loss_fn(self.model, self.batch)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        flat = torch.cat([_flat(part, like) for part, like in zip(gradient, parameters, strict=True)])
        rows = torch.autograd.grad(
            flat, parameters, torch.eye(len(flat)).to(flat), is_grads_batched=True, allow_unused=True
        )
        matrix = torch.cat(
            [
                (torch.zeros(len(flat), *like.shape).to(flat) if part is None else part).flatten(1)
                for part, like in zip(rows, parameters, strict=True)
            ],
            dim=1,
        )
        return (matrix + matrix.T).detach() / 2


def _flat(part: Tensor | None, like: Tensor) -> Tensor:
    return (torch.zeros_like(like) if part is None else part).reshape(-1)


def random_net(seed: int) -> Net:
    """Return the network of a seed; successive seeds run through all architectures and variations."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    torch.manual_seed(seed)
    kinds = tuple(_MAKERS)
    name = kinds[seed % len(kinds)]
    model, criterion, batch = _MAKERS[name](pick)
    model, batch = model.double().train(), (batch[0], batch[1])
    # Scales of initialisation from far below the usual one to above it.
    scale = 0.5 + 1.5 * float(torch.rand((), generator=generator))
    with torch.no_grad():
        for parameter in dict.fromkeys(model.parameters()):
            parameter.mul_(scale)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=10.0 ** -pick(2, 3))
    net = Net(name, seed, model, criterion, batch, optimizer)
    net.step(_STEPS[pick(0, len(_STEPS) - 1)])
    return net


def random_nets(count: int, first: int = 0) -> Iterator[Net]:
    """Yield networks of successive seeds."""
    for seed in range(first, first + count):
        yield random_net(seed)


Pick = Callable[[int, int], int]
Made = tuple[nn.Module, nn.Module, Batch]


class _Entropy(nn.CrossEntropyLoss):
    """Mean over all positions of all sequences."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().forward(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


def _mlp(pick: Pick, *, frozen: bool = False, norm: bool = False) -> Made:
    inputs, width, outputs, examples = pick(2, 8), pick(3, 11), pick(1, 4), pick(4, 64)
    activation = _ACTIVATIONS[pick(0, len(_ACTIVATIONS) - 1)]
    layers: list[nn.Module] = [nn.Linear(inputs, width)]
    if norm:
        layers.append(nn.BatchNorm1d(width))
    layers.append(activation())
    if pick(0, 1):
        layers += [nn.Linear(width, width), activation()]
    layers.append(nn.Linear(width, outputs))
    if frozen:
        layers[0].requires_grad_(requires_grad=False)
    x = torch.randn(examples, inputs, dtype=torch.float64)
    if outputs > 1 and pick(0, 1):
        return nn.Sequential(*layers), _Entropy(), (x, torch.randint(outputs, (examples,)))
    return nn.Sequential(*layers), nn.MSELoss(), (x, torch.randn(examples, outputs, dtype=torch.float64))


class _Tied(nn.Module):
    """A layer that is used twice, and the transposed input layer as output."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.encode = nn.Linear(inputs, width)
        self.again = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.again(torch.tanh(self.encode(x))))
        return functional.linear(torch.tanh(self.again(x)), self.encode.weight.T)


def _tied(pick: Pick) -> Made:
    inputs, width, examples = pick(2, 8), pick(3, 10), pick(4, 64)
    x = torch.randn(examples, inputs, dtype=torch.float64)
    return _Tied(inputs, width), nn.MSELoss(), (x, x.roll(1, 0))


def _cnn(pick: Pick, *, norm: bool = False) -> Made:
    channels, classes, examples = pick(2, 5), pick(2, 4), pick(4, 24)
    activation = _ACTIVATIONS[pick(0, len(_ACTIVATIONS) - 1)]
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels) if norm else nn.Identity(),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(channels, 3, 3, padding=1),
        activation(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(3, classes),
    )
    x = torch.randn(examples, 1, 6, 6, dtype=torch.float64)
    return model, _Entropy(), (x, torch.randint(classes, (examples,)))


class _Attention(nn.Module):
    """One causal head between an embedding and an output that may share its weights."""

    def __init__(self, vocabulary: int, width: int, *, tied: bool, norm: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = None if tied else nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        x = x + scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return x @ self.token.weight.T if self.output is None else self.output(x)  # type: ignore[no-any-return]


def _attention(pick: Pick, *, tied: bool = False) -> Made:
    vocabulary, width, rows, length = pick(4, 9), pick(3, 6), pick(2, 12), pick(3, 6)
    tokens = torch.randint(vocabulary, (rows, length + 1))
    model = _Attention(vocabulary, width, tied=tied, norm=bool(pick(0, 1)))
    return model, _Entropy(), (tokens[:, :-1], tokens[:, 1:])


class _Side(nn.Module):
    """Copies side by side, whose outputs are stacked."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models])


def _twins(pick: Pick) -> Made:
    """Two or three copies of a network that differ by 10⁻⁵ to 10⁻¹: eigenvalues that nearly coincide."""
    inputs, width, examples, copies = pick(2, 5), pick(3, 8), pick(4, 32), pick(2, 3)
    model = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 1))
    models, apart = [], 10.0 ** -pick(1, 5)
    for _ in range(copies):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(apart * torch.randn_like(parameter))
        models.append(other)
    x = torch.randn(examples, inputs, dtype=torch.float64)
    target = torch.randn(examples, 1, dtype=torch.float64).expand(copies, -1, -1)
    return _Side(models), nn.MSELoss(), (x, target)


_MAKERS: dict[str, Callable[[Pick], Made]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "attention": _attention,
    "twins": _twins,
    "mlp, frozen": lambda pick: _mlp(pick, frozen=True),
    "mlp, batch norm": lambda pick: _mlp(pick, norm=True),
    "mlp, tied": _tied,
    "cnn, batch norm": lambda pick: _cnn(pick, norm=True),
    "attention, tied": lambda pick: _attention(pick, tied=True),
}
