"""Train the same network twice, without a guard and with one, and compare the spikes.

Run it with ``python examples/guard_training.py``; it takes about ten seconds. The guard is one line. It
does nothing until the edge of stability is near, and then gives v back what it forgot, on the few
coordinates that need it; the learning rate stays. Every step here sees the same data; mini_batches.py shows
the other case.
"""

import torch

import foreshock

torch.set_num_threads(1)  # more would only slow down a network as small as this one
STEPS = 2000

x = torch.linspace(-3.14, 3.14, 200)[:, None]
batch = (x, torch.sin(x) + torch.sin(4 * x))


def train(guarded):
    """Train a fresh network; return its losses, and the guard or None."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 200), torch.nn.Tanh(), torch.nn.Linear(200, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    guard = foreshock.guard(optimizer) if guarded else None  # the one line
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = ((model(batch[0]) - batch[1]) ** 2).mean()
        loss.backward()
        optimizer.step()  # the guard acts in here
        losses.append(loss.item())
    return losses, guard


for guarded in (False, True):
    losses, guard = train(guarded)
    # A spike is a loss above three times the median of the hundred steps before it.
    spikes = foreshock.spikes.detect_spikes(range(STEPS), losses)
    highest = max((spike.height for spike in spikes), default=1)
    name = "with a guard" if guarded else "without"
    print(f"{name:12}  {len(spikes)} spikes, the highest {highest:.0f} ×; final loss {losses[-1]:.1e}")
summary = guard.summary()
print(f"the guard acted on {summary.acted} of {summary.steps} steps, for instance")
for action in list(guard.actions)[:3]:
    print(f"  {action}")
