"""The ranks of one run as one run: which of them departs from the others, in what, and since when.

What must be the same in all ranks is compared bit by bit: learning rates, settings, forecasts that they made
together, decisions of a guard, checksums of copied weights. Sums over copied gradients may be rounded in
another order, and are compared to a hundred thousandth. Losses differ by their batches: see `rank_losses`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.report.rank_losses import odd_losses
from foreshock.report.readings import PROBE_FAILED
from foreshock.representation import short_line
from foreshock.runlog.decoding import is_count
from foreshock.runlog.folders import rank_of
from foreshock.runlog.numbers import as_number
from foreshock.runlog.ranks import RankLogs, rank_logs, read_ranks
from foreshock.runlog.values import numbers
from foreshock.words import count, first_few, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from foreshock.runlog import Run

_ROUNDING = 1e-5
_SETTINGS = (
    "model",
    "optimizer",
    "groups",
    "learning_rate",
    "betas",
    "alarm_at",
    "probability_horizon",
    "guard",
)
_OF_COPIES = ("parameters",)
_TOGETHER, _ALONE = "joint batch", "local batch"
_OWN_EVENTS = 20
_FAILURES = (PROBE_FAILED, "no probe")
_OF_ALL = (PROBE_FAILED, _ALONE)  # what all ranks record at one step, but one that is gone
_MANY = 8  # ranks without a log that are named one by one

ADVICE = {
    "no log": "find out why this rank wrote none: its warning says whether the folder could not be written",
    "ends early": "look for what ended this rank: its own output, and the kernel's log for a lack of memory",
    "begins late": "make the monitor before the first step in every rank",
    "missing steps": "call observe at every step of every rank",
    "loss not finite": "look at the batches of this rank at that step, and at its device",
    "loss": "look at the data of this rank: its shard, its sampler, its preprocessing",
    "learning rate": "step the schedule in every rank alike",
    "gradient norm": "call observe once the gradients are reduced, and look for what changes them in it",
    "second moment": "load one checkpoint of the optimizer in all ranks",
    "weights": "load one checkpoint in all ranks, and find what changes the weights of this one alone",
    "forecast": "give the monitors of all ranks the same options and the same state",
    "guard": "give the guards of all ranks the same policy, options and state",
    "settings": "start all ranks with the same settings",
}
"""What to do about a departure, by its `Departure.what`."""


@dataclass(frozen=True)
class Departure:
    """Something in which a rank departs from the others.

    Attributes:
        rank: The rank.
        what: In what: ``no log``, ``ends early``, ``begins late``, ``missing steps``, ``loss not finite``,
            ``loss``, ``learning rate``, ``gradient norm``, ``second moment``, ``weights``, ``forecast``,
            ``guard`` or ``settings``.
        first: First step of it; None if it has none.
        last: Last step of it.
        count: Number of steps.
        words: How, in words that go after the name of the rank.
    """

    rank: int
    what: str
    first: int | None
    last: int | None
    count: int
    words: str

    def __str__(self) -> str:
        """Return one sentence without a full stop."""
        return f"Rank {self.rank} {self.words}"


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run.

    Attributes:
        size: Number of ranks.
        read: Ranks whose logs were compared.
        together: Whether they measured together, so that forecasts must be the same.
        departures: What departs, in order of rank and step.
        events: What only other ranks than the one that is shown recorded: rank, step, name, message.
    """

    size: int
    read: tuple[int, ...]
    together: bool
    departures: tuple[Departure, ...]
    events: tuple[tuple[int, int, str, str], ...]

    def __str__(self) -> str:
        """Return in words how many there are, and whether they agree."""
        if not self.departures:
            return f"{self.size:,} ranks, which agree"
        found = sorted({one.rank for one in self.departures})
        depart = "departs" if len(found) == 1 else "depart"
        return f"{self.size:,} ranks, of which {first_few(found)} {depart}"


def compare_ranks(run: Run) -> Ranks | None:
    """Compare the logs of all ranks of a run; None for a run of one process.

    Args:
        run: The run, as read from the log of one rank, whose folder has the others.
    """
    logs = rank_logs(run.path, run.meta)
    # Where one rank alone is watched, the others are not missing.
    if logs is None or (len(logs.paths) == 1 and not _has_event(run, _TOGETHER)):
        return None
    runs = read_ranks(run, logs)
    together = bool(runs) and all(_has_event(one, _TOGETHER) for one in runs.values())
    found = [*_missing(logs), *_settings(runs), *_silent(runs)]
    if len(runs) > 1:
        found += [
            *_rows(runs),
            *_losses(runs),
            *_equal_columns(runs),
            *_equal_records(runs, together=together),
        ]
    found.sort(key=lambda one: (one.rank, -1 if one.first is None else one.first))
    return Ranks(logs.size, tuple(runs), together, tuple(found), tuple(_own_events(run, runs)))


