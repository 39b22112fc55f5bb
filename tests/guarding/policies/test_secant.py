"""The secant against the exact Rayleigh quotient of a quadratic, and what a raise makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import Secant, guard
from guarding.training import Script, asked


class Quadratic:
    """½ θᵀHθ + bᵀθ over two tensors, with its own exact arithmetic."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        self.hessian = root @ root.T
        self.slope = torch.randn(6, generator=generator, dtype=torch.float64)
        start = torch.randn(6, generator=generator, dtype=torch.float64)
        self.tensors = [nn.Parameter(start[:4].clone().view(2, 2)), nn.Parameter(start[4:].clone())]

    def flat(self):
        return torch.cat([t.flatten() for t in self.tensors])

    def backward(self, factor=1.0):
        for t in self.tensors:
            t.grad = None
        theta = self.flat()
        (factor * (0.5 * theta @ self.hessian @ theta + self.slope @ theta)).backward()


CONFIGS = {
    "adam": (lambda t: optim.Adam(t, lr=0.01), 0.0, 1.0),
    "adamw": (lambda t: optim.AdamW(t, lr=0.01, weight_decay=0.5), 0.0, 1.0),
    "l2": (lambda t: optim.Adam(t, lr=0.01, weight_decay=0.5), 0.5, 1.0),
    "maximize": (lambda t: optim.Adam(t, lr=0.01, maximize=True, foreach=True), 0.0, -1.0),
    "fused": (lambda t: optim.AdamW(t, lr=0.01, fused=True), 0.0, 1.0),
    "amsgrad": (lambda t: optim.Adam(t, lr=0.01, amsgrad=True), 0.0, 1.0),
}


def exact_secant(problem, optimizer, before, gradients, *, l2, sign):
    """Return dᵀHd/(dᵀA⁻¹d) after the step, with D from the state that torch left."""
    displacement = before[1] - before[0]
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    decay = group["weight_decay"] * (not l2)
    c = (1 - beta1) / (1 + beta1) / (1 - group["lr"] * decay / 2)
    key = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
    v = torch.cat([optimizer.state[t][key].flatten() for t in problem.tensors])
    steps = float(optimizer.state[problem.tensors[0]]["step"])
    d = (v / (1 - beta2**steps)).sqrt() + group["eps"]
    hessian = sign * problem.hessian + l2 * torch.eye(6, dtype=torch.float64)
    curvature = displacement @ hessian @ displacement
    return float(c * group["lr"] / 2 * curvature / (displacement**2 @ d))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_secant_is_the_rayleigh_quotient_of_a_quadratic(name):
    make, l2, sign = CONFIGS[name]
    problem = Quadratic()
    optimizer = make(problem.tensors)
    script = Script()
    watched = guard(optimizer, script)
    seen = [problem.flat().detach().clone()]
    for step in range(30):
        problem.backward()
        optimizer.step()
        seen.append(problem.flat().detach().clone())
        if step >= 1:
            exact = exact_secant(problem, optimizer, seen[-3:-1], None, l2=l2, sign=sign)
            assert script_secant(watched.policy.seen, step) == pytest.approx(exact, rel=1e-9)


def script_secant(seen, step):
    return next(one.secant for one in seen if one.step == step)


def test_groups_have_their_own_step_sizes():
    """With η of one group ten times that of the other, A⁻¹ is not a multiple of D."""
    problem = Quadratic()
    groups = [
        {"params": [problem.tensors[0]], "lr": 0.1},
        {"params": [problem.tensors[1]], "betas": (0.5, 0.99)},
    ]
    optimizer = optim.Adam(groups, lr=0.01)
    watched = guard(optimizer, Script())
    trail = [problem.flat().detach().clone()]
    for _ in range(12):
        problem.backward()
        optimizer.step()
        trail.append(problem.flat().detach().clone())
    move = trail[-2] - trail[-3]
    inverse = []
    for tensor, rate, beta1, beta2 in (
        (problem.tensors[0], 0.1, 0.9, 0.999),
        (problem.tensors[1], 0.01, 0.5, 0.99),
    ):
        d = (optimizer.state[tensor]["exp_avg_sq"] / (1 - beta2**12)).sqrt() + 1e-8
        inverse.append((2 * d / rate * (1 + beta1) / (1 - beta1)).flatten())
    exact = float(move @ problem.hessian @ move / (move**2 @ torch.cat(inverse)))
    assert watched.policy.seen[-1].secant == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "fused"])
