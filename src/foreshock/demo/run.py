"""The demo: two real networks on real input, whose losses spike by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foreshock.demo import digits_cnn, stdlib_transformer
from foreshock.demo.training import OnStep, train_watched
from foreshock.demo.workload import Workload

PROBE_EVERY = 2

StartRun = Callable[[Workload], OnStep]


def run_demo(out: Path, *, quick: bool = False, seed: int = 0, start: StartRun | None = None) -> list[Path]:
    """Train both networks under a monitor.

    Args:
        out: Folder for the two runs; earlier ones in it are replaced.
        quick: Train for less long, for a few seconds.
        seed: Seed of the initial weights.
        start: Called before each network with its workload; returns what to call after each step.

    Returns:
        The folders of the two runs.

    Raises:
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    digits = digits_cnn.DigitsConfig.quick(seed=seed) if quick else digits_cnn.DigitsConfig(seed=seed)
    text = (
        stdlib_transformer.TransformerConfig.quick(seed=seed)
        if quick
        else stdlib_transformer.TransformerConfig(seed=seed)
    )
    folders = []
    for workload in (digits_cnn.build(digits), stdlib_transformer.build(text)):
        on_step = start(workload) if start is not None else None
        folders.append(train_watched(workload, out / workload.name, probe_every=PROBE_EVERY, on_step=on_step))
    return folders
