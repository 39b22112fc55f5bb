"""What all tests share: threads, a fixed seed, no deadlines, and trainings from perturbed starts."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from chromium import CHROMIUM
from perturbed import Outcomes, from_perturbed_starts

# One, unless another arithmetic is asked for.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])

# A property is no matter of time: on a busy machine any example may take longer than the usual 200 ms.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell that starts the tests in the background has them ignore Ctrl-C, and the commands they start too:
# those that test Ctrl-C would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, where all are run: two processes then end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage: it is half a gigabyte, and stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads_and_seed() -> Iterator[None]:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def perturbed() -> Callable[..., Outcomes]:
    """Train from several perturbed starts: ``perturbed(train, starts=5)`` returns their `Outcomes`."""
    torch.set_num_threads(THREADS)
    return from_perturbed_starts


@pytest.fixture(scope="session")
def browser():
    """Return headless Chromium: one for all tests, since a process may run only one at a time."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
