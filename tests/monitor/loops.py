"""Training loops as people write them, right and wrong, small enough to run two hundred steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional

from cases import TinyTransformer, cross_entropy, mean_squared_error
from foreshock.batches import MicroBatches


def mlp(inputs: int = 3, outputs: int = 2, *, dropout: float = 0.0) -> nn.Module:
    layers = [nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, outputs)]
    return nn.Sequential(*layers[:2], nn.Dropout(dropout), *layers[2:]) if dropout else nn.Sequential(*layers)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


class Transformer(nn.Module):
    """A Transformer with dropout, as torch makes it."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.token = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, tokens):
        return self.head(self.layer(self.token(tokens)))


class Bag(nn.Module):
    """An embedding with sparse gradients under a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 6, sparse=True)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Variational(nn.Module):
    """An autoencoder with a random code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 4), nn.Linear(2, 3)

    def forward(self, x):
        mean, spread = self.encode(x).chunk(2, -1)
        return self.decode(mean + spread.exp() * torch.randn_like(mean)), mean, spread


class Remembering(nn.Module):
    """A net whose loss depends on a buffer that each forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("centre", torch.zeros(2))

    def forward(self, x):
        y = self.net(x)
        self.centre.mul_(0.5).add_(y.detach().mean(0), alpha=0.5)
        return y - self.centre


def regression(generator: torch.Generator) -> tuple[Any, Any]:
    x = torch.randn(16, 3, generator=generator)
    return x, torch.stack([x.sin().sum(1), x.prod(1)], 1)


def images(generator: torch.Generator) -> tuple[Any, Any]:
    y = torch.randint(4, (16,), generator=generator)
    return torch.randn(16, 1, 6, 6, generator=generator) + y[:, None, None, None], y


def text(generator: torch.Generator) -> tuple[Any, Any]:
    x = torch.randint(7, (8, 5), generator=generator)
    return x, (x + 1) % 7


def padded(generator: torch.Generator) -> tuple[Any, Any]:
    x, y = text(generator)
    return x, y.masked_fill(torch.rand(y.shape, generator=generator) < 0.4, -100)


def augmented(model, batch):
    return mean_squared_error(model, (batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]))


def evidence(model, batch):
    decoded, mean, spread = model(batch[0])
    divergence = (mean**2 + (2 * spread).exp() - 2 * spread - 1).mean()
    return functional.mse_loss(decoded, batch[0]) + 0.1 * divergence


def denoising(model, batch):
    noise, level = torch.randn_like(batch[0]), torch.rand(1)
    return ((model(batch[0] * (1 - level) + noise * level) - noise[:, :2]) ** 2).mean() / (
        0.05 + level
    ).square().mean()


def in_bfloat16(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return functional.mse_loss(model(batch[0]).float(), batch[1])


def adam(parameters, **options):
    return optim.Adam(parameters, lr=0.01, **options)


@dataclass(frozen=True)
class Loop:
    """One training loop: what it trains, and how it calls `observe`.

    `step` gets the loop, model, optimizers, batch and `observe` and makes one step.
    """

    model: Callable[[], nn.Module] = mlp
    data: Callable[[torch.Generator], Any] = regression
    loss_fn: Callable[[nn.Module, Any], Any] = mean_squared_error
    optimizer: Callable[[list[Any]], Any] = adam
    step: Callable[..., None] | None = None
    monitored: Callable[[nn.Module, Any], Any] | None = None
    full_batch: bool = False
    options: dict[str, Any] = field(default_factory=lambda: {"probe_every": 5})

    def batches(self, count: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(1)
        batch = self.data(generator)
        for _ in range(count):
            yield batch
            batch = batch if self.full_batch else self.data(generator)


def plain(
    loop, model, optimizers, batch, observe, *, before=lambda model, optimizer: None, scale=1.0, given=1.0
):
    """One step: zero_grad, backward, something of one's own, observe, step."""
    for one in optimizers:
        one.zero_grad()
    loss = loop.loss_fn(model, batch)
    (loss * scale).backward()
    before(model, optimizers[0])
    observe(batch, loss, gradient_scale=given)
    if given != 1:
        for parameter in model.parameters():
            parameter.grad /= given
    for one in optimizers:
        one.step()


def scaled(loop, model, optimizers, batch, observe, *, unscale: bool, told: bool):
    """A step with a gradient scaler's scale of 1,024."""
    [optimizer] = optimizers
    optimizer.zero_grad()
    loss = loop.loss_fn(model, batch)
    (loss * 1024).backward()
    if unscale:
        for parameter in model.parameters():
            parameter.grad /= 1024
    observe(batch, loss, gradient_scale=1024.0 if told else 1.0)
    if not unscale:
        for parameter in model.parameters():
            parameter.grad /= 1024
    optimizer.step()


