"""Logs to watch, and a server of the live page in a thread of this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from foreshock.live.run import LiveRun
from foreshock.runlog import RunLogWriter
from live_logs import Rows, settle, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foreshock.live.server import LivePage


@pytest.fixture
def write() -> Callable[..., Path]:
    """Return a function that writes records as the log of a run and returns the log."""

    def written(folder: Path, rows: Rows, **meta: object) -> Path:
        writer = RunLogWriter(folder, meta=meta)
        writer.write_many(rows)
        writer.close()
        return writer.path

    return written


@pytest.fixture
def follow() -> Callable[[Path], LiveRun]:
    """Return a function that reads a log to its end, and looks for spikes."""

    def followed(path: Path) -> LiveRun:
        run = LiveRun(path, name=path.parent.name)
        settle(run)
        return run

    return followed


@pytest.fixture
def serve() -> Iterator[Callable[..., LivePage]]:
    """Return a function that serves a place on a port of its own."""
    from foreshock.live.server import LivePage

    running: list[tuple[LivePage, threading.Thread]] = []

    def served(place: Path, **options: Any) -> LivePage:
        page = LivePage(place, port=0, **options)
        thread = threading.Thread(target=page.serve)
        thread.start()
        running.append((page, thread))
        until(lambda: all(run.headline().state != "waiting" for run in page.watched.all_runs()))
        return page

    yield served
    for page, thread in running:
        page.stop()
        thread.join(timeout=120)
        assert not thread.is_alive()
