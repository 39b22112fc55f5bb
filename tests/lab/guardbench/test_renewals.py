"""Spikes where targets are renewed: what the new targets make alone, and what steps add."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.lab.guardbench import renewals
from foreshock.lab.guardbench.drawn import drawn
from foreshock.lab.guardbench.renewals import (
    Renewal,
    RenewedRun,
    RenewedSpike,
    examine,
    full_draws,
    renewals_table,
    renewed_spikes,
)
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, configure

RENEWED = configure(DEVELOPMENT, "value-tiny", adam(0.01), None, 150, transitions=20, width=8, refresh=40)


def curve(**at):
    losses = [1.0] * 200
    for step, value in at.items():
        losses[int(step[1:])] = value
    return losses


@pytest.mark.parametrize(
    ("losses", "held", "spike"),
    [
        (curve(_150=5.0), 1.0, RenewedSpike(5.0, 0, 5.0)),
        (curve(_150=5.0, _151=9.0), 1.0, RenewedSpike(9.0, 1, 5.0)),
        (curve(_150=2.0, _151=9.0), 1.0, RenewedSpike(9.0, 1, 2.0)),
        # It was on its way: with the old targets the loss is as high.
        (curve(_150=5.0), 4.0, RenewedSpike(5.0, math.inf, 1.0)),
        (curve(_149=4.0, _150=5.0), 1.0, RenewedSpike(5.0, math.inf, 1.0)),
        (curve(_161=5.0), 1.0, RenewedSpike(5.0, math.inf, 1.0)),
    ],
)
def test_a_spike_is_of_the_targets_as_far_as_they_make_it_with_the_weights_held(losses, held, spike):
    assert renewed_spikes(losses, {150: Renewal(losses[150], held)}) == (spike,)
    assert spike.of_targets == (spike.delay == 0)


def test_the_loss_with_old_targets_is_that_of_the_weights_before_the_renewal(monkeypatch):
    seen = {}
    monkeypatch.setattr(renewals, "renewed_spikes", lambda losses, found: seen.update(found) or ())
    assert examine(RENEWED, "adam") == RenewedRun("adam", "value-tiny", ())
    assert sorted(seen) == [40, 80, 120]

    task = RENEWED.build_task(0)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.01)
    last = None
    for step in range(121):
        batch = next(task.batches)
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, batch)
        if step in seen:
            assert seen[step].renewed == pytest.approx(loss.item(), rel=1e-5)
            assert seen[step].held == pytest.approx(task.loss_fn(task.model, last).item(), rel=1e-5)
            assert seen[step].held != pytest.approx(seen[step].renewed, rel=1e-2)
        last = batch
        loss.backward()
        optimizer.step()


def test_other_trainings_are_refused():
    for config in (
        configure(DEVELOPMENT, "value-tiny", adam(0.01), 5, 150, transitions=20, width=8),
        configure(DEVELOPMENT, "mlp-tiny", adam(0.01), None, 150, points=20, width=8),
    ):
        with pytest.raises(ValueError, match="full batches of 'value' alone"):
            examine(config, "adam")


def test_the_table_says_how_many_spikes_and_runs_are_of_the_targets_alone():
    alone, higher, by_steps = (
        RenewedSpike(9.0, 0, 9.0),
        RenewedSpike(9.0, 2, 4.0),
        RenewedSpike(4.0, 1, 2.0),
    )
    runs = [
        RenewedRun("guard-alone", "one", (alone, alone)),
        RenewedRun("guard-alone", "two", (alone, higher)),
        RenewedRun("guard-alone", "three", (alone, by_steps)),
        RenewedRun("guard-alone", "four", ()),
    ]
    row = renewals_table(runs).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["guard-alone", "4", "6", "5", "1", "1", "5", "4", "3", "1"]


@pytest.mark.parametrize(("split", "first", "last"), [("development", 0, 31), ("held-out", 10000, 10255)])
def test_the_draws_are_those_of_the_suite(split, first, last):
    expected = [one for one in drawn() if one.split == split and one.family == "value" and one.full_batch]
    assert list(full_draws(split, first, last)) == expected


def test_draws_of_an_earlier_scoring_are_refused():
    with pytest.raises(ValueError, match="first is 3000; the held-out draws begin with 10000"):
        list(full_draws("held-out", 3000, 3255))
