"""Any file is safe to read: a damaged one is read, or refused in words; the harness would see if not."""

from __future__ import annotations

import random

import pytest
import torch
from benchmarks.fuzz.__main__ import run
from benchmarks.fuzz.logs import damaged, sound_log
from benchmarks.fuzz.pages import complaints, scripts_of
from benchmarks.fuzz.readers import BrokenPromiseError, CheckpointReader, LogReader
from benchmarks.fuzz.states import OPTIMIZERS, damaged_checkpoint, sound_checkpoint

import foreshock.representation

# torch warns of what a damaged checkpoint has.
pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = '<html><script>run()</script><script type="application/json">{}</script><a href="#x">x</a></html>'


def test_some_cases():
    found = run(240, 0)
    assert found["faults"] == 0
    assert found["logs"] == found["logs read"] + found["logs refused"] == 240
    assert found["logs read"] > 200
    assert found["checkpoints"] == found["checkpoints read"] + found["checkpoints refused"] == 60
    assert min(found["checkpoints read"], found["pages"], found["pictures"], found["logs resumed"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100_000, 120_000, 2_000))
def test_two_thousand_cases(seed):
    assert run(2_000, seed)["faults"] == 0


def test_a_seed_makes_the_same_damage_and_another_one_makes_other():
    sound, checkpoint = sound_log(2), sound_checkpoint("Adam")
    logs = [damaged(sound, random.Random(seed)) for seed in (0, 1, 2, 0)]
    assert logs[0] == logs[3]
    assert len({*logs, b"".join(sound)}) == 4
    torch.manual_seed(1)  # no number of torch's takes part
    states = [damaged_checkpoint(checkpoint, random.Random(seed)) for seed in (0, 1, 2, 0)]
    assert states[0] == states[3]
    assert len(set(states)) == 3


def test_damage_leaves_the_sound_ones_alone():
    for name in OPTIMIZERS:
        checkpoint = sound_checkpoint(name)
        before = str(checkpoint)
        for seed in range(20):
            damaged_checkpoint(checkpoint, random.Random(seed))
        assert str(checkpoint) == before


@pytest.mark.parametrize(
    ("inserted", "found"),
    [
        ("<script>evil()</script>", "a script 'evil()'"),
        ("<img src=http://127.0.0.1/x>", "an element 'img'"),
        ("<p onmouseover=evil()>", "an attribute 'onmouseover'"),
        ("<p style=background:url(x)>", "an attribute 'style'"),
        ("<a href=javascript:evil()>", "an address 'javascript:evil()'"),
        ('<meta http-equiv=refresh content="0;url=http://127.0.0.1">', "an order to the browser, http-equiv"),
    ],
)
def test_a_page_with_something_of_a_log_that_runs_is_seen(inserted, found):
    scripts = scripts_of(PAGE)
    assert complaints(PAGE, scripts=scripts) == []
    assert found in complaints(PAGE.replace("</html>", inserted), scripts=scripts)


def read_all(reader, cases):
    for seed in range(cases):
        reader.case(seed)


def test_a_text_that_is_not_made_printable_is_seen(tmp_path, monkeypatch):
    reader = LogReader(tmp_path)
    for module in ("representation", "report.text", "report.html", "report.verdict"):
        monkeypatch.setattr(f"foreshock.{module}.short_line", str, raising=False)
        monkeypatch.setattr(f"foreshock.{module}.one_line", str, raising=False)
    assert foreshock.representation.one_line("\x1b") == "\x1b"
    with pytest.raises(BrokenPromiseError, match="what a terminal obeys"):
        read_all(reader, 400)


def test_a_page_that_escapes_nothing_is_seen(tmp_path, monkeypatch):
    reader = LogReader(tmp_path, pages=1)
    monkeypatch.setattr("markupsafe._native._escape_inner", str)
    monkeypatch.setattr("markupsafe._escape_inner", str)
    with pytest.raises(BrokenPromiseError, match="a page with"):
        read_all(reader, 400)


def test_a_moment_that_is_not_looked_at_is_seen(tmp_path, monkeypatch):
    reader = CheckpointReader(tmp_path)
    monkeypatch.setattr("foreshock.cli.optimizer_states._require_moments", lambda *_, **__: None)
    with pytest.raises(BrokenPromiseError, match="a ratio of"):
        read_all(reader, 800)
