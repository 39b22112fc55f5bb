"""A saved state that is not this optimizer's is refused: it would give a number that looks right."""

from __future__ import annotations

import argparse
import copy

import pytest
import torch
from torch import nn, optim

from foreshock.cli.checkpoints import Trainable, load_checkpoint
from foreshock.cli.optimizer_states import load_optimizer_state


def loss_fn(model, batch):
    return model(batch).square().mean()


def trained(make=optim.Adam, steps=2, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = make(model.parameters(), lr=0.01, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(model, torch.randn(8, 3)).backward()
        optimizer.step()
    return model, optimizer


OPTIMIZERS = {
    "adam": (optim.Adam, {}),
    "amsgrad": (optim.Adam, {"amsgrad": True}),
    "capturable": (optim.AdamW, {"foreach": False, "weight_decay": 0.1}),
    "sgd": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "rmsprop": (optim.RMSprop, {"centered": True}),
    "adagrad": (optim.Adagrad, {}),
    "adafactor": (optim.Adafactor, {}),
    "adadelta": (optim.Adadelta, {}),
    "tensor rate": (lambda parameters, lr: optim.Adam(parameters, lr=torch.tensor(lr)), {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_saved_is_loaded(name):
    make, options = OPTIMIZERS[name]
    _, optimizer = trained(make, **options)
    _, fresh = trained(make, steps=0, **options)
    load_optimizer_state(fresh, copy.deepcopy(optimizer.state_dict()))
    expected, found = optimizer.state_dict(), fresh.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for key, state in expected["state"].items():
        for what, value in state.items():
            assert found["state"][key][what] is value is None or torch.equal(
                torch.as_tensor(found["state"][key][what]), torch.as_tensor(value)
            )


def edited(**changes):
    """Return a change of the state of the first parameter."""
    return lambda saved: saved["state"][0].update(changes)


def grouped(**changes):
    return lambda saved: saved["param_groups"][0].update(changes)


FAULTS = {
    "empty": (lambda saved: saved["state"].clear(), "its optimizer state is empty, as before the first step"),
    "empty states": (lambda saved: saved["state"].update({k: {} for k in range(4)}), "state is empty"),
    "one missing": (
        lambda saved: saved["state"].pop(2),
        r"no optimizer state of parameter 2,.*requires_grad",
    ),
    "one empty": (lambda saved: saved["state"].update({1: {}}), "no optimizer state of parameter 1"),
    "odd key": (
        lambda saved: saved["state"].update({"0": saved["state"].pop(0)}),
        "states of '0', which is in",
    ),
    "odd keys": (
        lambda saved: saved.update(state={(k, "x"): v for k, v in saved["state"].items()}),
        r"states of \(0, 'x'\), .* and 1 more, which are in none",
    ),
    "no mapping": (lambda saved: saved["state"].update({0: [1.0]}), "parameter 0 is a list, not a mapping"),
    "no v": (lambda saved: saved["state"][0].pop("exp_avg_sq"), "has no 'exp_avg_sq'; it has"),
    "another shape": (
        edited(exp_avg_sq=torch.ones(3, 5)),
        r"'exp_avg_sq' of parameter 0,.*shape \(3, 5\); it must be a tensor of shape \(5, 3\)",
    ),
    "one number": (edited(exp_avg_sq=torch.tensor(0.1)), r"'exp_avg_sq' of parameter 0, .* is 0\.1"),
    "a float": (edited(exp_avg=0.1), r"'exp_avg' of parameter 0, .* is 0\.1; it must be a tensor of shape"),
    "a text": (edited(exp_avg_sq="full"), "'exp_avg_sq' of parameter 0 is the text 'full'"),
    "step of zero": (edited(step=torch.tensor(0.0)), r"'step' of parameter 0, .* is 0\.0; .* at least 1"),
    "step of nan": (
        edited(step=float("nan")),
        "'step' of parameter 0, .* is nan; it must be a finite number",
    ),
    "a step in words": (edited(step="two"), "'step' of parameter 0 is the text 'two'"),
    "a rate in words": (grouped(lr="fast"), r"its 'lr' is 'fast'; the optimizer of the factory has 0\.01"),
    "a negative rate": (grouped(lr=-1.0), r"its 'lr' is -1\.0"),
    "no rate": (grouped(lr=None), "its 'lr' is None"),
    "an infinite eps": (grouped(eps=float("inf")), "its 'eps' is inf"),
    "three betas": (grouped(betas=(0.9, 0.99, 0.9)), "its 'betas' is"),
    "a beta above one": (grouped(betas=(0.9, 1.1)), r"its 'betas' is \(0\.9, 1\.1\)"),
    "amsgrad in words": (grouped(amsgrad="no"), "its 'amsgrad' is 'no'; .* False"),
    "amsgrad without its v": (grouped(amsgrad=True), "has no 'max_exp_avg_sq'"),
    "no options": (lambda saved: saved["param_groups"][0].pop("betas"), "lacks 'betas'"),
    "no groups": (lambda saved: saved.pop("param_groups"), "has no mapping 'state' and no list"),
    "a group of numbers": (lambda saved: saved.update(param_groups=[5]), "group in it is int without a list"),
    "another size": (
        lambda saved: saved["param_groups"][0]["params"].pop(),
        "states of 3, which is in none of its",
    ),
    "NaN": (edited(exp_avg=torch.full((5, 3), float("nan"))), "'exp_avg' of parameter 0, .* NaN or infinite"),
    "infinite": (edited(exp_avg_sq=torch.full((5, 3), float("inf"))), "'exp_avg_sq' .* NaN or infinite"),
    "negative squares": (edited(exp_avg_sq=torch.full((5, 3), -1.0)), "'exp_avg_sq' .* values below zero"),
    "sparse": (edited(exp_avg_sq=torch.ones(5, 3).to_sparse()), r"is torch\.sparse_coo; .* torch\.strided"),
    "imaginary": (
        edited(exp_avg_sq=torch.ones(5, 3, dtype=torch.complex64)),
        "'exp_avg_sq' of parameter 0 is complex",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_no_such_optimizer_saves_is_refused_in_words(name, tmp_path):
    spoil, message = FAULTS[name]
    model, optimizer = trained()
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    torch.save({"model": model.state_dict(), "optimizer": saved}, tmp_path / "last.pt")
    fresh, other = trained(steps=0)
    with pytest.raises(
        ValueError, match=rf"last\.pt does not fit the optimizer of the factory: .*({message})"
    ):
        load_checkpoint(tmp_path / "last.pt", Trainable(fresh, loss_fn, other))


def test_the_larger_second_moment_of_amsgrad_does_not_hide_a_damaged_one():
    _, optimizer = trained(amsgrad=True)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][2]["exp_avg_sq"].neg_()
    _, fresh = trained(steps=0, amsgrad=True)
    with pytest.raises(ValueError, match=r"'exp_avg_sq' of parameter 2, .* values below zero"):
        load_optimizer_state(fresh, saved)


def test_moments_of_eight_bits_are_compared():
    _, optimizer = trained(optim.SGD, momentum=0.9)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["momentum_buffer"] = state["momentum_buffer"].to(torch.float8_e5m2)
    _, fresh = trained(optim.SGD, steps=0, momentum=0.9)
    load_optimizer_state(fresh, saved)


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), MemoryError(), KeyError("x")])
def test_a_damaged_file_is_named_whatever_torch_raises(tmp_path, monkeypatch, error):
    """torch.load raises an OSError without a name where an offset in the file is beyond its end."""
    model, _ = trained()
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match=r"last\.pt can't be read as a checkpoint"):
        load_checkpoint(tmp_path / "last.pt", Trainable(model, loss_fn))


def test_a_file_that_is_missing_is_said_to_be_missing(tmp_path):
    model, _ = trained()
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        load_checkpoint(tmp_path / "last.pt", Trainable(model, loss_fn))


def test_parameters_that_are_not_trained_need_no_state():
    model, optimizer = trained(steps=0)
    model[0].requires_grad_(False)
    loss_fn(model, torch.ones(2, 3)).backward()
    optimizer.step()
    other_model, other = trained(steps=0)
    other_model[0].requires_grad_(False)
    load_optimizer_state(other, optimizer.state_dict())
    assert len(other.state) == 2


def test_an_object_in_a_file_is_named_and_not_made(tmp_path):
    model, _ = trained()
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "last.pt")
    with pytest.raises(
        ValueError, match=r"holds a argparse\.Namespace, which could run code, and is not loaded"
    ):
        load_checkpoint(tmp_path / "last.pt", Trainable(model, loss_fn))


@pytest.mark.parametrize("state", [{0: torch.ones(1)}, {"0.weight": "text"}, [1], {"0.weight": None}])
def test_a_model_state_of_anything_is_refused_in_words(tmp_path, state):
    model, _ = trained()
    torch.save({"model": state}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt does not fit the model"):
        load_checkpoint(tmp_path / "last.pt", Trainable(model, loss_fn))


def test_complex_weights_are_not_cut_to_their_real_part(tmp_path):
    model, _ = trained()
    state = {name: value.to(torch.complex64) for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"does not fit the model: 0\.weight is torch\.complex64"):
        load_checkpoint(tmp_path / "last.pt", Trainable(model, loss_fn))
