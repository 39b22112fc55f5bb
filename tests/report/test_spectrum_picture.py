"""The picture of a spectrum."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from foreshock.report.spectrum_picture import DensityCurve, write_spectrum_picture

GRID = np.linspace(-1, 2, 50)
DENSITY = np.exp(-((GRID - 0.2) ** 2) / 0.02)


@pytest.mark.parametrize("error", [None, 0.1 * DENSITY, np.full(50, math.nan)])
@pytest.mark.parametrize("threshold", [None, 1.5])
def test_both_formats_are_written_and_the_threshold_named(tmp_path, error, threshold):
    curve = DensityCurve(GRID, DENSITY, error)
    target = write_spectrum_picture(curve, tmp_path / "new" / "s.svg", threshold=threshold, title="Here")
    text = target.read_text()
    assert text.startswith("<?xml")
    assert ("unstable beyond" in text) is (threshold is not None)
    assert write_spectrum_picture(curve, tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_numbers_give_the_same_file(tmp_path):
    files = [write_spectrum_picture(DensityCurve(GRID, DENSITY), tmp_path / f"{i}.svg") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"foreshock\[figures\]"):
        write_spectrum_picture(DensityCurve(GRID, DENSITY), tmp_path / "s.svg")


def test_importing_it_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, foreshock.report.spectrum_picture; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_can_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match="must be one shape"):
        DensityCurve(GRID, DENSITY[:-1])
    with pytest.raises(ValueError, match="must be one shape"):
        DensityCurve(GRID[None], DENSITY[None])
    for nothing in (np.zeros(50), np.full(50, math.nan)):
        with pytest.raises(ValueError, match="nowhere positive"):
            DensityCurve(GRID, nothing)