def _missing(logs: RankLogs) -> Iterator[Departure]:
    for rank in logs.missing[:_MANY]:
        yield Departure(rank, "no log", None, None, 0, f"has no log, one of {logs.size:,} ranks")
    more = logs.missing[_MANY:]
    if more:
        yield Departure(more[0], "no log", None, None, 0, f"and {len(more) - 1:,} more ranks have no log")


def _settings(runs: Mapping[int, Run]) -> Iterator[Departure]:
    for name in (*_SETTINGS, *(_OF_COPIES if _have_copies(runs) else ())):
        values = {rank: repr(run.meta.get(name)) for rank, run in runs.items()}
        yield from _unequal(values, Departure(0, "settings", None, None, 0, f"was started with {name} ="))
    versions = {rank: run.version for rank, run in runs.items()}
    yield from _unequal(versions, Departure(0, "settings", None, None, 0, "has Foreshock"))


def _have_copies(runs: Mapping[int, Run]) -> bool:
    """Return whether each rank has a copy of all parameters, so that sums over them are the same."""
    return all(run.meta.get("copies") is True for run in runs.values())


def _unequal(values: Mapping[int, str], said: Departure) -> Iterator[Departure]:
    """Yield the ranks whose value is not that of most; of as many, that of the lowest rank counts.

    Args:
        values: What each rank has.
        said: What to say of one, whose words go on with its value.
    """
    most = Counter(values.values()).most_common(1)[0][0] if values else ""
    for rank, own in values.items():
        if own != most:
            words = f"{said.words} {short_line(own)}, {_whose(len(values))} {short_line(most)}"
            yield replace(said, rank=rank, words=words)


def _whose(number_of_ranks: int) -> str:
    return "the other one" if number_of_ranks == 2 else "most of the others"


def _rows(runs: Mapping[int, Run]) -> Iterator[Departure]:
    """Yield the ranks that begin late, end early, or lack steps in between."""
    steps = {rank: np.unique(run.steps("step")) for rank, run in runs.items()}
    known = {rank: of for rank, of in steps.items() if len(of)}
    if not known:
        return
    begin, end = min(int(of[0]) for of in known.values()), max(int(of[-1]) for of in known.values())
    seen = Counter(int(step) for of in known.values() for step in of.tolist())
    usual = np.array(sorted(step for step, ranks in seen.items() if 2 * ranks >= len(known)), dtype=np.int64)
    resumed = {step for run in runs.values() for step in run.resumed}
    for rank, of in steps.items():
        if not len(of):
            yield Departure(rank, "ends early", None, None, 0, "has no step in its log")
            continue
        first, last = int(of[0]), int(of[-1])
        if first > begin and first not in resumed:
            yield Departure(
                rank,
                "begins late",
                begin,
                first - 1,
                first - begin,
                f"begins at step {first:,}, not {begin:,}",
            )
        if last < end:
            where = f"has no step after {last:,}, where {_whose(len(known))} got to {end:,}"
            yield Departure(rank, "ends early", last + 1, end, end - last, where)
        lacking = np.setdiff1d(usual[(usual > first) & (usual < last)], of)
        if len(lacking):
            yield Departure(
                rank,
                "missing steps",
                int(lacking[0]),
                int(lacking[-1]),
                len(lacking),
                f"lacks {count(len(lacking), 'step')} between {first:,} and {last:,}",
            )


def _silent(runs: Mapping[int, Run]) -> Iterator[Departure]:
    """Yield the ranks that end at the last step of the others, without what these recorded at it: the end."""
    ends = {rank: last for rank, (_, last) in _spans(runs).items()}
    end = max(ends.values(), default=-1)
    said = {
        rank: {str(row.get("name")) for row in runs[rank].records.get("event", []) if row["step"] >= end}
        for rank in ends
    }
    for name in sorted(set().union(*said.values()) & set(_OF_ALL)):
        for rank in sorted(ends):
            if name not in said[rank] and ends[rank] == end:
                words = f"recorded nothing more at step {end:,}, where {_whose(len(ends))} recorded {name!r}"
                yield Departure(rank, "ends early", end, end, 1, words)


