"""From the timings of steps to what watching costs, with an interval.

What is called between backward and step is timed directly, so that its mean may count every rare event: a
probe, a file that is rewritten. What watching does to the rest of a step – hooks, caches, the collector of
garbage – only shows in a comparison, and is the median over blocks of their ratio to the plain block beside
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.overhead.measure import Timings

LONG_RUN = 2000
"""Steps of the run for which the total is given."""

COLD = 50
"""Steps at the beginning that are reported apart: the first probe is in them."""

_DRAWS = 2000
_SHARE = 95.0  # percent, of the interval
_MEASURING = 0.5  # passes above the median of what is called: a step on which something was measured


def summarize(timings: Timings, *, budget: float | None = None) -> dict[str, Any]:
    r"""Return what watching costs on one clock.

    With p the median plain step, o_i the seconds of what is called at step i, and c the seconds of it in the
    first `COLD` steps, the total of a run of n steps is

    .. math:: (\text{rest}) + \frac{c + (n - n_c)\,\bar o}{n\,p}

    where the mean is over the later steps, and *rest* the median ratio of blocks minus one. A run that was
    shorter may have ended before the next probe was due: its total is at least what a spent budget comes to.

    Args:
        timings: Of a run of at least two blocks.
        budget: Passes that may be spent in a step, if the watcher has a budget.

    Returns:
        ``step`` and ``pass``, medians of the plain copy, seconds; ``usual``, the median ratio of a block
        minus one; ``steady``, the mean cost after the beginning; ``total``, that of a long run: each as
        [estimate, low, high], as a share of a plain step; ``added``, `steady` in seconds; ``cold``, what the
        beginning took beyond that, in plain steps; ``measuring``, the number of steps on which something
        was measured; ``steps``, how many were timed.

    Raises:
        ValueError: If there are fewer than two blocks.
    """
    blocks, first = blocks_of(timings)
    if not blocks >= 2:
        raise ValueError(f"there are {blocks} blocks of {timings.block} steps; at least two are needed")
    step, one_pass = float(np.median(timings.plain)), float(np.median(timings.passes))
    observe = np.array(timings.observe)
    quiet = float(np.median(observe))
    plain = np.array(timings.plain).reshape(blocks, timings.plain_block).mean(axis=1)[first:]
    base = np.array(timings.base).reshape(blocks, timings.block).mean(axis=1)[first:]
    direct = observe.reshape(blocks, timings.block).mean(axis=1)[first:]
    cold_steps = first * timings.block
    cold = float(observe[:cold_steps].sum())

    def costs(chosen: np.ndarray) -> tuple[float, float, float]:
        rest = float(np.median(base[chosen] / plain[chosen])) - 1
        usual = float(np.median((base[chosen] + direct[chosen]) / plain[chosen])) - 1
        mean = float(direct[chosen].mean())
        spent = (cold + (LONG_RUN - cold_steps) * mean) / LONG_RUN
        if budget and len(observe) < LONG_RUN:
            spent = max(spent, quiet + budget * one_pass)
        return usual, rest + mean / step, rest + spent / step

    usual, steady, total = with_intervals(costs, len(base))
    return {
        "step": step,
        "pass": one_pass,
        "usual": usual,
        "steady": steady,
        "total": total,
        "added": steady[0] * step,
        "cold": (cold - cold_steps * float(direct.mean())) / step,
        "measuring": int((observe > quiet + _MEASURING * one_pass).sum()),
        "steps": len(observe),
    }


def blocks_of(timings: Timings) -> tuple[int, int]:
    """Return the number of blocks, and how many of them are the beginning.

    Args:
        timings: Of a run.
    """
    blocks = len(timings.base) // timings.block
    return blocks, min(-(-COLD // timings.block), blocks // 2)


def with_intervals(costs: Callable[[np.ndarray], tuple[float, ...]], count: int) -> list[list[float]]:
    """Return each cost as [estimate, low, high], the ends of a 95 % bootstrap interval over blocks.

    Args:
        costs: The costs from some of the blocks, given by their places.
        count: How many blocks there are.
    """
    everything = np.arange(count)
    generator = np.random.default_rng(0)
    drawn = [costs(generator.choice(everything, count)) for _ in range(_DRAWS)]
    tail = (100 - _SHARE) / 2
    low, high = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    return [list(one) for one in zip(costs(everything), low.tolist(), high.tolist(), strict=True)]
