"""What happens right after a resume is explained by what was before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import foreshock
from foreshock.explain import explain_run
from foreshock.runlog import RunLogWriter, read_run


def values(first, last, loss, **columns):
    steps = np.arange(first, last)
    rows = {"loss": loss, "gradient_norm": 1.0, "learning_rate": 1e-3, "instant_lag": 4.0} | columns
    rows = {name: np.broadcast_to(value, len(steps)) for name, value in rows.items()}
    return [
        ("step", {"step": step} | {name: row[i].item() for name, row in rows.items()})
        for i, step in enumerate(steps.tolist())
    ]


def write(folder, rows):
    log = RunLogWriter(folder)
    log.write_many(rows)
    log.close()


def calm(n, seed=0):
    return 1 + 0.01 * np.random.default_rng(seed).standard_normal(n)


def high(n, over=12):
    """A loss that rises right after the first step and falls back."""
    loss = calm(n, 1)
    loss[3 : 3 + over] = np.geomspace(2, 30, over)
    loss[3 + over : 3 + 2 * over] = np.geomspace(30, 1.1, over)
    return loss


def cold(n):
    lag = np.full(n, 4.0)
    lag[0] = 1.0
    return lag


def test_a_log_that_goes_on_from_another_is_one_run_with_it(tmp_path):
    write(tmp_path, values(0, 300, calm(300)))
    write(tmp_path, values(280, 420, calm(140)))
    write(tmp_path, values(400, 500, calm(100)))
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(500))
    assert [path.parent.name for path in run.joined] == [tmp_path.name, "2"]
    assert (run.earlier, run.starts, run.resumed, run.obsolete) == ((), 3, (280, 400), 40)
    # Its own file is what was asked for.
    assert read_run(run.path).steps("step").tolist() == list(range(400, 500))


@pytest.mark.parametrize("first", [0, 700])
def test_a_run_of_its_own_is_not_joined(tmp_path, first):
    write(tmp_path, values(0, 300, calm(300)))
    write(tmp_path, values(first, first + 100, calm(100)))
    run = read_run(tmp_path)
    assert (run.steps("step")[0], len(run.joined), len(run.earlier)) == (first, 0, 1)


def test_an_earlier_log_that_can_not_be_read_is_left_out(tmp_path):
    write(tmp_path, values(0, 300, calm(300)))
    write(tmp_path, values(300, 400, calm(100)))
    first = tmp_path / "rank0.jsonl"
    first.write_text(first.read_text().replace('"schema":', '"schema":9'))
    assert read_run(tmp_path).steps("step")[0] == 300


@pytest.mark.parametrize("together", [True, False])
def test_a_cold_resume_explains_the_spike_after_it(tmp_path, together):
    before, after = values(0, 300, calm(300)), values(300, 420, high(120), instant_lag=cold(120))
    write(tmp_path, before)
    if together:
        path = tmp_path / "rank0.jsonl"
        write(tmp_path, after)
        path.write_text(path.read_text() + (tmp_path / "2" / "rank0.jsonl").read_text())
        (tmp_path / "2" / "rank0.jsonl").unlink()
    else:
        write(tmp_path, after)
    [found] = explain_run(read_run(tmp_path))
    assert found.cause == "lost optimizer state"
    assert found.causes[0].step == 300


def test_a_resume_at_another_rate_explains_the_spike_after_it(tmp_path):
    write(tmp_path, values(0, 300, calm(300)))
    write(tmp_path, values(300, 420, high(120), learning_rate=1e-2))
    [found] = explain_run(read_run(tmp_path))
    assert [one.name for one in found.causes] == ["learning rate"]
    assert "where the run was resumed" in found.causes[0].words


def test_a_warm_resume_explains_nothing(tmp_path):
    write(tmp_path, values(0, 300, calm(300)))
    write(tmp_path, values(300, 420, high(120)))
    [found] = explain_run(read_run(tmp_path))
    assert found.causes == ()


def test_a_training_that_was_resumed_without_anything_but_the_weights_says_so(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    x = torch.randn(64, 4)
    for first in (0, 80):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        with foreshock.Monitor(model, optimizer, run=tmp_path) as monitor:
            for step in range(first, first + 80):
                optimizer.zero_grad()
                loss = (model(x) ** 2).mean()
                loss.backward()
                monitor.observe(x, loss, step=step)
                optimizer.step()
    run = read_run(tmp_path)
    assert run.resumed == (80,)
    from foreshock.explain import History

    [change] = History(run).changes_near("resume", 80, 80)
    assert change["after"]["instant_lag"] == pytest.approx(1, abs=1e-4)
    assert change["before"]["instant_lag"] != pytest.approx(1, abs=0.05)
