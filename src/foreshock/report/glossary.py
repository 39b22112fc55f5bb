"""The terms of a report in one sentence each, for a page that is read without the documentation at hand."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TERMS: Mapping[str, str] = MappingProxyType(
    {
        "stability ratio": (
            "The largest eigenvalue of the preconditioned Hessian over its threshold, λ_max(Ĥ) ÷ (2/η): "
            "below 1 the optimizer damps small deviations, above 1 it amplifies them."
        ),
        "edge": (
            "Where deviations begin to grow: where the stability ratio is 1, if every step sees the same "
            "data, and where the mean-square ratio passes its own threshold, if batches differ."
        ),
        "mean-square ratio": (
            "The mean curvature along a direction plus what its noise between batches adds, in multiples "
            "of the full-batch edge: above 1 the mean square of a deviation grows, even where the mean "
            "curvature alone is far below."
        ),
        "lag": (
            "How far the second moment v is above the squared gradient that it averages: the largest Σv̂ "
            "over the mean ‖g‖² of 30 steps, of the last 50 steps; about 1 while v follows."
        ),
        "instant lag": "The lag of a single step, Σv̂ ÷ Σg²; infinite where the gradient is zero.",
        "armed": (
            "The state past the edge, with mini-batches only while v lags: the next disturbance may grow "
            "into a spike, at a time that noise decides."
        ),
        "alignment": (
            "The cosine between the preconditioned gradient and the top eigenvector: how much of the "
            "gradient lies in the unstable direction, from 0 to 1."
        ),
        "secant curvature": (
            "The curvature along the last step, from the change of the gradient over it and without a "
            "Hessian product, in multiples of the edge: what a guard measures by itself."
        ),
        "stage": (
            "Where in the cycle of a spike a run is: stable decrease, decay of v, onset past the edge, "
            "growth of v, decay of the loss."
        ),
        "watch": (
            "The first level of alarm: an instability is forecast within the horizon, or the edge is passed."
        ),
        "alarm": (
            "The second level: the edge is passed and something grows, the gradient, the curvature along "
            "it or the loss that this step is predicted to reach."
        ),
    }
)

_TERM = re.compile(rf"\b({'|'.join(TERMS)})\b", re.IGNORECASE)


def anchor(term: str) -> str:
    """Return the id of a term on a page, the same as in the glossary of the documentation.

    Args:
        term: A key of `TERMS`.

    Example:
        >>> anchor("stability ratio")
        'term-stability-ratio'
    """
    return f"term-{term.replace(' ', '-')}"


def linked(text: str) -> Sequence[tuple[str, str]]:
    """Cut a text into pieces, each with the anchor to link it to: that of a term at its first occurrence.

    Args:
        text: Plain text.

    Returns:
        Pairs of words and anchor, the anchor empty for words that are no term or were linked before.

    Example:
        >>> linked("At the edge: v lags.")
        [('At the ', ''), ('edge', 'term-edge'), (': v lags.', '')]
    """
    pieces: list[tuple[str, str]] = []
    seen: set[str] = set()
    for words in _TERM.split(text):
        term = words.lower()
        first = term in TERMS and term not in seen
        seen.add(term)
        pieces.append((words, anchor(term) if first else ""))
    return [piece for piece in pieces if piece[0]]
