"""Where the check runs, how large it is, and how long it may take; what every part of it uses."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Result = dict[str, Any]
Keep = Callable[[Result], None]
"""Keeps what a part has measured so far: it may be ended at any moment."""


@dataclass(frozen=True)
class Setting:
    """How one part of the check is run.

    Attributes:
        device: "cuda" or "cpu".
        tiny: Whether everything is small enough for a test on a processor.
        seconds: Time after which the part should have ended.
        began: When it began, on the clock of `time.monotonic`.
    """

    device: str
    tiny: bool
    seconds: float
    began: float

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)

    @property
    def is_cuda(self) -> bool:
        """Whether there is a GPU to measure on."""
        return self.device == "cuda"


def synchronize(setting: Setting) -> None:
    """Wait for the device."""
    if setting.is_cuda:
        torch.cuda.synchronize()


@contextlib.contextmanager
def peak_memory(setting: Setting) -> Iterator[Callable[[], int | None]]:
    """Return a function that says how many bytes were allocated at most since the block began."""
    if setting.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() if setting.is_cuda else None


def machine(setting: Setting) -> Result:
    """Return what the figures depend on: device, versions, the day."""
    found: Result = {
        "device": f"{platform.machine()} CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if setting.is_cuda:
        properties = torch.cuda.get_device_properties(0)
        found["device"] = properties.name
        found["memory"] = properties.total_memory
        found["cuda"] = torch.version.cuda
    return found


def finite(value: Any) -> Any:
    """Return plain values with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(name): finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
