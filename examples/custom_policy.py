"""Write a policy for the guard: when to act, and how.

Run it with ``python examples/custom_policy.py``; it takes a few seconds. A policy sees the numbers of the
step that is about to be taken and answers with what to change. It never touches the optimizer: the guard
does, for every family. This one halves the gradient where gᵀD⁻¹g, its square as the optimizer sees it,
jumps.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

import foreshock
from foreshock.guarding import Decision

torch.manual_seed(0)
torch.set_num_threads(1)


@dataclass
class Damp:
    """Scale the gradient by `factor` when gᵀD⁻¹g is `jump` times its average of about 20 steps."""

    # Options of the user are fields; what the class is, are class variables.
    jump: float = 4.0
    factor: float = 0.5
    name: ClassVar[str] = "damp"
    needs: ClassVar[frozenset] = frozenset({"preconditioned gradient"})  # measured for us at each step
    exact_above: ClassVar[float] = float("inf")  # we do not use the secant
    scales_decay: ClassVar[bool] = False  # we do not raise v
    _usual: float = field(default=0.0, init=False, repr=False)

    def decide(self, seen):
        """Return what to do before this step; nothing on most steps."""
        size, usual = seen.preconditioned_gradient, self._usual
        if not size > 0:  # NaN before the first step, when there is no D yet
            return ()
        if usual == 0 or seen.updates <= 20:
            self._usual = size
            return ()
        self._usual += 0.05 * (min(size, self.jump * usual) - usual)  # an outlier counts for `jump` at most
        if not size > self.jump * usual:
            return ()
        reason = f"gᵀD⁻¹g is {size / usual:.1f} times its average"
        return (Decision("clip", self.factor, reason, value=size / usual, threshold=self.jump),)

    def state_dict(self):
        """Return what a resumed run needs."""
        return {"usual": self._usual}

    def load_state_dict(self, state):
        """Continue from `state_dict()`."""
        self._usual = float(state["usual"])


x, noise = torch.randn(256, 5), torch.randn(256, 1)
model = torch.nn.Sequential(torch.nn.Linear(5, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# One call gives it a name, for guards and for `Monitor(guard=…)`; an object in place of a name works, too.
foreshock.register_policy("damp", lambda: Damp(jump=3.0))
guard = foreshock.guard(optimizer, "damp")

for step in range(300):
    targets = x.sum(1, keepdim=True) + 0.1 * noise
    if step in (100, 200):
        targets = targets + 20  # two bad batches
    optimizer.zero_grad()
    ((model(x) - targets) ** 2).mean().backward()
    optimizer.step()

print(guard.summary())
for action in guard.actions:
    print(f"  {action}")