def accumulating(
    loop, model, optimizers, batch, observe, *, pass_all=True, mean=True, each=False, value="mean"
):
    """A step over four micro-batches."""
    [optimizer] = optimizers
    optimizer.zero_grad()
    parts = [tuple(tensor[start::4] for tensor in batch) for start in range(4)]
    losses = []
    for part in parts:
        loss = loop.loss_fn(model, part)
        (loss / 4 if mean else loss).backward()
        losses.append(loss.detach())
        if each:
            observe(part, loss)
    if not each:
        given = {"mean": sum(losses) / 4, "last": losses[-1]}[value]
        observe(MicroBatches(parts) if pass_all else parts[-1], given)
    optimizer.step()


def clip(kind: str) -> Callable[..., None]:
    def apply(model, optimizer):
        if kind == "norm":
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        elif kind == "value":
            nn.utils.clip_grad_value_(model.parameters(), 0.01)
        else:
            for index, parameter in enumerate(model.parameters()):
                parameter.grad *= 0.9**index

    return apply


def add_decay(model, optimizer):
    for parameter in model.parameters():
        parameter.grad += 0.1 * parameter.detach()


def add_noise(model, optimizer):
    for parameter in model.parameters():
        parameter.grad += parameter.grad.square().mean().sqrt() * torch.randn_like(parameter)


def normalise(model, optimizer):
    nn.utils.clip_grad_norm_(model.parameters(), 1e-9)
    for parameter in model.parameters():
        parameter.grad *= 1e9


def every_tenth(loop, model, optimizers, batch, observe):
    """Ten steps, of which the first is observed."""
    plain(loop, model, optimizers, batch, observe)
    for _ in range(9):
        plain(loop, model, optimizers, loop.data(torch.Generator()), lambda *args, **options: None)


def warm_up(loop, model, optimizers, batch, observe):
    """A step with a learning rate that rises from zero."""
    [optimizer] = optimizers
    for group in optimizer.param_groups:
        group["lr"] = min(0.01, group["lr"] + 1e-4)
    plain(loop, model, optimizers, batch, observe)


class Unused(nn.Module):
    """A net with a part that the loss doesn't reach."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.other = mlp(), nn.Linear(3, 3)

    def forward(self, x):
        return self.net(x)


class Recurrent(nn.Module):
    """An LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.cell, self.head = (
            nn.Embedding(7, 8),
            nn.LSTM(8, 8, batch_first=True),
            nn.Linear(8, 7),
        )

    def forward(self, tokens):
        return self.head(self.cell(self.token(tokens))[0])


def still_normalised():
    model = cnn()
    model[1].eval()
    return model


def freeze(model: nn.Module) -> nn.Module:
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(requires_grad=False)
    return model


def two_optimizers(parameters):
    matrices = [p for p in parameters if p.ndim == 2]
    return [adam(matrices), optim.SGD([p for p in parameters if p.ndim != 2], lr=0.01, momentum=0.9)]


def sparse_and_dense(parameters):
    return optim.SGD(parameters, lr=0.1)


def trained(parameters):
    return adam([p for p in parameters if p.requires_grad])


