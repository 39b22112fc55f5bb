"""The code of the guides runs as a reader would type it, block after block."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import foreshock

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(source: str, names: dict[str, object]) -> None:
    exec(compile(source, "<guide>", "exec"), names)  # noqa: S102 - the page's own code


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Return what the pages presuppose: a classifier after one step, its batches, the gradient of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foreshock.guarding.policies.registry._REGISTERED", {})
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    loader = [(torch.randn(16, 4), torch.randint(3, (16,))) for _ in range(14)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def loss_fn(model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    loss_fn(model, loader[0]).backward()
    optimizer.step()
    return {
        "torch": torch,
        "foreshock": foreshock,
        "model": model,
        "loss_fn": loss_fn,
        "optimizer": optimizer,
        "loader": loader,
        "batch": loader[0],
        "loss": loss_fn(model, loader[0]),
    }


def test_the_tutorial_forecasts_and_leaves_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [source] = blocks("tutorial/first-forecast.md")
    assert "range(2500)" in source
    run(source.replace("range(2500)", "range(201)"), {})
    assert re.search(
        r"^200 \d\.\de-\d+ a spike within 50 steps: \d+% .*; stability ratio \d\.\d+, \w+",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert 3 <= len(foreshock.read_run("runs/first").records["curvature"]) <= 10


def test_the_page_on_curvature_measures_what_it_says(names, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    first, micro, noise, convex, spectrum, layer = blocks("how-to/measure-curvature.md")
    run(first, names)
    raw = names["found"]
    assert 0 < names["reading"].stability_ratio < math.inf
    run(micro, names)
    run(noise, names)
    assert names["found"].ratio > names["found"].mean > 0
    run(convex, names)
    # Of a convex loss the Gauss–Newton matrix has no negative part; here both agree on the order.
    assert 0 < names["found"].value < 10 * raw.value
    run(spectrum, names)
    assert (tmp_path / "spectrum.svg").read_text().count("<svg") == 1
    assert "±" in capsys.readouterr().out
    run(layer, names)
    blocks_of_layers = [
        float(line.split("λ_max(H) ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()
    ]
    assert blocks_of_layers
    assert max(blocks_of_layers) <= raw.value + raw.error


@pytest.mark.filterwarnings("ignore")  # of other packages, about each other
def test_the_page_on_trainers_attaches_to_each(names, tmp_path):
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("lightning")
    trainer, lightning, loop = blocks("how-to/attach-to-a-trainer.md")
    options = {"use_cpu": True, "report_to": []}
    names["args"], names["data"] = transformers.TrainingArguments(str(tmp_path / "out"), **options), []
    names["accelerator"] = accelerate.Accelerator(cpu=True)
    for source in (loop, trainer, lightning):
        run(source, names)
        callbacks = getattr(names.get("trainer"), "callback_handler", names.get("trainer"))
        kinds = [type(one).__name__ for one in getattr(callbacks, "callbacks", ())]
        assert source == loop or "ForeshockCallback" in kinds
    names["watch"].close()
    assert len(foreshock.read_run("runs/base").records["step"]) == len(names["loader"])


def test_the_page_on_guards_guards_the_run_from_block_to_block(names, tmp_path, capsys):
    attach, measure, monitor, summary, policy, outside = blocks("how-to/guard-a-run.md")
    run(attach, names)
    run(measure, names)
    run(summary, names)
    assert "guard 'auto': acted on 0 of 1 steps" in capsys.readouterr().out
    run(policy, names)
    assert names["guard"].policy.threshold == 0.8
    names["guard"].detach()
    run(monitor, names)
    assert (tmp_path / "runs/1/rank0.jsonl").is_file()
    names["monitor"].close()
    define = outside.partition("\n\n\n")[0]
    run(define, names)
    average, gradient, beta2, factor = torch.rand(5), torch.randn(5), 0.99, 4.0
    live = SimpleNamespace(
        betas=lambda: (0.9, beta2), state={"exp_avg_sq": average}, used_gradient=lambda: gradient
    )
    [(changed, raised)] = names["raise_second_moment"](live, factor)
    assert changed is average
    # What the step divides by is the average after this step's gradient: that is what has to grow.
    after = [beta2 * v + (1 - beta2) * gradient.square() for v in (average, raised)]
    torch.testing.assert_close(after[1], factor * after[0])
