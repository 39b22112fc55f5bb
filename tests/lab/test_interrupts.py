"""Ctrl-C ends a command with all its processes, sent as a terminal sends it and to the command alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc"),
]

WORK = """
import sys, time
from pathlib import Path
from foreshock.interrupts import saying_what_is_kept
from foreshock.lab.jobs import finished


def work(folder, number):
    path = Path(folder) / f"{number}.pid"
    path.write_text(str(__import__("os").getpid()))
    end = time.monotonic() + 600
    while time.monotonic() < end:  # busy, as a training is
        sum(range(10_000))
    return path


if __name__ == "__main__":
    with saying_what_is_kept(lambda: f"Kept in {sys.argv[1]}"):
        list(finished(work, [(sys.argv[1], number) for number in range(4)], jobs=2))
"""


def is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def until(true, *, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path):
    """Start two workers that would go on for ten minutes, in a process group of their own."""
    script = tmp_path / "busy.py"
    script.write_text(WORK)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: sum(bool(path.read_text()) for path in tmp_path.glob("*.pid")) == 2)
    workers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    yield process, workers
    process.kill()
    process.communicate()
    for worker in filter(is_running, workers):
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["as a terminal does", "to the command alone"])
def test_ctrl_c_ends_the_command_and_its_workers_and_says_what_is_kept(started, send, tmp_path):
    process, workers = started
    send(process.pid, signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    until(lambda: not any(map(is_running, workers)))
    assert process.returncode != 0
    assert complaints.startswith(f"Interrupted. Kept in {tmp_path}.\n")
    assert complaints.count("Traceback") == 1  # the script's own: a command ends without
    assert len(list(tmp_path.glob("*.pid"))) == 2  # what waited was not begun


def test_workers_end_with_a_command_that_is_killed(started):
    process, workers = started
    process.kill()
    until(lambda: not any(map(is_running, workers)))
