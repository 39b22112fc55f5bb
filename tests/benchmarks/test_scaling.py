"""The cost model of probes in many processes, and its page, which is made of the published counts."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from benchmarks.scaling.model import (
    RUNS,
    SHARDS,
    Machine,
    Measured,
    Run,
    activations,
    cost_of,
    measured_from,
    passes_of,
)
from benchmarks.scaling.page import PAGE, RESULTS, render

MEASURED = Measured(
    product=2.0,
    graph=3.0,
    shards=5.0,
    whole=4.0,
    products=4,
    short=40,
    short_bytes=600.0,
    shard_product=2.5,
    shard_vectors=6.0,
    shard_short=7.0,
    shard_gradients=9,
)
MACHINE = Machine(memory=80e9, speed=1e12, host_link=1e9, network=1e8, latency=1e-3)


@pytest.fixture(scope="module")
def record():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_published_counts(record):
    assert render(record) == PAGE.read_text(encoding="utf-8")


def test_the_published_counts_are_those_of_the_code(record):
    """What a product, a gradient, a choice and an end send, as documented."""
    for world, ways in record["results"].items():
        for way, row in ways.items():
            probe = row["counted"]
            assert row["quiet_steps"] == row["steps_between"], f"{world} {way}: something was sent between"
            # One sum for each product, one for the gradient, and one for the end.
            one = probe["products"] + 2 if way == "ddp" else 0
            # Each vector is gathered and its product averaged; the gradient is averaged.
            two = 2 * probe["products"] + 1 if way == "fsdp2" and world != "1" else one
            if way == SHARDS:  # those of a training step, for each gradient
                each = row["gradients"]["collectives"]
                assert probe["groups"] == each * probe["passes"], f"{world} {way}: {probe}"
            if way in ("alone", "ddp", "fsdp2", SHARDS):
                assert probe["long"] == two, f"{world} {way}: {probe}"


def test_the_model_of_shared_parameters_by_hand():
    run = Run("", 1e6, data=4, tensor=2, layers=2, width=10, tokens=100, weight_bytes=2)
    cost = cost_of(run, MEASURED, MACHINE)
    own, shard, each = 5e5, 1.25e5, 34 * 100 * 10 / 2
    assert activations(run) == 2 * each
    assert cost.step_seconds == pytest.approx(6 * 1e6 * 100 / (2 * 1e12))
    assert cost.training_memory == pytest.approx(16 * shard + 2 * each + 2 * own / 2)
    assert cost.probe_memory == pytest.approx(4 * (13 * shard + 4 * own) + 3 * 2 * each)
    assert cost.sent == pytest.approx(2 * (2 * 3 / 4) * 4 * own)  # two sums in a ring of four
    exchange = cost.sent / 1e8 + 2 * 2 * 4 * own / 1e9
    assert cost.product_exchange == pytest.approx(exchange + 10 * 1e-3 * 3)
    assert cost.interval == pytest.approx(passes_of(4) / 0.05)
    assert cost.share == pytest.approx(cost.probe_seconds / (cost.interval * cost.step_seconds))


def test_copies_send_one_vector_and_hold_all_of_it():
    run = Run("", 1e6, data=4, tensor=1, layers=2, width=10, tokens=100, shared=False)
    cost = cost_of(run, MEASURED, MACHINE)
    assert cost.sent == pytest.approx(2 * 3 / 4 * 4e6)
    assert cost.probe_memory == pytest.approx(4 * 13 * 1e6 + 3 * activations(run))


def test_products_of_shards_by_hand():
    run = Run("", 1e6, data=4, tensor=1, layers=2, width=10, tokens=100, in_shards=True)
    cost = cost_of(run, MEASURED, MACHINE)
    step = 6 * 1e6 * 100 / 1e12
    assert cost.probe_memory == pytest.approx(4 * (8 + 6) * 2.5e5)
    assert cost.sent == cost.host_memory == 0
    assert cost.product_compute == pytest.approx(2.5 * step)
    assert cost.product_exchange == pytest.approx(7 * 3 * 1e-3 * 2)
    assert cost.probe_seconds == pytest.approx(4 * (2.5 * step + 7 * 3 * 1e-3 * 2) + step)
    assert cost.interval == pytest.approx(9 / 0.05)


def test_more_processes_hold_less_and_send_no_more_than_twice():
    run = Run("", 1e9, data=2, tensor=1, layers=24, width=2048, tokens=2048)
    costs = [cost_of(replace(run, data=data), MEASURED, Machine()) for data in (2, 8, 64, 4096)]
    assert all(a.probe_memory > b.probe_memory for a, b in itertools.pairwise(costs))
    assert all(a.sent < b.sent for a, b in itertools.pairwise(costs))
    assert costs[-1].sent <= 2 * costs[0].sent


def test_the_largest_runs_of_the_page_do_not_fit(record):
    measured = measured_from(record["results"])
    fits = {run.name: cost_of(run, measured, Machine()).fits(Machine()) for run in RUNS}
    assert not fits["1T, FSDP2 × TP on 4,096 (512 × 8)"]
    assert fits["GPT-2 124M, DDP on 8"]
    assert fits["7B, FSDP2 on 64, in shards"]
    assert not fits["7B, FSDP2 on 64"]
