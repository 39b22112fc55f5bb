"""Forks at spikes: branches that differ in one thing, effects beyond chance, rules, and the page."""

import json
import math
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.reproduction.filling import FORKS as FOLDER
from foreshock.lab.reproduction.filling import MAP, fill
from foreshock.lab.reproduction.page import publish
from foreshock.lab.reproduction.skill import balanced_accuracy
from foreshock.lab.reproduction.spikeforks import branches as branching
from foreshock.lab.reproduction.spikeforks.branches import WINDOW, Branch, Looks, follow, look_back
from foreshock.lab.reproduction.spikeforks.cells import KINDS, Sizes, all_cells, fork_fingerprint, held_out
from foreshock.lab.reproduction.spikeforks.effects import Effect, effect, noise_floors, outcome, prevention
from foreshock.lab.reproduction.spikeforks.findings import Findings, map_rules, price, sides_of, summarise
from foreshock.lab.reproduction.spikeforks.known import accuracy
from foreshock.lab.reproduction.spikeforks.measures import (
    MEASURES,
    at_equal_training,
    measure_branch,
    stays_high,
    validation_at,
)
from foreshock.lab.reproduction.spikeforks.rules import (
    BEFOREHAND,
    PULL,
    Threshold,
    choose_rule,
    judge,
    late_generalisation,
)
from foreshock.lab.reproduction.spikeforks.survey import (
    FORKS,
    fused_adamw,
    load_lines,
    measure_cell,
    measure_fork,
)
from foreshock.lab.reproduction.spikemap.cells import Cell
from foreshock.lab.reproduction.spikemap.cells import all_cells as map_cells
from foreshock.lab.reproduction.spikemap.course import Course
from foreshock.lab.reproduction.spikemap.survey import CELLS
from foreshock.lab.tasks import Training
from foreshock.spikes import SpikeEvent

FULL = Cell("sines", "full", 0.999, 0.1, 0.03)
MINI = Cell("sines", "mini", 0.999, 0.1, 0.03)
HIGH, LOW = 1e9, 1e-9
"""Bars above which no loss, and every loss, is a spike."""


def course_of(cell, steps=170):
    return Course(cell.training(KINDS[cell.kind].network, steps=steps), 0, build=fused_adamw)


@pytest.fixture(scope="module")
def full():
    return course_of(FULL)


@pytest.fixture(scope="module")
def mini():
    return course_of(MINI)


def test_cells_cover_the_kinds_and_each_half_has_every_kind():
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells) >= 60
    assert len(KINDS) >= 5
    for kind in KINDS:
        sides = [held_out(cell) for cell in cells if cell.kind == kind]
        assert sum(sides) * 2 == len(sides)
    assert {cell.beta2 for cell in cells} == {0.95, 0.999}
    keys = {fork_fingerprint(cell, seed, Sizes()) for cell in cells for seed in (0, 1)}
    assert len(keys) == 2 * len(cells)
    assert fork_fingerprint(cells[0], 0, Sizes(copies=3)) not in keys


def test_the_fused_kernel_takes_the_steps_of_the_ordinary_one(full):
    plain = Training(FULL.training(KINDS["sines"].network, steps=170), 0)
    losses = [step.loss for step in plain.run()]
    np.testing.assert_allclose(full.losses[:100], losses[:100], rtol=1e-3)


@pytest.mark.parametrize("name", ["full", "mini"])
def test_a_branch_that_lets_pass_is_the_course_and_goes_on_beyond_its_end(name, request):
    course = request.getfixturevalue(name)
    branch = follow(course, course.states[60], "pass", start=0, steps=WINDOW + 40, bar=LOW)
    assert branch.complete
    assert branch.losses.size == WINDOW + 40
    np.testing.assert_allclose(branch.losses[:110], course.judged.values[60:170], rtol=1e-6)
    assert len(branch.looks.validation) == 14
    back = look_back(course)
    assert branch.looks.training[0] == pytest.approx(back[60][0], rel=1e-5)
    assert branch.looks.validation[0] == pytest.approx(back[60][1], rel=1e-5)


