"""Watch a training loop: the ten lines of the README in a script that runs.

Run it with ``python examples/watch_training.py``; it takes about ten seconds. A small network learns a
curve with plain Adam. After a while its loss spikes, by itself. The monitor says so beforehand, and leaves
training exactly as it would be without it.
"""

import sys

import torch

import foreshock
from foreshock.report import summarise, to_text

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one

# Everything that a training script has anyway: data, a model, an optimizer, a loss.
x = torch.linspace(-3.14, 3.14, 200)[:, None]
batch = (x, torch.sin(x) + torch.sin(4 * x))
loader = [batch] * 2000  # full batch: every step sees the same data
model = torch.nn.Sequential(torch.nn.Linear(1, 200), torch.nn.Tanh(), torch.nn.Linear(200, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def loss_fn(model, batch):
    """Return the mean loss of a batch, as a scalar tensor; the monitor measures the curvature of this."""
    inputs, targets = batch
    return ((model(inputs) - targets) ** 2).mean()


# Measurements cost one forward and backward pass in twenty steps; watch_training.py 0.2 spends more.
budget = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05
monitor = foreshock.Monitor(model, optimizer, loss_fn, run="runs/watch", budget=budget)
announced = False
for step, batch in enumerate(loader):
    optimizer.zero_grad()
    loss = loss_fn(model, batch)
    loss.backward()
    forecast = monitor.observe(batch, loss)  # between backward and step
    optimizer.step()
    if forecast.announces and not announced:
        print(f"step {step}, loss {loss.item():.1e}: {forecast}")
    announced = forecast.announces
monitor.close()

# The log can be read at any time, also while training goes on, and on a machine without torch.
run = foreshock.read_run("runs/watch")
print(f"\n{run}\n")
print(to_text(summarise(run)))
print("Now make a page of it: foreshock report runs/watch")
