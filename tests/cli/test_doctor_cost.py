"""The doctor without a checkpoint: what is installed, and what a probe will cost."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from foreshock.cli import environment
from foreshock.cli.app import app
from foreshock.cli.probe_cost import measure_cost

ROOT = Path(__file__).parents[2]
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.{activation}(), nn.Linear(8, 1))
    loss_fn = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()
    return model, loss_fn, torch.optim.AdamW(model.parameters(), lr=1e-3)

def bare():
    return make()[:2]

class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient

def once():
    model, _, optimizer = make()
    return model, lambda model, batch: Once.apply(model(batch[0]) - batch[1]).mean(), optimizer

def batches():
    generator = torch.Generator().manual_seed(5)
    while True:
        x = torch.randn(32, 4, generator=generator)
        yield x, x.sum(1, keepdim=True).sin()

def broken():
    yield torch.full((8, 4), float("nan")), torch.zeros(8, 1)
"""


@pytest.fixture
def cases(tmp_path, monkeypatch):
    (tmp_path / "cost_cases.py").write_text(FACTORY.replace("{activation}", "Tanh"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "cost_cases", raising=False)
    return "cost_cases"


def doctor(*words):
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


def test_extras_are_those_of_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, (packages, _) in environment.EXTRAS.items():
        own = [re.split(r"[\[><=]", line)[0] for line in declared[name]]
        assert tuple(one for one in own if one != "foreshock") == packages
    assert set(declared) - set(environment.EXTRAS) == {"all", "compat", "bench", "docs", "dev", "release"}


def test_versions_and_extras_are_shown_with_what_installs_them(monkeypatch):
    def version(name):
        if name in ("wandb", "mlflow-skinny", "uvicorn"):
            raise PackageNotFoundError
        return f"{len(name)}.5"

    monkeypatch.setattr(environment, "version", version)
    run = doctor()
    assert run.exit_code == 0
    assert f"torch {torch.__version__}" in run.output
    lines = {line.split()[0]: line for line in run.output.splitlines() if line.startswith("  ")}
    assert (
        'wandb missing (sending to W&B, reading its offline runs): pip install "foreshock[wandb]"'
        in (lines["wandb"])
    )
    assert (
        'uvicorn missing (the live page of foreshock watch): pip install "foreshock[live]"' in lines["live"]
    )
    assert lines["tensorboard"].split() == ["tensorboard", "tensorboard", "11.5"]
    # The whole of MLflow will do for its small one.
    assert lines["mlflow"].split() == ["mlflow", "mlflow-skinny", "6.5"]
    found = json.loads(doctor("--json").stdout)["result"]
    assert found["probe"] is None
    assert found["environment"]["extras"][3]["missing"] == ["uvicorn"]


def test_what_a_probe_costs_is_what_was_counted(cases):
    found = measure_cost(f"{cases}:make", f"{cases}:batches")
    assert (found.backend, found.verified, found.optimizer, found.device) == (
        "double backward",
        True,
        "AdamW",
        "cpu",
    )
    assert found.parameters == sum(one.numel() for one in nn.Linear(4, 8).parameters()) + 9
    # A graph, and 2.5 a product; the first one has the comparison of the two backends on top.
    assert found.passes == pytest.approx(1.5 + 2.5 * found.products)
    assert found.first_passes >= found.passes / 3 + 3
    assert found.steps_between == pytest.approx(20 * found.passes)
    assert found.probe_bytes > found.step_bytes > 4 * found.parameters
    assert found.steps == found.seconds / found.step_seconds > 1


def test_where_nothing_can_be_differentiated_twice_it_says_so(cases):
    run = doctor("--model", f"{cases}:once", "--data", f"{cases}:batches")
    assert run.exit_code == 0, run.output
    assert re.search(r"backend +central differences: .*Once hides a part of the Hessian", run.output)
    assert re.search(r"a probe +\d+ products?, [\d.]+ forward and backward passes; .* × a step", run.output)
    assert re.search(r"memory +[\d.]+ KiB at the peak of a probe, [\d.]+ KiB of a step", run.output)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--model", "cost_cases:make"), "--model and --data belong together"),
        (("--against", "older.pt"), "name the checkpoint, too"),
        (("--model", "cost_cases:bare", "--data", "cost_cases:batches"), "returns no optimizer; return"),
        (("--model", "cost_cases:make", "--data", "cost_cases:broken"), "look for NaN or Inf in the batch"),
        (("--model", "cost_cases:nothing", "--data", "cost_cases:batches"), "has no 'nothing'"),
    ],
)
def test_what_can_not_be_run_is_one_line(cases, words, complaint):
    run = doctor(*words, "--json")
    assert (run.exit_code, run.stdout) == (1, "")
    assert complaint in run.stderr
    assert run.stderr.count("\n") == 1
