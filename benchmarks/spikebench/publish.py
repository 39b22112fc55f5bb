"""Turn the scores of SpikeBench into the page and the figures of the documentation.

Run from the root of the repository, after ``foreshock bench forecast --suite full --release``::

    python -m benchmarks.spikebench.publish runs/spikebench

The scores are kept as JSON beside this file; the traces, of which the fans are drawn, are not.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from foreshock.spikebench.page import benchmark_page
from foreshock.spikebench.publication import load_scores, save_scores, write_example, write_pages
from foreshock.spikebench.trace import Trace

_ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "full.json"
PAGE = _ROOT / "docs" / "benchmarks" / "forecast.md"
IMAGES = _ROOT / "docs" / "images" / "spikebench"
# The first seed of two held-out full-batch runs, chosen before their forecasts were seen.
EXAMPLES = ("lstm-digits-0", "language-tiny-whole-0")


def publish(folder: Path) -> None:
    """Write scores, figures and page.

    Args:
        folder: What ``foreshock bench forecast`` wrote.
    """
    scores = load_scores(folder / "scores.json")
    save_scores(scores, RESULTS)
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir(parents=True)
    written = [path for path in write_pages(scores, folder / "pages") if path.suffix == ".svg"]
    figures = [Path(shutil.copy(path, IMAGES)) for path in written]
    for name in EXAMPLES:
        trace = folder / "traces" / f"{name}.npz"
        if trace.exists():
            figures.append(write_example(Trace.load(trace), IMAGES / f"fan-{name}.svg"))
    PAGE.write_text(benchmark_page(scores, figures, images="../images/spikebench"), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder of `foreshock bench forecast`")
    publish(parser.parse_args().folder)
