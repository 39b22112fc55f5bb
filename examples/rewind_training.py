"""Train through a damaged batch and a gradient that overflows: without a recorder, and with one.

Run it with ``python examples/rewind_training.py``: it takes a few seconds. The first run is lost; the second
goes back to a snapshot from before each trouble, and on past the batches that did it; the third never failed.
"""

import torch
from torch import nn

import foreshock

STEPS, DAMAGED, OVERFLOW = 800, 300, 420


def loss_fn(model, batch):
    """Return the mean squared error."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


def train(*, harm=True, **options):
    """Train from the same weights on the same batches; return the loss on all data, and the monitor."""
    torch.manual_seed(0)
    inputs = torch.randn(512, 8)
    data = inputs, inputs.sum(1, keepdim=True).sin()
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, **options)
    for step in range(STEPS):
        chosen = torch.randint(0, 512, (128,))
        batch = data[0][chosen], data[1][chosen] * (300 if harm and step == DAMAGED else 1)
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        if harm and step == OVERFLOW:
            model[0].weight.grad[0, 0] = float("inf")
        monitor.observe(batch, loss, ids=chosen)
        optimizer.step()
    monitor.close()
    with torch.no_grad():
        return float(loss_fn(model, data)), monitor


def main():
    """Print where the three runs end, and what was put back."""
    loss, _ = train()
    print(f"left alone, the run ends at a loss of {loss:.4g}")
    recorder = foreshock.Recorder(every=10)
    loss, monitor = train(recorder=recorder, recovery=foreshock.Ladder())
    for done in monitor.rewinds:
        print(done)
    print(f"rewound, it ends at {loss:.4g}")
    loss, _ = train(harm=False)
    print(f"the run that never failed ends at {loss:.4g}")


if __name__ == "__main__":
    main()
