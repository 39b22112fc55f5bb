"""Mini-batches and gradient accumulation: show the guard the batch.

Run it with ``python examples/mini_batches.py``; it takes about ten seconds. Where batches differ, their
noise moves the edge of stability, and an optimizer can't see noise. `guard.measure` gets it from the two
halves of a batch, or from the micro-batches of an accumulation: here every step accumulates the gradients
of two.
"""

import torch
from torch.utils.data import DataLoader, TensorDataset

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one

inputs = torch.randn(1024, 10)
targets = torch.sin(inputs @ torch.randn(10, 3))
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True, drop_last=True)
model = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
guard = foreshock.guard(optimizer)


def loss_fn(model, batch):
    """Return the mean loss of one micro-batch; Foreshock weights them by their sizes."""
    x, y = batch
    return (model(x) - y).square().mean()


measured = 0
for _ in range(30):
    batches = iter(loader)
    for parts in zip(batches, batches, strict=True):  # two at a time
        optimizer.zero_grad()
        for part in parts:
            (loss_fn(model, part) / len(parts)).backward()
        # For language models, whose mean is over tokens, pass counts= to MicroBatches.
        whole = foreshock.MicroBatches(parts)
        # Between backward and step. It decides by itself when: every 20 steps while v lags and every 100
        # otherwise, unless you say more often, as for a run as short as this.
        measured += guard.measure(model, loss_fn, whole, every=10)
        optimizer.step()

summary = guard.summary()
print(f"{summary.steps} steps of 2 × 32 examples; the noise was measured on {measured} of them")
print(f"mean-square ratio {guard.mean_square_ratio:.2g} (1 is the edge), v is at {guard.lag:.2g} × g²")
print(summary)

# The same at one moment, from a dozen fresh batches of the size that a step sees.
fresh = [batch for batch, _ in zip(loader, range(12), strict=False)]
print("\nFrom a dozen batches of 32:")
print(foreshock.mean_square_stability(model, optimizer, loss_fn, fresh, examples=len(inputs)))
