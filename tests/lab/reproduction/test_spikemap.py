"""The map: its cells, the branches of a course, what is measured before a spike, and the page."""

import json
import math
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.reproduction.filling import MAP, fill
from foreshock.lab.reproduction.page import publish
from foreshock.lab.reproduction.skill import discrimination
from foreshock.lab.reproduction.spikemap import survey as surveys
from foreshock.lab.reproduction.spikemap.cells import Cell, all_cells, fingerprint
from foreshock.lab.reproduction.spikemap.course import (
    Course,
    as_before,
    clip_norm,
    displaced,
    floor_v,
    freeze_v,
)
from foreshock.lab.reproduction.spikemap.findings import (
    BORDER,
    crossed_first,
    decay_speed,
    held_out,
    judge_formulas,
    spikes_of,
    summarise,
)
from foreshock.lab.reproduction.spikemap.outcomes import _outcome, at_equal_training, compare
from foreshock.lab.reproduction.spikemap.readings import Reading, last_rise, read_before, split_rise
from foreshock.lab.reproduction.spikemap.survey import CELLS, load_lines, measure_cell, survey
from foreshock.lab.tasks import OptimizerConfig, TrainingConfig
from foreshock.spikes import SpikeEvent

FULL = Cell("mlp", "full", 0.999, 0.3, 0.01)
MINI = Cell("cnn", "mini", 0.99, 0.0, 0.01)


def small(cell, steps=140):
    return Course(cell.config(steps=steps), 0)


def test_the_map_has_enough_cells_and_each_is_another_training():
    cells = all_cells()
    assert len(cells) >= 150
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({fingerprint(cell.config(), seed) for cell in cells for seed in (0, 1)}) == 2 * len(cells)


@pytest.mark.parametrize("cell", [FULL, MINI], ids=lambda cell: cell.name)
def test_a_branch_that_changes_nothing_is_the_course_itself(cell):
    course = small(cell)
    losses = course.branch(course.last_state(63), as_before, steps=50)
    assert course.last_state(63).step == 60
    np.testing.assert_array_equal(losses, course.losses[60:110])
    np.testing.assert_array_equal(
        course.branch_judged(course.states[60], losses), course.judged.values[60:110]
    )


@pytest.mark.parametrize("begin", [freeze_v, displaced, floor_v, clip_norm])
def test_every_other_branch_leaves_the_course_and_harms_no_state_of_it(begin):
    course = small(MINI)  # of full batches the gradient lies below its median: clipping would do nothing
    losses = course.branch(course.states[60], begin, steps=50)
    assert not np.array_equal(losses, course.losses[60:110])
    np.testing.assert_array_equal(
        course.branch(course.states[60], as_before, steps=50), course.losses[60:110]
    )


def test_freezing_v_takes_the_step_of_adamw_with_the_old_v():
    course = small(FULL)
    state = course.states[60]
    moment = course.moment(state)
    before = [p.detach().clone() for p in moment.model.parameters()]
    expected = []
    for group in moment.optimizer.param_groups:
        for p in group["params"]:
            kept = moment.optimizer.state[p]
            m = (0.9 * kept["exp_avg"] + 0.1 * p.grad) / (1 - 0.9**61)
            root = (kept["exp_avg_sq"] / (1 - 0.999**60)).sqrt() + 1e-8
            expected.append(p.detach() * (1 - 0.01 * group["weight_decay"]) - 0.01 * m / root)
    losses = course.branch(state, freeze_v, steps=1)
    moved = [p.detach() for group in moment.optimizer.param_groups for p in group["params"]]
    assert losses.size == 1
    for one, other in zip(moved, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(a, b) for a, b in zip(before, moment.model.parameters(), strict=True))


