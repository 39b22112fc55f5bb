"""Turn the JSON of `run` into the Markdown of the documentation.

Run from the root of the repository::

    python -m benchmarks.overhead.table benchmarks/overhead/results/full.json docs/benchmarks/overhead.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.host_reads import render as render_host_reads
from benchmarks.markdown import table, write_page
from benchmarks.overhead.watchers import FREE, PEER

Row = dict[str, Any]
LARGE_STEP = 0.020  # seconds, from which a share of a step is the measure of what is free
DEFAULT_BUDGET = 0.05
TOTALS = {DEFAULT_BUDGET: 0.06, 0.02: 0.025}
"""By budget: the most that watching may cost in a long run, as a share of a large step."""

FREE_SHARE = 0.01  # of a large step
FREE_SECONDS = 1e-4  # of a small one
CLOCK = "processor"  # the clock that judges: other processes don't lengthen it


class Verdict(NamedTuple):
    """A target on one run: what it says, what was measured, and by how much it is missed; 0 if it is met."""

    target: str
    run: str
    measured: str
    missed: str

    @property
    def is_met(self) -> bool:
        """Whether the target is met."""
        return not self.missed


def render(record: Row) -> str:
    """Return the page.

    Args:
        record: What `run` wrote.
    """
    found = list(verdicts(record["rows"]))
    parts = [
        _introduction(record),
        "## Targets\n\n" + _targets(found),
        *(_case(record, name) for name in dict.fromkeys(row["case"] for row in record["rows"])),
        "## Host reads\n\n" + _host_reads(record["host_reads"]),
    ]
    return "\n\n".join(parts) + "\n"


def verdicts(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Yield how each target is met by each run that it speaks of.

    Args:
        rows: Of the record.
    """
    for row in rows:
        found, budget = row[CLOCK], row["budget"]
        run = f"{row['case']}, {row['data']}"
        large = found["step"] >= LARGE_STEP
        if large and budget in TOTALS:
            most = TOTALS[budget]
            yield _share(f"budget {budget:g}: at most {most:.1%} of a step", run, found["total"], most)
        if row["watcher"] == FREE and large:
            target = f"free signals: at most {FREE_SHARE:.0%} of a step"
            yield _share(target, run, found["steady"], FREE_SHARE)
        if row["watcher"] == FREE and not large:
            target = f"free signals: at most {FREE_SECONDS * 1e3:g} ms of a small step"
            over = (found["added"] - FREE_SECONDS) * 1e3
            yield Verdict(target, run, f"{found['added'] * 1e3:.3f} ms", _missed(over, ".3f", " ms"))
        if row["package"] == PEER:
            yield from _against_peer(row, rows, run)


def _share(target: str, run: str, found: Sequence[float], most: float) -> Verdict:
    over = (found[0] - most) * 100
    return Verdict(target, run, _interval(found), _missed(over, ".2f", " percentage points"))


def _against_peer(peer: Row, rows: Sequence[Row], run: str) -> Iterator[Verdict]:
    for row in rows:
        same = (row["case"], row["data"]) == (peer["case"], peer["data"])
        if same and row["budget"] == DEFAULT_BUDGET:
            ours, theirs = row[CLOCK]["total"][0], peer[CLOCK]["total"][0]
            over = (ours - theirs) * 100
            yield Verdict(
                f"default monitor: less than {peer['watcher']}",
                run,
                f"{ours:.2%} against {theirs:.2%}",
                _missed(over, ".2f", " percentage points"),
            )


def _missed(over: float, form: str, unit: str) -> str:
    # So that NaN is a miss.
    return "" if over <= 0 else f"{over:{form}}{unit}"


