"""From a saved file and two names to a measurement, as the command does it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from foreshock.cli import checkpoints
from foreshock.cli.app import app

MODULE = """
import torch
from torch import nn

torch.manual_seed(3)
X, Y = torch.randn(20, 3), torch.randn(20, 1)

def make():
    return nn.Linear(3, 1)

def full():
    model = make()
    return model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.01)

def loss_fn(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()

def batches():
    return [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8)]

fixed = batches()
nothing = []
number = 3

def failing():
    return {}["lr"]

def worded():
    return make(), loss_fn, "adam"

def breaking():
    yield fixed[0]
    raise KeyError("label")

def asserting():
    return make(), assert_nothing

def assert_nothing(model, batch):
    assert not batch

def bracketed():
    model = nn.ModuleDict({"[bold]x[/red]": make()})
    return model, lambda model, batch: model["[bold]x[/red]"](batch[0]).square().mean()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a user's module and a checkpoint."""
    (tmp_path / "usertrain.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("# Divides.\n1 / 0\n")
    (tmp_path / "needy.py").write_text("import absent_too\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "usertrain", raising=False)
    model, loss_fn, optimizer = checkpoints.import_named("usertrain:full")()
    batch = checkpoints.load_batches("usertrain:batches")[0]
    loss_fn(model, batch).backward()
    optimizer.step()
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(states, tmp_path / "last.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path


def test_a_checkpoint_is_loaded_into_what_the_factory_makes(folder):
    trainable = checkpoints.make_trainable("usertrain:full")
    checkpoints.load_checkpoint(folder / "last.pt", trainable)
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert torch.equal(trainable.model.weight, saved["model"]["weight"])
    [state] = [trainable.optimizer.state[p] for p in (trainable.model.weight,)]
    assert torch.equal(state["exp_avg_sq"], saved["optimizer"]["state"][0]["exp_avg_sq"])


def test_a_model_alone_uses_the_loss_beside_it_and_bare_weights(folder):
    trainable = checkpoints.make_trainable("usertrain:make")
    checkpoints.load_checkpoint(folder / "weights.pt", trainable)
    assert trainable.optimizer is None
    assert trainable.loss_fn is sys.modules["usertrain"].loss_fn


@pytest.mark.parametrize(("name", "count"), [("batches", 3), ("fixed", 3)])
def test_batches_come_from_a_function_or_an_iterable(folder, name, count):
    assert len(checkpoints.load_batches(f"usertrain:{name}")) == count
    assert len(checkpoints.load_batches(f"usertrain:{name}", limit=2)) == 2


class NotPlain:
    """Something that a safe load refuses."""


def test_what_does_not_fit_is_refused(folder):
    full = checkpoints.make_trainable("usertrain:full")
    with pytest.raises(ValueError, match="module:object"):
        checkpoints.import_named("usertrain")
    with pytest.raises(ValueError, match="has no 'absent'"):
        checkpoints.import_named("usertrain:absent")
    with pytest.raises(ImportError, match=r"there is no module 'absent': give a file of the working folder"):
        checkpoints.import_named("absent:make")
    with pytest.raises(ImportError, match=r"broken can't be imported: ZeroDivisionError.*broken.py, line 2"):
        checkpoints.import_named("broken:make")
    with pytest.raises(ImportError, match="needy can't be imported: No module named 'absent_too'"):
        checkpoints.import_named("needy:make")
    with pytest.raises(TypeError, match="called without arguments, but missing a required argument: 'model'"):
        checkpoints.make_trainable("usertrain:loss_fn")
    with pytest.raises(TypeError, match="usertrain:number is int; it must be a function"):
        checkpoints.make_trainable("usertrain:number")
    with pytest.raises(
        RuntimeError, match=r"usertrain:failing failed: KeyError: 'lr' \(.*usertrain.py, line"
    ):
        checkpoints.make_trainable("usertrain:failing")
    with pytest.raises(TypeError, match="must return a model"):
        checkpoints.make_trainable("usertrain:batches")
    with pytest.raises(ValueError, match="gives no batches"):
        checkpoints.load_batches("usertrain:nothing")
    with pytest.raises(TypeError, match="must give an iterable"):
        checkpoints.load_batches("usertrain:number")
    with pytest.raises(ValueError, match="has no optimizer state"):
        checkpoints.load_checkpoint(folder / "weights.pt", full)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_checkpoint(folder / "absent.pt", full)
    torch.save({"model": NotPlain()}, folder / "object.pt")
    with pytest.raises(ValueError, match="save state dicts, not whole objects"):
        checkpoints.load_checkpoint(folder / "object.pt", full)
    torch.save(nn.Linear(2, 2).state_dict(), folder / "other.pt")
    with pytest.raises(ValueError, match="does not fit the model"):
        checkpoints.load_checkpoint(folder / "other.pt", full)
    with pytest.raises(TypeError, match="usertrain:worded returned str as its optimizer"):
        checkpoints.make_trainable("usertrain:worded")
    with pytest.raises(
        RuntimeError, match=r"usertrain:breaking failed: KeyError: 'label' \(.*usertrain.py, line"
    ):
        checkpoints.load_batches("usertrain:breaking")
    torch.save({"model": 5}, folder / "five.pt")
    with pytest.raises(
        ValueError, match=r"five.pt does not fit the model: Expected state_dict to be dict-like"
    ):
        checkpoints.load_checkpoint(folder / "five.pt", full)
    torch.save({"model": full.model.state_dict(), "optimizer": 7}, folder / "seven.pt")
    with pytest.raises(
        ValueError,
        match=r"seven.pt does not fit the optimizer of the factory: its optimizer state, of type int",
    ):
        checkpoints.load_checkpoint(folder / "seven.pt", full)


def test_a_failing_loss_function_is_one_line_that_says_where(folder):
    run = CliRunner().invoke(
        app, ["curvature", "weights.pt", "--model", "usertrain:asserting", "--data", "usertrain:fixed"]
    )
    assert isinstance(run.exception, SystemExit)
    line = MODULE.splitlines().index("    assert not batch") + 1
    place = rf"\(.*usertrain.py, line {line}\)"
    assert re.fullmatch(rf"error: the loss function failed: AssertionError: {place}\n", run.stderr)


def test_square_brackets_in_names_are_shown_as_they_are(folder):
    model, _ = checkpoints.import_named("usertrain:bracketed")()
    torch.save(model.state_dict(), folder / "bracketed.pt")
    run = CliRunner().invoke(
        app, ["curvature", "bracketed.pt", "--model", "usertrain:bracketed", "--data", "usertrain:fixed"]
    )
    assert run.exit_code == 0, run.output
    assert re.search(r"^Top eigenvector: \[bold\]x\[/red\]\.\w+ \d+%", run.stdout, re.MULTILINE)


def test_the_command_prints_curvature_of_both_kinds(folder):
    command = [sys.executable, "-m", "foreshock", "curvature", "last.pt"]
    options = ["--model", "usertrain:full", "--data", "usertrain:batches", "--top", "2"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, cwd=folder)
    assert run.returncode == 0, run.stderr
    x = sys.modules["usertrain"].X
    augmented = torch.cat([x, torch.ones(20, 1)], dim=1).double()
    expected = torch.linalg.eigvalsh(2 * augmented.T @ augmented / 20)[-1]
    assert f"{float(expected):.4g}" in run.stdout
    assert "stability ratio" in run.stdout
    assert "double backward agrees" in run.stdout
    broken = subprocess.run(
        [*command, "--model", "usertrain:absent", "--data", "usertrain:batches"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    assert broken.returncode == 1
    assert "has no 'absent'" in broken.stderr
    assert "Traceback" not in broken.stderr