def test_a_raise_brings_the_quotient_where_it_was_wanted(name):
    """The same step with v raised has the quotient ÷ 1.7, read from the state that torch's own step left."""
    make, l2, sign = CONFIGS[name]
    quotients = []
    for decisions in ({}, {25: asked("raise along", 1.7)}):
        problem = Quadratic()
        optimizer = make(problem.tensors)
        guard(optimizer, Script(decisions))
        trail = [problem.flat().detach().clone()]
        for _ in range(26):
            problem.backward()
            optimizer.step()
            trail.append(problem.flat().detach().clone())
        quotients.append(exact_secant(problem, optimizer, trail[-3:-1], None, l2=l2, sign=sign))
    assert quotients[0] / quotients[1] == pytest.approx(1.7, rel=1e-5)  # ε of 1e-8 is not raised


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "fused"])
def test_a_raise_along_the_gradient_shortens_the_step_of_the_gradient(name):
    """gᵀD⁻¹g grows by the raise with the denominators of torch's own step, and mostly where it is large."""
    make, _, _ = CONFIGS[name]
    moments = []
    for decisions in ({}, {25: asked("raise along", 1.7, along="gradient")}):
        problem = Quadratic()
        optimizer = make(problem.tensors)
        guard(optimizer, Script(decisions))
        for _ in range(26):
            problem.backward()
            gradient = torch.cat([one.grad.flatten() for one in problem.tensors])
            optimizer.step()
        amsgrad = optimizer.param_groups[0]["amsgrad"]
        key = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
        moments.append(torch.cat([optimizer.state[one][key].flatten() for one in problem.tensors]))
    plain, raised = (moment.sqrt() for moment in moments)
    shares = gradient**2 / plain  # of each coordinate in dᵀDd, d = D⁻¹g
    assert float((shares * raised / plain).sum() / shares.sum()) == pytest.approx(1.7, rel=1e-5)
    assert (raised / plain).argmax() == shares.argmax()


def test_clipped_gradients_are_unclipped_when_told():
    """Clipping by a factor that changes from step to step leaves the secant as it is."""
    seen = {}
    for told in (True, False):
        problem = Quadratic()
        optimizer = optim.Adam(problem.tensors, lr=0.01)
        script = Script()
        watched = guard(optimizer, script)
        script = watched.policy
        for step in range(15):
            problem.backward()
            norm = nn.utils.clip_grad_norm_(problem.tensors, 0.1 + 0.05 * (step % 2))
            if told:
                watched.clipped(norm, max_norm=0.1 + 0.05 * (step % 2))
            before = problem.flat().detach().clone()
            optimizer.step()
            move = problem.flat().detach() - before
        exact = float(move @ problem.hessian @ move)
        problem.backward()
        change = float(problem.hessian @ move @ move)
        assert change == pytest.approx(exact)
        norm = nn.utils.clip_grad_norm_(problem.tensors, 0.1)
        if told:
            watched.clipped(norm, max_norm=0.1)
        optimizer.step()
        v = torch.cat([optimizer.state[t]["exp_avg_sq"].flatten() for t in problem.tensors])
        inverse = 2 / 0.01 * 19 * ((v / (1 - 0.999**16)).sqrt() + 1e-8)
        seen[told] = script.seen[-1].secant / (exact / float(move**2 @ inverse))
    assert seen[True] == pytest.approx(1.0, rel=1e-4)  # torch clips by max_norm/(norm + 1e-6)
    assert abs(seen[False] - 1) > 0.1


def test_a_parameter_without_gradient_is_left_out_and_comes_back():
    problem = Quadratic()
    optimizer = optim.Adam(problem.tensors, lr=0.01)
    watched = guard(optimizer, Script())
    for step in range(14):
        problem.backward()
        if step in (10, 12):
            problem.tensors[1].grad = None
        optimizer.step()
    # Small tensors are measured together; when one is missing first, that can't be done. Later it is alone.
    assert [one.step for one in watched.policy.seen if not math.isfinite(one.secant)] == [10]


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        Secant(threshold=1.5)
    with pytest.raises(ValueError, match="threshold is nan"):
        Secant(threshold=math.nan)


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.5), ("fused", 5.0), ("amsgrad", 0.0)])
def test_the_bound_lies_above_the_secant_and_is_tight_without_weight_decay(name, decay):
    """Where only a bound is wanted no D is computed; it must never hide a secant past the threshold."""
    seen = {}
    for exact_above in (-math.inf, math.inf):
        problem = Quadratic()
        optimizer = CONFIGS[name][0](problem.tensors)
        optimizer.param_groups[0]["weight_decay"] = decay
        script = Script()
        script.exact_above = exact_above
        watched = guard(optimizer, script)
        for step in range(90):
            problem.backward(1.0 + 0.5 * math.sin(step))
            optimizer.step()
        seen[exact_above] = {one.step: one.secant for one in watched.policy.seen}
    exact, bound = seen.values()
    common = [step for step in bound if step > 1 and math.isfinite(bound[step])]
    assert len(common) >= 10
    for step in common:
        assert bound[step] >= exact[step] * (1 - 1e-9) or bound[step] < 0
    if not decay and name != "amsgrad":
        assert bound[common[-1]] == pytest.approx(exact[common[-1]], rel=2e-2)
