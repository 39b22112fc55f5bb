"""Any file is safe to read: a damaged one is read, or refused in words; none ends in a traceback."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from foreshock.report import summarise, to_text, write_html
from foreshock.runlog import RunLogWriter, read_run
from report.hostile import damaged

RUNS = Path(__file__).parents[1] / "runs"
GUARD = {"kind": "guard", "step": 30, "policy": "auto", "remedy": "cooldown", "reason": "too high"}
EVENT = {"kind": "event", "step": 31, "name": "non-finite loss", "message": "nan", "count": 3, "until": 33}
NOISE = {"kind": "noise", "step": 32, "mean": 0.4, "variance": 0.1, "noise_factor": 1.0}


def sound_log(schema):
    """Return the lines of a log that has each kind of record, short enough for thousands of reports."""
    lines = (RUNS / f"schema-{schema}.jsonl").read_bytes().splitlines(keepends=True)
    every = [line for line in lines[1:] if json.loads(line)["step"] < 60 or b'"kind":"step"' not in line]
    more = [json.dumps(row).encode() + b"\n" for row in (GUARD, EVENT, NOISE, NOISE | {"step": 40})]
    return [lines[0], *every[:180], *more]


def outcome_of(folder, content, *, page):
    """Return what becomes of a log in all that ``foreshock report`` does; raise what it would raise."""
    (folder / "rank0.jsonl").write_bytes(content)
    try:
        run = read_run(folder)
    except ValueError as error:  # said in one line by the command
        return "refused" if str(folder) in str(error) else "refused without its name"
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    assert run.skipped + run.obsolete + sum(map(len, run.records.values())) <= lines
    for kind, rows in run.records.items():
        steps = run.steps(kind)
        assert (steps[1:] >= steps[:-1]).all()
        assert [row["kind"] for row in rows] == [kind] * len(steps)
    repr(run).encode()
    text = to_text(summarise(run))
    assert text.replace("\n", "").isprintable()
    text.encode()
    if page:
        write_html([run], folder / "report.html")
    return "read"


def outcomes(folder, seed, cases, *, pages):
    choose = random.Random(seed)
    sound = [sound_log(schema) for schema in (1, 2)]
    found = Counter()
    for case in range(cases):
        content = damaged(choose.choice(sound), choose)
        try:
            found[outcome_of(folder, content, page=case % pages == 0)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}: {type(error).__name__}: {error}") from error
    return found


def test_sound_logs_are_read_whole(tmp_path):
    for schema in (1, 2):
        lines = sound_log(schema)
        assert outcome_of(tmp_path, b"".join(lines), page=True) == "read"
        run = read_run(tmp_path)
        assert sum(map(len, run.records.values())) == len(lines) - 1
        assert (run.skipped, run.obsolete) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_log_is_read_or_refused_and_nothing_else(tmp_path, seed):
    found = outcomes(tmp_path, seed, 80, pages=20)
    assert found["read"] > 60
    assert found.keys() == {"read", "refused"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_thousand_damaged_logs_are_read_or_refused_and_nothing_else(tmp_path, seed):
    found = outcomes(tmp_path, seed, 1000, pages=25)
    assert found["read"] > 800
    assert found.keys() == {"read", "refused"}


@pytest.mark.parametrize("place", [0, 1, 50, -1])
def test_one_bad_line_costs_one_line(tmp_path, place):
    lines = sound_log(2)
    whole = b"".join(lines)
    lines[place] = lines[place].replace(b":", b";", 1)
    outcome_of(tmp_path, b"".join(lines), page=False)
    run = read_run(tmp_path)
    (tmp_path / "rank0.jsonl").write_bytes(whole)
    lost = sum(map(len, read_run(tmp_path).records.values())) - sum(map(len, run.records.values()))
    assert (run.skipped, lost) == (1, 0 if place == 0 else 1)


def test_texts_of_any_length_make_no_page_of_that_length(tmp_path):
    log = RunLogWriter(tmp_path, meta={"name": "n" * 10**6, "description": "d" * 10**6, "notes": "m" * 10**6})
    for step in range(120):
        log.write("step", {"step": step, "loss": 1.0})
    log.write("event", {"step": 119, "name": "e" * 10**6, "message": "x" * 10**7})
    blocks = [{"name": "b" * 10**6, "share": 1.0}]
    log.write("curvature", {"step": 119, "stability_ratio": 0.5, "blocks": blocks, "backend": "c" * 10**6})
    log.write("guard", {"step": 119, "policy": "p" * 10**6, "remedy": "raise"})
    log.close()
    run = read_run(tmp_path)
    page = write_html([run], tmp_path / "report.html").read_text()
    assert len(page) < 400_000
    text = to_text(summarise(run))
    assert len(text) < 20_000
    assert "… (10,000,000 characters)" in text


def test_of_many_events_the_first_and_the_last_are_listed(tmp_path):
    log = RunLogWriter(tmp_path)
    for step in range(3000):
        log.write("event", {"step": step, "name": "probe failed", "message": f"failure {step}"})
    log.close()
    events = summarise(read_run(tmp_path)).events
    assert [event.step for event in events] == [*range(500), *range(2500, 3000)]


def test_a_page_is_put_in_place_of_a_link_and_not_written_through_it(tmp_path):
    """A folder from somebody else may have report.html as a link to a file of the reader's."""
    (tmp_path / "run").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run" / "report.html").symlink_to(precious)
    log = RunLogWriter(tmp_path / "run")
    log.write("step", {"step": 0, "loss": 1.0})
    written = write_html([read_run(tmp_path / "run")], tmp_path / "run" / "report.html")
    assert precious.read_text() == "mine"
    assert not written.is_symlink()
    assert written.read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["rank0.jsonl", "report.html"]
    assert written.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
