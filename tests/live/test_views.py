import json
import math
import struct

import numpy as np

from foreshock.live.analysis import Analysis
from foreshock.live.marks import explanation, marks
from foreshock.live.run import LiveRun
from foreshock.live.views import details, heat, packed, series
from foreshock.live.watched import WatchedFolder
from foreshock.runlog import RunLogWriter
from live_logs import calm, settle, spiky


def unpacked(data):
    """Read a message as the page does."""
    [size] = struct.unpack_from("<I", data)
    place, found = 4 + size, {}
    assert place % 8 == 0
    for header in json.loads(data[4:place]):
        for chart in header["charts"]:
            shape = (chart["lines"] + 1, chart["points"])
            columns = np.frombuffer(data, "<f8", shape[0] * shape[1], place).reshape(shape)
            place += columns.nbytes
            found[header["id"], chart["id"]] = columns
    assert place == len(data)
    return found


def analysed(folder):
    watched = WatchedFolder(folder)
    [run] = watched.all_runs()
    settle(run)
    analysis = Analysis(watched)
    assert analysis.of(run) is None
    while analysis.round():
        pass
    return run, analysis.of(run)


def test_a_message_carries_the_numbers_unchanged(tmp_path, write, follow):
    one, two = (follow(write(tmp_path / name, rows)) for name, rows in (("a", spiky()), ("b", calm(0, 50))))
    whole = (-np.inf, np.inf)
    parts = [series(run, ["loss", "ratio", "none such"], within=whole, points=5000) for run in (one, two)]
    found = unpacked(packed(parts))
    assert len(found) == 4
    np.testing.assert_array_equal(found[one.key, "loss"][1], one.curves["step"].column("loss"))
    np.testing.assert_array_equal(found[two.key, "loss"][0], np.arange(50))
    assert found[two.key, "ratio"].shape == (2, 0)


def test_only_what_is_new_is_sent(tmp_path, write, follow):
    run = follow(write(tmp_path / "run", spiky()))
    header, _ = series(run, ["loss"], within=(-np.inf, np.inf), points=5000)
    assert header["charts"][0]["rows"] == 700
    again, arrays = series(run, ["loss"], within=(-np.inf, np.inf), points=5000, since={"loss": 690})
    assert again["charts"][0]["points"] == len(arrays[0]) == 10


def test_a_spike_opens_what_the_report_knows_of_it(tmp_path, write):
    write(tmp_path / "run", spiky())
    run, found = analysed(tmp_path)
    [spike] = marks(run, found)["spikes"]
    assert (spike["key"], spike["announced"], spike["label"]) == ("spike-400", 350, "8.0×")
    said = explanation(run, found, "spike-400")
    facts = dict(said["facts"])
    assert said["title"] == "Spike at step 400"
    assert facts["Announced"] == "50 steps ahead"
    assert facts["Ratio before"].startswith("0.6 at step")
    assert said["window"][0] < 400 < 430 < said["window"][1]
    unread = explanation(run, None, "spike-400")
    assert "being worked out" in " ".join(unread["text"])


def test_an_alarm_opens_its_forecast_and_what_came(tmp_path, write):
    write(tmp_path / "run", spiky())
    run, found = analysed(tmp_path)
    [alarm] = marks(run, found)["alarms"]
    said = explanation(run, found, alarm["key"])
    facts = dict(said["facts"])
    assert said["title"] == "Watch at step 350"
    assert facts["Probability"] == "80 %"
    assert "Typical mean-square ratio" not in facts
    assert "Next, the loss: spike at step 400, 50 steps later." in said["text"]


def test_actions_of_a_guard_are_joined_and_listed(tmp_path, write, follow):
    rows = calm(0, 300)
    action = {"policy": "secant", "remedy": "raise along", "reason": "1.02 of the edge", "factor": 1.3}
    rows += [("guard", {"step": step, **action}) for step in (100, 101, 102, 200)]
    rows.append(("guard", {"step": 250, **action, "remedy": "none"}))
    run = follow(write(tmp_path / "run", rows))
    spans = marks(run, None)["actions"]
    assert [(one["step"], one["end"]) for one in spans] == [(100, 102), (200, 200)]
    said = explanation(run, None, spans[0]["key"])
    assert said["title"] == "Guard (secant), 3 actions from step 100"
    assert said["facts"][0] == ("Step 100", "raise along, factor 1.3: 1.02 of the edge")


def test_tables_of_tensors_are_drawn_and_listed(tmp_path, write, follow):
    rows = calm(0, 300)
    for step, lag in ((100, 4.0), (200, 9.0)):
        tensors = [
            {"name": "a.weight", "lag": lag, "burst": 0.5},
            {"name": "b", "lag": math.nan},
            "odd",
            {"lag": 1},
        ]
        rows.append(("tensors", {"step": step, "reason": "alarm", "rows": tensors}))
    rows.append(("tensors", {"step": 250, "rows": {"name": 1}}))
    run = follow(write(tmp_path / "run", rows, layers={"a.weight": "Linear"}))
    found = heat(run)
    lag, burst = found["maps"]
    assert (found["steps"], lag["layers"]) == ([100, 200], ("a.weight (Linear)",))
    assert lag["values"] == ((4.0, 9.0),)
    assert burst["values"] == ((0.5, 0.5),)
    assert details(run, None)["tensors"]["rows"][0]["values"] == {"lag": 9.0, "burst": 0.5}


