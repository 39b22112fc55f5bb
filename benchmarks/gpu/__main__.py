"""Check Foreshock on a GPU, and write the page of it.

Run from the root of the repository, on a machine with a GPU; it takes eight minutes at most::

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --tiny --out /tmp/gpu   # that it runs, on a processor

Each part runs in a process of its own and keeps what it measured as soon as it is known, so that a part that
fails, or has to be ended, costs nobody else anything. What failed can be run again by ``--part``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.page import PAGE, RESULTS, write_page

PARTS = {"syncs": 40, "checks": 110, "overhead": 120, "memory": 30, "products": 60, "llama": 130}
"""Seconds that each part may take, in the order in which they are run."""


def main() -> None:
    """Run the parts, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a processor, to see that it runs")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=float(sum(PARTS.values())), help="for all of them")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, help="the page; docs/benchmarks/gpu.md for the kept results")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    if options.alone:
        run_part(parts[0], options.device, options.out, tiny=options.tiny, seconds=options.seconds)
        return
    run_parts(parts, options.device, options.out, tiny=options.tiny, seconds=options.seconds)
    page = options.page or (PAGE if options.out == RESULTS else options.out / "gpu.md")
    write_page(options.out, page)
    sys.stderr.write(f"Page: {page}\n")


def run_parts(parts: list[str], device: str, out: Path, *, tiny: bool, seconds: float) -> None:
    """Run parts one after the other, each in a process of its own.

    Args:
        parts: Their names.
        device: "cuda" or "cpu".
        out: Folder of the results.
        tiny: Whether everything is small.
        seconds: For all of them; what one leaves over, the later ones may use.
    """
    ends = time.monotonic() + seconds
    for place, part in enumerate(parts):
        left = ends - time.monotonic()
        if left < 8:  # a process has to start, and to import torch
            sys.stderr.write(f"{part}: there is no time left\n")
            continue
        share = left * PARTS[part] / sum(PARTS[one] for one in parts[place:])
        began = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.gpu", "--alone", "--part", part, "--device", device]
        command += ["--out", str(out), "--seconds", f"{share - 4:.1f}", *(["--tiny"] if tiny else [])]
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        try:
            ended = subprocess.run(  # noqa: S603 - of our own
                command, env=environment, timeout=min(left, share + 15), check=False
            )
            if ended.returncode:
                note_end(part, out, f"its process ended with {ended.returncode}")
        except subprocess.TimeoutExpired:
            note_end(part, out, f"it was ended after {time.monotonic() - began:.0f} s")
        sys.stderr.write(f"{part}: {time.monotonic() - began:.0f} s\n")


def run_part(part: str, device: str, out: Path, *, tiny: bool, seconds: float) -> None:
    """Run one part here, and keep what it measures, or how it failed.

    Args:
        part: Its name.
        device: "cuda" or "cpu".
        out: Folder of the results.
        tiny: Whether everything is small.
        seconds: Time after which it should have ended.
    """
    from benchmarks.gpu.setting import Setting, finite, machine

    setting = Setting(device, tiny, seconds, time.monotonic())
    record: dict[str, Any] = {"part": part, "tiny": tiny, "machine": machine(setting), "result": {}}
    out.mkdir(parents=True, exist_ok=True)

    def keep(result: dict[str, Any]) -> None:
        record["seconds"] = round(time.monotonic() - setting.began, 1)
        record["result"] = finite(result)
        _write(record, out / f"{part}.json")

    keep({})
    try:
        importlib.import_module(f"benchmarks.gpu.{part}").measure(setting, keep)
    except Exception:  # noqa: BLE001 - it is kept, and the other parts go on
        record["failure"] = traceback.format_exc()[-3000:]
        sys.stderr.write(record["failure"])
        _write(record, out / f"{part}.json")


def note_end(part: str, out: Path, why: str) -> None:
    """Note in the result of a part, if it has one, that it ended before it was done.

    Args:
        part: Its name.
        out: Folder of the results.
        why: How it ended.
    """
    path = out / f"{part}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"part": part}
    out.mkdir(parents=True, exist_ok=True)
    _write(kept | {"failure": why}, path)


def _write(record: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_short(record), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