def test_curvature_before_a_step_agrees_with_a_dense_hessian():
    course = Course(
        TrainingConfig("tiny", "mlp", OptimizerConfig("adamw", 0.01), 80, options={"width": 4, "points": 20}),
        0,
    )
    readings = read_before(course, 75)
    moment = course.moment(course.states[readings[-1].step])
    parameters = dict(moment.model.named_parameters())
    names, sizes = list(parameters), [p.numel() for p in parameters.values()]
    flat = torch.cat([p.detach().flatten() for p in parameters.values()])

    def loss(vector):
        parts = vector.split(sizes)
        own = {n: part.view_as(parameters[n]) for n, part in zip(names, parts, strict=True)}
        x, y = course.whole
        return (torch.func.functional_call(moment.model, own, (x,)) - y).square().mean()

    hessian = torch.autograd.functional.hessian(loss, flat)
    step = readings[-1].step + 1
    states = [moment.optimizer.state[p] for p in parameters.values()]
    v = torch.cat(
        [
            (0.999 * s["exp_avg_sq"] + 0.001 * p.grad.square()).flatten()
            for s, p in zip(states, parameters.values(), strict=True)
        ]
    )
    d = (v / (1 - 0.999**step)).sqrt() + 1e-8
    c = 0.1 / 1.9 / (1 - 0.9**step)
    dense = float(torch.linalg.eigvalsh(hessian / (d.sqrt()[:, None] * d.sqrt()))[-1]) * c * 0.01 / 2
    assert readings[-1].ratio == pytest.approx(dense, rel=0.03)
    gradient = torch.cat([p.grad.flatten() for p in parameters.values()])
    along = float(gradient @ (hessian @ gradient / d) / (gradient @ gradient)) * c * 0.01 / 2
    assert readings[-1].gradient_ratio == pytest.approx(along, rel=1e-3)
    assert readings[-1].mean_square == readings[-1].ratio
    assert readings[-1].noise == 0


def test_the_two_parts_of_a_rise_make_the_whole():
    course = small(FULL)
    growth = split_rise(course, (60, 100))
    assert growth.length == 40
    readings = {reading.step: reading for reading in read_before(course, 100)}
    whole = math.log(readings[100].ratio / readings[60].ratio) if 60 in readings else growth.total
    assert growth.total == pytest.approx(whole, abs=0.05)


def test_in_mini_batches_there_is_noise():
    for reading in read_before(small(MINI), 120):
        assert reading.noise > 0
        assert reading.mean_square > reading.ratio


def reading(step, ratio):
    return Reading(step, ratio, ratio, ratio, 1.0, 0.0)


def test_the_last_rise_goes_from_the_lowest_reading_to_the_highest_after_it():
    readings = [reading(0, 2.0), reading(20, 0.5), reading(40, 0.8), reading(60, 1.2), reading(90, 5.0)]
    assert last_rise(readings, 100) == (20, 90)
    assert last_rise(readings, 95) == (20, 60)
    assert last_rise(readings, 5) is None


def test_validation_is_compared_at_equal_training_loss():
    ratio, margin = at_equal_training(([9, 4, 2], [8, 6, 4]), ([3, 2, 1], [4, 2, 2]))
    assert (ratio, margin) == (pytest.approx(math.log(2)), pytest.approx(math.log(1.1)))
    assert math.isnan(at_equal_training(([1.0], []), ([1.0], []))[0])


@pytest.mark.parametrize(
    ("loss", "validation", "outcome"),
    [
        (0.0, 0.0, "neutral"),
        (0.5, 0.0, "malignant"),
        (-0.5, 0.0, "benign"),
        (0.5, -0.5, "benign"),
        (-0.5, 0.5, "malignant"),
        (0.5, math.nan, "malignant"),
    ],
)
def test_outcomes(loss, validation, outcome):
    assert _outcome(loss, 0.1, validation, 0.1) == outcome


def test_a_spike_too_close_to_the_end_is_not_compared():
    course = small(FULL)
    assert compare(course, SpikeEvent(120, 121, 122, 1.0, 4.0)) is None
    calm = compare(course, SpikeEvent(40, 41, 42, 100.0, 4.0))
    assert calm.measure == "floor"
    assert math.isfinite(calm.loss)


def line(cell, seed, share, *, onset=200, **more):
    lag = 50.0 if share > 0.5 else 1.0
    spike = {
        "onset": onset,
        "height": 5.0,
        "ratio_lead": 30.0,
        "gradient_ratio_lead": 5.0,
        "mean_square_lead": 30.0 if cell.batch == "full" else 40.0,
        "lag": lag,
        "noise": 0.0 if cell.batch == "full" else 2.0,
        "ratio": 1.0,
        "low": onset - 60,
        "high": onset - 20,
        "total": 0.2,
        "preconditioner": 0.2 * share,
        "landscape": 0.2 * (1 - share),
        "share": share,
        "frozen": 1.0 if share > 0.5 else 9.0,
        "displaced": 5.0,
        "outcome": "benign" if share > 0.5 else "malignant",
        "loss_effect": 0.2,
        "validation_effect": 0.0,
        **more,
    }
    settings = {"kind": cell.kind, "batch": cell.batch, "beta2": cell.beta2, "decay": cell.decay}
    return {
        "fingerprint": fingerprint(cell.config(), seed),
        **settings,
        "rate": cell.rate,
        "seed": seed,
        "steps": 600,
        "spikes": 1,
        "heights": [5.0],
        "loss": 0.1,
        "judged": [spike],
        "seconds": 2.0,
    }


