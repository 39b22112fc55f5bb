"""Reads are counted once each, and a step that logs nothing makes the host wait for nothing."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
import torch
from benchmarks.host_reads import (
    LOG_EVERY,
    counted,
    make_adamw,
    make_fused,
    measure,
    reads_of,
    render,
    watch_guard,
    watch_monitor,
)

from foreshock import Monitor
from foreshock.preconditioner import read_preconditioner, read_second_moment_sums

SMALL, LARGE = 3, 13


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: x.equal(x + 1),
        lambda x: torch.equal(x, x + 1),
        lambda x: x.tolist(),
        lambda x: x[0].tolist(),
        lambda x: x.numpy(),
        lambda x: x.__array__(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu"),
        lambda x: x.cpu().tolist(),
        lambda x: x.cpu().numpy(),
        lambda x: x[:1].cpu().item(),
        lambda x: torch.allclose(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
    ],
)
def test_each_way_to_read_a_tensor_counts_once(read):
    with counted() as reads:
        read(torch.ones(3))
    assert reads.device == 1
    read(torch.ones(3))
    assert reads.device == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda x: (x * 2 + x.sum()).norm(),
        lambda x: x.to(torch.float64),
        lambda x: x.to(x),
        lambda x: x.to(x.device),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch._foreach_norm([x, x]),
        lambda x: x.shape[0] + x.numel(),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.where(x > 0, 0),
    ],
)
def test_what_stays_on_the_device_does_not_count(use):
    with counted() as reads:
        use(torch.ones(3))
    assert reads.device == 0


def test_a_monitor_that_is_left_to_the_collector_is_not_read_inside_the_block():
    def leave():
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters())
        monitor = Monitor(model, optimizer)
        monitor.itself = monitor
        for _ in range(18):
            model(torch.ones(2, 3)).sum().backward()
            monitor.observe(torch.ones(2, 3), 1.0)
            optimizer.step()

    before = gc.get_threshold()
    gc.set_threshold(10**9)
    try:
        leave()
        with counted() as reads:
            gc.set_threshold(1)
            kept = [[] for _ in range(1000)]
    finally:
        gc.set_threshold(*before)
    assert (reads.device, len(kept)) == (0, 1000)
    assert gc.isenabled()


def test_what_lies_on_the_host_anyway_is_counted_apart():
    count = torch.tensor(3.0)
    with counted([count]) as reads:
        assert int(count) == 3
    assert (reads.device, reads.step_counts) == (0, 1)


def test_a_copy_on_the_host_is_free_to_read_and_the_tensor_itself_is_not():
    x = torch.ones(3)
    with counted() as reads:
        copy = x.cpu()
        copy.tolist()
        x.tolist()
    assert reads.device == 2


def test_reads_leave_values_as_they_are():
    x = torch.arange(3.0)
    with counted():
        assert x.cpu().tolist() == x.tolist() == x.to("cpu").numpy().tolist() == [0, 1, 2]
        assert x.cpu().data_ptr() == x.data_ptr()


def test_a_plain_step_reads_nothing_but_its_step_counts():
    counts = reads_of(SMALL, None, steps=3)
    assert counts.device == [0] * 3
    assert min(counts.step_counts) >= 2 * SMALL


@pytest.mark.parametrize("make", [make_adamw, make_fused])
def test_reads_do_not_grow_with_the_number_of_tensors(make):
    assert (
        reads_of(SMALL, watch_monitor, make=make).device == reads_of(LARGE, watch_monitor, make=make).device
    )


def test_reads_of_a_guard_do_not_grow_with_the_number_of_tensors():
    # One for what it measures, and one more where the gradient grew: when that is differs between models.
    assert {*reads_of(SMALL, watch_guard).device} == {*reads_of(LARGE, watch_guard).device} == {1, 2}


@pytest.mark.parametrize("read", [read_preconditioner, read_second_moment_sums])
def test_the_state_of_a_fused_optimizer_is_read_in_a_few_transfers(read):
    """Its learning rate and the step count of each of 26 tensors are on the device."""
    model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(LARGE)])
    optimizer = make_fused(model)
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    with counted() as reads:
        read(optimizer)
    assert 0 < reads.device <= 3


def test_a_stack_of_what_lies_on_the_host_lies_there_too():
    one, other = torch.tensor(1.0), torch.tensor(2.0)
    with counted([one]) as reads:
        assert torch.stack([one, one]).tolist() == [1, 1]
        assert torch.stack([one, other]).tolist() == [1, 2]
    assert (reads.device, reads.step_counts) == (1, 1)


@pytest.mark.parametrize("make", [make_adamw, make_fused])
@pytest.mark.parametrize("with_probes", [False, True], ids=["without probes", "between probes"])
def test_no_host_read_on_steps_that_log_nothing(with_probes, make):
    """Fetched are the free signals of ten steps at once; a probe may read, on the steps that it is due at."""

    def watch(model, optimizer):
        def loss_fn(model, batch):
            return (model(batch) - batch).square().mean()

        options = {"loss_fn": loss_fn, "probe_every": 5 * LOG_EVERY} if with_probes else {}
        return Monitor(model, optimizer, log_every=LOG_EVERY, **options).observe

    counts = reads_of(SMALL, watch, steps=5 * LOG_EVERY, make=make).device
    # The first counted step is one with a probe: the steps before it are a multiple of the interval.
    reading = [step for step, count in enumerate(counts) if count and not (with_probes and step == 0)]
    assert 0 < len(reading) <= 5, counts
    assert all((later - earlier) % LOG_EVERY == 0 for earlier, later in pairwise(reading)), reading


def test_the_table_has_a_row_for_each_watcher_and_size(monkeypatch):
    monkeypatch.setattr("benchmarks.host_reads.LAYERS", (1, 2))
    rows = measure()
    assert [row["tensors"] for row in rows] == [2] * 6 + [4] * 6
    assert [row["most"] for row in rows if row["watcher"] in ("AdamW", "fused AdamW")] == [0] * 4
    table = render(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert table[2].startswith("| 2 | AdamW | 0 | 0 | 0.0 | 100% |")
