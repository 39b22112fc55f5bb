"""What is done to a training of the labelled set: hooks of its loop, one class a cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from foreshock.lab.causes.scenario import Scenario
from foreshock.lab.tasks.task import Batch, LossFunction, Task

_CLASSES = 10


class Disturbance:
    """Leave a training as it is; each cause changes one of the hooks.

    Args:
        scenario: The training.
        task: Its model, loss and batches.
    """

    def __init__(self, scenario: Scenario, task: Task) -> None:
        self.scenario, self.task = scenario, task
        self.loss_fn: LossFunction = task.loss_fn
        self.loss_scale = 1.0

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained from the start."""
        return list(self.task.model.parameters())

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer before a step."""

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> Batch:
        """Return the batch that a step sees."""
        del step
        return batch

    def gradients(self, step: int) -> None:
        """Change the gradients of a step."""

    def from_now(self, step: int) -> bool:
        """Whether a step is one of those that differ."""
        return step >= self.scenario.at


class RateRise(Disturbance):
    """Raise the learning rate."""

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer, or break the loss."""
        how, rate = self.scenario.how, self.scenario.lr
        if how["kind"] == "jump":
            factor = how["times"] if self.from_now(step) else 1.0
        elif how["kind"] == "warm-up":
            factor = min(1.0, (step + 1) / how["length"])
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (step % how["period"]) / how["period"])) + 1e-3
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


class BadBatch(Disturbance):
    """Damage some rows of one batch."""

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> Batch:
        """Return the batch that a step sees."""
        if step != self.scenario.at:
            return batch
        inputs, targets = batch
        how = self.scenario.how
        rows = slice(0, how["rows"])
        if how["kind"] == "labels":
            return inputs, _changed(targets, rows, how["size"])
        if not inputs.is_floating_point():
            return inputs, _changed(targets, slice(None), how["size"])
        inputs = inputs.clone()
        inputs[rows] *= how["size"]
        return inputs, targets


class DataChange(Disturbance):
    """Draw inputs and targets from elsewhere."""

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> Batch:
        """Return the batch that a step sees."""
        if not self.from_now(step):
            return batch
        inputs, targets = batch
        how = self.scenario.how
        if inputs.is_floating_point():
            inputs = inputs + how["inputs"]
        if targets.is_floating_point():
            return inputs, targets + how["targets"]
        return inputs, (targets + 1) % (int(targets.max()) + 1)


class ShapeChange(Disturbance):
    """Shorten the sequences, or the batch."""

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> Batch:
        """Return the batch that a step sees."""
        how, at = self.scenario.how, self.scenario.at
        rows = how["rows"]
        if how["kind"] == "length":
            return (batch[0][:, :rows], batch[1]) if step >= at else batch
        differs = step == at if how["once"] else step >= at
        return tuple(tensor[:rows] for tensor in batch) if differs else batch


class LateParameters(Disturbance):
    """Train some layers only from one step on."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained from the start."""
        self.late = list(self.task.model.parameters())[: len(list(self.task.model.parameters())) // 2]
        for parameter in self.late:
            parameter.requires_grad = False
        return [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer, or break the loss."""
        if step == self.scenario.at:
            for parameter in self.late:
                parameter.requires_grad = True
            rate = self.scenario.lr * self.scenario.how["times"]
            optimizer.add_param_group({"params": self.late, "lr": rate})


class OtherOptions(Disturbance):
    """Change β₂, ε or the momentum."""

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer, or break the loss."""
        if step != self.scenario.at:
            return
        how = self.scenario.how
        for group in optimizer.param_groups:
            if how["kind"] == "beta2":
                group["betas"] = (group["betas"][0], how["value"])
            else:
                group[how["kind"]] = how["value"]


class ForwardOverflow(Disturbance):
    """Let the forward pass overflow from one step on."""

    def __init__(self, scenario: Scenario, task: Task) -> None:
        super().__init__(scenario, task)
        self.broken = torch.zeros(())
        plain, kind, broken = task.loss_fn, scenario.how["kind"], self.broken

        def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
            loss = plain(model, batch)
            if kind == "half":
                # What a sum in half precision does to a value above 65,504.
                wide = loss * (1 + 1e6 * broken / loss.detach())
                return loss + 0 * wide.half().float() if broken else loss
            if kind == "zero":
                return loss / (1 - broken)
            return loss + torch.log(torch.exp(broken * 1e3) + 1) - math.log(2) * (1 - broken)

        self.loss_fn = loss_fn

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer, or break the loss."""
        del optimizer
        if self.from_now(step):
            self.broken.fill_(1.0)


class GradientOverflow(Disturbance):
    """Let a gradient overflow at a loss that is finite."""

    def __init__(self, scenario: Scenario, task: Task) -> None:
        super().__init__(scenario, task)
        self.broken = torch.zeros(())
        plain, kind, broken = task.loss_fn, scenario.how["kind"], self.broken

        def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
            loss = plain(model, batch)
            if kind != "root" or not broken:
                return loss
            # The root of a square that is zero: finite forward, 0/0 backward.
            first = next(model.parameters())
            return loss + ((first - first.detach()) ** 2).sum().sqrt()

        self.loss_fn = loss_fn

    def before(self, step: int, optimizer: Optimizer) -> None:
        """Change the optimizer, or break the loss."""
        del optimizer
        if self.from_now(step):
            self.broken.fill_(1.0)

    def gradients(self, step: int) -> None:
        """Change the gradients of a step."""
        if step != self.scenario.at:
            return
        gradients = [p.grad for p in self.task.model.parameters() if p.grad is not None]
        if self.scenario.how["kind"] == "scale":  # a loss scale that half precision can't hold
            for gradient in gradients:
                gradient.copy_((gradient * 1e12).half().float() / 1e12)
        elif self.scenario.how["kind"] == "one":
            gradients[-1].view(-1)[0] = math.inf


def _changed(targets: Tensor, rows: slice, size: float) -> Tensor:
    targets = targets.clone()
    if targets.is_floating_point():
        targets[rows] += size
    else:
        targets[rows] = (targets[rows] + _CLASSES // 2) % (int(targets.max()) + 1)
    return targets


def density_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the negative log-likelihood of targets under a normal whose scale is learned.

    Args:
        model: Maps inputs to means; its parameter `log_scale` is the logarithm of the scale.
        batch: Inputs and targets.
    """
    inputs, targets = batch
    scale = model.log_scale.exp()  # type: ignore[operator]
    return 0.5 * functional.mse_loss(model(inputs) / scale, targets / scale) + model.log_scale  # type: ignore[operator]


DISTURBANCES: Mapping[str, Callable[[Scenario, Task], Disturbance]] = MappingProxyType(
    {
        "learning rate": RateRise,
        "bad batch": BadBatch,
        "data change": DataChange,
        "batch shape": ShapeChange,
        "parameters changed": LateParameters,
        "options changed": OtherOptions,
        "forward overflow": ForwardOverflow,
        "gradient overflow": GradientOverflow,
    }
)
"""Those of the causes that change a hook; the others are in the choice of the training itself."""
