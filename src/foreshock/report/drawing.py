"""matplotlib, found when a picture is wanted, and figures that are saved the same way each time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from foreshock.report.placing import placed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".pdf", ".svg", ".png")
"""Formats of pictures, by the end of the file's name."""
_DOTS_PER_INCH = 200
_DATES = {".svg": "Date", ".pdf": "CreationDate"}


def figure_class() -> type[Figure]:
    """Return matplotlib's figure, without pyplot and its global state.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ImportError(
            'the picture needs matplotlib, which is missing: pip install "foreshock[figures]"'
        ) from error
    return figure.Figure


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuse a file that no picture can be written to.

    Args:
        path: The file.

    Raises:
        ValueError: If its name does not end in one of `SUFFIXES`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        allowed = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise ValueError(f"{os.fspath(path)!r} must end in {allowed}: these are the formats of a picture")


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dots_per_inch: int = _DOTS_PER_INCH) -> Path:
    """Save a figure; the same figure gives the same file.

    Args:
        figure: The figure.
        path: File to write, ``.svg``, ``.pdf`` or ``.png``; its folder is made if missing.
        dots_per_inch: Resolution of a ``.png``.

    Raises:
        ValueError: If it is of another format.
    """
    check_format(path)
    import matplotlib as mpl

    target = Path(path)
    with placed(target) as beside, mpl.rc_context({"svg.hashsalt": "foreshock"}):
        suffix = target.suffix.lower()
        metadata = {_DATES[suffix]: None} if suffix in _DATES else {}
        figure.savefig(beside, dpi=dots_per_inch, facecolor="white", metadata=metadata)
    return target