def _spans(runs: Mapping[int, Run]) -> dict[int, tuple[int, int]]:
    """Return the first and the last step of each rank that has any."""
    return {rank: (int(of[0]), int(of[-1])) for rank, run in runs.items() if len(of := run.steps("step"))}


def _losses(runs: Mapping[int, Run]) -> Iterator[Departure]:
    ranks = list(runs)
    steps, present, losses = _table([_own_losses(run) for run in runs.values()])
    finite = np.isfinite(losses)
    others = finite.sum(axis=0) - finite
    bad = present & ~finite & (2 * others >= np.maximum(present.sum(axis=0) - 1, 1))
    for place, rank in enumerate(ranks):
        at = steps[bad[place]]
        if len(at):
            words = f"has a loss that is not finite at step {int(at[0]):,}"
            words += f" (and on {count(len(at) - 1, 'later step')})" if len(at) > 1 else ""
            words += f", {_whose(len(ranks))} a finite one"
            yield Departure(rank, "loss not finite", int(at[0]), int(at[-1]), len(at), words)
    # Of data that stay each rank has its own, and no step says by how much others would differ.
    drawn = ~_same_data(runs, steps)
    for one in odd_losses(steps[drawn], losses[:, drawn]):
        span = f"step {one.first:,}" if one.first == one.last else f"steps {one.first:,}–{one.last:,}"
        median = "" if one.first == one.last else "a median "
        words = f"has {median}loss of {number(one.own)} at {span}, {_whose(len(ranks))} {number(one.others)}"
        words += f" ({number(one.deviations)} robust deviations)"
        yield Departure(ranks[one.rank], "loss", one.first, one.last, one.count, words)


