"""A physics-informed network: second derivatives in the loss, collocation points as the batch.

Run it with ``python examples/pinn.py``; it takes about ten seconds. The equation is u″ = −π² sin πx on
[0, 1], with u = 0 at both ends. The loss contains u″, so that a Hessian product differentiates four times;
nothing has to be said about it. DeepXDE's ``model.train_step`` is such a step: give the monitor the loss that
is minimised, as a function of the points.
"""

import math

import torch

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one
net = torch.nn.Sequential(
    torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
)
points = torch.linspace(0, 1, 64)[:, None]
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)


def loss_fn(net, points):
    """Return the mean squared residual of the equation, and of the boundary."""
    x = points.detach().requires_grad_(requires_grad=True)
    u = net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    residual = curvature + math.pi**2 * torch.sin(math.pi * x)
    boundary = net(torch.tensor([[0.0], [1.0]]))
    return residual.square().mean() + 10 * boundary.square().mean()


# The same points at each step: full batch. Resampled points are mini-batches, found out by itself.
monitor = foreshock.Monitor(net, optimizer, loss_fn, run="runs/pinn")
for _ in range(400):
    optimizer.zero_grad()
    loss = loss_fn(net, points)
    loss.backward()
    forecast = monitor.observe(points, loss)
    optimizer.step()
print(forecast)
print("Now make a page of it: foreshock report runs/pinn")
