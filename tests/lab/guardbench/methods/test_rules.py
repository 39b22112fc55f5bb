"""Methods checked on single steps against their formulas, written out anew, and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import METHODS, Subject, method
from foreshock.lab.guardbench.methods.clipping import Clipping, ZScoreLimit
from foreshock.lab.tasks import OptimizerConfig, build_optimizer

STEPS = 5
CONFIG = OptimizerConfig("adamw", 0.05, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)


def gradients():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def trained(name, config=CONFIG):
    """Return the weights after each of five steps with given gradients."""
    model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.5)
    optimizer = method(name).build(model, method(name).configure(config))
    weights = []
    for gradient in gradients():
        model.weight.grad = gradient.clone()
        optimizer.step()
        weights.append(model.weight.detach().clone())
    return weights


def by_hand(direction, config=CONFIG):
    """Return the same by θ ← (1 − ηλ)θ − ηu, u made from all gradients so far."""
    weight = torch.full((2, 3), 0.5, dtype=torch.float64)
    weights = []
    for t in range(1, STEPS + 1):
        weight = (1 - config.learning_rate * config.weight_decay) * weight
        weight = weight - config.learning_rate * direction(gradients()[:t])
        weights.append(weight)
    return weights


def mean(seen, beta):
    """Return the bias-corrected running mean of a list as a weighted sum."""
    weights = [beta ** (len(seen) - 1 - i) for i in range(len(seen))]
    return sum(w * x for w, x in zip(weights, seen, strict=True)) / sum(weights)


def test_adam_atan2():
    beta1, beta2 = CONFIG.betas
    expected = by_hand(lambda g: torch.atan2(mean(g, beta1), mean([x**2 for x in g], beta2).sqrt()))
    for one, other in zip(trained("adam-atan2"), expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_adafactor_beta2():
    """With β₂ = 1 − t^−.8 the weights of the squares are products, and add up to one by themselves."""

    def direction(g):
        second = torch.zeros_like(g[0])
        for t, x in enumerate(g, start=1):
            second = (1 - t**-0.8) * second + t**-0.8 * x**2
        return mean(g, CONFIG.betas[0]) / (second.sqrt() + CONFIG.eps)

    for one, other in zip(trained("adafactor-beta2"), by_hand(direction), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {}),
        ("amsgrad", {"amsgrad": True}),
        ("beta2-0.95", {"betas": (0.8, 0.95)}),
        ("betas-0.95", {"betas": (0.95, 0.95)}),
        ("lr-third", {"lr": 0.05 / 3}),
    ],
)
def test_settings_are_those_of_torch(name, options):
    model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.5)
    chosen = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1} | options
    optimizer = torch.optim.AdamW(model.parameters(), **chosen)
    for gradient, weight in zip(gradients(), trained(name), strict=True):
        model.weight.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(model.weight, weight)


@pytest.mark.parametrize(
    ("before", "after"),
    [("constant", "cosine"), ("warmup", "warmup-cosine"), ("warmup-cosine", "warmup-cosine")],
)
def test_cosine_keeps_the_warm_up(before, after):
    steps = 0 if before == "constant" else 10
    config = OptimizerConfig(schedule=before, warmup_steps=steps)
    assert method("cosine").configure(config) == OptimizerConfig(schedule=after, warmup_steps=steps)


def subject(gradient):
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([gradient])
    optimizer = build_optimizer(model, OptimizerConfig())
    return Subject(model, optimizer, lambda model, batch: model(batch).sum())


def test_clipping_scales_what_is_above_the_limit_and_says_so():
    for gradient, expected, clipped in (([3.0, 4.0], [0.6, 0.8], True), ([0.3, 0.4], [0.3, 0.4], False)):
        about = subject(gradient)
        clipping = Clipping(about, lambda norm: 1.0)
        clipping.before_step(None, 0.0)
        assert about.model.weight.grad.flatten().tolist() == pytest.approx(expected)
        assert clipping.after_step() is clipped


def test_zclip_limits_outliers_the_more_the_larger_they_are():
    limit = ZScoreLimit()
    for i in range(25):
        assert limit(9.0 if i % 2 else 11.0) == math.inf
    average, deviation = limit.mean, math.sqrt(limit.variance)
    assert average == pytest.approx(10.04)
    assert limit(average + 2.4 * deviation) == math.inf
    average, deviation = limit.mean, math.sqrt(limit.variance)
    # z = 5: the limit is μ + 2.5·(2.5/5)·s.
    assert limit(average + 5 * deviation) == pytest.approx(average + 1.25 * deviation, rel=1e-5)


def test_zclip_keeps_the_norm_after_clipping_in_its_means():
    limit = ZScoreLimit()
    for i in range(25):
        limit(9.0 if i % 2 else 11.0)
    average = limit.mean
    seen = limit(1e6)
    assert limit.mean == pytest.approx(0.97 * average + 0.03 * seen)


def test_every_method_has_a_name_and_says_where_it_is_from():
    names = [one.name for one in METHODS]
    assert len(set(names)) == len(names) == 41
    assert names[0] == "adam"
    assert all(one.citation for one in METHODS)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for name in names)


def test_unknown_method():
    with pytest.raises(ValueError, match="no method 'magic'; there are adam,"):
        method("magic")


def test_kourkoutas_beta():
    """Against a loop that keeps β₂ within .88 and .999 by the norm over its running mean."""
    weight = torch.full((2, 3), 0.5, dtype=torch.float64)
    first, second, mean_norm = 0.0, 0.0, 0.0
    memories = []
    for t, (g, found) in enumerate(zip(gradients(), trained("kourkoutas-beta"), strict=True), start=1):
        mean_norm = 0.93 * mean_norm + 0.07 * g.norm()
        ratio = g.norm() / (mean_norm + 1e-9)
        memories.append(0.999 - 0.119 * ratio / (1 + ratio))
        first = 0.8 * first + 0.2 * g
        second = memories[-1] * second + (1 - memories[-1]) * g**2
        direction = first / (1 - 0.8**t) / ((second / (1 - 0.999**t)).sqrt() + CONFIG.eps)
        weight = (1 - 0.05 * 0.1) * weight - 0.05 * direction
        assert torch.allclose(found, weight, rtol=0, atol=1e-12)
    assert all(0.88 < memory < 0.999 for memory in memories)
    assert min(memories) == memories[0]  # the first norm is 14 times its running mean
