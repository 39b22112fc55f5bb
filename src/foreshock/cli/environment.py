"""What is installed: versions, devices, and the extras of the package."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from foreshock._version import __version__

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "cli": (("typer", "rich"), "the command line"),
        "report": (("jinja2",), "reports in HTML"),
        "figures": (("matplotlib",), "pictures"),
        "live": (("starlette", "uvicorn"), "the live page of foreshock watch"),
        "recorder": (("safetensors",), "snapshots on disk"),
        "demo": (("scikit-learn",), "the data of foreshock demo"),
        "integrations": (("transformers", "accelerate", "lightning"), "callbacks of trainers"),
        "tensorboard": (("tensorboard",), "sending to TensorBoard, reading its files"),
        "wandb": (("wandb",), "sending to W&B, reading its offline runs"),
        "mlflow": (("mlflow-skinny",), "sending to MLflow"),
        "trackio": (("trackio",), "sending to Trackio"),
        "prometheus": (("prometheus-client",), "a port that Prometheus reads"),
    }
)
"""By extra: the packages that it adds, and what they are for."""

_STANDS_FOR = {"mlflow-skinny": ("mlflow",)}


@dataclass(frozen=True)
class Extra:
    """An optional part of the package.

    Attributes:
        name: Its name.
        purpose: What it is for.
        installed: Version of each package that is there.
        missing: Packages that are not.
        command: What installs it.
    """

    name: str
    purpose: str
    installed: Mapping[str, str]
    missing: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Environment:
    """What Foreshock runs on.

    Attributes:
        foreshock: Its version.
        python: Version of Python.
        platform: Operating system and processor.
        torch: Version of torch.
        numpy: Version of numpy.
        devices: What torch can compute on.
        threads: Threads of torch on the CPU.
        extras: The optional parts.
    """

    foreshock: str
    python: str
    platform: str
    torch: str
    numpy: str
    devices: tuple[str, ...]
    threads: int
    extras: tuple[Extra, ...]


def look_around() -> Environment:
    """Return what is installed."""
    import numpy as np
    import torch

    return Environment(
        foreshock=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        torch=str(torch.__version__),
        numpy=str(np.__version__),
        devices=tuple(_devices()),
        threads=torch.get_num_threads(),
        extras=tuple(map(_extra, EXTRAS)),
    )


def _devices() -> Iterator[str]:
    import torch

    yield "cpu"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield f"cuda:{index} {torch.cuda.get_device_name(index)}"
    if torch.backends.mps.is_available():
        yield "mps"


def _extra(name: str) -> Extra:
    packages, purpose = EXTRAS[name]
    found = {package: one for package in packages if (one := _version_of(package)) is not None}
    missing = tuple(package for package in packages if package not in found)
    return Extra(name, purpose, found, missing, f'pip install "foreshock[{name}]"')


def _version_of(package: str) -> str | None:
    for name in (package, *_STANDS_FOR.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
