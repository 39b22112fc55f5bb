"""The words under each chart: what it shows and how to read it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CAPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "loss": {
            "title": "Loss",
            "caption": (
                "The training loss, on a logarithmic axis unless it falls below zero. Red marks a spike, a "
                "divergence or a loss that was no number, with its height over the level before it; amber is "
                "the time between its announcement and its onset; grey is a false alarm, green one that the "
                "guard answered. Green strokes at the foot are steps on which the guard acted."
            ),
        },
        "probability": {
            "title": "Probability of a spike",
            "caption": (
                "The probability that a spike begins within the horizon of the forecast, 50 steps unless the "
                "run chose otherwise, from what the monitor had measured by then. The line is where an alarm "
                "begins; it ends where the probability falls below half of it, or with the spike. While a "
                "spike goes on there is none."
            ),
        },
        "ratio": {
            "title": "Stability ratio and its forecasts",
            "caption": (
                "The stability ratio: the largest eigenvalue of the preconditioned Hessian over the "
                "threshold 2/η. At 1, the edge, the optimizer begins to amplify errors instead of damping "
                "them. Each amber fan is a forecast as it was made: the dashed line leads to where the "
                "threshold was expected, the fan to the ends of the 80 % interval. Of every rise the first "
                "forecasts with a bounded interval are drawn that expected it within 200, 100 and 50 "
                "steps. The axis keeps to where the ratio spends its time; what leaves it is off scale. "
                "With mini-batches instability can begin well below 1: a low ratio is no proof of safety."
            ),
        },
        "countdown": {
            "title": "Countdown to instability",
            "caption": (
                "At each reading, in how many steps the stability ratio was forecast to reach 1 (amber, "
                "with its 80 % interval) and in how many it did (the sawtooth). A good forecast lies on "
                "the sawtooth; forecasts beyond the axis leave it at the top."
            ),
        },
        "noise": {
            "title": "The edge of mini-batches",
            "caption": (
                "Where batches differ, the noise of the curvature moves the edge: the mean-square ratio is "
                "the mean curvature and what its noise adds, here the typical one of the last five "
                "measurements. The dotted line is what counts as its edge. A run is armed while the ratio "
                "is past it and the lag of v is above 2; while v follows the squared gradient, what grows "
                "is damped at once."
            ),
        },
        "directions": {
            "title": "Curvature along the gradient and the update",
            "caption": (
                "The same curvature along the directions that training moves in, over 2/η. The top "
                "direction is the risk. The trigger is the gradient turning into it: when the curve along "
                "the gradient passes the edge at 1 as well, the loss is about to rise."
            ),
        },
        "alignment": {
            "title": "Alignment of the gradient with the top direction",
            "caption": (
                "The alignment is the cosine between the preconditioned gradient and the top eigenvector. "
                "Near 0 the gradient hardly has a part in the unstable direction, near 1 it has little "
                "else."
            ),
        },
        "gradient-norm": {
            "title": "Gradient norm",
            "caption": (
                "‖g‖ over all parameters, as it was when the monitor observed the step. A jump within one "
                "step, with nothing that built up before it, points at the data of that step; growth over "
                "several steps is what instability looks like."
            ),
        },
        "learning-rate": {
            "title": "Learning rate",
            "caption": (
                "The largest η of a parameter group, as the schedule had it. The threshold 2/η moves with "
                "it: where η rises, so does the stability ratio."
            ),
        },
        "lag": {
            "title": "Lag of the second moment",
            "caption": (
                "The instant lag: the second moment v over the squared gradient that it averages. Far "
                "above 1, v remembers gradients that are long gone; below 1, the gradient has outgrown it."
            ),
        },
        "decay": {
            "title": "Decay exponent of the second moment",
            "caption": (
                "At 1, v only decays, by β₂ a step: it does not follow the gradient, and the stability "
                "ratio climbs although the landscape stands still. At 0 or below, v is growing. The axis "
                "ends at −2; sudden growth passes below it."
            ),
        },
    }
)

OVERLAID: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "loss": {
            "title": "Loss",
            "caption": (
                "The training loss of each run, on a logarithmic axis unless one falls below zero. A "
                "triangle marks a spike, a divergence or a loss that was no number, with its height over "
                "the level before it. A click on a name in the legend hides the run."
            ),
        },
        "ratio": {
            "title": "Stability ratio",
            "caption": (
                "The stability ratio of each run: the largest eigenvalue of the preconditioned Hessian "
                "over the threshold 2/η. At 1, the edge, the optimizer begins to amplify errors instead "
                "of damping them. The axis keeps to where the ratios spend their time. With mini-batches "
                "instability can begin well below 1: a low ratio is no proof of safety."
            ),
        },
        "noise": {
            "title": "The edge of mini-batches",
            "caption": (
                "The mean-square ratio of each run: the mean curvature and what the noise of batches "
                "adds, the typical one of the last five measurements. The dotted line is what counts as "
                "its edge."
            ),
        },
    }
)
"""Titles and captions of charts that show several runs, where they differ."""
