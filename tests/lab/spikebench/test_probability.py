"""From tapes and recordings to the scores of the probability, and the pages made of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.forecast import EdgeReading, RunForecaster
from foreshock.forecast.probability import load_cards
from foreshock.lab.jobs import rounded
from foreshock.lab.spikebench import kept
from foreshock.lab.spikebench.oracle import oracle_cost, oracle_signs
from foreshock.lab.spikebench.played import alarms_of, played, shipped_cards
from foreshock.lab.spikebench.probability import dates, score_probability
from foreshock.lab.spikebench.probability_figures import draw_probability
from foreshock.lab.spikebench.probability_page import TARGETS, Target, probability_part, summary, target_table
from foreshock.lab.spikebench.scorecard_page import card_table, scorecard_page
from foreshock.lab.spikebench.tape import Tape
from foreshock.lab.spikebench.trace import Column, Trace
from lab.spikebench.traces import meta

STEPS, PERIOD, GROWTH = 900, 150, 2e-3
RUNNER = CliRunner()


def ratio(step: int) -> float:
    """Return a ratio that passes one 20 steps before each spike, at steps 150, 300, …, and falls then."""
    return float(np.exp(GROWTH * (step % PERIOD - PERIOD + 20)))


def losses(spikes: bool, height: float) -> list[float]:
    high = [spikes and step >= PERIOD and step % PERIOD < 3 for step in range(STEPS)]
    return [height if one else 1.0 + 0.01 * (step % 7) for step, one in enumerate(high)]


def tape(
    name: str, seed: int, *, kind: str = "full", spikes: bool = True, budget: float = 0.05, **changes
) -> Tape:
    """Return a run as a monitor sees it: a step, every tenth a measurement and a forecast."""
    loss = losses(spikes, 4.0 + 3 * seed)
    about = meta(
        name=name, seed=seed, kind=kind, role="spiky" if spikes else "control", steps=STEPS, **changes
    )
    about |= {"passes": 0.9 * budget}
    calls: list = []
    for step in range(STEPS):
        square = 0.01 * (1 + (step % PERIOD > 140)) * (1 + 0.1 * ((step * 7 + seed) % 5))
        calls.append(("record_step", [loss[step], square, 1.0, 1.0]))
        if step % 10 == 0:
            level = ratio(step) if spikes else 0.2
            if kind == "full":
                reading = dataclasses.asdict(EdgeReading(level, learning_rate=1e-3, relative_error=0.01))
                calls.append(("record_curvature", [step, reading]))
            else:
                calls.append(("record_noise", [step, 0.2, 0.02 * level, 19.0]))
            calls.append(("forecast", [step, kind == "full", kind == "mini"]))
    return Tape(about, calls, loss)


def recording(one: Tape) -> Trace:
    """Return the recording of the run of a tape."""
    steps, probed = np.arange(STEPS), np.arange(0, STEPS, 4)
    every = {"gradient_norm": 0.1, "second_moment": 1.0, "learning_rate": 1e-3, "lag_ratio": 0.01}
    columns = {name: Column(steps, np.full(STEPS, value)) for name, value in every.items()}
    spiky = one.meta["role"] == "spiky"
    columns["loss"] = Column(steps, np.array(one.losses))
    columns["stability_ratio"] = Column(probed, [ratio(step) if spiky else 0.2 for step in probed.tolist()])
    fixed = {"stability_error": 1e-3, "gradient_ratio": 0.5, "predicted_change": -1.0, "alignment": 0.5}
    columns |= {name: Column(probed, np.full(probed.size, value)) for name, value in fixed.items()}
    columns["excess_loss"] = Column(probed, np.full(probed.size, 1e-4))
    if one.meta["kind"] == "mini":
        paired = np.arange(0, STEPS, 10)
        pairs = {"pair_mean": 0.2, "pair_square": 0.02, "pair_along": 0.01, "noise_factor": 19.0}
        columns |= {name: Column(paired, np.full(paired.size, value)) for name, value in pairs.items()}
    return Trace({**one.meta, "batch_size": None if one.meta["kind"] == "full" else 10}, columns)


def tapes(split: str = "development", budget: float = 0.05) -> list[Tape]:
    found = [
        tape(f"{split}-full-{name}", seed, budget=budget, split=split) for name in "ab" for seed in (0, 1, 2)
    ]
    found += [
        tape(f"{split}-mini-{name}", seed, kind="mini", budget=budget, split=split, language=name == "c")
        for name in "abc"
        for seed in (0, 1, 2)
    ]
    found += [
        tape(f"{split}-calm-{kind}", 0, kind=kind, spikes=False, budget=budget, split=split)
        for kind in ("full", "mini")
    ]
    return found


@pytest.fixture(scope="module")
def scores():
    made = {f"{budget:g}": [played(one) for one in tapes(budget=budget)] for budget in (0.05, 0.2)}
    recordings = [(trace, oracle_signs(trace)) for trace in map(recording, tapes())]
    return rounded(score_probability(made, recordings, "development"))


def test_the_probability_is_the_products_own():
    one = tape("run", 0)
    made = played(one)
    run = RunForecaster(beta2=0.999)
    own = [forecast.probability for forecast in one.play(run)]
    assert np.isfinite(own).sum() > 50
    assert made.probability(shipped_cards()) == pytest.approx(own, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("kind", ["full", "mini"])
def test_alarms_are_the_products_own(kind):
    one = tape("run", 2, kind=kind)
    made, run = played(one), RunForecaster(beta2=0.999)
    own = [forecast.level == "alarm" for forecast in one.play(run)]
    assert alarms_of(made.probability(shipped_cards())).tolist() == own


def test_a_development_run_is_judged_without_its_configuration(scores):
    """Each configuration but one is alike; the odd one spikes where the others do not."""
    made = [played(one) for one in tapes()]
    odd = tape("development-full-odd", 0)
    shifted = [*odd.losses[75:], *([1.0] * 75)]
    strange = played(Tape(odd.meta, odd.calls, shifted))
    found = score_probability({"0.05": [*made, strange]}, [], "development")
    assert (
        found["sources"]["0.05"]["groups"]["full"]["auroc"]
        < scores["sources"]["0.05"]["groups"]["full"]["auroc"]
    )


def test_every_group_and_source_is_scored(scores):
    assert list(scores["sources"]) == ["0.05", "0.2", "oracle"]
    assert {group: found["runs"] for group, found in scores["groups"].items()} == {
        "full": 7, "mini": 7, "language": 3,
    }  # fmt: skip
    assert scores["groups"]["full"]["spikes"] == 6 * 5
    assert scores["groups"]["full"]["tall"] == 2 * 5
    default = scores["sources"]["0.05"]
    assert default["groups"]["full"]["cost"] == pytest.approx(0.045)
    assert default["calm"]["runs"] == 2
    assert default["calm"]["steps"] == 2 * (STEPS - 100)
    full = default["groups"]["full"]
    assert full["auroc"] > 0.9
    assert full["interval"]["auroc"][0] <= full["auroc"] <= full["interval"]["auroc"][1]
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_the_two_rank_numbers_of_a_rule_stand_beside_the_forecasts(scores):
    edge = scores["rules"]["λ_max(Ĥ)"]["full"]
    assert edge["auroc"] > 0.9  # the ratio rises to each spike
    assert 0 < edge["share_at_recall"] < 0.5
    blind = scores["rules"]["update RMS"]
    assert blind == {}  # not recorded


def test_more_alarms_miss_fewer_spikes(scores):
    shares = [found["groups"]["full"]["share"] for found in scores["thresholds"]]
    recalls = [found["groups"]["full"]["recall"] for found in scores["thresholds"]]
    assert shares == sorted(shares, reverse=True)
    assert recalls == sorted(recalls, reverse=True)


def test_the_date_is_judged_where_the_recording_took_the_same_path():
    one = tape("run", 0)
    found = dates([played(one)], [recording(one)])
    assert found["runs"] == 1
    assert found["50"]["count"] >= 3
    assert found["50"]["median"] < 0.2
    other = recording(tape("run", 0, spikes=False))
    assert dates([played(one)], [other]) == {"runs": 0}


def test_the_oracle_pays_for_all_it_sees():
    trace = recording(tape("run", 0))
    assert oracle_cost(trace) == pytest.approx(2.0 / 4)  # a probe of 2 F every four steps
    signs = oracle_signs(trace).signs
    assert np.isfinite(signs["ratio"]).mean() > 0.95
    mini = oracle_signs(recording(tape("run", 0, kind="mini")))
    assert np.isfinite(mini.signs["noise"][20:]).all()
    assert np.isfinite(mini.signs["batch ratio"][20:]).all()


def test_only_the_split_that_is_asked_for_is_scored():
    made = [played(one) for one in (*tapes(), *tapes("test"))]
    found = score_probability({"0.05": made}, [], "test")
    assert found["groups"]["full"]["runs"] == 7
    assert not found["left_out"]
    with pytest.raises(ValueError, match=r"no tapes of the split 'test'.*bench tapes"):
        score_probability({"0.05": [played(one) for one in tapes()[:2]]}, [], "test")


def test_missed_targets_are_marked(scores):
    target = Target("full", "recall", "spikes caught", at_least=0.95)
    assert (target.verdict(0.95), target.verdict(0.949), target.verdict(None)) == (
        "met",
        "**missed**",
        "**missed**",
    )
    assert Target("full", "share", "in alarm").verdict(0.5) == ""
    found = json.loads(json.dumps(scores))
    found["sources"]["0.05"]["groups"]["full"]["recall"] = 0.5
    line = next(line for line in target_table(found).splitlines() if "spikes caught" in line)
    assert "| 50 % (" in line
    assert line.endswith("| ≥ 95 % | **missed** |")


def test_the_part_of_the_page_shows_each_target_figure_and_source(scores, tmp_path):
    figures = draw_probability(scores, tmp_path)
    page = probability_part(scores, {path.stem: f"pictures/{path.name}" for path in figures})
    assert len(figures) == 4
    for path in figures:
        assert f"](pictures/{path.name})" in page
        assert path.stat().st_size > 5000
    for target in TARGETS:
        assert target.title in page
    assert "| Full batch | oracle |" in page
    assert "fitted without it" in " ".join(page.split())
    assert "**forecast, default**" in summary(scores)


def test_the_card_on_the_page_is_the_card_that_ships():
    cards = load_cards()
    page = scorecard_page(cards)
    for card in cards.values():
        lines = card_table(card).splitlines()
        assert len(lines) == 3 + len(card.signs)
        for sign, line in zip(card.signs.values(), lines[3:], strict=True):
            assert line in page
            assert line.count("**") == 2 * len(sign.knots)
            shown = f"{sign.points[50][0]:+.1f}".replace("-", "−") if round(sign.points[50][0], 1) else "0"
            assert f"**{shown}**" in line


def test_what_was_played_is_kept_until_the_forecaster_changes(tmp_path, monkeypatch):
    path = tape("run", 0).save(tmp_path / "tapes" / "0.05" / "run-0.json.gz")
    done: list = []
    made = kept.play_all([path], tmp_path / "played", on_done=done.append)
    kept.play_all([path], tmp_path / "played", on_done=done.append)
    assert len(done) == 1
    read, fresh = kept.load_played(made[0]), played(Tape.load(path))
    assert read.probability(shipped_cards()) == pytest.approx(fresh.probability(shipped_cards()), nan_ok=True)
    assert read.dates == pytest.approx(fresh.dates, nan_ok=True)
    monkeypatch.setattr(kept, "forecaster_digest", lambda: "another")
    kept.play_all([path], tmp_path / "played", on_done=done.append)
    assert len(done) == 2


def test_the_command_never_plays_a_test_run_while_development_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kept, "_names", lambda split: {"tapes": {one.meta["name"] for one in tapes(split)}, "traces": set()}
    )
    for one in (*tapes(), *tapes("test")):
        one.save(tmp_path / "tapes" / "0.05" / f"{one.meta['name']}-{one.meta['seed']}.json.gz")
    ran = RUNNER.invoke(app, ["bench", "probability", "--out", str(tmp_path), "--jobs", "1"])
    assert ran.exit_code == 0, ran.output
    assert "Mini-batch" in ran.output
    names = {path.name for path in (tmp_path / "played" / "0.05").iterdir()}
    assert any(name.startswith("development") for name in names)
    assert not any(name.startswith("test") for name in names)
    empty = RUNNER.invoke(
        app, ["bench", "probability", "--tapes", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert empty.exit_code == 1
    assert "bench tapes" in empty.output


def test_the_test_split_needs_the_release_flag():
    ran = RUNNER.invoke(app, ["bench", "forecast", "--suite", "test"])
    assert ran.exit_code == 1
    assert "--release" in ran.output