def _same_data(runs: Mapping[int, Run], steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return at which steps each rank saw the data of the step before, shape (t,)."""
    found = np.zeros(steps.shape, dtype=np.bool_)
    for run in runs.values():
        same = np.zeros(steps.shape, dtype=np.bool_)
        for row in run.records.get("change", []):
            after = row.get("after")
            if row.get("what") == "data" and isinstance(after, dict):
                same[steps >= row["step"]] = after.get("same") is True
        found |= same
    return found


def _own_losses(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the loss of this rank alone at each step; records of kind rank have it where others don't."""
    steps, losses = run.steps("step"), numbers(run, "step", "loss")
    own = _met(run)
    if own:
        pairs = zip(steps.tolist(), losses.tolist(), strict=True)
        losses = np.array([own.get(step, loss) for step, loss in pairs])
    return steps, losses


def _met(run: Run) -> dict[int, float]:
    """Return the losses of this rank at the steps that all ranks have met about."""
    found: dict[int, float] = {}
    for row in run.records.get("rank", []):
        steps, losses = row.get("steps"), row.get("losses")
        if isinstance(steps, list) and isinstance(losses, list):
            pairs = zip(steps, losses, strict=False)
            found |= {step: as_number(loss) for step, loss in pairs if is_count(step)}
    return found


def _table(
    columns: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the steps of any rank, and by rank at each of them whether there is a value, and which."""
    steps = np.unique(np.concatenate([of for of, _ in columns]))
    present = np.zeros((len(columns), len(steps)), dtype=np.bool_)
    values = np.full(present.shape, math.nan)
    for place, (of, value) in enumerate(columns):
        at = np.searchsorted(steps, of)
        present[place, at], values[place, at] = True, value
    return steps, present, values


def _equal_columns(runs: Mapping[int, Run]) -> Iterator[Departure]:
    """Yield the ranks whose learning rate, gradient norm or second moment is another one."""
    yield from _unequal_numbers(runs, "learning_rate", "learning rate", tolerance=0.0)
    summed = None if _have_copies(runs) else _summed(runs)
    if summed is None or len(summed):
        for name in ("gradient_norm", "second_moment"):
            what = name.replace("_", " ")
            yield from _unequal_numbers(runs, name, what, tolerance=_ROUNDING, only=summed)


def _summed(runs: Mapping[int, Run]) -> NDArray[np.int64]:
    """Return the steps whose numbers are sums over all ranks: where the parameters are shared."""
    common = set.intersection(*(set(_met(run)) for run in runs.values()))
    return np.array(sorted(common), dtype=np.int64)


def _unequal_numbers(
    runs: Mapping[int, Run],
    name: str,
    what: str,
    *,
    tolerance: float,
    only: NDArray[np.int64] | None = None,
) -> Iterator[Departure]:
    ranks = list(runs)
    steps, present, values = _table(
        [(run.steps("step"), numbers(run, "step", name)) for run in runs.values()]
    )
    kept = present.all(axis=0)  # where one has ended, training of the others is not what it was
    if only is not None:
        kept &= np.isin(steps, only)
    steps, values = steps[kept], values[:, kept]
    if not len(steps):
        return
    ordered = np.sort(values, axis=0)
    # Of two values the lower rank's counts; else the middle one, which most ranks have.
    usual = values[0] if len(ranks) == 2 else ordered[(len(ranks) - 1) // 2]
    with np.errstate(invalid="ignore"):
        apart = np.abs(values - usual) > tolerance * np.abs(usual)
    apart |= np.isnan(values) != np.isnan(usual)
    for place, rank in enumerate(ranks):
        at = np.flatnonzero(apart[place])
        if len(at):
            own, most = values[place, at[0]], usual[at[0]]
            words = f"has a {what} of {own:.7g} at step {steps[at[0]]:,}, {_whose(len(ranks))} {most:.7g}"
            words += f", and on {count(len(at) - 1, 'later step')} too" if len(at) > 1 else ""
            yield Departure(rank, what, int(steps[at[0]]), int(steps[at[-1]]), len(at), words)


def _equal_records(runs: Mapping[int, Run], *, together: bool) -> Iterator[Departure]:
    """Yield the ranks whose weights, forecasts or guard decisions are others, each where it begins."""
    end = _together_until(runs) if together else -1
    for kind, what, fields, last in (
        ("weights", "weights", ("checksum",), math.inf),
        ("curvature", "forecast", ("stability_ratio", "products"), end),
        ("noise", "forecast", ("mean", "variance"), end),
        ("forecast", "forecast", ("state", "stability_ratio", "probability", "steps_to_instability"), end),
        ("alarm", "forecast", ("level",), end),
        ("guard", "guard", ("remedy",), math.inf),
    ):
        yield from _unequal_rows(runs, kind, what, fields, last)


def _together_until(runs: Mapping[int, Run]) -> int:
    """Return the last step up to which all ranks measured together and knew the same."""
    rows = [row for run in runs.values() for row in run.records.get("event", [])]
    alone = [int(row["step"]) - 1 for row in rows if row.get("name") == _ALONE]
    met = [max((row["step"] for row in run.records.get("rank", [])), default=-1) for run in runs.values()]
    return min([*alone, *met])


def _unequal_rows(
    runs: Mapping[int, Run], kind: str, what: str, fields: Sequence[str], last: float
) -> Iterator[Departure]:
    spans = _spans(runs)
    ended = min((end for _, end in spans.values()), default=-1)
    rows: dict[int, dict[int, tuple[str, ...]]] = {
        rank: {
            row["step"]: tuple(repr(row.get(name)) for name in fields)
            for row in runs[rank].records.get(kind, [])
            if row["step"] <= min(last, ended)
        }
        for rank in spans
    }
    for step in sorted({step for of in rows.values() for step in of}):
        here = {rank: of.get(step, ("none",)) for rank, of in rows.items() if spans[rank][0] <= step}
        values = {rank: ", ".join(own) for rank, own in here.items()}
        words = f"has another {kind} at step {step:,} ({', '.join(fields)}):"
        found = list(_unequal(values, Departure(0, what, step, step, 1, words)))
        if found:  # what follows from a difference would say it again and again
            yield from found
            return


def _own_events(run: Run, runs: Mapping[int, Run]) -> Iterator[tuple[int, int, str, str]]:
    """Yield what only other ranks recorded, the same words once."""
    known = {_words_of(row) for row in run.records.get("event", [])}
    # Of what all ranks recorded at one step each has numbers of its own; a failure has its own reasons.
    common = {(row["step"], row.get("name")) for row in run.records.get("event", [])}
    own, left = rank_of(run.path), _OWN_EVENTS
    for rank, other in runs.items():
        for row in other.records.get("event", []) if rank != own else ():
            words = _words_of(row)
            alike = (row["step"], row.get("name")) in common and words[0] not in _FAILURES
            if words in known or alike or not left:
                continue
            known.add(words)
            left -= 1
            yield (rank, row["step"], *words)


def _words_of(row: Mapping[str, Any]) -> tuple[str, str]:
    return short_line(str(row.get("name") or "")), short_line(str(row.get("message") or ""))


def _has_event(run: Run, name: str) -> bool:
    return any(row.get("name") == name for row in run.records.get("event", []))