def test_copies_differ_and_the_course_stays_as_it_was(mini):
    ways = {
        way: follow(mini, mini.states[60], way, start=1, steps=WINDOW, bar=HIGH).losses
        for way in ("pass", "guard", "rate")
    }
    other = follow(mini, mini.states[60], "pass", start=2, steps=WINDOW, bar=HIGH).losses
    assert not np.array_equal(ways["pass"], other)
    np.testing.assert_allclose(ways["pass"][:5], other[:5], rtol=1e-2)
    assert abs(ways["rate"][-30:] / ways["pass"][-30:] - 1).max() > 1e-3
    again = follow(mini, mini.states[60], "pass", start=0, steps=WINDOW, bar=LOW)
    np.testing.assert_allclose(again.losses, mini.judged.values[60:160], rtol=1e-6)


@pytest.mark.parametrize("cell", [FULL, MINI], ids=["full", "mini"])
def test_what_prevents_is_taken_off_after_the_window(cell, monkeypatch):
    course, seen = course_of(cell, steps=110), []
    state = course.states[60]
    made = branching.guard

    def watched(optimizer):
        seen.append(made(optimizer))
        return seen[-1]

    monkeypatch.setattr(branching, "guard", watched)
    follow(course, state, "guard", start=1, steps=WINDOW + 20, bar=HIGH)
    [guard] = seen
    assert guard.step == WINDOW
    assert not course.training.optimizer._optimizer_step_pre_hooks
    follow(course, state, "rate", start=1, steps=WINDOW + 20, bar=HIGH)
    assert {group["lr"] for group in course.training.optimizer.param_groups} == {cell.rate}


def test_half_the_rate_is_half_the_rate(full, monkeypatch):
    rates, backward = [], full.backward

    def watched(batch):
        rates.append(full.training.optimizer.param_groups[0]["lr"])
        return backward(batch)

    monkeypatch.setattr(full, "backward", watched)
    follow(full, full.states[60], "rate", start=1, steps=WINDOW + 3, bar=HIGH)
    # The rate is set between backward() and step(): what is seen here is that of the step before.
    assert rates[1 : WINDOW + 1] == [FULL.rate / 2] * WINDOW
    assert rates[-1] == FULL.rate


def test_a_branch_that_does_not_do_what_it_should_is_left(full):
    assert not follow(full, full.states[60], "pass", start=1, steps=WINDOW + 40, bar=HIGH).complete
    left = follow(full, full.states[60], "rate", start=1, steps=WINDOW + 40, bar=LOW)
    assert not left.complete
    assert left.losses.size == WINDOW


def test_a_loss_that_overflows_ends_a_branch_and_is_a_spike(full, monkeypatch):
    backward = full.backward
    calls = []

    def broken(batch):
        calls.append(1)
        return math.inf if len(calls) == 20 else backward(batch)

    monkeypatch.setattr(full, "backward", broken)
    branch = follow(full, full.states[60], "pass", start=0, steps=WINDOW + 40, bar=HIGH)
    assert branch.complete
    assert branch.losses.size == 20
    found = measure_branch(full, branch, best=1e-3)
    assert found["loss"] == found["final"] == math.inf
    assert found["best"] <= math.log(1e-3)
    assert stays_high(branch, level=1.0, height=5.0)


def test_a_fork_has_all_measures_of_all_copies(full):
    # Every loss above a reference that is far too low is a spike, which nothing prevents.
    low = SpikeEvent(100, 101, 102, LOW, 5.0)
    found = measure_fork(full, low, look_back(full), copies=2, after=30)
    assert (found["came"], found["calm"]) == (2, {"guard": 0, "rate": 0})
    assert set(found["copies"]) == {"pass"}
    assert found["fork"] == 60
    assert found["stayed"] == 2
    for copy in found["copies"]["pass"]:
        assert all(math.isfinite(copy[name]) for name in ("loss", "best", "after", "final", "sharpness"))
    assert 0 < found["known"]["ratio"] < 10
    assert found["known"]["lag"] > 0
    assert math.isnan(found["known"]["training accuracy"])
    never = measure_fork(full, SpikeEvent(100, 101, 102, HIGH, 5.0), look_back(full), copies=2, after=30)
    assert (never["came"], never["copies"]) == (0, {})


def test_accuracy_needs_labels():
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    model = torch.nn.Identity()
    assert accuracy(model, (scores, torch.tensor([0, 1, 1]))) == pytest.approx(2 / 3)
    assert math.isnan(accuracy(model, (scores, scores)))
    positions = scores.expand(4, 3, 2)
    assert accuracy(model, (positions, torch.ones(4, 2, dtype=torch.long))) == 0.5


