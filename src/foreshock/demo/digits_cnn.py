"""A small convolutional network on handwritten digits, which spikes by itself under stock Adam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import load_digits
from foreshock.demo.options import check_count
from foreshock.demo.workload import (
    Batch,
    Workload,
    check_adam_settings,
)

CLASSES = 10


@dataclass(frozen=True)
class DigitsConfig:
    """Settings of the digits run; the defaults spike repeatedly for seeds 0, 1 and 2.

    Attributes:
        steps: Number of optimizer steps.
        images: Number of digits in the full batch.
        learning_rate: Constant learning rate of Adam, η.
        betas: Adam's (β₁, β₂).
        seed: Seed of the initial weights; the digits stay the same.
    """

    steps: int = 1000
    images: int = 100
    learning_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting lies outside its range.
        """
        check_count("steps", self.steps)
        check_count("images", self.images)
        check_adam_settings(learning_rate=self.learning_rate, betas=self.betas)

    @classmethod
    def quick(cls, *, seed: int = 0) -> DigitsConfig:
        """Return a run of a few seconds that still spikes."""
        return cls(steps=560, images=50, seed=seed)


def build_model(seed: int) -> nn.Module:
    """Return the freshly initialised network without touching the global random state.

    Two 3×3 convolutions (8 and 16 channels), each followed by GELU and 2×2 average pooling,
    then a hidden layer of 32; smooth, so that its Hessian is continuous.

    Args:
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, kernel_size=3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, kernel_size=3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 2 * 2, 32),
            nn.GELU(),
            nn.Linear(32, CLASSES),
        )


def one_hot_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error to the one-hot labels.

    Args:
        model: Maps images to one score per class.
        batch: Images of shape (N, 1, 8, 8) and one-hot labels of shape (N, 10).
    """
    images, targets = batch
    return functional.mse_loss(model(images), targets)


def build(config: DigitsConfig) -> Workload:
    """Return the untrained model, its optimizer, loss and full batch.

    Args:
        config: Settings of the run.

    Returns:
        The workload, ready for a plain training loop.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    images, labels = load_digits(config.images)
    model = build_model(config.seed)
    return Workload(
        name="digits-cnn",
        description=f"CNN on {config.images} handwritten digits, one-hot MSE, Adam, full batch",
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=config.betas),
        loss_fn=one_hot_error,
        batch=(images, functional.one_hot(labels, CLASSES).to(images.dtype)),
        steps=config.steps,
    )
