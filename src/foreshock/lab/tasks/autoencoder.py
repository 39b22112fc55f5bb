"""An autoencoder of digits: a narrow code, and the Bernoulli divergence of the pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import DIGIT_IMAGES, load_digits
from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

PIXELS = 64
HELD_OUT = 200
SMALLEST = 1e-6  # x ln x is taken here instead of at zero


def build_autoencoder(
    *, batch_size: int | None, seed: int, images: int = 100, width: int = 64, code: int = 8
) -> Task:
    """Build a GELU autoencoder 64–width–code–width–64 of the 8×8 digits.

    Args:
        batch_size: Images in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        images: Number of images.
        width: Units in the layer on either side of the code.
        code: Units of the code.

    Raises:
        ValueError: If an option is out of range.
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    for name, value in (("images", images), ("width", width), ("code", code)):
        check_count(name, value)
    pixels = load_digits(min(images + HELD_OUT, DIGIT_IMAGES))[0].flatten(1)
    return Task(
        name="autoencoder",
        model=build_seeded(lambda: _autoencoder(width, code), seed=seed),
        loss_fn=bernoulli_divergence,
        batches=stream_batches((pixels[:images],), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=images,
        validation=(pixels[images:],) if len(pixels) > images else None,
    )


def bernoulli_divergence(model: nn.Module, batch: Batch) -> Tensor:
    """Return the divergence of the pixels' Bernoulli distributions, summed over pixels, mean over images.

    It is the negative log-likelihood less the entropy of the grey pixels, and so zero at its least.

    Args:
        model: Maps images, (N, 64) in [0, 1], to logits of the same shape.
        batch: The images alone.
    """
    (pixels,) = batch
    likelihood = functional.binary_cross_entropy_with_logits(model(pixels), pixels, reduction="none")
    inner = pixels.clamp(SMALLEST, 1 - SMALLEST)
    entropy = -(inner * inner.log() + (1 - inner) * (1 - inner).log())
    return (likelihood - entropy).sum(dim=1).mean()


def _autoencoder(width: int, code: int) -> nn.Module:
    encoder = [nn.Linear(PIXELS, width), nn.GELU(), nn.Linear(width, code)]
    return nn.Sequential(*encoder, nn.Linear(code, width), nn.GELU(), nn.Linear(width, PIXELS))
