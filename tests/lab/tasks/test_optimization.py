import math

import pytest
import torch
from torch import nn

from foreshock.lab.tasks import OptimizerConfig, build_optimizer, build_scheduler


def rates(config, steps):
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, steps)
    used = []
    for _ in range(steps):
        used.append({group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    assert all(len(values) == 1 for values in used)
    return [values.pop() for values in used]


def test_constant_has_no_scheduler():
    config = OptimizerConfig(learning_rate=0.5)
    assert build_scheduler(build_optimizer(nn.Linear(2, 1), config), config, 10) is None
    assert rates(config, 3) == [0.5] * 3


def test_warmup_rises_linearly_from_the_first_step():
    config = OptimizerConfig(learning_rate=0.4, schedule="warmup", warmup_steps=4)
    assert rates(config, 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_cosine_falls_towards_zero():
    config = OptimizerConfig(learning_rate=2.0, schedule="cosine")
    assert rates(config, 4) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])


def test_warmup_then_cosine():
    config = OptimizerConfig(learning_rate=1.0, schedule="warmup-cosine", warmup_steps=2)
    assert rates(config, 6) == pytest.approx([0.5, 1, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


def test_adamw_decays_matrices_only():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = OptimizerConfig("adamw", 0.1, weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        factor = 1 - 0.1 * 0.5 if old.ndim >= 2 else 1
        assert torch.allclose(parameter, factor * old)


def test_adam_gets_every_setting_and_every_trainable_parameter():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(requires_grad=False)
    config = OptimizerConfig("adam", 0.1, betas=(0.8, 0.98), eps=1e-6, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    [group] = optimizer.param_groups
    assert type(optimizer) is torch.optim.Adam
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (
        0.1,
        (0.8, 0.98),
        1e-6,
        0.01,
    )
    assert len(group["params"]) == 3


def test_adamw_gets_every_setting():
    optimizer = build_optimizer(
        nn.Linear(2, 2, bias=False), OptimizerConfig("adamw", 0.1, betas=(0.5, 0.9), eps=1e-5)
    )
    [group] = optimizer.param_groups
    assert type(optimizer) is torch.optim.AdamW
    assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.5, 0.9), 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sgd"}, "name is 'sgd'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"betas": (0.9, math.nan)}, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"eps": math.nan}, "eps must be finite"),
        ({"weight_decay": math.nan}, "weight_decay must be finite"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative"),
        ({"warmup_steps": 3}, "warmup_steps is 3, but the schedule is 'constant'"),
        ({"schedule": "warmup"}, "warmup_steps is 0, but the schedule is 'warmup'"),
        ({"warmup_steps": -1}, "warmup_steps must be an integer of at least 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


def test_the_warmup_must_end_within_the_run():
    config = OptimizerConfig(schedule="warmup", warmup_steps=5)
    optimizer = build_optimizer(nn.Linear(2, 1), config)
    with pytest.raises(ValueError, match="steps is 5; it must exceed the warm-up of 5"):
        build_scheduler(optimizer, config, 5)