def in_half(module: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: module().bfloat16()


def half_regression(generator):
    x, y = regression(generator)
    return x.bfloat16(), y.bfloat16()


EVERY_STEP = {"probe_every": 1}

RIGHT = {
    "mlp": Loop(),
    "mlp, full batch": Loop(full_batch=True, options=EVERY_STEP),
    "mlp, full batch, tiny steps": Loop(
        full_batch=True, optimizer=partial(optim.Adam, lr=1e-7), options=EVERY_STEP
    ),
    "cnn with batch norm": Loop(cnn, images, cross_entropy),
    "cnn with batch norm, full batch": Loop(cnn, images, cross_entropy, full_batch=True),
    "dropout": Loop(partial(mlp, dropout=0.3)),
    "dropout, full batch": Loop(partial(mlp, dropout=0.3), full_batch=True, options=EVERY_STEP),
    "transformer": Loop(TinyTransformer, text, cross_entropy),
    "transformer with dropout": Loop(Transformer, text, cross_entropy),
    "padding": Loop(partial(Transformer, 0.0), padded, cross_entropy),
    "augmentation in loss_fn": Loop(loss_fn=augmented),
    "variational": Loop(Variational, loss_fn=evidence),
    "diffusion": Loop(loss_fn=denoising, options=EVERY_STEP),
    "buffers that move": Loop(Remembering, options=EVERY_STEP),
    "bfloat16 autocast": Loop(loss_fn=in_bfloat16, full_batch=True),
    "bfloat16 autocast in training only": Loop(loss_fn=in_bfloat16, monitored=mean_squared_error),
    "bfloat16 parameters": Loop(in_half(mlp), half_regression),
    "scaler, scaled": Loop(step=partial(scaled, unscale=False, told=True)),
    "scaler, unscaled": Loop(step=partial(scaled, unscale=True, told=False)),
    "clipping by norm": Loop(
        optimizer=partial(optim.AdamW, lr=0.01, weight_decay=0.1), step=partial(plain, before=clip("norm"))
    ),
    "clipping by value": Loop(step=partial(plain, before=clip("value"))),
    "clipping of each tensor": Loop(step=partial(plain, before=clip("tensor"))),
    "coupled weight decay": Loop(
        optimizer=partial(adam, weight_decay=0.1), full_batch=True, options=EVERY_STEP
    ),
    "weight decay by hand": Loop(step=partial(plain, before=add_decay)),
    "maximize": Loop(
        optimizer=partial(adam, maximize=True), loss_fn=lambda model, batch: -mean_squared_error(model, batch)
    ),
    "momentum": Loop(
        optimizer=partial(optim.SGD, lr=0.01, momentum=0.9), full_batch=True, options=EVERY_STEP
    ),
    "rmsprop": Loop(optimizer=partial(optim.RMSprop, lr=0.001), options=EVERY_STEP),
    "muon and adam": Loop(
        optimizer=lambda p: [optim.Muon([q for q in p if q.ndim == 2]), adam([q for q in p if q.ndim != 2])]
    ),
    "several optimizers": Loop(optimizer=two_optimizers),
    "accumulation": Loop(step=accumulating),
    "accumulation with batch norm": Loop(cnn, images, cross_entropy, step=accumulating),
    "sparse embedding": Loop(Bag, text, cross_entropy, optimizer=sparse_and_dense),
    "frozen parts": Loop(lambda: freeze(mlp()), optimizer=trained),
    "sum in both": Loop(loss_fn=lambda model, batch: 16 * mean_squared_error(model, batch)),
    "default budget": Loop(options={}),
    "noise on the gradient": Loop(step=partial(plain, before=add_noise)),
    "normalised gradient": Loop(
        step=partial(plain, before=normalise), optimizer=partial(optim.Adam, lr=1e-3)
    ),
    "observed each tenth step": Loop(step=every_tenth, options=EVERY_STEP),
    "observed each tenth step, full batch": Loop(step=every_tenth, options=EVERY_STEP, full_batch=True),
    "warm-up from zero": Loop(optimizer=partial(optim.Adam, lr=0.0), step=warm_up, options=EVERY_STEP),
    "unused parameters": Loop(Unused),
    "recurrent": Loop(Recurrent, text, cross_entropy),
    "batch norm in eval mode": Loop(still_normalised, images, cross_entropy),
    "in eval mode throughout": Loop(lambda: cnn().eval(), images, cross_entropy),
    "guarded": Loop(options={"probe_every": 5, "guard": "auto"}),
    "large steps": Loop(optimizer=partial(optim.Adam, lr=0.3), full_batch=True),
    "quick full-batch descent": Loop(
        optimizer=partial(optim.SGD, lr=0.2), full_batch=True, options=EVERY_STEP
    ),
    "nadam": Loop(optimizer=partial(optim.NAdam, lr=0.01), full_batch=True, options=EVERY_STEP),
    "no first moment": Loop(optimizer=partial(adam, betas=(0.0, 0.999)), full_batch=True, options=EVERY_STEP),
    "free of curvature": Loop(options={"full_batch": False, "probe_every": 2}),
}


def zero_never(loop, model, optimizers, batch, observe):
    loss = loop.loss_fn(model, batch)
    loss.backward()
    observe(batch, loss)
    optimizers[0].step()


def observe_after(loop, model, optimizers, batch, observe, *, zeroed: str = "no"):
    optimizers[0].zero_grad()
    loss = loop.loss_fn(model, batch)
    loss.backward()
    optimizers[0].step()
    if zeroed != "no":
        optimizers[0].zero_grad(set_to_none=zeroed == "none")
    observe(batch, loss)


def other_batch(loop, model, optimizers, batch, observe):
    x, y = batch
    plain(loop, model, optimizers, batch, lambda batch, *a, **k: observe((x.flip(0), y), *a, **k))


def other_value(loop, model, optimizers, batch, observe):
    plain(loop, model, optimizers, batch, lambda batch, loss, **k: observe(batch, 16 * loss.item(), **k))


def in_eval_mode(loop, model, optimizers, batch, observe):
    def observe_in_eval(*args, **options):
        model.eval()
        observe(*args, **options)

    model.train()
    plain(loop, model, optimizers, batch, observe_in_eval)


def summed(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def sum_of_squares(model, batch):
    return 32 * mean_squared_error(model, batch)


def penalised(model, batch):
    return mean_squared_error(model, batch) + 0.1 * sum(p.square().sum() for p in model.parameters())


def with_extra_term(model, batch):
    return mean_squared_error(model, batch) + model(batch[0].flip(1)).square().mean()


WRONG = {
    "sum or mean": [
        Loop(loss_fn=sum_of_squares, monitored=mean_squared_error),
        Loop(monitored=sum_of_squares),
        Loop(cnn, images, summed, monitored=cross_entropy),
        Loop(cnn, images, summed, monitored=cross_entropy, step=partial(plain, before=clip("norm"))),
        Loop(partial(mlp, dropout=0.3), loss_fn=sum_of_squares, monitored=mean_squared_error),
        Loop(loss_fn=sum_of_squares, monitored=mean_squared_error, full_batch=True, options=EVERY_STEP),
        Loop(loss_fn=lambda model, batch: -mean_squared_error(model, batch), monitored=mean_squared_error),
    ],
    "gradient_scale": [
        Loop(step=partial(scaled, unscale=False, told=False)),
        Loop(step=partial(scaled, unscale=True, told=True)),
        Loop(partial(mlp, dropout=0.3), step=partial(scaled, unscale=False, told=False)),
        Loop(partial(mlp, dropout=0.3), step=partial(scaled, unscale=True, told=True)),
        Loop(full_batch=True, step=partial(scaled, unscale=False, told=False), options=EVERY_STEP),
    ],
    "no zero_grad": [
        Loop(step=zero_never),
        Loop(step=zero_never, options=EVERY_STEP),
        Loop(step=zero_never, full_batch=True, options=EVERY_STEP),
        Loop(cnn, images, cross_entropy, step=zero_never),
        Loop(partial(mlp, dropout=0.2), step=zero_never, optimizer=partial(optim.Adam, lr=1e-3)),
    ],
    "after step": [
        Loop(step=observe_after),
        Loop(step=observe_after, full_batch=True, options=EVERY_STEP),
        Loop(cnn, images, cross_entropy, step=observe_after),
        Loop(Transformer, text, cross_entropy, step=observe_after),
        Loop(step=observe_after, optimizer=partial(optim.SGD, lr=0.01, momentum=0.9)),
        Loop(step=observe_after, optimizer=partial(optim.RMSprop, lr=0.001)),
        Loop(step=observe_after, optimizer=partial(adam, weight_decay=0.1)),
    ],
    "no gradient": [
        Loop(step=partial(observe_after, zeroed="none")),
        Loop(step=partial(observe_after, zeroed="zeros"), optimizer=partial(optim.SGD, lr=0.01)),
        Loop(step=partial(observe_after, zeroed="zeros")),
    ],
    "other gradient": [
        Loop(step=partial(accumulating, pass_all=False, value="last")),
        Loop(cnn, images, cross_entropy, step=partial(accumulating, pass_all=False, value="last")),
    ],
    "observe inside an accumulation": [
        Loop(step=partial(accumulating, each=True, mean=False), options=EVERY_STEP)
    ],
    "sum over micro-batches": [Loop(step=partial(accumulating, mean=False))],
    "other value of the loss": [Loop(step=other_value), Loop(step=partial(accumulating, value="last"))],
    "other batch or loss": [
        Loop(step=other_batch),
        Loop(step=partial(accumulating, pass_all=False)),
        Loop(loss_fn=with_extra_term, monitored=mean_squared_error),
    ],
    "missing term": [Loop(loss_fn=penalised, monitored=mean_squared_error)],
    "eval mode": [
        Loop(cnn, images, cross_entropy, step=in_eval_mode),
        Loop(partial(mlp, dropout=0.5), step=in_eval_mode),
    ],
}


def with_logits(model, batch):
    return mean_squared_error(model, batch), model(batch[0])


def each_example(model, batch):
    return (model(batch[0]) - batch[1]).square()


@torch.no_grad()
def without_graph(model, batch):
    return mean_squared_error(model, batch)


def pass_text(loop, model, optimizers, batch, observe):
    plain(loop, model, optimizers, batch, lambda batch, *a, **k: observe("train", *a, **k))


FAILING = {
    "per-example losses": [Loop(monitored=each_example)],
    "no tensor": [Loop(monitored=with_logits)],
    "no graph": [Loop(monitored=without_graph)],
    "swapped arguments": [Loop(monitored=lambda batch, model: mean_squared_error(model, batch))],
    "loss module": [Loop(monitored=nn.MSELoss())],
    "batch without tensors": [Loop(step=pass_text)],
    "no gradient": WRONG["no gradient"],
}
del WRONG["no gradient"]
