"""What a newcomer gets: README's ten lines and the tutorial's code as they stand, with the defaults.

On handwritten digits, with the full batch and with mini-batches: a judgement within fifty steps, none that
rests on one batch, and an alarm when the loss is no number any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import foreshock
from foreshock.demo.data import load_digits

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[1]
STEPS = 100
KNOWN_WITHIN = 50
BROKEN_AT = 30
FETCHED_WITHIN = 10  # steps after which the monitor has seen a loss, at the latest
SIZES = {"full batch": 256, "mini-batches": 64}


def python_block(page: str, heading: str) -> str:
    text = (ROOT / page).read_text("utf-8").split(f"\n## {heading}\n")[1]
    return re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


TEN_LINES = python_block("README.md", "Ten lines")
TUTORIAL = python_block("docs/tutorial/first-forecast.md", "Watch a model of your own")


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def digits(data: str) -> list[tuple[Tensor, Tensor]]:
    images, labels = load_digits(1797)
    images = images.flatten(1)
    size = SIZES[data]
    if data == "full batch":
        return [(images[:size], labels[:size])] * STEPS
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(len(images), (size,), generator=generator) for _ in range(STEPS)]
    return [(images[chosen], labels[chosen]) for chosen in drawn]


def readings(run: foreshock.Run) -> list[int]:
    """Return the steps after the first on which something was measured: one batch says too little."""
    return sorted({*run.steps("curvature").tolist(), *run.steps("noise").tolist()} - {0})


@dataclass
class Watched:
    """What a user saw: the forecast of every step, and the run log."""

    forecasts: list[foreshock.Forecast]
    run: foreshock.Run

    @property
    def known_from(self) -> float:
        """The first step with a judgement that rests on more than the first batch."""
        first = min(readings(self.run), default=STEPS)
        known = [step for step in range(first, STEPS) if self.forecasts[step].state != "unknown"]
        return min(known, default=float("inf"))


def ten_lines(loader: list[tuple[Tensor, Tensor]], lr: float = 1e-3) -> Watched:
    """Run the ten lines of the README unchanged on a small classifier of digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    forecasts: list[foreshock.Forecast] = []

    def seen() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            yield batch
            # The loop asks for the next batch: the step is over.
            forecasts.append(names["monitor"].forecast)

    names = {
        "foreshock": foreshock,
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=lr),
        "loss_fn": loss_fn,
        "loader": seen(),
        "print": lambda *_: None,
    }
    exec(TEN_LINES, names)  # noqa: S102 - the README's own code
    names["monitor"].close()
    return Watched(forecasts, foreshock.read_run("runs/base"))


@pytest.fixture
def watch(tmp_path, monkeypatch, perturbed):
    """Run the ten lines from several starts, each in a folder of its own."""
    folders = iter(tmp_path / str(number) for number in range(100))

    def train(loader, **options):
        def once():
            folder = next(folders)
            folder.mkdir()
            monkeypatch.chdir(folder)
            return ten_lines(loader, **options)

        return perturbed(once)

    return train


@pytest.mark.parametrize("data", SIZES)
def test_within_fifty_steps_the_ten_lines_know_a_state(data, watch):
    outcomes = watch(digits(data))
    outcomes.every(lambda one: len(one.forecasts) == STEPS)
    outcomes.every(
        lambda one: one.known_from <= KNOWN_WITHIN,
        seen=lambda one: f"known from {one.known_from}: {one.forecasts[KNOWN_WITHIN]}",
    )


@pytest.mark.parametrize("lr", [1e-3, 0.1], ids=["small steps", "large steps"])
@pytest.mark.parametrize("data", SIZES)
def test_nothing_is_announced_before_it_is_known_whether_batches_differ(data, lr, watch):
    """One batch says nothing about the next: neither its edge nor that of the noise is known."""
    outcomes = watch(digits(data), lr=lr)
    outcomes.every(lambda one: not one.forecasts[0].announces, seen=lambda one: one.forecasts[0])
    outcomes.every(lambda one: 0 not in one.run.steps("alarm"), seen=lambda one: one.run.steps("alarm"))


@pytest.mark.parametrize("data", SIZES)
def test_a_loss_that_is_no_number_gives_one_alarm(data, watch):
    loader = digits(data)
    images, labels = loader[BROKEN_AT]
    loader[BROKEN_AT] = (images.clone().fill_(float("nan")), labels)
    outcomes = watch(loader)

    def alarms(one):
        rows = one.run.records.get("alarm", [])
        return [(row["step"], row["level"], row["reason"]) for row in rows if row["step"] >= BROKEN_AT]

    def is_warned(one):
        [(step, level, reason)] = alarms(one) or [(STEPS, "none", "")]
        return step <= BROKEN_AT + FETCHED_WITHIN and level == "alarm" and re.search("(?i)nan|finite", reason)

    outcomes.every(lambda one: len(alarms(one)) <= 1, seen=alarms)
    outcomes.every(is_warned, seen=alarms)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, perturbed):
    """Run the tutorial's code with the defaults from several starts; return what it prints, and its run."""
    source = TUTORIAL.replace("range(2500)", "range(201)").replace(", probe_every=5", "")
    assert "range(201)" in source
    assert "probe_every" not in source

    def train():
        printed: dict[int, foreshock.Forecast] = {}
        with chdir(tmp_path_factory.mktemp("tutorial")):
            exec(source, {"print": lambda step, _loss, forecast: printed.update({step: forecast})})  # noqa: S102
            return printed, foreshock.read_run("runs/first")

    return perturbed(train)


def test_the_tutorial_knows_a_state_with_the_defaults_too(tutorial):
    def knows(outcome):
        printed, run = outcome
        states = {printed[step].state for step in (100, 200)}
        return "unknown" not in states and min(readings(run), default=201) <= 100

    tutorial.every(knows, seen=lambda one: (readings(one[1])[:3], [str(now) for now in one[0].values()]))


def test_the_tutorial_begins_without_an_announcement(tutorial):
    tutorial.every(lambda one: not one[0][0].announces, seen=lambda one: one[0][0])
