"""Muon: its step is exact, and its stability is not claimed."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from foreshock.preconditioner import read_preconditioner
from preconditioner.stepping import largest_error, moving, same, set_gradients, snapshot

pytestmark = pytest.mark.skipif(not hasattr(optim, "Muon"), reason="this torch has no Muon")


def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(3, 5), (6, 2)]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.0},
        {"nesterov": False},
        {"adjust_lr_fn": "match_rms_adamw"},
        {"momentum": 0.5, "ns_steps": 3},
        {"lr": 0.0},
    ],
)
def test_displacement_is_that_of_one_torch_step(options):
    optimizer = optim.Muon(matrices(), **{"lr": 0.02} | options)
    assert largest_error(optimizer, steps=5) < 1e-12


def test_reading_changes_nothing():
    optimizer = optim.Muon(matrices(), lr=0.02)
    largest_error(optimizer, steps=2)
    set_gradients(moving(optimizer), 1.0)
    before = snapshot(optimizer)
    read_preconditioner(optimizer)
    assert same(before, snapshot(optimizer))


def test_beside_adamw_the_ratio_is_about_adamw_alone():
    vector = nn.Parameter(torch.randn(4, dtype=torch.float64))
    muon, adamw = optim.Muon(matrices(), lr=0.5), optim.AdamW([vector], lr=0.01)
    assert largest_error([muon, adamw], steps=3) < 1e-12
    set_gradients(moving([muon, adamw]), 1.0)
    preconditioner = read_preconditioner([muon, adamw])
    assert [step.linear for step in preconditioner.active] == [False, False, True]
    root = preconditioner.scale_root()
    assert not root[:27].any()
    assert torch.equal(root[27:], read_preconditioner(adamw).scale_root())
    assert preconditioner.coverage == pytest.approx(4 / 31)
    assert preconditioner.common_rate == preconditioner.largest_rate == 0.01
    # The step itself is whole: its effect on the loss is that of both.
    assert preconditioner.descent()[:27].abs().min() > 0


def test_alone_it_has_no_stability_ratio():
    optimizer = optim.Muon(matrices(), lr=0.02)
    set_gradients(moving(optimizer), 1.0)
    with pytest.raises(ValueError, match="no edge of stability"):
        read_preconditioner(optimizer).scale_root()


def test_it_has_no_edge_a_hundredfold_curvature_leaves_the_oscillation_as_large():
    late = []
    for curvature in (1.0, 100.0):
        theta = nn.Parameter(torch.full((1, 1), 0.3, dtype=torch.float64))
        optimizer = optim.Muon([theta], lr=0.01, momentum=0.0, weight_decay=0.0)
        for _ in range(300):
            theta.grad = curvature * theta.detach()
            optimizer.step()
        late.append(abs(float(theta.detach())))
    assert late[0] == pytest.approx(late[1], rel=1e-6)
