"""What the terminal shows of runs: on one screen, in a table, and as they go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.cli.screen import sparkline
from foreshock.runlog import RunLogWriter
from live_logs import calm, spiky

STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FOREIGN = "$\\frac{ [bold]x[/] \x1b]52;c;cm0gLXJm\x07 \u202eevil"


def write(folder, rows, **meta):
    log = RunLogWriter(folder, meta=meta)
    log.write_many(rows)
    log.close()
    return log.path


def run(*arguments, **environment):
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def test_the_verdict_comes_first_and_what_to_do_second(tmp_path):
    write(tmp_path / "base", spiky(), name="base", steps=700, guard="secant")
    lines = run("status", tmp_path / "base").stdout.splitlines()
    assert lines[0] == "base"
    assert lines[1].startswith("Calm: the stability ratio is 0.6 of the edge")
    assert lines[2].startswith("→ ")
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in lines[4:])
    assert shown["step"] == "699 of 700"
    assert shown["spikes"] == "1, the last at step 400, up to 8×"
    assert shown["alarms"] == "none; 1 watch"
    assert shown["spike ahead"] == "5 %"
    assert shown["guard"] == "secant, not acted"


@pytest.mark.parametrize("command", ["status", "runs", "report", "compare", "explain"])
@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_foreign_name_is_text_in_any_width_and_without_colour(tmp_path, command, columns):
    folder = tmp_path / "runs"
    for name in ("one", "two"):
        write(folder / name, spiky(), name=FOREIGN, description=FOREIGN)
    places = {"runs": [folder], "compare": [folder / "one", folder / "two"]}.get(command, [folder / "one"])
    options = ["--text"] if command == "report" else []
    result = run(command, *places, *options, COLUMNS=columns, NO_COLOR="1", FORCE_COLOR="1")
    assert result.exit_code == 0, result.output
    shown = STYLE.sub("", result.output)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    if command in ("status", "runs"):  # the others have lines of text, which the terminal folds
        assert max(map(len, shown.splitlines())) <= int(columns)
    if command not in ("explain", "runs"):
        assert "[bold]x[/]" in shown.replace("\n", "")


def test_a_narrow_table_leaves_out_what_matters_least(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, spiky())
    heads = [run("runs", tmp_path, COLUMNS=columns).stdout.split() for columns in ("40", "70", "160")]
    assert {"Run", "State", "Spikes"} <= set(heads[0])
    assert "Loss" not in heads[0]
    assert "Step" in heads[1]
    assert {"Loss", "Guard", "write"} <= set(heads[2])


def test_a_pipe_gets_all_columns_and_whole_lines(tmp_path):
    write(tmp_path / "one", spiky())
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "foreshock", "runs", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert {"Loss", "Guard", "Failed"} <= set(shown.split())
    assert "…" not in shown
    assert "\x1b" not in shown


def test_a_folder_without_runs_says_so_and_is_an_empty_list_for_scripts(tmp_path):
    assert "No run with a step yet" in run("runs", tmp_path).stdout
    assert json.loads(run("runs", tmp_path, "--json").stdout)["result"] == []
    assert run("runs", tmp_path / "none").exit_code == 1


def test_bars_keep_the_highest_of_each_stretch_and_show_what_is_not_finite():
    values = [1.0] * 1000
    values[537] = 100.0
    values[900] = float("nan")
    drawn = sparkline(values, width=50)
    assert len(drawn) == 50
    assert (drawn.index("█"), drawn.index("×")) == (26, 45)
    assert sparkline([-1.0, -1.0], width=5) == "▁▁"
    assert sparkline([], width=5) == ""


class Screen:
    """``foreshock top`` on a terminal of its own."""

    def __init__(self, place, *, rows=24, columns=80):
        import fcntl
        import pty
        import struct
        import termios

        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "foreshock", "top", str(place), "--every", "0.2"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(theirs)
        os.set_blocking(self.terminal, False)
        self.text = ""

    def until(self, words, *, seconds=120.0):
        """Wait until the picture has some words; what was drawn before doesn't count."""
        self.text, end = "", time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < end, f"not within {seconds} s: {words!r} in {self.text[-2000:]!r}"
            try:
                self.text += STYLE.sub("", os.read(self.terminal, 1 << 16).decode(errors="replace"))
            except BlockingIOError:
                time.sleep(0.05)
            self.text = self.text[-20_000:]

    def ended(self):
        """Return the exit status, once it has ended."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            try:
                os.read(self.terminal, 1 << 16)
            except OSError:
                time.sleep(0.05)
        return self.process.poll()


@pytest.fixture
def top():
    """Return what starts ``foreshock top`` on a terminal of its own."""
    pytest.importorskip("pty")
    started = []

    def start(place, **size):
        started.append(Screen(place, **size))
        return started[-1]

    yield start
    for screen in started:
        screen.process.kill()
        screen.process.wait()
        os.close(screen.terminal)


@pytest.mark.slow
def test_top_waits_follows_what_grows_is_cut_off_and_begins_anew(tmp_path, top):
    place = tmp_path / "base"
    screen = top(place)
    screen.until("Waiting for a first step")
    log = RunLogWriter(place)
    log.write_many(calm(0, 50))
    screen.until("step             49")
    log.write_many(calm(50, 80))
    screen.until("step             79")
    log.close()
    with (place / "rank0.jsonl").open("r+b") as file:
        file.truncate(file.read().index(b'"step":20'))
    screen.until("step             19")
    (place / "rank0.jsonl").unlink()
    write(place, calm(0, 11))
    screen.until("step             10")
    os.write(screen.terminal, b"q")
    assert screen.ended() == 0


@pytest.mark.slow
def test_top_of_a_folder_is_a_table_that_ends_at_ctrl_c_of_the_terminal(tmp_path, top):
    write(tmp_path / "one", calm(0, 50))
    screen = top(tmp_path, columns=40)
    screen.until("step: 49")
    write(tmp_path / "two", spiky())
    screen.until("two")
    os.killpg(screen.process.pid, signal.SIGINT)
    assert screen.ended() == 0


def test_top_prints_a_line_for_each_change_where_there_is_no_terminal(tmp_path):
    write(tmp_path / "one", spiky())
    command = [sys.executable, "-m", "foreshock", "top", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("one  step 699  Calm: ")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait(60) == 0


def test_a_table_that_is_too_wide_is_printed_row_by_row(capsys):
    from foreshock.cli.console import print_table
    from foreshock.report import Table

    table = Table("What happened", ("At step", "Why", "Empty"), (("400", "[x] " * 20, "–"),))
    print_table(Console(width=40), table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "What happened"
    assert "  At step: 400" in lines
    assert not any("Empty" in line for line in lines)
    print_table(Console(width=200), table)
    assert "At step" in capsys.readouterr().out.splitlines()[2]


@pytest.mark.parametrize("width", [40, 200])
def test_names_in_the_head_of_a_table_are_text(capsys, width):
    from foreshock.cli.console import print_table
    from foreshock.report import Table

    table = Table("Settings that differ", ("Setting", "cnn[adam]", "x[/y]"), (("lr", "[1]", "0.1"),))
    print_table(Console(width=width), table)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("cnn[adam]", "x[/y]", "[1]"))


def test_spikes_of_losses_below_zero_are_compared_by_their_rise(tmp_path):
    """One from a level above zero has a multiple, and is not the highest for that."""
    losses = np.concatenate([np.full(400, 1.0), np.full(400, -2.0)])
    losses[[300, 600]] = 5.0, 38.0
    rows = [("step", {"step": step, "loss": float(loss)}) for step, loss in enumerate(losses)]
    write(tmp_path / "base", rows)
    assert "2, the last at step 600, up to +40" in run("status", tmp_path / "base").stdout
    assert "(+40)" in run("runs", tmp_path, COLUMNS="200").stdout