@pytest.fixture
def lines():
    """Spikes of which v is to blame exactly where the lag is large: without decay."""
    return [line(cell, seed, 0.9 if cell.decay == 0 else 0.1) for cell in all_cells()[:40] for seed in (0, 1)]


def test_the_border_is_found_where_it_is(lines):
    found = {judged.formula.names: judged for judged in judge_formulas(spikes_of(lines))}
    best = found[("ln lag", "ln(1 − β₂)", "decay")]
    assert (best.same, best.other) == (1.0, 1.0)
    assert best.elsewhere == 1.0
    assert best.cells == 1.0
    assert best.formula.weights[1] > 0 > best.formula.weights[3]
    # Decay alone decides, and ηw is its only trace in the formula that the pages quote.
    border = found[BORDER]
    assert min(border.cells, border.elsewhere) > 0.9
    assert border.formula.weights[2] < 0


def test_what_is_left_out_of_the_fit_is_judged(lines):
    spikes = spikes_of(lines)
    for spike in spikes:
        # Half of the kinds are the other way round: what was fitted on the others is wrong there.
        if spike["kind"] in ("mlp", "cnn"):
            spike["share"] = 1 - spike["share"]
    assert held_out(spikes, ("decay",), lambda spike: spike["kind"] in ("mlp", "cnn")) == 0
    assert math.isnan(held_out(spikes, ("decay",), lambda spike: "all"))


def test_the_speed_of_a_v_that_only_decays():
    assert decay_speed({"beta2": 0.999, "onset": 100_000}) == pytest.approx(0.0005)
    assert decay_speed({"beta2": 0.999, "onset": 100}) == pytest.approx(0.0005 / (1 - 0.999**100))


def test_numbers_that_other_pages_quote(lines):
    numbers = summarise(lines)
    assert numbers["full plain: blamed"] == 1
    assert numbers["mini decay: blamed"] == 0
    assert numbers["full plain: removed"] == 1
    assert numbers["full decay: removed"] == 0
    assert numbers["full decay: landscape speed"] == pytest.approx(0.2 * 0.9 / 40)
    assert (numbers["cells"], numbers["runs"]) == (40, 80)
    assert fill("{{map | full plain: blamed | %}}, {{map | nothing}}", {}, {MAP: numbers}) == "100 %, –"


def test_a_rise_too_small_to_divide_has_no_share():
    assert math.isnan(summarise([line(FULL, 0, 0.9, total=0.01)])["all: blamed"])


def test_what_crosses_first():
    [spike] = spikes_of([line(MINI, 0, 0.9)])
    assert crossed_first(spike) == "mean_square"
    assert crossed_first({**spike, "batch": "full"}) == "ratio"
    nothing = {**spike, "ratio_lead": math.nan, "gradient_ratio_lead": math.nan, "mean_square_lead": math.nan}
    assert crossed_first(nothing) == "none"


def test_ties_tell_nothing():
    assert discrimination([1.0, 1.0, 1.0, 1.0], [True, False, True, False]) == 0.5
    assert discrimination([3.0, 1.0, 2.0, 0.0], [True, False, True, False]) == 1.0


def test_the_page_says_what_the_lines_say(lines, tmp_path):
    path = tmp_path / "results" / MAP / CELLS
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    pages = publish(tmp_path / "results", "cpu", tmp_path / "docs")
    assert [page.name for page in pages] == ["map.md", "principles.md"]
    text = pages[0].read_text(encoding="utf-8")
    assert "**40 of 192 cells**" in text
    assert "152 cells have not been run" in text
    assert "{{" not in text
    assert re.search(r"\bnan\b", text) is None
    for name in ("map-spikes.svg", "map-blame.svg", "map-crossings.svg"):
        assert f"../images/reproduction/{name}" in text
        assert (tmp_path / "docs" / "images" / "reproduction" / name).stat().st_size > 1000


def tiny(monkeypatch, cells):
    """Shorten the cells."""
    monkeypatch.setattr(surveys, "all_cells", lambda: cells)
    ran = []

    def measured(cell, seed):
        ran.append((cell.name, seed))
        found = measure_cell(cell, seed, steps=130)
        return {**found, "fingerprint": fingerprint(cell.config(), seed)}

    monkeypatch.setattr(surveys, "measure_cell", measured)
    return ran


