"""Any log is safe to read: one bad line costs one line, and no text makes a page of any size.

Thousands of damaged logs are read in tests/benchmarks/test_fuzz.py.
"""

from __future__ import annotations

import os

import pytest
from benchmarks.fuzz.logs import sound_log

from foreshock.report import summarise, to_text, write_html
from foreshock.runlog import RunLogWriter, read_run


def test_sound_logs_are_read_whole(tmp_path):
    for schema in (1, 2):
        lines = sound_log(schema)
        (tmp_path / "rank0.jsonl").write_bytes(b"".join(lines))
        run = read_run(tmp_path)
        assert sum(map(len, run.records.values())) == len(lines) - 1
        assert (run.skipped, run.obsolete) == (0, 0)


@pytest.mark.parametrize("place", [0, 1, 50, -1])
def test_one_bad_line_costs_one_line(tmp_path, place):
    lines = sound_log(2)
    whole = b"".join(lines)
    lines[place] = lines[place].replace(b":", b";", 1)
    (tmp_path / "rank0.jsonl").write_bytes(b"".join(lines))
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
