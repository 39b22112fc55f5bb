"""One-call measurements against dense matrices; the model is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn, optim

import foreshock
from cases import CASES, DETERMINISTIC
from foreshock.stability import momentum_factor
from oracles import dense_hessian

TIGHT = foreshock.StoppingRule(1e-11, 1000)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_sharpness_is_the_largest_eigenvalues_of_the_dense_hessian(case):
    model, batch = case.build()
    dense = dense_hessian(lambda: case.loss_fn(model, batch), list(model.parameters()))
    values, vectors = torch.linalg.eigh(dense)
    found = foreshock.sharpness(model, case.loss_fn, batch, count=3, stop=TIGHT)
    assert found.eigenvalues == pytest.approx(values.flip(0)[:3].tolist(), rel=1e-8)
    assert found.value == found.eigenvalues[0]
    assert found.converged
    assert found.backend.name == "double backward"
    assert found.backend.verified
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    parts = vectors[:, -1].split(list(sizes.values()))
    expected = {name: float(part @ part) for name, part in zip(sizes, parts, strict=True)}
    assert {block.name: block.share for block in found.blocks} == pytest.approx(expected, abs=1e-5)


def test_micro_batches_are_weighted_by_their_counts():
    case = CASES[0]
    model, (x, y) = case.build()
    whole = foreshock.sharpness(model, case.loss_fn, (x, y), stop=TIGHT)
    parts = [(x[:7], y[:7]), (x[7:9], y[7:9]), (x[9:], y[9:])]
    for micro in (foreshock.MicroBatches(parts), foreshock.MicroBatches(parts, counts=[14, 4, 6])):
        found = foreshock.sharpness(model, case.loss_fn, micro, stop=TIGHT)
        assert found.value == pytest.approx(whole.value, rel=1e-9)
    mean_of_means = foreshock.MicroBatches(parts, counts=[1, 1, 1])
    wrong = foreshock.sharpness(model, case.loss_fn, mean_of_means, stop=TIGHT)
    assert wrong.value != pytest.approx(whole.value, rel=1e-3)


@pytest.mark.parametrize("taken", [0, 4])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_preconditioned_sharpness_is_that_of_the_next_step(case, taken):
    """Fresh state and old, without any gradient set: D contains the gradient of the batch."""
    model, batch = case.build()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(taken):
        optimizer.zero_grad()
        case.loss_fn(model, batch).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    parameters = list(model.parameters())
    found = foreshock.preconditioned_sharpness(model, optimizer, case.loss_fn, batch, stop=TIGHT)
    assert all(p.grad is None for p in parameters)
    hessian = dense_hessian(lambda: case.loss_fn(model, batch), parameters)
    before = copy.deepcopy(model)
    case.loss_fn(model, batch).backward()
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    optimizer.step()
    v = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in parameters])
    denominator = (v / (1 - 0.999 ** (taken + 1))).sqrt() + 1e-8
    scaled = momentum_factor(0.9, taken + 1) * hessian / (denominator[:, None] * denominator[None]).sqrt()
    assert found.stability_ratio == pytest.approx(
        float(torch.linalg.eigvalsh(scaled)[-1]) * 0.01 / 2, rel=1e-8
    )
    moved = torch.cat(
        [(p - q).detach().flatten() for p, q in zip(parameters, before.parameters(), strict=True)]
    )
    change = float(gradient @ moved + moved @ hessian @ moved / 2)
    assert found.predicted_loss_change == pytest.approx(change, rel=1e-6)


def test_spectrum_has_the_trace_and_the_edges_of_the_dense_matrix():
    case = CASES[0]
    model, batch = case.build()
    dense = dense_hessian(lambda: case.loss_fn(model, batch), list(model.parameters()))
    values = torch.linalg.eigvalsh(dense)
    found = foreshock.spectrum(model, case.loss_fn, batch, probes=40, steps=len(dense))
    assert found.upper == pytest.approx(float(values[-1]), rel=1e-8)
    assert found.lower == pytest.approx(float(values[0]), rel=1e-8)
    assert abs(found.trace - float(values.sum())) < 4 * found.trace_error
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    scaled = foreshock.spectrum(model, case.loss_fn, batch, optimizer=optimizer, probes=1, steps=100)
    reading = foreshock.preconditioned_sharpness(model, optimizer, case.loss_fn, batch, stop=TIGHT)
    assert scaled.upper == pytest.approx(reading.stability_ratio, rel=1e-6)


def test_everything_is_left_as_it_was():
    case = next(case for case in CASES if case.name == "cnn-batch-norm")
    model, batch = case.build()
    optimizer = optim.AdamW(model.parameters())
    case.loss_fn(model, batch).backward()
    gradients = [p.grad for p in model.parameters()]
    contents = [gradient.clone() for gradient in gradients]
    state, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    foreshock.sharpness(model, case.loss_fn, batch)
    foreshock.preconditioned_sharpness(model, optimizer, case.loss_fn, batch)
    foreshock.spectrum(model, case.loss_fn, batch, optimizer=optimizer, probes=1, steps=3)
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(g, old) for g, old in zip(gradients, contents, strict=True))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not optimizer.state


def test_bad_input_is_refused():
    case = CASES[0]
    model, batch = case.build()
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        foreshock.sharpness(nn.Identity(), case.loss_fn, batch)
    with pytest.raises(ValueError, match=r"add \.mean\(\)"):
        foreshock.sharpness(model, lambda model, batch: model(batch[0]), batch)
    with pytest.raises(TypeError, match="can't be monitored"):
        foreshock.preconditioned_sharpness(model, optim.LBFGS(model.parameters()), case.loss_fn, batch)
    with pytest.raises(ValueError, match="at least one batch"):
        foreshock.MicroBatches([])
    with pytest.raises(ValueError, match="2 batches but 1 counts"):
        foreshock.MicroBatches([1, 2], counts=[1])
    with pytest.raises(ValueError, match="counts must be positive"):
        foreshock.MicroBatches([1, 2], counts=[1, np.nan])
    with pytest.raises(ValueError, match="pass the counts to MicroBatches"):
        foreshock.MicroBatches(["text"]).weighted()
