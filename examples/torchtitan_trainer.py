"""A trainer like torchtitan's: `train_step` gets an iterator, the loss is a sum over all tokens of the step.

Run it with ``python examples/torchtitan_trainer.py``; it takes about ten seconds. The stand-in has the
methods of torchtitan's ``Trainer`` that matter; three lines are added, in its ``__init__`` and `train_step`.
"""

import torch
from torch import nn

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one
ACCUMULATION, MAX_NORM, IGNORED = 2, 1.0, -100


def batches():
    """Yield batches as ``({"input": tokens}, labels)``, some of whose labels don't count."""
    while True:
        tokens = torch.randint(0, 16, (8, 12))
        labels = (tokens + 1).roll(-1, 1) % 16
        yield {"input": tokens}, labels.where(torch.rand(8, 12) > 0.2, IGNORED)


class Trainer:
    """A stand-in for ``torchtitan.train.Trainer``."""

    def __init__(self):
        """Build model and optimizer."""
        self.model = nn.Sequential(
            nn.Embedding(16, 32),
            nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True),
            nn.Linear(32, 16),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        # What it measures is the mean over the tokens of one micro-batch.
        self.monitor = foreshock.Monitor(
            self.model,
            self.optimizer,
            lambda model, batch: self.loss_sum(model, batch) / (batch[1] != IGNORED).sum(),
            run="runs/torchtitan",
        )

    def loss_sum(self, model, batch):
        """Return the sum of the losses of all tokens that count."""
        inputs, labels = batch
        logits = model(inputs["input"])
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def train_step(self, iterator):
        """Make one step over some micro-batches, whose loss is the mean over all their tokens."""
        self.optimizer.zero_grad()
        parts = [next(iterator) for _ in range(ACCUMULATION)]
        tokens = [int((labels != IGNORED).sum()) for _, labels in parts]
        losses = []
        for part in parts:
            loss = self.loss_sum(self.model, part) / sum(tokens)
            loss.backward()
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        # The means of the micro-batches count as much as they have tokens.
        self.monitor.observe(
            foreshock.MicroBatches(parts, counts=tokens), sum(losses), gradient_norm=norm, max_norm=MAX_NORM
        )
        self.optimizer.step()
        return sum(losses), norm


trainer, iterator = Trainer(), batches()
for _ in range(150):
    loss, norm = trainer.train_step(iterator)
print(f"loss {loss:.3f}, gradient norm {norm:.2f}")
print(trainer.monitor.forecast)
print("Now make a page of it: foreshock report runs/torchtitan")
