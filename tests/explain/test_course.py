"""Recovery in numbers, stages with their steps, what was visible when, and where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import foreshock
from foreshock.cli.app import app
from foreshock.explain import TensorRow, advise, choose, compare_runs, explain_run, make_table
from foreshock.runlog import RunLogWriter
from logs_of_explain import AT, NAN, STEPS, calm, grown, grown_norm, ratio, write

SPIKE = range(AT, AT + 30)


def ending(level=1.0, at=AT + 30, n=STEPS + 200):
    """A spike, after which the loss has another level."""
    loss = grown(n)
    loss[at:] *= level
    return loss


def falling(level=1.0, n=STEPS + 200):
    """A loss that falls, a spike, and a loss that goes on falling or not."""
    loss = 100 * np.exp(-0.005 * np.arange(n)) * calm(n)
    loss[AT : AT + 30] *= grown(n)[AT : AT + 30]
    loss[AT + 30 :] = loss[AT + 30 :] * level
    return loss


@pytest.mark.parametrize(
    ("loss", "outcome"),
    [
        (ending(1.0), "neutral"),
        (ending(1.08), "neutral"),
        (ending(1.3), "malignant"),
        (ending(0.7), "benign"),
        (ending(1.0, n=AT + 40), "not known yet"),
        (np.where(np.arange(STEPS + 200) < AT + 2, ending(), 40.0), "catastrophic"),
        (np.where(np.arange(STEPS) < AT, calm(), NAN), "catastrophic"),
        (falling(1.0), "neutral"),
        # Where the trend was downwards, a loss that stays is a loss.
        (np.where(np.arange(STEPS + 200) < AT + 30, falling(), falling()[AT - 1]), "malignant"),
    ],
)
def test_the_outcome_is_what_the_numbers_say(loss, outcome, tmp_path):
    found = explain_run(write(tmp_path, loss=loss, gradient_norm=grown_norm(len(loss))))
    assert found[0].recovery.outcome == outcome, found[0].recovery


def test_a_benign_spike_is_not_one_whose_trend_was_as_steep(tmp_path):
    [found] = explain_run(write(tmp_path, loss=falling(), gradient_norm=grown_norm(STEPS + 200)))
    assert found.recovery.after < 0.7 * found.reference
    assert found.recovery.outcome == "neutral"


def test_stages_have_their_steps(tmp_path):
    exponent, lag = np.full(STEPS, 0.0), np.ones(STEPS)
    exponent[150:AT], lag[150:AT] = 0.98, 50.0
    exponent[AT : AT + 20] = -5.0
    ratios = [ratio(step, value) for step, value in ((100, 0.5), (200, 0.8), (AT - 15, 1.02), (AT + 20, 0.6))]
    [found] = explain_run(
        write(
            tmp_path,
            loss=grown(),
            gradient_norm=grown_norm(),
            decay_exponent=exponent,
            instant_lag=lag,
            records=ratios,
        )
    )
    spans = {span.stage: span for span in found.stages}
    assert abs(spans["preconditioner_decay"].first - 150) <= 5
    assert abs(spans["onset"].first - (AT - 15)) <= 3
    assert abs(spans["preconditioner_growth"].first - AT) <= 5
    assert abs(spans["loss_decay"].first - (AT + 20)) <= 3
    starts = [span.first for span in found.stages]
    assert starts == sorted(starts)


LEVELS = ((120, "alarm"), (140, ""), (232, "watch"), (246, "watch"))


def test_what_was_visible_when(tmp_path):
    lag = np.ones(STEPS)
    lag[180:] = 10.0
    records = [
        ratio(200, 0.9),
        ratio(230, 1.01, gradient_stability_ratio=0.2),
        ratio(245, 1.02, gradient_stability_ratio=1.1),
        # An alarm of an earlier spike, long over, and the watch of this one.
        *(("forecast", {"step": step, "level": level}) for step, level in LEVELS),
    ]
    [found] = explain_run(
        write(tmp_path, loss=grown(), gradient_norm=grown_norm(), instant_lag=lag, records=records)
    )
    seen = {signal.words: (signal.step, signal.lead) for signal in found.signals}
    onset = found.onset
    assert seen["stability ratio past 1"] == (230, onset - 230)
    assert seen["curvature along the gradient past 1"] == (245, onset - 245)
    assert seen["watch begins"] == (232, onset - 232)
    assert "alarm begins" not in seen
    assert seen["v more than 3 × above g²"] == (180, onset - 180)
    assert seen["loss off its level"] == (onset, 0)
    assert 0 <= onset - seen["gradient above 3 × its median"][0] <= 5


def test_where_it_happened(tmp_path):
    table = make_table(AT + 3, "spike", [TensorRow("0.weight", 4, share=0.9)], since=0)
    records = [
        (
            "gradients",
            {"step": AT, "rows": [{"name": "2.weight", "norm": 30.0, "usual": 1.0}], "non_finite": []},
        ),
        ratio(200, 0.9, blocks=[{"name": "0", "share": 0.8, "size": 3}]),
        ("tensors", table),
    ]
    records[2] = (
        "tensors",
        {"step": table.step, "reason": "spike", "rows": [vars(row) for row in table.rows]},
    )
    run = write(
        tmp_path, loss=grown(), gradient_norm=grown_norm(), records=records, meta={"layers": {"0": "Linear"}}
    )
    [found] = explain_run(run)
    assert found.where == (
        "2.weight: gradient 30 × its usual size",
        "layer 0 (Linear): 80 % of the unstable direction",
    )
    assert found.tensors is not None
    assert found.tensors.rows[0].share == 0.9


def test_one_event_is_chosen_by_number_or_step(tmp_path):
    loss = grown(900)
    loss[600:630] = loss[AT : AT + 30]
    found = explain_run(write(tmp_path, loss=loss))
    first, second = found
    assert choose(found, spike=2) == (second,)
    assert choose(found, step=560) == (second,)
    assert choose(found, step=AT + 3) == (first,)
    with pytest.raises(ValueError, match="spike is 3; there are 2, at steps"):
        choose(found, spike=3)
    with pytest.raises(ValueError, match="give one of them"):
        choose(found, spike=1, step=2)


def test_the_command_prints_text_and_json(tmp_path):
    write(tmp_path, loss=grown(), gradient_norm=grown_norm())
    text = CliRunner().invoke(app, ["explain", str(tmp_path)])
    assert text.exit_code == 0
    assert "Cause: not explained" in text.output
    found = CliRunner().invoke(app, ["explain", str(tmp_path), "--json", "--spike", "1"])
    assert json.loads(found.output)["result"][0]["cause"] == "not explained"
    assert CliRunner().invoke(app, ["explain", str(tmp_path), "--spike", "9"]).exit_code == 1


def test_a_run_without_events_says_so(tmp_path):
    write(tmp_path, loss=calm())
    assert "Nothing to explain" in CliRunner().invoke(app, ["explain", str(tmp_path)]).output


def test_runs_are_compared_at_the_first_spike(tmp_path):
    spiky = write(
        tmp_path / "a",
        loss=grown(),
        gradient_norm=grown_norm(),
        instant_lag=20.0,
        meta={"learning_rate": 0.01, "seed": 1},
    )
    quiet = write(tmp_path / "b", loss=calm(), meta={"learning_rate": 0.001, "seed": 1})
    found = compare_runs([spiky, quiet])
    assert found.step == explain_run(spiky)[0].onset
    assert [one.spikes for one in found.runs] == [1, 0]
    assert found.settings == {"learning_rate": ("0.01", "0.001")}
    assert "Setting learning_rate: 0.01 in those that spiked, 0.001 in the others." in found.findings
    assert any("v above g² was 20 there, 1 in the others" in one for one in found.findings)
    twin = write(tmp_path / "twin", loss=calm(), gradient_norm=1.0, meta=spiky.meta)
    alike = write(tmp_path / "alike", loss=grown(), gradient_norm=grown_norm(), meta=spiky.meta)
    assert compare_runs([alike, twin]).findings[1:] == (
        "Nothing else that was logged before it tells them apart from the others.",
    )
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert shown.exit_code == 0
    assert "a spiked at step" in shown.output
    with pytest.raises(ValueError, match="needs two or more"):
        compare_runs([spiky])


def test_a_monitor_explains_its_run_and_names_the_examples(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_fn(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    generator = torch.Generator().manual_seed(0)
    with foreshock.Monitor(model, optimizer, loss_fn, run=tmp_path) as monitor:
        for step in range(130):
            x = torch.randn(16, 2, generator=generator)
            y = x.sum(1, keepdim=True).sin()
            y[3] += 1000.0 * (step == 105)
            optimizer.zero_grad()
            loss = loss_fn(model, (x, y))
            loss.backward()
            monitor.observe((x, y), loss, ids=[f"row {16 * step + i}" for i in range(16)])
            optimizer.step()
        # A thousand is far beyond any chance: whatever the arithmetic, this is a spike, and of one batch.
        found = monitor.explain(step=105)[0]
        assert (found.onset, found.cause) == (105, "bad batch")
        assert found.ids[3] == f"row {16 * 105 + 3}"
    assert monitor.explain()[0].onset == 105, "the log is there after it was closed, too"
    unlogged = foreshock.Monitor(model, optimizer, loss_fn)
    with pytest.raises(ValueError, match="no run log is kept, or it can't be written"):
        unlogged.explain()


def test_the_tutorial_finds_the_wrong_label(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "tutorial" / "my-run-just-spiked.md").read_text("utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "<tutorial>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the page's own code
    [found] = explain_run(foreshock.read_run("runs/spiked"))
    assert (found.onset, found.cause) == (300, "bad batch")
    assert 9603 in found.ids
    for arguments, said in (
        (["import", "losses.csv", "-o", "runs/imported"], "Step 300: bad batch"),
        (["doctor", "checkpoint.pt", "--against", "older.pt"], "199 updates since the older one"),
    ):
        assert str.join(" ", ["foreshock", *arguments]) in page
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert said in result.output


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_log_can_not_command_the_terminal(options, tmp_path):
    name = "\x1b]52;c;YWFh\x07\x9b31m\u202e\nnew"
    log = RunLogWriter(tmp_path)
    for step in range(150):
        log.write("step", {"step": step, "loss": 30.0 if step == 100 else 1.0, "gradient_norm": 2.0})
    log.write("change", {"step": 99, "what": "options", "before": {name: 1}, "after": {name: name}})
    log.write(
        "change", {"step": 99, "what": "parameters", "before": {}, "after": {"new": 1}, "names": [name]}
    )
    log.write("gradients", {"step": 100, "ids": [name]})
    log.close()
    result = CliRunner().invoke(app, ["explain", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert "52;c;YWFh" in result.output
    assert all(one.isprintable() for one in result.output.replace("\n", ""))
    if options:
        assert json.loads(result.output)["result"][0]["ids"] == [name]


def test_a_run_that_made_up_for_it_is_not_sent_back_to_a_checkpoint(tmp_path):
    """A loss that stayed up at first, and came below its old level later."""
    high = np.concatenate([calm()[:AT], np.full(1, 9.0), calm(200, 8.0)])
    lost = explain_run(write(tmp_path / "lost", loss=high))[0]
    later = explain_run(write(tmp_path / "later", loss=np.concatenate([high, calm(200, 0.5)])))[0]
    assert (lost.recovery.outcome, lost.recovery.regained) == ("catastrophic", None)
    assert lost.advice[0].startswith(f"Go back to a checkpoint from before step {AT}")
    assert len(high) <= later.recovery.regained <= len(high) + 40, later.recovery
    assert f"by step {later.recovery.regained} it was below its level" in later.recovery.words
    assert not any("checkpoint from before" in words for words in later.advice), later.advice


def test_a_loss_that_is_neutral_by_its_noise_alone_is_said_to_be(tmp_path):
    noisy = 1 + 0.3 * np.random.default_rng(1).standard_normal(STEPS + 200)
    noisy[AT : AT + 3] = 9.0
    noisy[AT + 3 :] += 0.4
    [found] = explain_run(write(tmp_path, loss=noisy))
    assert found.recovery.outcome == "neutral"
    assert "the loss is, within the noise of 0." in found.recovery.words


def test_jumps_at_regular_steps_point_at_what_the_training_does_then(tmp_path):
    """As where a target network is updated; the same at other steps says nothing of that."""
    said = {}
    for name, jumps in (("regular", range(150, 651, 100)), ("others", (150, 250, 370, 450, 610, 650))):
        loss = calm(720)
        loss[list(jumps)] = 9.0
        norm = np.where(loss > 5, 9.0, 1.0)
        said[name] = advise(explain_run(write(tmp_path / name, loss=loss, gradient_norm=norm)))
    [words] = [one for one in said["regular"] if "100 steps apart" in one]
    assert words.startswith("Steps 150, 250, 350, 450, 550 and 1 more are")
    assert not any("steps apart" in one for one in said["others"])


def test_of_a_loss_that_was_never_finite_no_curvature_is_missed(tmp_path):
    overflow = ("overflow", {"step": 5, "what": "weight", "names": ["0.weight"], "batch": True})
    [found] = explain_run(write(tmp_path, loss=np.full(50, NAN), records=[overflow]))
    assert found.missing == ("No loss before it was finite, so nothing could be measured.",)
    assert "the batch of step 5 itself has numbers that are not finite" in found.why[0]
    # It is known which batch: nobody is sent to look for what can overflow.
    [words] = [one for one in found.advice if "torch.isfinite" in one]
    assert words.startswith("Look at the batch of step 5: an input or a label in it is not finite")


def test_a_loss_that_is_not_finite_is_in_no_stage(tmp_path):
    loss = np.where(np.arange(STEPS) < AT, calm(), NAN)
    [found] = explain_run(
        write(tmp_path, loss=loss, decay_exponent=np.zeros(STEPS), instant_lag=np.ones(STEPS))
    )
    assert [(one.stage, one.last) for one in found.stages] == [("stable_decrease", AT - 1)]


def test_a_stage_that_a_lost_step_interrupts_begins_again(tmp_path):
    loss = ending()
    loss[AT - 20] = NAN
    spans = explain_run(
        write(tmp_path, loss=loss, decay_exponent=np.zeros(len(loss)), instant_lag=np.ones(len(loss)))
    )[0].stages
    assert spans[0].last == AT - 21
    assert spans[1].first == AT - 19


def test_a_loss_below_its_level_before_did_come_back_though_its_trend_led_lower(tmp_path):
    loss = np.where(np.arange(STEPS + 200) < AT + 30, falling(), 0.9 * falling()[AT - 1])
    [found] = explain_run(write(tmp_path, loss=loss[: AT + 140], gradient_norm=grown_norm(AT + 140)))
    assert found.recovery.outcome == "malignant"
    assert found.recovery.after < found.reference
    assert "came back, but not to where its trend would have brought it" in found.recovery.words
    assert found.recovery.regained is not None
    assert not any("going back" in one for one in found.advice)
