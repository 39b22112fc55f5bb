"""Forecasts of tapes and of recordings, made once and kept: playing a full-batch run takes seconds."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.lab.jobs import finished, rounded, write_json
from foreshock.lab.spikebench.fitting import Signed, labelled
from foreshock.lab.spikebench.oracle import oracle_signs
from foreshock.lab.spikebench.played import Played, played
from foreshock.lab.spikebench.probability import score_probability
from foreshock.lab.spikebench.spikes import truth_of
from foreshock.lab.spikebench.suite import suite
from foreshock.lab.spikebench.tape import Tape
from foreshock.lab.spikebench.trace import Column, Trace

_AFTER_THE_SIGNS = ("alarms.py", "probability.py")


def score_folders(
    tapes: Sequence[Path],
    traces: Sequence[Path],
    out: Path,
    *,
    split: str,
    jobs: int = 1,
    note: Callable[[str], None] = print,
) -> tuple[Path, dict[str, Any]]:
    """Play what is in folders of tapes and traces, score one split, and write the scores.

    The tapes and traces of the development runs are needed for the test split too: the oracle is fitted to
    them. No test run is played unless that split is asked for.

    Args:
        tapes: Folders with one folder a budget in each.
        traces: Folders of traces; without them there are no rules and no oracle.
        out: Folder for ``probability-SPLIT.json``, and for what is kept.
        split: "development" or "test".
        jobs: Processes, ≥ 1.
        note: Called with lines for people.

    Returns:
        The file of the scores, and the scores.

    Raises:
        ValueError: If there are no tapes of the split.
    """
    names = _names(split)
    budgets: dict[str, list[Path]] = {}
    for folder in tapes:
        for path in sorted(folder.glob("*/*.json.gz")):
            if _configuration(path) in names["tapes"]:
                budgets.setdefault(path.parent.name, []).append(path)
    files = [path for folder in traces for path in sorted(folder.glob("*.npz"))]
    files = [path for path in files if _configuration(path) in names["traces"]]
    played_of: dict[str, list[Played]] = {}
    for budget, paths in budgets.items():
        note(f"{len(paths)} tapes with a budget of {budget}")
        played_of[budget] = [load_played(one) for one in play_all(paths, out / "played", jobs=jobs)]
    note(f"{len(files)} recordings")
    kept = read_all(files, out / "oracle", jobs=jobs)
    recordings = []
    for file, one in zip(files, kept, strict=True):
        trace = Trace.load(file)
        recordings.append((trace, load_signs(one, trace)))
    scores = rounded(score_probability(played_of, recordings, split))
    return write_json(scores, out / f"probability-{split}.json"), scores


def _names(split: str) -> dict[str, set[str]]:
    """Return the configurations whose tapes and traces are read."""
    development = {config.name for size in ("full", "quick") for config in suite(size)}
    test = {config.name for config in suite("test")}
    if split == "test":
        return {"tapes": test, "traces": test | development}
    return {"tapes": development, "traces": development}


def _configuration(path: Path) -> str:
    """Return the name of a file without its seed and its suffixes."""
    return path.name.split(".", 1)[0].rpartition("-")[0]


def play_all(
    tapes: Sequence[Path],
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on_done: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Play tapes that were not yet played to the present forecaster.

    Args:
        tapes: Files of tapes, each in a folder named after its budget.
        folder: Where what is made of them is kept.
        jobs: Processes, ≥ 1.
        on_done: Called with the path of each that was made now.

    Returns:
        What `load_played` reads, in the order of `tapes`.
    """
    places = [Path(folder) / tape.parent.name / f"{tape.name.removesuffix('.json.gz')}.npz" for tape in tapes]
    _make(_play_one, tapes, places, jobs, on_done)
    return places


def read_all(
    traces: Sequence[Path],
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on_done: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Give recordings that were not yet given to the oracle.

    Args:
        traces: Files of traces.
        folder: Where what is made of them is kept.
        jobs: Processes, ≥ 1.
        on_done: Called with the path of each that was made now.

    Returns:
        What `load_signs` reads, in the order of `traces`.
    """
    places = [Path(folder) / trace.name for trace in traces]
    _make(_read_one, traces, places, jobs, on_done)
    return places


def load_played(path: Path) -> Played:
    """Read the forecasts of a tape."""
    with np.load(path, allow_pickle=False) as arrays:
        losses = arrays["losses"]
        trace = Trace(json.loads(str(arrays["meta"])), {"loss": Column(np.arange(losses.size), losses)})
        signs = _signs(arrays, trace)
        return Played(trace, signs, arrays["known"], arrays["dates"], float(arrays["cost"]))


def load_signs(path: Path, trace: Trace) -> Signed:
    """Read the signs that a recording gave.

    Args:
        path: One of `read_all`.
        trace: The recording.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return _signs(arrays, trace)


@functools.cache
def forecaster_digest() -> str:
    """Return a hash of the files that make a forecast, up to its signs: what others made is made anew."""
    hashed = hashlib.sha256()
    for package in ("foreshock.forecast", "foreshock.dynamics"):
        for file in sorted(resources.files(package).iterdir(), key=lambda one: one.name):
            if file.name.endswith(".py") and file.name not in _AFTER_THE_SIGNS:
                hashed.update(file.read_bytes())
    return hashed.hexdigest()[:16]


def _make(
    work: Callable[[Path, Path], Path],
    sources: Sequence[Path],
    places: Sequence[Path],
    jobs: int,
    on_done: Callable[[Path], None] | None,
) -> None:
    pairs = list(zip(sources, places, strict=True))
    for path in finished(work, [pair for pair in pairs if not _is_current(*pair)], jobs=jobs):
        if on_done is not None:
            on_done(path)


def _is_current(source: Path, place: Path) -> bool:
    if not place.exists() or place.stat().st_mtime < source.stat().st_mtime:
        return False
    with np.load(place, allow_pickle=False) as arrays:
        return str(arrays["digest"]) == forecaster_digest()


def _play_one(tape: Path, place: Path) -> Path:
    made = played(Tape.load(tape))
    return _save(
        place,
        made.signs,
        meta=np.array(json.dumps(dict(made.trace.meta))),
        losses=made.trace.column("loss").values,
        known=made.known,
        dates=made.dates,
        cost=np.array(made.cost),
    )


def _read_one(trace: Path, place: Path) -> Path:
    return _save(place, oracle_signs(Trace.load(trace)))


def _save(place: Path, signs: Signed, **arrays: np.ndarray) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(signs.signs)
    table = np.array([signs.signs[name] for name in names], dtype=np.float64)
    partial = place.with_name(f"partial-{os.getpid()}-{place.name}")
    np.savez_compressed(
        partial,
        digest=np.array(forecaster_digest()),
        steps=signs.steps,
        names=np.array(names),
        signs=table,
        **arrays,  # type: ignore[arg-type]
    )
    return partial.replace(place)


def _signs(arrays: np.lib.npyio.NpzFile, trace: Trace) -> Signed:
    names, table, steps = arrays["names"].tolist(), arrays["signs"], arrays["steps"].tolist()
    rows = [dict(zip(names, row, strict=True)) for row in table.T.tolist()]
    return labelled(truth_of(trace), list(zip(steps, rows, strict=True)))
