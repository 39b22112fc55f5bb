"""The log survives what happens to logs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from foreshock.forecast import Forecast
from foreshock.runlog import SCHEMA, RunLogWriter, read_run
from foreshock.runlog.decoding import RowDecoder
from foreshock.runlog.sessions import Sessions

RUNS = Path(__file__).parent / "runs"


def test_records_come_back_as_they_were(tmp_path):
    log = RunLogWriter(tmp_path / "a" / "run", meta={"name": "small", "betas": (0.9, 0.999)})
    log.write("step", {"step": 0, "loss": 1.5})
    forecast = Forecast(0, 0.5, math.inf, 3.0, math.inf, math.nan, "rising", "a line – é")
    log.write("forecast", forecast)
    log.close()
    run = read_run(tmp_path / "a" / "run")
    assert run.meta == {"name": "small", "betas": [0.9, 0.999]}
    [record] = run.records["forecast"]
    assert record["steps_to_instability"] == math.inf
    assert math.isnan(record["growth_rate"])
    assert record["basis"] == "a line – é"
    assert run.skipped == 0


def test_every_line_is_strict_json(tmp_path):
    log = RunLogWriter(tmp_path)
    log.write("step", {"step": 0, "loss": math.nan, "nested": {"values": [math.inf, -math.inf]}})
    refuse = lambda token: pytest.fail(f"{token} is not JSON")  # noqa: E731
    rows = [json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines()]
    assert rows[1]["loss"] == "NaN"
    assert rows[1]["nested"] == {"values": ["Infinity", "-Infinity"]}


def test_columns_pair_up_with_steps(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, value in enumerate([1.0, None, math.inf]):
        log.write("curvature", {"step": step, "threshold": value})
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.steps("curvature"), [0, 1, 2])
    np.testing.assert_array_equal(run.column("curvature", "threshold"), [1.0, math.nan, math.inf])
    assert run.column("curvature", "absent").shape == (3,)
    assert run.column("forecast", "absent").shape == (0,)


def test_a_run_is_readable_while_it_is_written_and_after_kill_9(tmp_path):
    script = textwrap.dedent(f"""
        from foreshock.runlog import RunLogWriter
        log = RunLogWriter({str(tmp_path)!r})
        step = 0
        while True:
            log.write("step", {{"step": step, "loss": 1.0 / (step + 1)}})
            step += 1
            if step == 100:
                print("a hundred", flush=True)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "a hundred\n"
        seen = len(read_run(tmp_path).steps("step"))
        assert writer.poll() is None
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    run = read_run(tmp_path)
    assert len(run.steps("step")) >= seen >= 100
    np.testing.assert_array_equal(run.steps("step"), np.arange(len(run.steps("step"))))


def test_a_torn_last_line_is_skipped_and_closed_by_the_next_writer(tmp_path):
    log = RunLogWriter(tmp_path)
    log.write("step", {"step": 0, "loss": 1.0})
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"kind":"step","step":1,"lo')
    torn = read_run(tmp_path)
    assert (len(torn.steps("step")), torn.skipped) == (1, 1)
    again = RunLogWriter(tmp_path)
    again.resume()
    again.write("step", {"step": 1, "loss": 0.5})
    resumed = read_run(tmp_path)
    assert resumed.steps("step").tolist() == [0, 1]
    assert resumed.skipped == 1


def test_a_resumed_session_replaces_what_it_does_again(tmp_path):
    first = RunLogWriter(tmp_path, meta={"name": "first"})
    for step in range(10):
        first.write("step", {"step": step, "loss": 1.0})
        first.write("curvature", {"step": step, "stability_ratio": 0.1})
    first.close()
    second = RunLogWriter(tmp_path, meta={"name": "second"})
    second.resume(6)
    for step in range(6, 8):
        second.write("step", {"step": step, "loss": 2.0})
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(8))
    assert run.column("step", "loss").tolist() == [1.0] * 6 + [2.0] * 2
    assert run.steps("curvature").tolist() == list(range(6))
    assert run.meta["name"] == "second"
    assert (run.starts, run.obsolete, run.earlier) == (2, 8, ())


def test_scalars_of_numpy_and_torch_are_numbers_and_the_rest_is_text(tmp_path):
    meta = {"count": np.int64(3), "rate": torch.tensor(0.5), "dtype": torch.float32, "nan": np.float32("nan")}
    RunLogWriter(tmp_path, meta=meta).close()
    assert read_run(tmp_path).meta == {"count": 3, "rate": 0.5, "dtype": "torch.float32", "nan": "NaN"}


