"""The doctor finds what is wrong with a checkpoint, and nothing wrong with a healthy one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.cli.checkpoints import Trainable, load_checkpoint
from foreshock.cli.health import examine

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    loss_fn = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()
    return model, loss_fn, torch.optim.AdamW(model.parameters(), lr=1e-3)

def batches():
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        x = torch.randn(32, 4, generator=generator)
        yield x, x.sum(1, keepdim=True).sin() + 0.3 * torch.randn(32, 1, generator=generator)
"""


def trained(steps=150):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(32, 4, generator=generator)
        y = x.sum(1, keepdim=True).sin() + 0.3 * torch.randn(32, 1, generator=generator)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return model, optimizer


def saved(path, model, optimizer, **more):
    state = {"model": model.state_dict(), "optimizer": copy.deepcopy(optimizer.state_dict())} | more
    torch.save(state, path)
    return path


def change_v(how):
    def change(content):
        for one in content["optimizer"]["state"].values():
            one["exp_avg_sq"] = how(one["exp_avg_sq"])

    return change


def set_step(value):
    def change(content):
        for one in content["optimizer"]["state"].values():
            one["step"] = torch.tensor(float(value))

    return change


def spoil(content):
    content["model"]["0.weight"][0, 0] = math.nan


FAULTS = {
    "v is lost": (lambda c: c.pop("optimizer"), "no optimizer state"),
    "state is empty": (lambda c: c["optimizer"].update(state={}), "is empty, as before the first step"),
    "v is zero": (change_v(torch.zeros_like), "is zero throughout"),
    "v is not finite": (change_v(lambda v: v + math.inf), "is not finite"),
    "v is negative": (change_v(lambda v: -v), "is negative somewhere"),
    "v is far too small": (change_v(lambda v: v * 1e-6), "smaller than its momentum allows"),
    "v has another shape": (change_v(lambda v: v.reshape(-1)[:3].clone()), "has the shape of no tensor"),
    "weights are NaN": (spoil, "has NaN or infinite entries"),
    "counts of another run": (lambda c: c.update(step=5000), "counts 5,000 steps"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_a_script_sees_it(name, tmp_path):
    change, words = FAULTS[name]
    path = saved(tmp_path / "one.pt", *trained())
    assert examine(path).healthy
    content = torch.load(path)
    change(content)
    torch.save(content, path)
    found = examine(path)
    assert not found.healthy
    assert any(words in remark.words for remark in found.remarks if remark.severity == "fault"), found
    run = CliRunner().invoke(app, ["doctor", str(path)])
    assert run.exit_code == 3
    assert "not fit to go on from" in run.output


def test_a_healthy_checkpoint_of_every_adam_is_healthy(tmp_path):
    for make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop):
        model = nn.Linear(3, 2)
        optimizer = make(model.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(120):
            optimizer.zero_grad()
            # Gradients from tiny to huge, which v must have seen.
            (
                model(torch.randn(4, 3, generator=generator)).sum()
                * 10 ** torch.randn((), generator=generator)
            ).backward()
            optimizer.step()
        found = examine(saved(tmp_path / "one.pt", model, optimizer))
        assert found.healthy, (make, found)


def test_which_of_several_is_healthy(tmp_path):
    model, optimizer = trained()
    good = saved(tmp_path / "good.pt", model, optimizer)
    bad = tmp_path / "bad.pt"
    torch.save({"model": model.state_dict()}, bad)
    run = CliRunner().invoke(app, ["doctor", str(bad), str(good)])
    assert run.exit_code == 3
    assert run.output.splitlines()[-1] == f"Healthy: {good}"
    assert CliRunner().invoke(app, ["doctor", str(good)]).exit_code == 0


def test_against_an_older_one_a_state_that_began_anew_shows(tmp_path):
    older = saved(tmp_path / "older.pt", *trained(200))
    newer = saved(tmp_path / "newer.pt", *trained(120))
    assert examine(newer).healthy
    found = examine(newer, against=older)
    assert not found.healthy
    assert "began anew in between" in found.remarks[0].words
    assert examine(older, against=newer).healthy


def test_v_is_compared_with_gradients(tmp_path, monkeypatch):
    (tmp_path / "cases_doctor.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    model, optimizer = trained(400)
    options = ["--model", "cases_doctor:make", "--data", "cases_doctor:batches"]
    path = saved(tmp_path / "one.pt", model, optimizer)
    run = CliRunner().invoke(app, ["doctor", str(path), *options])
    assert run.exit_code == 0, run.output
    assert "v fits the gradients" in run.output
    content = torch.load(path)
    for one in content["optimizer"]["state"].values():  # m and v of a model whose gradients were a thousandth
        one["exp_avg"] *= 1e-3
        one["exp_avg_sq"] *= 1e-6
    torch.save(content, path)
    run = CliRunner().invoke(app, ["doctor", str(path), *options])
    assert run.exit_code == 3
    assert "gradients are far above" in run.output
    assert CliRunner().invoke(app, ["doctor", str(path), *options[:2]]).exit_code == 1


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model._orig_mod."]
)
def test_prefixes_of_wrappers_are_understood(prefix, tmp_path):
    model, optimizer = trained(5)
    state = {f"{prefix}{name}": one for name, one in model.state_dict().items()}
    if prefix.startswith("model."):
        state["loss.weight"] = torch.ones(2)  # what a LightningModule has beside
    torch.save({"state_dict": state, "optimizer_states": [optimizer.state_dict()]}, tmp_path / "one.pt")
    fresh = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    into = Trainable(fresh, lambda m, b: m(b).mean(), torch.optim.AdamW(fresh.parameters(), lr=1e-3))
    load_checkpoint(tmp_path / "one.pt", into)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_a_file_that_can_not_be_read_is_an_error_and_no_verdict(tmp_path):
    (tmp_path / "no.pt").write_text("nothing")
    run = CliRunner().invoke(app, ["doctor", str(tmp_path / "no.pt")])
    assert run.exit_code == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["optimizer"]["state"][0]["exp_avg"].fill_(math.nan), "momentum of 0 of"),
        (lambda c: c["optimizer"]["state"][0].update(step=math.nan), "counts nan updates"),
        (lambda c: c.update(optimizer="adam"), "no optimizer state"),
        (lambda c: c.update(optimizer=["adam"]), "no optimizer state"),
    ],
)
def test_what_can_not_be_gone_on_from_is_a_fault_whatever_it_is(change, words, tmp_path):
    content = saved_content(tmp_path)
    change(content)
    torch.save(content, tmp_path / "odd.pt")
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "odd.pt")])
    assert result.exit_code == 3, result.output
    assert words in result.output


@pytest.mark.parametrize("betas", [(), (0.9,), 5, "ab", (0.9, 1.0), None])
def test_options_of_any_type_are_read(betas, tmp_path):
    content = saved_content(tmp_path)
    content["optimizer"]["param_groups"][0].update(betas=betas, params=5)
    content["model"] = "a name"
    torch.save(content, tmp_path / "odd.pt")
    found = examine(tmp_path / "odd.pt", against=tmp_path / "odd.pt")
    assert "it has no weights" in [remark.words for remark in found.remarks]


def test_weights_of_eight_bits_are_examined(tmp_path):
    content = saved_content(tmp_path)
    content["model"] = {name: one.to(torch.float8_e4m3fn) for name, one in content["model"].items()}
    torch.save(content, tmp_path / "small.pt")
    assert examine(tmp_path / "small.pt").healthy


def test_nobody_is_advised_to_run_the_code_of_a_file(tmp_path):
    (tmp_path / "odd.pt").write_bytes(bytes(range(200)))
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "odd.pt")])
    assert result.exit_code == 1
    assert "weights_only" not in result.output


def saved_content(folder):
    model, optimizer = trained()
    saved(folder / "sound.pt", model, optimizer)
    return torch.load(folder / "sound.pt")
