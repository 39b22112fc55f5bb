"""What docs/how-to/extend.md shows works unchanged, for an optimizer and a policy from outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import foreshock

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "extend.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class MyOptimizer(torch.optim.Optimizer):
    """The optimizer that the page has in mind: Adam without bias correction."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-8})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, v=torch.zeros_like(p), m=torch.zeros_like(p))
                state["step"] += 1
                state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                p.addcdiv_(state["m"], state["v"].sqrt() + group["eps"], value=-group["lr"])


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr("foreshock.preconditioner.registry._READERS", {})
    monkeypatch.setattr("foreshock.preconditioner.registry._STEP_OF", {})
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    return {
        "foreshock": foreshock,
        "torch": torch,
        "model": model,
        "MyOptimizer": MyOptimizer,
        "optimizer": MyOptimizer(model.parameters(), lr=1e-3),
        "batch": torch.randn(16, 3, dtype=torch.float64),
        "loss_fn": lambda model, batch: model(batch).square().mean(),
    }


def run(source: str, names: dict[str, object]) -> None:
    exec(compile(source, str(PAGE), "exec"), names)  # noqa: S102 - the page's own code


def test_the_page_has_just_the_blocks_that_are_run_here():
    assert len(BLOCKS) == 6


def test_an_optimizer_is_registered_monitored_and_checked_against_its_own_step(names):
    optimizer, model, loss_fn, batch = (names[n] for n in ("optimizer", "model", "loss_fn", "batch"))
    with pytest.raises(TypeError, match="register_preconditioner"):
        foreshock.Monitor(model, optimizer, loss_fn)
    run(BLOCKS[0], names)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, probe_every=1)
    for _ in range(3):
        optimizer.zero_grad()
        # The check itself makes a step each: the first with an empty state, then with a full one.
        run(BLOCKS[1], names)
        loss = loss_fn(model, batch)
        forecast = monitor.observe(batch, loss)
    assert forecast.stability_ratio > 0
    reading = foreshock.preconditioned_sharpness(model, optimizer, loss_fn, batch)
    assert reading.converged
    names["predicted"].mul_(1.001)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(names["moved"], names["predicted"])


def test_a_subclass_that_takes_the_step_of_its_base_is_monitored_and_guarded(names):
    logged = []
    names["log"] = logged.append
    run(BLOCKS[2], names)
    model, batch = names["model"], names["batch"]
    optimizer = names["Logged"](model.parameters(), lr=1e-3)
    monitor = foreshock.Monitor(model, optimizer, names["loss_fn"], probe_every=1, guard="auto")
    for _ in range(3):
        optimizer.zero_grad()
        loss = names["loss_fn"](model, batch)
        loss.backward()
        forecast = monitor.observe(batch, loss)
        optimizer.step()
    assert forecast.stability_ratio > 0
    assert monitor.guard.step == len(logged) == 3


def test_a_policy_acts_where_it_says_and_takes_its_memory_along(names):
    model = names["model"]
    names["optimizer"] = torch.optim.AdamW(model.parameters(), lr=1e-3)
    run(BLOCKS[3], names)
    guard = names["guard"]
    for step in range(20):
        names["optimizer"].zero_grad()
        loss = names["loss_fn"](model, names["batch"])
        (loss * (100 if step == 12 else 1)).backward()
        names["optimizer"].step()
    [action] = guard.actions
    assert (action.step, action.remedy, action.policy) == (12, "clip", "halve outliers")
    assert guard.summary().acted == 1
    fresh = foreshock.guard(torch.optim.AdamW(model.parameters()), names["HalveOutliers"]())
    fresh.load_state_dict(guard.state_dict())
    assert fresh.policy.before == guard.policy.before > 0
    monitor = foreshock.Monitor(
        model, torch.optim.AdamW(model.parameters()), names["loss_fn"], guard=names["HalveOutliers"]()
    )
    assert monitor.guard.policy.name == "halve outliers"
    run(BLOCKS[4], names)
    assert names["guard"] is not guard
    assert type(names["guard"].policy) is names["HalveOutliers"]
    by_name = foreshock.Monitor(
        model, torch.optim.AdamW(model.parameters()), names["loss_fn"], guard="halve outliers"
    )
    assert type(by_name.guard.policy) is names["HalveOutliers"]


def test_an_operator_of_ones_own_has_its_largest_eigenvalue_found(names):
    run(BLOCKS[5], names)
    assert names["found"].value == pytest.approx(5, rel=5e-3)
    assert names["found"].converged