def test_a_late_record_does_not_shield_obsolete_ones(tmp_path):
    first = RunLogWriter(tmp_path)
    for step in (0, 5, 6, 1):
        first.write("event", {"step": step, "name": "x", "message": "y"})
    first.resume(3)
    first.write("event", {"step": 3, "name": "x", "message": "y"})
    run = read_run(tmp_path)
    assert run.steps("event").tolist() == [0, 1, 3]
    assert (run.starts, run.schema) == (2, SCHEMA)
    assert run.version


def test_an_unwritable_folder_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="run=None to keep no log"):
        RunLogWriter(tmp_path / "file" / "run")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run log at"):
        read_run(tmp_path / "nowhere")
    RunLogWriter(tmp_path / "runs" / "base")
    with pytest.raises(FileNotFoundError, match=r"runs below it: .*base"):
        read_run(tmp_path / "runs")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="no header line"):
        read_run(tmp_path / "other.jsonl")
    (tmp_path / "new.jsonl").write_text('{"kind":"header","schema":99,"created":"","meta":{}}\n')
    with pytest.raises(ValueError, match="schema 99"):
        read_run(tmp_path / "new.jsonl")


HEADER = {"kind": "header", "schema": 2, "foreshock": "0.1.0", "created": "", "meta": {}}
DAMAGED = [
    {"kind": "step", "step": 1, "loss": "abc"},
    {"kind": "step", "step": 1, "loss": True},
    {"kind": "step", "step": 1, "loss": 10**400},
    {"kind": "step", "step": 1, "instant_lag": [1.0]},
    {"kind": "step", "step": True, "loss": 1.0},
    {"kind": "step", "step": -1, "loss": 1.0},
    {"kind": "step", "step": 2**53 + 1, "loss": 1.0},
    {"kind": "step", "step": 1.0, "loss": 1.0},
    {"kind": ["step"], "step": 1},
    {"step": 1},
    {"kind": "curvature", "step": 1, "stability_ratio": {}},
    {"kind": "curvature", "step": 1, "blocks": "all"},
    {"kind": "curvature", "step": 1, "blocks": ["all"]},
    {"kind": "curvature", "step": 1, "blocks": [{"name": "all"}]},
    {"kind": "curvature", "step": 1, "blocks": [{"name": "all", "share": "half"}]},
    {"kind": "forecast", "step": 1, "interval_low": "soon"},
    {"kind": "alarm", "step": 1, "forecast": "soon"},
    {"kind": "header", "schema": None, "meta": {}},
    {"kind": "header", "schema": "new", "meta": {}},
    {"kind": "header", "schema": 0, "meta": {}},
    {"kind": "header", "schema": 2, "meta": ["a"]},
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda row: str(row)[:70])
@pytest.mark.parametrize("schema", [1, 2])
def test_a_damaged_line_costs_the_reader_no_other(tmp_path, damaged, schema):
    good = {"kind": "step", "step": 0, "loss": 1.0}
    lines = [HEADER | {"schema": schema}, good, damaged, good | {"step": 2, "loss": None}]
    path = tmp_path / "rank0.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path)
    assert (run.skipped, run.starts, run.schema) == (1, 1, schema)
    assert run.records.keys() == {"step"}
    assert run.steps("step").tolist() == [0, 2]
    assert repr(run).endswith("steps 0–2, 1 session, records: 2 step>")


