"""Results as JSON that is small, can be read, and changes only where numbers do."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIGITS = 4


def write_json(value: Any, path: str | os.PathLike[str]) -> Path:
    """Write plain values with floats rounded to four digits; a file is there whole or not at all.

    Args:
        value: Mappings, sequences, strings and finite numbers.
        path: File to write; its folder is made if missing.

    Raises:
        ValueError: If a number is not finite: JSON has no such number.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(value), indent=1, allow_nan=False) + "\n"
    partial = target.with_name(f"partial-{target.name}")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(target)


def rounded(value: Any) -> Any:
    """Return plain values with floats rounded to four significant digits.

    Example:
        >>> rounded({"a": (1.23456, 2)})
        {'a': [1.235, 2]}
    """
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
