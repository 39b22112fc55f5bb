"""Image classification with a small convolutional network."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import DIGIT_IMAGES, load_digits
from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.cifar import load_cifar10
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import LABEL_LOSSES, Task, build_seeded

CLASSES = 10
CHANNELS = (8, 16)
HIDDEN = 32
HELD_OUT = 200

Images: TypeAlias = tuple[Tensor, Tensor]
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def build_cnn(
    *,
    batch_size: int | None,
    seed: int,
    data: str = "digits",
    path: str | Path | None = None,
    images: int = 100,
    side: int = 8,
    loss: str = "mse",
    activation: str = "gelu",
    pool: str = "max",
    batch_norm: bool = False,
    hidden: int = HIDDEN,
) -> Task:
    """Build two 3×3 convolutions of 8 and 16 channels, each pooled 2×2, and a hidden layer.

    Args:
        batch_size: Images in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        data: "digits" (scikit-learn's, 8×8, grey) or "cifar10" (from JPEG files, colour).
        path: Folder or tar archive of CIFAR-10's JPEG files, see `load_cifar10`; not for the digits.
        images: Number of images in the training set.
        side: Height and width that the images are resized to, bilinearly; a multiple of 4.
        loss: "mse", squared error to the one-hot label summed over classes, or "ce".
        activation: "gelu" or "relu".
        pool: "max" or "average".
        batch_norm: Whether batch normalisation follows each convolution.
        hidden: Units of the hidden layer.

    Raises:
        ValueError: If an option is out of range.
        FileNotFoundError: If CIFAR-10 is not where `path` says.
        ImportError: If scikit-learn (digits) or Pillow (CIFAR-10) is not installed.
    """
    check_choice("data", data, ("digits", "cifar10"))
    check_choice("loss", loss, LABEL_LOSSES)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("pool", pool, POOLS)
    check_count("images", images)
    check_count("side", side, least=4)
    check_count("hidden", hidden)
    if side % 4:
        raise ValueError(f"side is {side}; it must be a multiple of 4, as the network halves it twice.")
    if data == "digits" and path is not None:
        raise ValueError(f"path is {path!r}, but the digits come with scikit-learn; use data='cifar10'.")
    (pixels, labels), held_out = _digits(images) if data == "digits" else _photos(images, path)
    pixels = _resize(pixels, side)
    return Task(
        name="cnn",
        model=build_seeded(
            lambda: _network(pixels.shape[1:], ACTIVATIONS[activation], POOLS[pool], batch_norm, hidden),
            seed=seed,
        ),
        loss_fn=LABEL_LOSSES[loss],
        batches=stream_batches((pixels, labels), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=images,
        validation=(_resize(held_out[0], side), held_out[1]) if len(held_out[0]) else None,
    )


def _digits(images: int) -> tuple[Images, Images]:
    pixels, labels = load_digits(min(images + HELD_OUT, DIGIT_IMAGES))
    return (pixels[:images], labels[:images]), (pixels[images:], labels[images:])


def _photos(images: int, path: str | Path | None) -> tuple[Images, Images]:
    """Return the first images of each class, and the next ones if there are enough."""
    try:
        pixels, labels = load_cifar10(images + HELD_OUT, path=path)
    except ValueError:
        pixels, labels = load_cifar10(images, path=path)
    per_class, extra = divmod(images, CLASSES)
    rank = torch.stack([(labels[:i] == label).sum() for i, label in enumerate(labels)])
    first = rank < per_class + (labels < extra).long()
    return (pixels[first], labels[first]), (pixels[~first], labels[~first])


def _resize(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    return functional.interpolate(
        pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def _network(
    shape: tuple[int, ...],
    activation: type[nn.Module],
    pool: type[nn.Module],
    batch_norm: bool,  # noqa: FBT001
    hidden: int,
) -> nn.Module:
    channels, side, _ = shape
    layers: list[nn.Module] = []
    for following in CHANNELS:
        layers.append(nn.Conv2d(channels, following, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(following))
        layers += [activation(), pool(2)]
        channels = following
    flat = channels * (side // 4) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, hidden), activation(), nn.Linear(hidden, CLASSES)
    )