def _introduction(record: Row) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    quick = " --quick" if record["suite"] == "quick" else ""
    missing = "" if machine["versions"]["trainscope"] else "\n\ntrainscope was not installed."
    long_run, cold = record["long_run"], record["cold"]
    return f"""# Overhead: what watching a training costs

<!-- Made by benchmarks/overhead/table.py: change that, not this. -->

Two copies of one model and its AdamW see the same batches in one process, on one thread: a block of steps of
the copy that nobody watches, a block of the watched one, and so on. *Total* is what watching adds to a run
of {long_run:,} steps, the first probe included, as a share of a plain step; in brackets a 95 % bootstrap
interval over blocks. Processor time judges, since other processes do not lengthen it; wall time stands beside
it. What is called between backward and step is timed directly, and its mean counts every rare event; what
watching does to the rest of a step is the median ratio of blocks. *Steady* leaves out the first {cold} steps;
*beginning* is what they took beyond it, in plain steps; *usual block* is the median ratio of whole blocks,
which does not see what happens rarely. *Measuring* counts the steps that took half a forward and backward
pass longer than usual. A run that was timed for fewer than {long_run:,} steps may have ended before a probe
was due: its total is at least what its budget comes to once it is spent.

The *budget* counts forward and backward passes for each step; with 0 there are the free signals only. Every
monitor keeps a run log. *trainscope* records norms, activations and histograms of each layer: *default* is
its configuration as it comes, *minimal* the profile of that name, its cheapest.

{machine["processor"]}, {machine["threads"]} thread, Python {machine["python"]}, {versions};
{machine["date"]}. Made by `make bench-overhead` (`python -m benchmarks.overhead.run{quick}`,
{record["minutes"]:.0f} minutes).{missing}"""


def _targets(found: Sequence[Verdict]) -> str:
    met = sum(verdict.is_met for verdict in found)
    lines = [
        [
            verdict.target,
            verdict.run,
            verdict.measured,
            f"**missed by {verdict.missed}**" if verdict.missed else "met",
        ]
        for verdict in sorted(found, key=lambda verdict: verdict.target)
    ]
    head = ["target", "run", "measured", ""]
    return (
        f"{met} of {len(found)} are met. Steps of {LARGE_STEP * 1e3:.0f} ms or more are judged by shares.\n\n"
        + table(head, lines)
    )


def _case(record: Row, name: str) -> str:
    rows = [row for row in record["rows"] if row["case"] == name]
    step, one_pass = (rows[0][CLOCK][key] * 1e3 for key in ("step", "pass"))
    lines = [
        [
            row["data"],
            row["watcher"],
            _interval(row[CLOCK]["total"]),
            f"{row['wall']['total'][0]:.1%}",
            _interval(row[CLOCK]["steady"]),
            f"{row[CLOCK]['added'] * 1e3:.3f}",
            f"{row[CLOCK]['cold']:.1f}",
            f"{row[CLOCK]['usual'][0]:.1%}",
            f"{row[CLOCK]['measuring']} of {row[CLOCK]['steps']}",
        ]
        for row in rows
    ]
    head = [
        "data",
        "watched by",
        "total",
        "wall",
        "steady",
        "steady, ms",
        "beginning, steps",
        "usual block",
        "measuring",
    ]
    return (
        f"## {name}: {rows[0]['parameters']:,} parameters\n\n"
        f"A plain step takes {step:.3g} ms, of which forward and backward {one_pass:.3g} ms.\n\n"
        + table(head, lines)
    )


def _host_reads(rows: Sequence[Row]) -> str:
    return (
        "How often a step makes the host wait for the device, once a run has settled, with a model of so "
        "many tensors. *Step counts* are reads of what torch keeps on the host unless the optimizer is fused "
        "or capturable; the fused one here has its learning rate in a tensor as well. Made by "
        "`python -m benchmarks.host_reads`.\n\n" + render_host_reads(rows)
    )


def _interval(values: Sequence[float]) -> str:
    estimate, low, high = values
    return f"{estimate:.2%} ({low:.2%} – {high:.2%})"


if __name__ == "__main__":
    write_page(render)