def test_what_is_no_mark_has_no_explanation(tmp_path, write, follow):
    run = follow(write(tmp_path / "run", spiky()))
    keys = ("", "spike", "spike-1", "alarm-7", "alarm--1", "guard-1-2", "guard-x", "event-²", "../etc/passwd")
    assert [explanation(run, None, key) for key in keys] == [None] * len(keys)


def test_details_have_the_reports_words_and_tables(tmp_path, write):
    write(tmp_path / "run", spiky(), layers={"0": "Conv2d"}, optimizer="Adam")
    run, found = analysed(tmp_path)
    said = json.loads(json.dumps(details(run, found), allow_nan=False))
    assert said["verdict"]["happened"].startswith("1 spike (8.0×); announced, 50 steps ahead")
    assert said["tables"][0]["rows"][0][0] == "400"
    assert said["tensors"]["rows"][0] == {"name": "layer 0 (Conv2d)", "values": {"share": 0.7, "size": 80}}
    assert ["Optimizer", "Adam"] in said["basis"]


def test_a_map_of_layers_keeps_the_highest_of_each_stretch(tmp_path, write, follow):
    rows = calm(0, 10)
    for step in range(1000):
        share = 0.9 if step == 500 else 0.1
        blocks = [{"name": "a", "share": share}, {"name": "b", "share": 0.2, "lag": 3.0}]
        rows.append(("curvature", {"step": step, "stability_ratio": 0.5, "blocks": blocks}))
    found = heat(follow(write(tmp_path / "run", rows)))
    shares, lags = found["maps"]
    assert shares["layers"] == ("a", "b")
    assert max(shares["values"][0]) == 0.9
    assert len(found["steps"]) == len(shares["values"][0]) <= 240
    assert lags["layers"] == ("b",)


def test_a_mark_of_thousands_of_digits_is_none(tmp_path):
    run = LiveRun(tmp_path / "rank0.jsonl", name="run")
    for sort in ("alarm", "event", "spike"):
        assert explanation(run, None, f"{sort}-{'9' * 5000}") is None
    assert explanation(run, None, f"guard-{'9' * 5000}-1") is None


def test_a_spike_whose_cause_is_known_opens_cause_recovery_and_advice(tmp_path, write):
    rate = [("step", {"step": s, "loss": 1.0, "learning_rate": 1e-3}) for s in range(300)]
    high = [
        ("step", {"step": s, "loss": 9.0 if s < 312 else 1.0, "learning_rate": 0.1}) for s in range(300, 600)
    ]
    write(tmp_path / "run", [*rate, *high])
    run, found = analysed(tmp_path)
    [known] = found.summary.explanations
    assert known.causes
    said = " ".join(explanation(run, found, f"spike-{known.onset}")["text"])
    assert f"{100 * known.causes[0].confidence:.0f} % sure" in said
    assert known.causes[0].words in said
    assert known.recovery.words in said
    assert known.advice[0] in said


def test_the_page_says_one_thing_of_a_spike_wherever_it_says_it(tmp_path, write):
    values = [9.0 if 300 <= s < 312 else 1.0 for s in range(480)]
    rows = [
        ("step", {"step": s, "loss": value, "learning_rate": 1e-3 if s < 300 else 0.1})
        for s, value in enumerate(values)
    ]
    write(tmp_path / "run", rows)
    run, found = analysed(tmp_path)
    while run.scan():
        pass
    run.explain_news()
    [known] = found.summary.explanations
    assert known.named == "learning rate"
    page = details(run, found)
    assert known.why[0] in page["verdict"]["why"][0]
    assert page["verdict"]["advice"][: len(known.advice)] == known.advice
    assert page["tables"][0]["rows"][0][-1] == known.named
    said = explanation(run, found, f"spike-{known.onset}")
    assert set(known.advice) < set(said["text"])
    assert known.why[0][1:] in " ".join(said["text"])
    assert run.headline().words.endswith(f"; cause: {known.named}")
    assert run.headline().advice in known.advice


def test_the_last_spike_is_explained_when_it_begins_and_when_it_is_over(tmp_path, write):
    log = RunLogWriter(tmp_path / "run")
    log.write_many([("step", {"step": s, "loss": 1.0}) for s in range(300)])
    run, _ = analysed(tmp_path)
    run.explain_news()
    version = run.version
    run.explain_news()
    assert run.version == version  # nothing happened
    log.write_many([("step", {"step": s, "loss": 9.0 if s < 310 else 1.0}) for s in range(300, 420)])
    log.close()
    run.look()
    while run.scan():
        pass
    run.explain_news()
    assert run.headline().words.endswith("; not explained")
    version = run.version
    run.explain_news()
    assert run.version == version
