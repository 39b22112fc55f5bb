"""An event that is tested while its training goes on: what is found, and that the training is left alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import foreshock
from foreshock.explain import explanation_text
from foreshock.replay import Loop

BAD, AT, STEPS = 80, 110, 130


def loss_fn(model, batch):
    return functional.mse_loss(model(batch[0]), batch[1])


def build():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
    return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=3e-3))


def batches(bad=BAD):
    generator = torch.Generator().manual_seed(1)
    for step in range(400):
        x = torch.randn(16, 3, generator=generator)
        y = x.sum(1, keepdim=True).sin()
        if step == bad:
            y[0] = 600.0
        yield x, y


def train(folder, ask=None, *, every=10):
    """Train with a monitor, and ask it something at a step; return what it said and what came of it all."""
    loop, found = build(), None
    recorder = foreshock.Recorder(every=every)
    given = loop.model, loop.optimizer, loss_fn
    with foreshock.Monitor(*given, run=folder, recorder=recorder, full_batch=False) as monitor:
        for step, batch in zip(range(STEPS), batches(), strict=False):
            loss = loop.backward(batch)
            monitor.observe(batch, loss)
            if step == AT and ask is not None:
                found = ask(monitor, loop)
            loop.update()
        drawn = torch.rand(1), random.random(), np.random.rand()
    state = [*loop.model.state_dict().values(), *(p.grad for p in loop.model.parameters())]
    state += [value for one in loop.optimizer.state.values() for value in one.values()]
    return found, state, drawn, monitor


def test_a_bad_batch_is_proved_and_the_training_goes_on_bit_by_bit(tmp_path):
    random.seed(0)
    np.random.seed(0)
    before = torch.get_num_threads()
    [found], state, drawn, monitor = train(
        tmp_path / "asked", lambda monitor, _: monitor.explain(step=BAD, build=build, batches=batches)
    )
    random.seed(0)
    np.random.seed(0)
    _, plain, plain_drawn, _ = train(tmp_path / "plain")
    assert all(torch.equal(one, other) for one, other in zip(state, plain, strict=True))
    assert drawn == plain_drawn
    torch.set_num_threads(before)
    assert found.cause == "bad batch"
    assert found.examination.start < BAD
    assert found.examination.comes == {f"swap={BAD}": False, "v=held": True, "precision=float64": True}
    assert f"Tested by training again from step {found.examination.start}:" in explanation_text(found)
    [later] = monitor.explain(BAD, build=build, batches=batches)
    assert later.examination.comes == found.examination.comes, "snapshots on the disk do as well"
    assert monitor.explain(BAD)[0].examination is None


def test_the_process_is_left_as_it_was(tmp_path):
    def unusual():
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_default_dtype(torch.float32)
        torch.set_default_dtype(torch.float64)
        loop = build()
        loop.model.float()
        return loop

    def ask(monitor, _):
        with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
            monitor.explain(BAD, build=unusual, batches=[])
        return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()

    assert train(tmp_path, ask)[0] == (1, torch.float32, True)


def shared(loop):
    return lambda: (loop.model, loss_fn, torch.optim.Adam(loop.model.parameters()))


def half_shared(loop):
    def made():
        model = nn.Sequential(loop.model[0], *build().model[1:])
        return model, loss_fn, torch.optim.Adam(model[1:].parameters())

    return made


REFUSED = [
    (ValueError, "only one of build and batches was passed", lambda _: {"batches": None}),
    (ValueError, "only one of build and batches was passed", lambda _: {"build": None}),
    (ValueError, "tensors of the training that is going on", lambda loop: {"build": shared(loop)}),
    (ValueError, "tensors of the training that is going on", lambda loop: {"build": half_shared(loop)}),
    (TypeError, "build is Sequential; it must be a function", lambda loop: {"build": loop.model}),
    (TypeError, "build is Loop; it must be a function", lambda loop: {"build": loop}),
    (TypeError, "build returned Sequential; it must return", lambda loop: {"build": lambda: loop.model}),
    (TypeError, "batches is generator; each replay reads them", lambda _: {"batches": batches()}),
    (TypeError, "batches is int; each replay reads them", lambda _: {"batches": 7}),
    (FileNotFoundError, "no snapshot was taken before step 0: there are those", lambda _: {"start": -1}),
    (ValueError, f"the snapshot is of step {AT - 10}, and the event begins at", lambda _: {"start": AT - 1}),
]


def test_what_can_not_be_tested_is_refused_and_harms_nothing(tmp_path):
    def ask(monitor, loop):
        for error, words, options in REFUSED:
            given = {"build": build, "batches": batches} | options(loop)
            with pytest.raises(error, match=words):
                monitor.explain(BAD, **given)
        return True

    found, state, *_ = train(tmp_path / "asked", ask)
    assert found
    _, plain, *_ = train(tmp_path / "plain")
    assert all(torch.equal(one, other) for one, other in zip(state, plain, strict=True))


def test_what_an_optimizer_lacks_is_not_tested_and_the_rest_is(tmp_path):
    def plain():
        loop = build()
        return loop.model, loss_fn, torch.optim.SGD(loop.model.parameters(), lr=1e-3)

    loop = Loop(*plain())
    given = loop.model, loop.optimizer, loss_fn
    with foreshock.Monitor(*given, run=tmp_path, recorder=foreshock.Recorder(every=10)) as monitor:
        for _, batch in zip(range(STEPS), batches(), strict=False):
            monitor.observe(batch, loop.backward(batch))
            loop.update()
        [found] = monitor.explain(BAD, build=plain, batches=batches)
    assert found.examination.comes[f"swap={BAD}"] is False
    assert found.examination.comes["v=held"] is None
    assert any(
        "not tested with v=held: v=held can't be set: SGD keeps" in one for one in found.examination.words
    )


def test_without_any_snapshot_it_is_said_how_to_have_one(tmp_path):
    loop = build()
    with foreshock.Monitor(loop.model, loop.optimizer, run=tmp_path) as monitor:
        for _, batch in zip(range(STEPS), batches(), strict=False):
            monitor.observe(batch, loop.backward(batch))
            loop.update()
        with pytest.raises(
            FileNotFoundError, match=r"there is none at all\. Pass recorder=foreshock.Recorder"
        ):
            monitor.explain(BAD, build=build, batches=batches)