def test_an_interrupted_map_goes_on_where_it_stopped(monkeypatch, tmp_path):
    path = tmp_path / CELLS
    ran = tiny(monkeypatch, [FULL, MINI])
    survey(path, (0,), on_cell=lambda *_: None)
    assert ran == [(FULL.name, 0), (MINI.name, 0)]
    whole = path.read_text(encoding="utf-8")
    assert whole.count("\n") == 2
    path.write_text(whole[:-25], encoding="utf-8")  # as if the power had failed
    told = []
    lines = survey(path, (0,), on_cell=lambda *one: told.append(one[:2]))
    assert ran[2:] == [(MINI.name, 0)]
    assert told == [(2, 2)]
    assert [one["kind"] for one in lines] == ["mlp", "cnn"]
    assert [json.loads(row)["kind"] for row in path.read_text(encoding="utf-8").splitlines()] == [
        "mlp",
        "cnn",
    ]


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / CELLS
    path.write_text("nonsense\n" + json.dumps(line(FULL, 0, 0.9)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 of .* is no cell of the map"):
        load_lines(path)


def test_every_spike_of_a_training_that_overflows_is_a_line_of_json(monkeypatch, tmp_path):
    path = tmp_path / CELLS
    wild = Cell("mlp", "full", 0.95, 0.0, 0.01)
    monkeypatch.setattr(surveys, "all_cells", lambda: [wild])
    one = line(wild, 0, 0.9, height=math.inf, frozen=math.inf, validation_effect=math.nan)
    monkeypatch.setattr(surveys, "measure_cell", lambda cell, seed: one)
    survey(path, (0,), on_cell=lambda *_: None)
    [kept] = load_lines(path)
    assert kept["judged"][0]["height"] == 1e300
    assert math.isnan(kept["judged"][0]["validation_effect"])


def test_the_command(monkeypatch, tmp_path):
    tiny(monkeypatch, [FULL])
    shown = CliRunner().invoke(app, ["reproduce", "map", "--seeds", "1", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "1 of 1: mlp, full batch, β₂ 0.999, decay 0.3, rate 0.01, seed 0: 0 spikes" in shown.output
    assert (tmp_path / "pages" / "explanation" / "map.md").exists()
    refused = CliRunner().invoke(app, ["reproduce", "map", "--set", "steps=3", "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert "the map has one size and no settings" in refused.output


def test_the_command_trains_cells_side_by_side(monkeypatch, tmp_path):
    tiny(monkeypatch, [FULL])
    passed, here = [], surveys.run_missing

    def run_here(*arguments, jobs, **options):
        passed.append(jobs)
        return here(*arguments, **options)  # another process would not know of the tiny cells

    monkeypatch.setattr(surveys, "run_missing", run_here)
    options = ["--seeds", "1", "--jobs", "3", "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, ["reproduce", "map", *options])
    assert shown.exit_code == 0, shown.output
    assert passed == [3]
    refused = CliRunner().invoke(app, ["reproduce", "quadratic", *options])
    assert refused.exit_code == 1
    assert "--jobs 3 is for map and forks" in " ".join(refused.output.split())


def test_pairs_differ_in_beta2_alone():
    short, long = (Cell("mlp", "full", beta2, 0.0, 0.01) for beta2 in (0.95, 0.999))
    lines = [line(short, 0, 0.9), line(long, 0, 0.9), line(long, 1, 0.9), line(FULL, 0, 0.9)]
    lines[0]["spikes"], lines[1]["spikes"] = 0, 3
    numbers = summarise(lines)
    assert (numbers["pairs"], numbers["pairs: short spiking"], numbers["pairs: long spikes"]) == (1, 0, 3)


def test_every_field_of_the_principles_that_names_the_map_is_measured(lines):
    from importlib.resources import files

    template = files("foreshock.lab.reproduction").joinpath("templates/principles.md").read_text("utf-8")
    asked = re.findall(r"\{\{map \| ([^|}]*?) (?:\| % )?\}\}", template.replace("}}", " }}"))
    asked = [name.strip() for name in asked]
    assert len(asked) >= 8
    everywhere = [line(cell, 0, 0.9 if cell.decay == 0 else 0.1) for cell in all_cells()]
    assert set(asked) <= set(summarise(everywhere))
