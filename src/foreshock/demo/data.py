"""Small fixed data sets that need no download."""

from __future__ import annotations

import importlib
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

DIGIT_IMAGES = 1797
"""Number of images in scikit-learn's digits."""

STDLIB_FILES = (
    "argparse.py",
    "ast.py",
    "calendar.py",
    "difflib.py",
    "heapq.py",
    "random.py",
    "statistics.py",
    "textwrap.py",
)
"""Modules that every supported Python ships as one source file of more than ten kilobytes."""

FIRST_OFFSET = 2000
OFFSET_STRIDE = 997


def load_digits(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a fixed random subset of scikit-learn's 8×8 handwritten digits.

    Args:
        count: Number of images, from 1 to 1,797.
        seed: Seed of the subset; the global random state is left alone.

    Returns:
        Images of shape (count, 1, 8, 8) with values in [0, 1], and labels 0 to 9 of shape (count,).

    Raises:
        ValueError: If `count` is out of range.
        ImportError: If scikit-learn is not installed.
    """
    if not 1 <= count <= DIGIT_IMAGES:
        raise ValueError(f"count must lie between 1 and {DIGIT_IMAGES}, got {count!r}.")
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            "The digits need scikit-learn, which is not installed. "
            'Install it with: pip install "foreshock[demo]"'
        ) from error
    digits = datasets.load_digits()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(DIGIT_IMAGES, generator=generator)[:count]
    images = torch.as_tensor(digits.images, dtype=torch.float32)[chosen].unsqueeze(1) / 16
    labels = torch.as_tensor(digits.target, dtype=torch.int64)[chosen]
    return images, labels


def load_stdlib_text(count: int, *, length: int) -> Tensor:
    """Return fixed byte sequences cut from the source of Python's standard library.

    Sequence i comes from file i modulo the number of files, with runs of white space
    collapsed to one blank: long indentations would make the next byte unpredictable.
    The bytes depend on the version of Python, and on nothing else.

    Args:
        count: Number of sequences.
        length: Bytes in each sequence.

    Returns:
        Bytes, 0 to 255, as an int64 tensor of shape (count, length).

    Raises:
        ValueError: If `count` or `length` is below one, or asks for more text than the files hold.
        FileNotFoundError: If this Python has no standard-library source on disk.
    """
    if not (count >= 1 and length >= 1):
        raise ValueError(f"count and length must be at least 1, got {count!r} and {length!r}.")
    texts = [_read_source(name) for name in STDLIB_FILES[:count]]
    rows = []
    for index in range(count):
        start = FIRST_OFFSET + (index // len(texts)) * OFFSET_STRIDE
        row = texts[index % len(texts)][start : start + length]
        if len(row) < length:
            raise ValueError(
                f"{count} sequences of {length} bytes are more than the standard-library files "
                "hold; ask for fewer or shorter sequences."
            )
        rows.append(list(row))
    return torch.tensor(rows, dtype=torch.int64)


def _read_source(name: str) -> bytes:
    path = Path(sysconfig.get_paths()["stdlib"]) / name
    try:
        return b" ".join(path.read_bytes().split())
    except OSError as error:
        raise FileNotFoundError(
            f"Cannot read {path}: this Python ships without the source of its standard library "
            "(a zipped or stripped installation). Run the demo with a regular CPython."
        ) from error
