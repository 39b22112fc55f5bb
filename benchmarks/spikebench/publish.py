"""Turn the scores of SpikeBench into the page and the figures of the documentation.

Run from the root of the repository, after ``foreshock bench forecast --suite full --release``::

    python -m benchmarks.spikebench.publish runs/spikebench

What the page needs of the scores is kept as JSON beside this file; the traces, of which the fans are drawn,
are not. Without a folder the page is written again from the published scores, with the figures that are
there, for example after its wording has changed::

    python -m benchmarks.spikebench.publish
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.lab.spikebench.page import benchmark_page
from foreshock.lab.spikebench.publication import load_scores, write_example, write_figures
from foreshock.lab.spikebench.trace import Trace

_ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = _ROOT / "docs" / "benchmarks" / "forecast.md"
IMAGES = _ROOT / "docs" / "images" / "spikebench"
# The first seed of two held-out full-batch runs, chosen before their forecasts were seen.
EXAMPLES = ("lstm-digits-0", "language-tiny-whole-0")


def published(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of the scores: kinds of batch in both splits, families in the held-out one.

    Args:
        scores: What ``foreshock bench forecast`` wrote.
    """

    def kept(split: str, group: str) -> bool:
        return group != "all" and (split == "held-out" or not group.startswith("family"))

    def chosen(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {
            split: {group: entry for group, entry in groups.items() if kept(split, group)}
            for split, groups in found.items()
        }

    rules = dict(scores["rules"]) | {"scores": chosen(scores["rules"]["scores"])}
    for groups in rules["scores"].values():
        for group, entries in groups.items():
            if group.startswith("family"):
                groups[group] = {name: _brief(entry) for name, entry in entries.items()}
    return dict(scores) | {"rules": rules, "forecasts": chosen(scores["forecasts"])}


def publish(folder: Path) -> None:
    """Write scores, figures and page.

    Args:
        folder: What ``foreshock bench forecast`` wrote.
    """
    scores = published(load_scores(folder / "scores.json"))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "full.json").write_text(_lines(scores), encoding="utf-8")
    first = json.loads((RESULTS / "first.json").read_text(encoding="utf-8"))
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir(parents=True)
    figures = [path for split in scores["forecasts"] for path in write_figures(scores, split, IMAGES)]
    for name in EXAMPLES:
        trace = folder / "traces" / f"{name}.npz"
        figures.append(write_example(Trace.load(trace), IMAGES / f"fan-{name}.svg"))
    page = benchmark_page(scores, figures, images="../images/spikebench", first=first)
    PAGE.write_text(page, encoding="utf-8")


def republish() -> None:
    """Write the page again from the published scores, with the figures that are there."""
    scores = load_scores(RESULTS / "full.json")
    first = json.loads((RESULTS / "first.json").read_text(encoding="utf-8"))
    fans = [IMAGES / f"fan-{name}.svg" for name in EXAMPLES]
    figures = [path for path in sorted(IMAGES.glob("*.svg")) if not path.name.startswith("fan-")]
    page = benchmark_page(scores, [*figures, *fans], images="../images/spikebench", first=first)
    PAGE.write_text(page, encoding="utf-8")


def _brief(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if entry is None else dict(entry) | {"default": None, "calibrated": None}


def _lines(scores: Mapping[str, Any]) -> str:
    """Return JSON with one line a run and a rule, so that changes can be read."""
    text = json.dumps(scores, allow_nan=False, separators=(",", ":"))
    for sign in ('{"name":', '"default":', '"crossing":'):
        text = text.replace(sign, "\n" + sign)
    return text + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish the scores of SpikeBench.")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="output folder of `foreshock bench forecast`; by default the published scores are used",
    )
    given = parser.parse_args().folder
    if given is None:
        republish()
    else:
        publish(given)
