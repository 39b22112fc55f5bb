"""Where the browser of the browser tests is, and what they all ask of a page."""

from __future__ import annotations

import shutil

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"

INK = """canvas => {
  const { width, height } = canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  return pixels.some(value => value !== 0);
}"""
"""Whether anything is drawn on a canvas."""
