"""Teach Foreshock an optimizer of your own, for the monitor and for the guard: one reader and one call.

Run it with ``python examples/custom_optimizer.py``; it takes a few seconds. The optimizer divides an
average of gradients by √v̂. All that Foreshock must know is its next step, θ ← θ − η·n/D: the reader below
says what n and D are, and the script checks it against one real step.
"""

import torch
from torch.nn.utils import parameters_to_vector

import foreshock
from foreshock.preconditioner import read_preconditioner
from foreshock.stability import momentum_factor

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one


class Momo(torch.optim.Optimizer):
    """v ← αv + (1 − α)g², m ← βm + (1 − β)g, θ ← θ − η·m/(√(v/(1 − αᵗ)) + ε)."""

    def __init__(self, params, lr, alpha=0.99, beta=0.9, eps=1e-8):
        super().__init__(params, {"lr": lr, "alpha": alpha, "beta": beta, "eps": eps})

    @torch.no_grad()
    def step(self):
        """Take one step."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, v=torch.zeros_like(p), m=torch.zeros_like(p))
                state["step"] += 1
                state["v"].lerp_(p.grad.square(), 1 - group["alpha"])
                state["m"].lerp_(p.grad, 1 - group["beta"])
                v_hat = state["v"] / (1 - group["alpha"] ** state["step"])
                p.addcdiv_(state["m"], v_hat.sqrt() + group["eps"], value=-group["lr"])


def read_step(live):
    """Return the step about to be taken: the present gradient is part of n and of D already."""
    alpha, beta, gradient = live.option("alpha"), live.option("beta"), live.used_gradient()
    v = live.moment("v").lerp(gradient.square(), 1 - alpha) / (1 - alpha**live.step)
    return foreshock.ParameterStep(
        gradient=gradient,
        numerator=live.moment("m").lerp(gradient, 1 - beta),
        denominator=v.sqrt() + live.option("eps"),
        learning_rate=live.learning_rate,
        momentum_factor=momentum_factor(beta),  # c: momentum moves the edge from 2/η to 2/(cη)
        momentum_decay=beta,
    )


def read_second_moment(state, group):
    """Return v before the step and its decay: from this Foreshock knows how far v lags behind g²."""
    return foreshock.SecondMoment(state.get("v"), group["alpha"], state.get("step", 0) + 1)


def raise_second_moment(live, factor):
    """Return what to write so that the step is made with `factor` times its v: for the guard alone."""
    alpha, v = live.option("alpha"), live.state["v"]
    fresh = (1 - alpha) * live.used_gradient().square()
    return [(v, ((alpha * v + fresh) * factor - fresh) / alpha)]


foreshock.register_preconditioner(Momo, foreshock.Reader(read_step, read_second_moment, raise_second_moment))

# From here on it is an optimizer like any other.
x = torch.linspace(-3.14, 3.14, 100, dtype=torch.float64)[:, None]
model = torch.nn.Sequential(torch.nn.Linear(1, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1)).double()
optimizer = Momo(model.parameters(), lr=0.01)
loss_fn = lambda model, x: (model(x) - torch.sin(2 * x)).square().mean()  # noqa: E731
monitor = foreshock.Monitor(model, optimizer, loss_fn, probe_every=20)
for _ in range(300):
    optimizer.zero_grad()
    loss = loss_fn(model, x)
    loss.backward()
    forecast = monitor.observe(x, loss)
    predicted = read_preconditioner(optimizer).displacement()
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer.step()
print(f"after 300 steps: {forecast}")

# The check that every reader must pass: the step that it predicts is the step that was taken.
moved = parameters_to_vector(model.parameters()).detach() - before
print(f"predicted and real step differ by {(predicted - moved).norm() / moved.norm():.0e}")

# And it can be guarded.
with foreshock.guard(optimizer, "secant") as guard:
    for _ in range(300):
        optimizer.zero_grad()
        loss_fn(model, x).backward()
        optimizer.step()
print(guard.summary())