def branch(training, validation):
    return Branch(np.ones(400), Looks(list(training), list(validation)), complete=True)


def test_validation_at_equal_training_loss():
    assert math.exp(validation_at(2.0, [8.0, 4.0, 1.0], [9.0, 6.0, 1.5])) == pytest.approx(3.0)
    assert math.isnan(validation_at(0.5, [8.0, 4.0, 1.0], [9.0, 6.0, 1.5]))
    window = [1.0] * (WINDOW // 10)
    passed = branch([*window, 9.0, 2.0, 1.0], [*window, 9.0, 3.0, 2.5])
    calm = branch([*window, 1.0, 1.0, 0.5], [*window, 5.0, 5.0, 5.0])
    history = [(4.0, 8.0), (1.0, 7.0)]
    own, others = at_equal_training([passed], [calm], history)
    # Both reach 1: with the spike after it, without before the fork.
    assert math.exp(own[0]) == pytest.approx(2.5)
    assert math.exp(others[0]) == pytest.approx(7.0)


def copies(*values, **more):
    return [
        {**dict.fromkeys(MEASURES, value), "equal guard": value, "equal rate": value, "spikes": 0.0, **more}
        for value in values
    ]


KNOWN = {
    "level": -4.0,
    "gap": 1.0,
    "past best": 0.1,
    "trend": 0.0,
    "training accuracy": 1.0,
    "validation accuracy": 0.5,
    "ratio": 1.0,
    "lag": 10.0,
    "noise": 0.0,
    "share": 0.9,
}


def fork(passed, calm, *, known=None, stayed=0, way="guard", **more):
    return {
        "onset": 300,
        "height": 12.0,
        "fork": 260,
        "earlier": 1,
        "known": KNOWN | (known or {}),
        "came": 2,
        "calm": {"guard": 2, "rate": 2},
        "stayed": stayed,
        "copies": {"pass": copies(*passed), way: copies(*calm)},
        **more,
    }


def line(cell, seed, *forks):
    return {
        "fingerprint": fork_fingerprint(cell, seed, Sizes()),
        "kind": cell.kind,
        "batch": cell.batch,
        "beta2": cell.beta2,
        "decay": cell.decay,
        "rate": cell.rate,
        "seed": seed,
        "steps": 700,
        "spikes": len(forks),
        "forks": list(forks),
        "sizes": {"copies": 2, "cells": None, "steps": None, "after": None},
        "seconds": 3.0,
    }


def found_in(*forks, cell=FULL):
    findings = Findings([line(cell, 0, *forks)])
    return findings, findings.judged


def test_an_effect_counts_beyond_its_noise_only():
    assert Effect(0.3, 0.2).sign == 1
    assert Effect(-0.3, 0.2).sign == -1
    assert Effect(0.1, 0.2).sign == 0
    assert not Effect(math.nan, 0.2).counts


@pytest.mark.parametrize(
    ("passed", "calm", "expected"),
    [
        ((1.0, 1.01), (0.5, 0.52), "malignant"),
        ((0.5, 0.52), (1.0, 1.01), "benign"),
        ((1.0, 1.01), (0.99, 1.0), "neutral"),
        ((1.0, 1.9), (0.9, 0.91), "neutral"),  # the copies with the spike differ by more than the effect
        ((1.0, 1.02), (0.0, 1.5), "neutral"),  # and so do those without
        ((1.0, 1.01), (0.97, 0.975), "neutral"),  # 3 % are too little
        ((math.inf, math.inf), (1.0, 1.01), "malignant"),
    ],
)
def test_outcomes(passed, calm, expected):
    _, [judged] = found_in(fork(passed, calm))
    assert judged.outcome == expected


def test_validation_decides_before_training_loss():
    one = fork((0.0, 0.01), (0.0, 0.01))
    for copy in one["copies"]["pass"]:
        copy["loss"] += 1
    _, [judged] = found_in(one)
    assert judged.outcome == "malignant"
    for copy in one["copies"]["pass"]:
        copy["best"] -= 1
    _, [judged] = found_in(one)
    assert judged.outcome == "benign"
    _, [judged] = found_in({**one, "stayed": 2})
    assert judged.outcome == "catastrophic"


def test_copies_that_agree_by_chance_do_not_make_an_effect():
    apart = [fork((0.0, 0.5), (0.0, 0.5)) for _ in range(20)]
    lucky = fork((0.0, 0.0), (0.3, 0.3))
    findings, judged = found_in(*apart, lucky)
    assert findings.floors["sines", "best"] == pytest.approx(0.5)
    assert judged[-1].outcome == "neutral"
    _, [alone] = found_in(lucky)
    assert alone.outcome == "benign"


def test_of_normal_noise_one_effect_in_fifty_counts_at_most():
    generator = np.random.default_rng(0)
    draws = generator.normal(0, 0.5, (4000, 4))
    forks = [{"kind": "sines", **fork(row[:2], row[2:])} for row in draws]
    floors = noise_floors(forks, ["best"])
    count = sum(effect(one, "best", floors, against="guard").counts for one in forks)
    assert 0 < count / len(forks) < 0.02


def test_the_guard_is_compared_with_and_half_the_rate_where_it_fails():
    assert prevention(fork((1, 1), (0, 0))) == "guard"
    assert prevention(fork((1, 1), (0, 0), way="rate")) == "rate"
    assert prevention({"copies": {"pass": copies(1, 1)}}) is None
    one = fork((1, 1), (0, 0)) | {"kind": "sines"}
    one["copies"]["rate"] = copies(2, 2)
    floors = noise_floors([one], MEASURES)
    assert outcome(one, floors, against="guard") == "malignant"
    assert outcome(one, floors, against="rate") == "benign"


def test_the_price_of_preventing_is_a_geometric_mean():
    _, judged = found_in(fork((0.0, 0.0), (math.log(2),) * 2), fork((0.0, 0.0), (math.log(8),) * 2))
    assert price(judged, "best", lambda one: True) == pytest.approx(4)
    assert price(judged, "best", lambda one: False) == 1
    assert math.isnan(price([], "best", lambda one: True))


def labelled(count, kind="cnn"):
    """Return forks whose trend tells the class, and the class."""
    cells = [cell for cell in all_cells() if cell.kind == kind]
    forks, labels, held = [], [], []
    for index in range(count):
        cell, good = cells[index % len(cells)], index % 3 == 0
        one = fork((0, 0), (1, 1), known={"trend": -0.2 - 0.01 * index if good else 0.2})
        settings = {name: getattr(cell, name) for name in ("kind", "batch", "beta2", "decay", "rate")}
        forks.append(settings | one)
        labels.append(good)
        held.append(held_out(cell))
    return forks, labels, held


def test_the_rule_that_tells_is_found_and_holds_on_the_other_half():
    forks, labels, held = labelled(48)
    found = judge(forks, labels, held)
    assert found.rule.name == "ln validation loss ÷ 100 steps before"
    assert not found.rule.above
    assert (found.own, found.held) == (1.0, 1.0)
    assert found.interval == (1.0, 1.0)
    assert found.holds


def test_a_rule_that_fits_one_half_alone_does_not_hold():
    forks, labels, held = labelled(48)
    turned = [label != side for label, side in zip(labels, held, strict=True)]
    found = judge(forks, turned, held)
    assert found.own == 1
    assert found.held == 0
    assert not found.holds


def test_noise_seldom_makes_a_rule_that_holds():
    generator = np.random.default_rng(0)
    holding = 0
    for _ in range(8):
        forks, _, held = labelled(48)
        for one in forks:
            one["known"] = {name: float(generator.normal()) ** 2 for name in KNOWN}
        holding += judge(forks, list(generator.random(48) < 0.4), held).holds
    assert holding <= 1


def test_too_few_of_a_class_have_no_rule():
    forks, labels, held = labelled(12)
    found = judge(forks, labels, held)
    assert found.rule is None
    assert not found.holds
    fixed = judge(forks, labels, held, late_generalisation)
    assert fixed.rule is late_generalisation
    assert (fixed.members, fixed.others) == ((0, 4), (0, 8))  # scored on all


def test_a_rule_that_is_right_for_a_single_spike_does_not_hold():
    forks, labels, held = labelled(48)
    others = [one for one, label in zip(forks, labels, strict=True) if not label]
    rule = Threshold("trend", 0.0, above=False, quantity=lambda one: one["known"]["trend"])
    single = [*others, forks[labels.index(True)]]
    found = judge(single, [*[False] * len(others), True], held[: len(single)], rule)
    assert found.held == 1
    assert not found.holds


def test_a_quantity_that_is_unknown_says_no():
    quantity = BEFOREHAND["training accuracy"]
    rule = Threshold("training accuracy", 0.5, above=False, quantity=quantity)
    assert not rule(fork((0, 0), (0, 0), known={"training accuracy": math.nan}))
    assert rule(fork((0, 0), (0, 0), known={"training accuracy": 0.2}))
    assert str(Threshold("ln lag", -0.5, above=False, quantity=quantity)) == "ln lag < −0.5"
    assert math.isnan(balanced_accuracy([True], [True]))
    assert (
        choose_rule([fork((0, 0), (0, 0)) | {"decay": 0, "rate": 1, "beta2": 0.9, "batch": "full"}], [True])
        is None
    )


def test_late_generalisation_is_a_validation_loss_that_falls_under_weight_decay():
    falling = {"training accuracy": 1.0, "trend": -0.3}
    assert late_generalisation(fork((0, 0), (0, 0), known=falling, decay=1.0))
    assert not late_generalisation(fork((0, 0), (0, 0), known=falling, decay=0.0))
    assert not late_generalisation(fork((0, 0), (0, 0), known=falling | {"trend": 0.1}, decay=1.0))
    assert not late_generalisation(
        fork((0, 0), (0, 0), known=falling | {"training accuracy": 0.9}, decay=1.0)
    )


@pytest.fixture
def lines():
    """Spikes that do good where the validation loss falls, in every third training."""
    made = []
    for index, cell in enumerate(all_cells()[:48]):
        good = index % 3 == 0
        one = fork(
            (0.0, 0.01), (1.0, 1.01) if good else (-1.0, -1.01), known={"trend": -0.3 if good else 0.1}
        )
        lone = {**one, "copies": {}, "came": 1}
        made.append(line(cell, index % 2, one, lone))
    return made


def test_the_page_says_what_the_lines_say(lines, tmp_path):
    path = tmp_path / "results" / FOLDER / FORKS
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    pages = publish(tmp_path / "results", "cpu", tmp_path / "docs")
    assert [page.name for page in pages] == ["harm.md", "principles.md"]
    text = pages[0].read_text(encoding="utf-8")
    assert "**Of 48 spikes, each let pass and prevented from the same state: 0 neutral, 16 benign" in text
    assert "**What tells beforehand**" in text
    assert "ln validation loss ÷ 100 steps before < −0.1" in text
    assert "48 of 64 cells" in text
    assert "96 spikes were forked. 48 did not come in every copy" in text
    assert "{{" not in text
    assert re.search(r"\bnan\b", text) is None
    assert (tmp_path / "docs" / "images" / "reproduction" / "forks.svg").stat().st_size > 1000


def test_the_page_says_so_if_nothing_tells(lines, tmp_path):
    for index, one in enumerate(lines):
        one["forks"][0]["known"] = KNOWN | {"lag": 1.0 + index * 7919 % 101}
    path = tmp_path / "results" / FOLDER / FORKS
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    text = publish(tmp_path / "results", "cpu", tmp_path / "docs")[0].read_text(encoding="utf-8")
    assert "**Nothing that was tried tells beforehand which is which**" in text


def surveyed():
    """Spikes of the map that do harm exactly where nothing decays the weights."""
    made = []
    for index, cell in enumerate(map_cells()[:80]):
        bad = cell.decay == 0
        spike = {
            "onset": 300,
            "height": 5.0,
            "lag": 5.0,
            "noise": 0.0,
            "share": 0.5,
            "total": 0.2,
            "ratio": 1.0,
        }
        spike |= {"outcome": "malignant" if bad else "benign", "measure": "floor", "displaced": 5.0}
        spike |= {
            "validation_effect": 0.0,
            "loss_effect": math.log(2) if bad else -math.log(4),
            "frozen": 1.0,
        }
        spike |= {"ratio_lead": 5.0, "gradient_ratio_lead": math.nan, "mean_square_lead": math.nan}
        spike |= {"low": 200, "high": 250, "preconditioner": 0.1, "landscape": 0.1}
        settings = {name: getattr(cell, name) for name in ("kind", "batch", "beta2", "decay", "rate")}
        more = {"seed": 0, "steps": 700, "spikes": 1, "heights": [5.0], "loss": 0.1, "seconds": 1.0}
        made.append({"fingerprint": str(index), **settings, **more, "judged": [spike]})
    return made


def test_the_rule_of_the_map_is_found_and_what_it_parts():
    found = map_rules(surveyed())["malignant or catastrophic"]
    assert (found.rule.name, found.rule.above, found.held) == ("decay", False, 1.0)
    sides = sides_of(surveyed(), found.rule)
    assert sides[True]["malignant"] == sides[True]["compared"] > 10
    assert sides[False]["benign"] == sides[False]["compared"] > 10
    assert sides[True]["loss"] == pytest.approx(0.5)
    assert sides[False]["loss"] == pytest.approx(4)
    numbers = summarise([], surveyed())
    assert numbers["map: yes: loss"] == pytest.approx(0.5)
    assert numbers["map: no: malignant"] == 0


def test_the_page_puts_the_same_question_to_the_map(lines, tmp_path):
    for folder, name, rows in ((FOLDER, FORKS, lines), (MAP, CELLS, surveyed())):
        path = tmp_path / "results" / folder / name
        path.parent.mkdir(parents=True)
        rows = json.loads(json.dumps(rows).replace("NaN", "null"))
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    pages = publish(tmp_path / "results", "cpu", tmp_path / "docs")
    assert [page.name for page in pages] == ["map.md", "harm.md", "principles.md"]
    text = pages[1].read_text(encoding="utf-8")
    assert "compared 80 spikes of other trainings" in text
    assert "There a rule holds for: benign, malignant or catastrophic." in text
    assert "elsewhere than where decay" in text
    assert "malignant or catastrophic, by the map's rule" in text
    assert re.search(r"\bnan\b", text) is None


def test_the_pull_of_weight_decay_is_named_without_its_logarithm():
    rule = Threshold(PULL, math.log(0.0011), above=False, quantity=BEFOREHAND[PULL])
    assert str(rule) == "η × weight decay < 0.001"
    assert rule({"rate": 0.01, "decay": 0.05})
    assert not rule({"rate": 0.01, "decay": 0.5})


def test_numbers_that_other_pages_quote(lines):
    numbers = summarise(lines)
    assert (numbers["trainings"], numbers["spikes"], numbers["compared"]) == (48, 96, 48)
    assert numbers["all: benign"] == 16
    assert fill("{{forks | all: share benign | %}}, {{forks | x}}", {}, {FOLDER: numbers}) == "33 %, –"
    assert summarise([]) == {}


def test_every_field_of_the_principles_that_names_the_forks_is_measured(lines):
    template = files("foreshock.lab.reproduction").joinpath("templates/principles.md").read_text("utf-8")
    asked = [name.strip() for name in re.findall(r"\{\{forks \|([^|}]*)", template)]
    assert len(asked) >= 8
    assert set(asked) - {"map: pull"} <= set(summarise(lines, surveyed()))


def test_lines_of_other_sizes_are_left_out(lines):
    lines[0]["sizes"] = {**lines[0]["sizes"], "copies": 5}
    assert len(Findings(lines).lines) == 47


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / FORKS
    path.write_text('{"forks": 3}\n' + json.dumps(line(FULL, 0)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 of .* is no training with forks"):
        load_lines(path)


def test_a_training_is_a_line():
    found = measure_cell(FULL, 0, Sizes(steps=30, after=20))
    assert (found["kind"], found["steps"], found["spikes"], found["forks"]) == ("sines", 30, 0, [])
    json.dumps(found, allow_nan=False)


TINY = ["--seeds", "1", "--set", "cells=2", "--set", "steps=20", "--set", "after=20"]


def test_the_command_is_resumed_and_writes_its_page(tmp_path):
    arguments = ["reproduce", "forks", *TINY, "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "2 of 2: " in shown.output
    assert (tmp_path / "pages" / "explanation" / "harm.md").exists()
    kept = (tmp_path / "results" / FOLDER / FORKS).read_text()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert "of 2: " not in again.output
    assert (tmp_path / "results" / FOLDER / FORKS).read_text() == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "medium"], "one scale"),
        (["--set", "copies=1"], "copies"),
        (["--set", "x=1"], "no setting 'x'"),
    ],
)
def test_what_the_command_refuses(arguments, said, tmp_path):
    refused = CliRunner().invoke(app, ["reproduce", "forks", *arguments, "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert said in refused.output
