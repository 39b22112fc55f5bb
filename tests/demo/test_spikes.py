"""The demo's networks spike by themselves, and most of their spikes are announced."""

from __future__ import annotations

import itertools

import pytest

from foreshock.demo import digits_cnn, stdlib_transformer
from foreshock.demo.run import run_demo
from foreshock.report.summary import summarise
from foreshock.runlog import read_run
from foreshock.spikes import detect_spikes


def digits():
    return digits_cnn.build(digits_cnn.DigitsConfig.quick())


def transformer():
    return stdlib_transformer.build(stdlib_transformer.TransformerConfig.quick())


def spikes_of(workload):
    """Train as the demo does, without its monitor; return the spikes."""
    losses = []
    for _ in range(workload.steps):
        workload.optimizer.zero_grad()
        loss = workload.loss_fn(workload.model, workload.batch)
        loss.backward()
        workload.optimizer.step()
        losses.append(loss.item())
    return detect_spikes(range(len(losses)), losses)


@pytest.mark.training
@pytest.mark.parametrize("build", [digits, transformer])
def test_the_quick_networks_spike(perturbed, build):
    perturbed(lambda: spikes_of(build())).at_least(4, bool)


@pytest.mark.slow
@pytest.mark.training
def test_many_spikes_of_the_quick_demo_are_announced(perturbed, tmp_path):
    folders = (tmp_path / str(start) for start in itertools.count())

    def announced():
        runs = [summarise(read_run(folder)) for folder in run_demo(next(folders), quick=True)]
        outcomes = [outcome for run in runs for outcome in run.outcomes]
        return sum(outcome.lead is not None for outcome in outcomes), len(outcomes)

    runs = perturbed(announced)
    runs.at_least(4, lambda found: found[1] >= 2)
    assert runs.total(lambda found: found[0]) >= 0.35 * runs.total(lambda found: found[1]), runs.each