def test_lines_nested_without_end_or_in_no_encoding_are_skipped(tmp_path):
    path = tmp_path / "rank0.jsonl"
    nested = b'{"kind":"event","step":1,"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    path.write_bytes(json.dumps(HEADER).encode() + b"\n" + nested + b"\xff\xfe\n")
    assert read_run(path).skipped == 2


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "rank0.jsonl"
    rows = [HEADER | {"meta": {"\ud800": "a\udfff"}}, {"kind": "event", "step": 1, "name": "é\ud800"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(path)
    assert run.meta == {"?": "a?"}
    assert run.records["event"][0]["name"] == "é?"


def test_the_alarm_of_schema_1_may_lack_its_forecast(tmp_path):
    path = tmp_path / "rank0.jsonl"
    rows = [
        HEADER | {"schema": 1},
        {"kind": "alarm", "step": 1, "forecast": None},
        {"kind": "alarm", "step": 2},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(path)
    assert run.steps("alarm").tolist() == [1, 2]
    assert run.skipped == 0


def test_a_folder_may_be_called_like_a_log(tmp_path):
    RunLogWriter(tmp_path / "run.jsonl").close()
    assert read_run(tmp_path / "run.jsonl").path == tmp_path / "run.jsonl" / "rank0.jsonl"


def test_a_log_of_schema_1_reads_as_the_same_run_in_schema_2():
    old, new = (read_run(RUNS / f"schema-{schema}.jsonl") for schema in (1, 2))
    assert (old.schema, new.schema) == (1, 2)
    assert old.records.keys() == new.records.keys() == {"step", "curvature", "forecast", "alarm", "event"}
    for kind, rows in old.records.items():
        for one, other in zip(rows, new.records[kind], strict=True):
            assert_alike(one, other)


def assert_alike(one, other):
    """Compare two records of the same measurement, up to rounding; the time that it took may differ."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_alike(value, other[name])
        elif isinstance(value, float) and name != "seconds":
            assert value == pytest.approx(other[name], rel=1e-9, nan_ok=True), name
        elif name not in ("seconds", "blocks"):
            assert value == other[name], name


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_each_session_of_a_resumed_run_is_read_by_its_own_schema(tmp_path, first, second):
    before, after = (
        (RUNS / f"schema-{schema}.jsonl").read_text().splitlines(keepends=True) for schema in (first, second)
    )
    later = [line for line in after[1:] if json.loads(line)["step"] >= 100]
    (tmp_path / "rank0.jsonl").write_text("".join([*before, after[0], *later]))
    run = read_run(tmp_path)
    assert (run.starts, run.schema) == (2, second)
    lag = run.column("step", "instant_lag")
    expected = read_run(RUNS / "schema-2.jsonl").column("step", "instant_lag")
    np.testing.assert_allclose(lag, expected, rtol=1e-12)
    assert np.isfinite(lag).all()
    assert not any("lag_ratio" in row for row in run.records["step"])


def test_what_schema_1_called_otherwise_is_renamed(tmp_path):
    rows = [
        {"kind": "header", "schema": 1, "created": "", "meta": {}},
        {"kind": "step", "step": 0, "loss": 1.0, "lag_ratio": 0.0},
        {"kind": "step", "step": 1, "loss": 1.0, "lag_ratio": "NaN"},
        {"kind": "step", "step": 2, "loss": 1.0, "lag_ratio": None},
        {"kind": "step", "step": 3, "loss": 1.0, "lag_ratio": 4.0},
        {"kind": "guard", "step": 3, "remedy": "stand aside", "policy": "auto"},
        {"kind": "guard", "step": 4, "remedy": "clip", "policy": "auto"},
        {"kind": "alarm", "step": 4, "level": "watch", "forecast": {"state": "edge", "reverse_lag": 1.0}},
        {"kind": "forecast", "step": 4, "lag": 3.0, "reverse_lag": 1.0, "mean_square_ratio": 0.7},
    ]
    (tmp_path / "rank0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.column("step", "instant_lag"), [math.inf, math.nan, math.nan, 0.25])
    assert [row["remedy"] for row in run.records["guard"]] == ["cooldown", "clip"]
    assert run.records["alarm"][0]["forecast"] == {"state": "edge"}
    assert run.column("forecast", "lag").tolist() == [3.0]
    assert "reverse_lag" not in run.records["forecast"][0]
    assert run.column("forecast", "typical_mean_square_ratio").tolist() == [0.7]
    assert math.isnan(run.column("forecast", "mean_square_ratio")[0])


def write_lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_rows_after_a_damaged_header_are_not_read_by_the_schema_before(tmp_path, first, second):
    before, after = ((RUNS / f"schema-{schema}.jsonl").read_text().splitlines() for schema in (first, second))
    later = [line for line in after[1:] if json.loads(line)["step"] >= 100]
    write_lines(tmp_path / "rank0.jsonl", [*before, after[0].replace("{", "", 1), *later])
    run, expected = read_run(tmp_path), read_run(RUNS / "schema-2.jsonl")
    assert (run.starts, run.skipped) == (2, 1)
    for name in ("lag", "typical_mean_square_ratio"):
        np.testing.assert_allclose(run.column("forecast", name), expected.column("forecast", name), rtol=1e-9)
    np.testing.assert_allclose(
        run.column("step", "instant_lag"), expected.column("step", "instant_lag"), rtol=1e-12
    )
    assert run.steps("step").tolist() == expected.steps("step").tolist()


def test_a_damaged_line_among_others_begins_no_session(tmp_path):
    rows = [HEADER, *({"kind": "step", "step": step, "loss": 1.0} for step in range(6))]
    write_lines(tmp_path / "rank0.jsonl", [*rows[:3], "{", *rows[3:]])
    run = read_run(tmp_path)
    assert (run.starts, run.skipped, run.obsolete, run.steps("step").size) == (1, 1, 0, 6)


def test_a_log_whose_header_is_damaged_loses_what_the_header_says(tmp_path):
    write_lines(tmp_path / "rank0.jsonl", ["{", {"kind": "step", "step": 1, "loss": 1.0}])
    run = read_run(tmp_path)
    assert (run.meta, run.created, run.skipped, run.steps("step").tolist()) == ({}, "", 1, [1])
    write_lines(tmp_path / "rank0.jsonl", [{"kind": "step", "step": 1, "loss": 1.0}])
    with pytest.raises(ValueError, match="no header line"):
        read_run(tmp_path)


def test_what_a_resumed_session_makes_obsolete_is_as_if_dropped_at_each_restart(tmp_path):
    draw = np.random.default_rng(0)
    for _ in range(50):
        rows, left, written = [], {"step": [], "event": []}, 0
        for session in range(draw.integers(1, 8)):
            rows.append(HEADER)
            start = int(draw.integers(0, 12))
            steps = [start, *draw.integers(0, 12, size=draw.integers(0, 6)).tolist()]
            for place, step in enumerate(steps):
                kind = "event" if draw.random() < 0.4 else "step"
                rows.append({"kind": kind, "step": step, "loss": float(session), "name": str(place)})
                if place == 0:
                    left = {kind: [row for row in old if row["step"] < step] for kind, old in left.items()}
                left[kind].append(rows[-1])
                written += 1
        write_lines(tmp_path / "rank0.jsonl", rows)
        run = read_run(tmp_path)
        for kind, expected in left.items():
            assert list(run.records.get(kind, [])) == sorted(expected, key=lambda row: row["step"])
        assert run.obsolete == written - sum(map(len, left.values()))


def test_records_come_back_with_their_types_whatever_the_shapes(tmp_path):
    values = [1.5, None, 3, True, "text", [1, {"a": None}], {"b": [2.5]}, 2**62, -(2**62), math.inf]
    rows = [{"kind": "noise", "step": step, "x": value} for step, value in enumerate(values)]
    rows += [{"kind": "noise", "step": 100 + i, f"name {i}": i, "x": 0.5} for i in range(300)]
    log = RunLogWriter(tmp_path)
    log.write_many([(row["kind"], {name: row[name] for name in row if name != "kind"}) for row in rows])
    found = read_run(tmp_path).records["noise"]
    assert found == rows
    assert [type(row["x"]) for row in found] == [type(row["x"]) for row in rows]
    assert (found[3:5], found[-1], len(found)) == (rows[3:5], rows[-1], len(rows))
    assert found != rows[1:]
    assert found != [*rows[1:], rows[0]]
    assert repr(found) == "<Rows: 310 noise>"
    assert len(found._blocks) <= 101  # a file made to have many shapes costs no block for each


def test_thousands_of_records_come_back_in_order(tmp_path):
    rows = [{"step": step, "x": step / 7 if step % 3 else None, "text": str(step)} for step in range(9_001)]
    log = RunLogWriter(tmp_path)
    log.write_many([("noise", row) for row in rows])
    run = read_run(tmp_path)
    found = run.records["noise"]
    assert [found[step] for step in (0, 4095, 4096, 8192, 9000)] == [
        {"kind": "noise"} | rows[step] for step in (0, 4095, 4096, 8192, 9000)
    ]
    assert run.steps("noise").tolist() == list(range(9_001))
    values = [math.nan if row["x"] is None else row["x"] for row in rows]
    np.testing.assert_array_equal(run.column("noise", "x"), values)


def test_a_column_of_several_shapes_is_one_array(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, value in enumerate([1.0, 2, None, math.nan, True, 2**60]):
        log.write("noise", {"step": step, "x": value, f"more {step % 2}": 1})
    log.write("noise", {"step": 9})
    log.write("noise", {"step": 10, "words": "many"})
    run = read_run(tmp_path)
    expected = [1.0, 2.0, math.nan, math.nan, 1.0, 2.0**60, math.nan, math.nan]
    np.testing.assert_array_equal(run.column("noise", "x"), expected)
    with pytest.raises(ValueError, match="many"):
        run.column("noise", "words")
    assert run.column("noise", "absent").size == 8


def test_an_integer_that_no_column_can_hold_becomes_a_float_or_costs_its_line(tmp_path):
    rows = [HEADER, *({"kind": "noise", "step": step, "x": 10**power} for step, power in ((0, 30), (1, 400)))]
    write_lines(tmp_path / "rank0.jsonl", rows)
    run = read_run(tmp_path)
    assert (run.column("noise", "x").tolist(), run.skipped) == ([1e30], 1)


def test_what_is_nested_deeper_than_a_report_can_follow_costs_its_line(tmp_path):
    rows = [
        HEADER,
        *({"kind": "event", "step": depth, "message": nested(depth)} for depth in (59, 60, 61, 900)),
    ]
    write_lines(tmp_path / "rank0.jsonl", [*rows, HEADER | {"meta": {"a": nested(900)}}])
    run = read_run(tmp_path)
    assert (run.steps("event").tolist(), run.skipped) == ([59, 60], 3)


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _odd_lines(random):
    """Lines that a log may have between its steps, each as a function of the step."""
    return [
        lambda s: '{"kind":"header","schema":2,"foreshock":"0","created":"","number":1,"meta":{}}',
        lambda s: '{"kind":"header","schema":1,"foreshock":"0","created":"","number":1,"meta":{}}',
        lambda s: '{"kind":"header","sche',
        lambda s: f'{{"kind":"step","step":{max(s - 40, 0)},"loss":2.5,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":"NaN","norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":null,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1.0,"norm":1.0,"count":{10**25}}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1.0,"norm":1e999,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":01.0,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":-{s},"loss":1.0,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s}.0,"loss":1.0,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{2**53 + 1},"loss":1.0,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1.0,"norm":1.0,"count":7}},',
        lambda s: f'{{"kind":"step", "step":{s},"loss":1.0,"norm":1.0,"count":7}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1.0,"norm":1.0,"count":7}}\r',
        lambda s: f'{{"kind":"step","step":{s},"lag_ratio":0.5,"loss":1.0}}',
        lambda s: f'{{"kind":"step","step":{s},"loss":1.0,"norm":1.0}}',
        lambda s: f'{{"kind":"forecast","step":{s},"probability":{random.random()},"state":"edge"}}',
        lambda s: f'{{"kind":"event","step":{s},"name":"x","message":"\\ud800"}}',
        lambda s: "garbage \x00",
        lambda s: "",
    ]


@pytest.mark.parametrize("seed", range(12))
def test_many_lines_at_once_are_what_they_are_one_by_one(seed):
    random = Random(seed)
    odd, rate = _odd_lines(random), random.choice([0.0, 0.001, 0.01, 0.2])
    lines = [odd[0](0)]
    for step in range(3000):
        if random.random() < rate:
            lines.append(random.choice(odd)(step))
        number = random.choice([random.random(), -1e-300, 1e300, 5e-324, 12.0, -0.0])
        lines.append(
            f'{{"kind":"step","step":{step},"loss":{number!r},"norm":{random.random()},"count":{step}}}'
        )
    written = [line.encode() + b"\n" for line in lines]
    one_by_one, together = Sessions(), Sessions()
    for line in written:
        one_by_one.take(line)
    for begin in range(0, len(written), 700):
        together.take_many(written[begin : begin + 700])
    # As text, since NaN is no NaN.
    assert repr(list(map(list, together.records()[0].values()))) == repr(
        list(map(list, one_by_one.records()[0].values()))
    )
    assert together.records()[1] == one_by_one.records()[1]
    assert (together.skipped, together.starts, together.resumed, together.headers) == (
        one_by_one.skipped,
        one_by_one.starts,
        one_by_one.resumed,
        one_by_one.headers,
    )


def test_nearly_all_steps_of_a_long_log_are_read_at_once(monkeypatch):
    decoded = []
    decode = RowDecoder.decode
    monkeypatch.setattr(RowDecoder, "decode", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    sessions = Sessions()
    lines = [b'{"kind":"header","schema":2,"foreshock":"0","created":"","number":1,"meta":{}}\n']
    lines += [b'{"kind":"step","step":%d,"loss":0.5,"lag":null,"n":3}\n' % step for step in range(20_000)]
    sessions.take_many(lines)
    assert len(sessions.records()[0]["step"]) == 20_000
    assert len(decoded) < 1000
