"""Sinks get every record, and whatever they do the training neither waits nor ends."""

from __future__ import annotations

import os
import random
import threading

import numpy as np
import pytest
import torch

import foreshock
from foreshock.runlog import read_run
from foreshock.sinks import Delivery
from live_logs import until


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.rows, self.closed, self.flushed, self.threads = [], 0, 0, set()

    def write(self, kind, record):
        self.rows.append((kind, dict(record)))
        self.threads.add(threading.current_thread())

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


class Failing(Kept):
    def __init__(self, error=None):
        super().__init__()
        self.error = error or ValueError("no such project")

    def write(self, kind, record):
        super().write(kind, record)
        raise self.error


class Hanging(Kept):
    def __init__(self):
        super().__init__()
        self.release = threading.Event()

    def write(self, kind, record):
        self.release.wait(60)


def train(sinks=(), run=None, steps=40, nan_at=None):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = torch.ones(8, 3)

    def loss_fn(model, batch):
        return (model(batch) ** 2).mean()

    with foreshock.Monitor(model, optimizer, loss_fn, probe_every=10, run=run, sinks=sinks) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(batch, loss * torch.nan if step == nan_at else loss)
            optimizer.step()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return [one.tolist() for one in model.parameters()], states


def test_a_sink_gets_what_the_log_gets_in_order_without_a_log_too(tmp_path):
    with_log, alone = Kept(), Kept()
    train([with_log], run=tmp_path / "base", nan_at=25)
    train([alone], nan_at=25)
    log = read_run(tmp_path / "base")
    for sink in (with_log, alone):
        assert sink.rows[0][0] == "header"
        assert sink.rows[0][1]["name"] == ("base" if sink is with_log else "")
        for kind in ("step", "forecast", "curvature", "alarm"):
            got = [record["step"] for one, record in sink.rows if one == kind]
            assert got == log.steps(kind).tolist()
            assert got
        assert (sink.closed, bool(sink.flushed)) == (1, True)
        assert threading.main_thread() not in sink.threads
        assert len(sink.threads) == 1


def test_training_is_the_same_bit_by_bit_with_sinks_that_fail():
    assert train([Kept(), Failing(), Failing(SystemExit(3))]) == train()


def test_a_sink_that_fails_is_given_up_noted_once_and_stands_in_the_log(tmp_path, caplog):
    failing, other = Failing(), Kept()
    train([failing, other], run=tmp_path)
    assert len(failing.rows) == 3
    assert failing.closed == 1
    assert len([one for one in caplog.records if "no such project" in one.message]) <= 3
    assert "3 failures in a row: it is not tried again" in caplog.text
    assert len([kind for kind, _ in other.rows if kind == "step"]) == 40


def test_a_sink_that_ends_its_thread_is_noted(caplog):
    train([Failing(SystemExit(3))])
    assert "it ended: RuntimeError: SystemExit: 3" in caplog.text


def test_a_sink_that_hangs_drops_what_it_cannot_take_and_is_given_up_at_the_end(caplog):
    sink = Hanging()
    delivery = Delivery(sink, limit=5, timeout=0.05)
    delivery.put("header", {})
    until(lambda: not delivery._state.queue)  # the thread has taken the first, and hangs
    for step in range(12):
        delivery.put("step", {"step": step})
    assert delivery.dropped == 7
    assert [note for note in delivery.new_notes() if "slower than the training" in note]
    assert delivery.new_notes() == ()
    delivery.close()
    assert "had not finished 0.05 seconds after the end" in caplog.text
    assert caplog.text.count("slower than the training") == 1
    sink.release.set()
    delivery._thread.join(60)
    assert sink.closed == 1


@pytest.mark.parametrize("started", [True, False])
def test_closing_twice_closes_once(started):
    sink = Kept()
    delivery = Delivery(sink)
    if started:
        delivery.put("step", {"step": 0})
    delivery.close()
    delivery.close()
    delivery.put("step", {"step": 1})
    assert (len(sink.rows), sink.closed) == (int(started), 1)


def test_a_monitor_that_is_never_closed_still_sends_all():
    sink = Kept()
    delivery = Delivery(sink)
    delivery.put("step", {"step": 0})
    del delivery
    assert ([kind for kind, _ in sink.rows], sink.closed) == (["step"], 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_that_is_forked_sends_nothing_and_ends():
    sink = Kept()
    delivery = Delivery(sink)
    delivery.put("step", {"step": 0})
    child = os.fork()
    if child == 0:
        before = len(delivery._state.queue)
        delivery.put("step", {"step": 1})
        delivery.close()
        os._exit(len(delivery._state.queue) - before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    delivery.close()
    assert [record["step"] for _, record in sink.rows] == [0]


def test_other_ranks_send_nothing(monkeypatch):
    monkeypatch.setattr("foreshock.monitor.journal.process_rank", lambda: 1)
    sink = Kept()
    train([sink], steps=5)
    assert sink.rows == []


@pytest.mark.parametrize(
    ("sink", "words"),
    [(Kept, r"Kept in sinks=\[…\] is no sink; make one: Kept\("), ("tensorboard", "it needs write")],
)
def test_what_is_no_sink_is_refused(sink, words):
    with pytest.raises(TypeError, match=words):
        train([sink])
