"""What all tests share: threads, a fixed seed, and trainings from perturbed starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch

from chromium import CHROMIUM
from perturbed import Outcomes, from_perturbed_starts

# One, unless another arithmetic is asked for.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])

# A shell that starts the tests in the background has them ignore Ctrl-C, and the commands they start too:
# those that test Ctrl-C would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
