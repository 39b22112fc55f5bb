"""The package's optimizers on single steps, against their papers' formulas."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import method
from foreshock.lab.tasks import OptimizerConfig

CONFIG = OptimizerConfig("adamw", 0.1, weight_decay=0.2, eps=1e-8)


def start(name, config=CONFIG):
    pytest.importorskip("pytorch_optimizer")
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, method(name).build(model, config)


def step(model, optimizer, gradient):
    model.weight.grad = torch.tensor([gradient])
    optimizer.step()
    return model.weight.detach().flatten().tolist()


def test_adopt_skips_the_first_step_and_divides_by_the_old_second_moment():
    model, optimizer = start("adopt")
    assert step(model, optimizer, [2.0, -4.0]) == pytest.approx([0.98, 0.98])
    # Second step: g/√v of v = g₁², within ± t^¼; m = .1 of that.
    first = 0.98 * 0.98
    assert step(model, optimizer, [1.0, 1.0]) == pytest.approx(
        [first - 0.01 * 0.5, first - 0.01 * 0.25], rel=1e-5
    )


def test_stable_adamw_divides_the_rate_by_the_rms_of_the_update():
    model, optimizer = start("stable-adamw")
    step(model, optimizer, [1.0, 1.0])
    before = model.weight.detach().flatten().tolist()
    after = step(model, optimizer, [10.0, 1.0])
    beta1, beta2 = 0.9 * (1 - 0.9) / (1 - 0.9**2), 0.99 * (1 - 0.99) / (1 - 0.99**2)
    second = [beta2 + (1 - beta2) * 100, 1.0]
    rms = ((100 / second[0] + 1 / second[1]) / 2) ** 0.5
    rate = 0.1 / max(rms, 1)
    first = [beta1 + (1 - beta1) * 10, 1.0]
    moves = [rate * m / v**0.5 for m, v in zip(first, second, strict=True)]
    decayed = [weight * (1 - rate * 0.2) for weight in before]
    assert rms > 1
    assert after == pytest.approx(
        [weight - move for weight, move in zip(decayed, moves, strict=True)], rel=1e-5
    )


def test_spam_clips_entries_by_the_second_moment():
    """After 20 steps an entry with g² > 5000·v is cut to √(5000·v)."""
    config = OptimizerConfig("adam", 0.1)
    moves = {}
    for outlier in (1e4, 1e8):
        model, optimizer = start("spam", config)
        for _ in range(30):
            step(model, optimizer, [1.0, 1.0])
        step(model, optimizer, [outlier, 1.0])
        moves[outlier] = optimizer.state[model.weight]["exp_avg_sq"].max().item()
    assert moves[1e8] == pytest.approx(moves[1e4], rel=1e-6)


def test_stable_spam_is_blind_to_the_scale_of_an_outlier():
    config = OptimizerConfig("adam", 0.1)
    ends = []
    for outlier in (1e4, 1e8):
        model, optimizer = start("stable-spam", config)
        for _ in range(30):
            step(model, optimizer, [1.0, 1.0])
        ends.append(step(model, optimizer, [outlier, outlier]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)


def test_adagc_clips_to_a_multiple_of_the_running_norm_of_each_tensor():
    model, optimizer = start("adagc", OptimizerConfig("adam", 1e-3))
    for _ in range(120):
        step(model, optimizer, [0.3, 0.4])
    before = optimizer.state[model.weight]["exp_avg"].clone()
    step(model, optimizer, [30.0, 40.0])
    taken = (optimizer.state[model.weight]["exp_avg"] - 0.9 * before) / 0.1
    assert taken.norm().item() == pytest.approx(1.05 * 0.5, rel=1e-3)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=r"ADOPT is from pytorch_optimizer.*foreshock\[bench\]"):
        method("adopt").build(nn.Linear(1, 1), CONFIG)


def test_soap_is_adam_in_the_basis_of_the_gradients():
    """The first gradient only makes the basis; of a gradient diagonal in it SOAP is Adam there."""
    pytest.importorskip("pytorch_optimizer")
    left, right = (
        torch.linalg.qr(torch.tensor(rows, dtype=torch.float64))[0]
        for rows in ([[1.0, 2.0], [3.0, -1.0]], [[1.0, -1.0], [0.5, 2.0]])
    )
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    optimizer = method("soap").build(model, OptimizerConfig("adam", 0.1, eps=1e-8))
    model.weight.grad = left @ torch.diag(torch.tensor([3.0, 0.01], dtype=torch.float64)) @ right.T
    optimizer.step()
    assert torch.count_nonzero(model.weight) == 0
    optimizer.step()  # whatever the singular values, a step of η along each pair of vectors
    assert torch.allclose(model.weight, -0.1 * left @ right.T, rtol=0, atol=1e-6)
