"""Two towers that match the halves of digits, InfoNCE."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.demo.data import DIGIT_IMAGES, load_digits
from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

HELD_OUT = 200
HALF = 32  # pixels
DATA_SEED = 0  # which halves are offered stays the same for every seed of the weights
TEMPERATURE = 0.1


def build_contrastive(
    *, batch_size: int | None, seed: int, images: int = 100, others: int = 15, width: int = 48, code: int = 16
) -> Task:
    """Build two GELU towers for the upper and the lower half of 8×8 digits.

    Each example is the upper half of an image, its lower half, and the lower halves of `others` images; the
    loss is the cross-entropy of finding the right one by the cosine of the codes over .1. The wrong halves
    belong to the example, so that the loss is a mean over examples.

    Args:
        batch_size: Images in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        images: Number of images.
        others: Wrong halves that are offered with each.
        width: Units in the hidden layer of each tower.
        code: Length of the codes.

    Raises:
        ValueError: If an option is out of range.
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    for name, value in (("images", images), ("others", others), ("width", width), ("code", code)):
        check_count(name, value)
    pixels = load_digits(min(images + HELD_OUT, DIGIT_IMAGES))[0].flatten(1)
    return Task(
        name="contrastive",
        model=build_seeded(lambda: TwoTowers(width, code), seed=seed),
        loss_fn=matching_loss,
        batches=stream_batches(_offers(pixels[:images], others), batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=images,
        validation=_offers(pixels[images:], others) if len(pixels) > images else None,
    )


class TwoTowers(nn.Module):
    """Compare an upper half with lower halves."""

    def __init__(self, width: int, code: int) -> None:
        """Create the towers.

        Args:
            width: Units in the hidden layer of each.
            code: Length of the codes.
        """
        super().__init__()
        self.upper, self.lower = (
            nn.Sequential(nn.Linear(HALF, width), nn.GELU(), nn.Linear(width, code)) for _ in range(2)
        )

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        """Map halves of shapes (N, 32) and (N, offers, 32) to cosines of shape (N, offers)."""
        code = functional.normalize(self.upper(upper), dim=-1).unsqueeze(-1)
        cosines: Tensor = (functional.normalize(self.lower(lower), dim=-1) @ code).squeeze(-1)
        return cosines


def matching_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of finding the right half, the first one, at temperature .1.

    Args:
        model: Maps the halves to cosines (N, offers).
        batch: Upper halves (N, 32) and offered lower halves (N, offers, 32).
    """
    upper, lower = batch
    scores = model(upper, lower) / TEMPERATURE
    loss: Tensor = (scores.logsumexp(dim=1) - scores[:, 0]).mean()
    return loss


def _offers(pixels: Tensor, others: int) -> tuple[Tensor, Tensor]:
    """Return upper halves, and for each the lower halves of it and of others, drawn at random."""
    count = len(pixels)
    generator = torch.Generator().manual_seed(DATA_SEED)
    shift = torch.randint(1, max(count, 2), (count, others), generator=generator)
    chosen = (torch.arange(count).unsqueeze(1) + shift) % count
    own = torch.arange(count).unsqueeze(1)
    return pixels[:, :HALF], pixels[torch.cat([own, chosen], dim=1), HALF:]
