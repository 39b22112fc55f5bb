"""Draw images/spikes/definition.png, what counts as a spike: ``python docs/spike_pictures.py``.

The curves are made by formulas; what is found in them is found by `foreshock.spikes.detect_events`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from foreshock.report.appearance import AMBER, BLUE, GREEN, RED, SOFT, dress
from foreshock.report.drawing import figure_class, save_figure
from foreshock.spikes import EventDefinition, LossEvent, SpikeDefinition, detect_events, detect_spikes

PICTURE = Path(__file__).parent / "images" / "spikes" / "definition.png"
_COLOURS = {"spike": RED, "divergence": RED, "climb": AMBER, "non-finite": RED}


def curves() -> Mapping[str, NDArray[np.float64]]:
    """Return the curves by what they show."""
    noise = np.random.default_rng(0).normal
    smooth = np.concatenate((np.geomspace(0.3, 0.1, 200), 0.1 + 1.5 * np.exp(-np.arange(150) / 12)))
    ceiling = np.full(400, 2.0) + noise(0, 0.03, 400)
    ceiling[200:240] += 3.9 * np.exp(-np.arange(40) / 12)
    lost = np.concatenate((np.full(200, 2.0), np.full(200, 3.2))) + noise(0, 0.05, 400)
    below = np.full(400, -2000.0) + noise(0, 20, 400)
    below[200:220] = -100
    odd = np.exp(noise(0, 0.4, 400))
    odd[200] = 4.5
    climb = np.concatenate((np.ones(300), np.geomspace(1, 8, 900))) * np.exp(noise(0, 0.12, 1200))
    died = np.concatenate((np.full(200, 2.0) + noise(0, 0.05, 200), np.full(200, math.nan)))
    noisy = np.exp(noise(0, 0.4, 400))
    noisy[200:212] *= 6
    return {
        "A smooth loss rises and comes back": smooth,
        "Cross-entropy, bounded by ln V": ceiling,
        "It stays up": lost,
        "A log-likelihood below zero": below,
        "Small batches, one of them unlucky": odd,
        "Small batches, a rise that lasts": noisy,
        "A slow climb": climb,
        "NaN": died,
    }


def draw(axis: Axes, title: str, losses: NDArray[np.float64]) -> None:
    """Draw one curve with its events, their level and their bar.

    Args:
        axis: Where.
        title: What the curve shows.
        losses: The curve.
    """
    events = detect_events(range(len(losses)), losses.tolist())
    before = len(detect_spikes(range(len(losses)), losses.tolist(), SpikeDefinition()))
    axis.plot(losses, color=BLUE, linewidth=0.9)
    for event in events:
        axis.axvspan(
            event.onset, max(event.end, event.onset + 2), color=_COLOURS[event.kind], alpha=0.15, lw=0
        )
        span = (max(event.onset - 100, 0), event.onset)
        axis.plot(span, (event.reference, event.reference), color=GREEN, linewidth=1.6)
        if event.kind in ("spike", "divergence"):
            axis.plot(span, (bar(event), bar(event)), color=RED, linewidth=1.2, linestyle=(0, (2, 2)))
    dress(axis)
    axis.tick_params(labelsize=7)
    found = ", ".join(event.kind for event in events) or "nothing"
    axis.set_title(f"{title}\n{found}; above 3 × the median: {before}", loc="left", fontsize=8, color=SOFT)


def bar(event: LossEvent) -> float:
    """Return the loss above which the step of an event's onset was high.

    Args:
        event: The event.
    """
    definition, level, sigma = EventDefinition(), event.reference, event.sigma
    noise = level + max(definition.sigmas * sigma, definition.least * abs(level))
    return min(noise, definition.factor * level) if level > sigma / 2 else noise


def main(path: Path = PICTURE) -> None:
    """Write the picture.

    Args:
        path: File to write.
    """
    figure = figure_class()(figsize=(9, 8.6), layout="constrained")
    axes = figure.subplots(4, 2).ravel()
    for axis, (title, losses) in zip(axes, curves().items(), strict=True):
        draw(axis, title, losses)
    save_figure(figure, path, dots_per_inch=90)


if __name__ == "__main__":
    main()
