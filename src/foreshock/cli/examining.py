"""What replays of one event say of its cause, for ``foreshock explain --model … --data …``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from foreshock.explain import Explanation
    from foreshock.runlog import Run


@dataclass(frozen=True)
class Plan:
    """What is trained again to test an event.

    Attributes:
        model: ``module:factory``.
        data: ``module:batches``.
        start: Begin at the last snapshot not after this step; None for the last from before the event.
        jobs: In how many processes; 0 for as many as fit.
        threads: Threads of torch; 0 for its own choice.
    """

    model: str
    data: str
    start: int | None
    jobs: int
    threads: int


def tested(
    console: Console,
    read: Run,
    found: Sequence[Explanation],
    plan: Plan,
    *,
    quiet: bool,
) -> tuple[Explanation]:
    """Return an event with what follows from replays of it, as it was and with one thing changed at a time.

    Args:
        console: Where to say which replay is done.
        read: The run.
        found: The event, alone.
        plan: What to train, and from where.
        quiet: Whether to say nothing meanwhile.

    Raises:
        OSError: If there is no snapshot.
        ValueError: If there is not exactly one event, or the snapshot is not from before it.
    """
    from foreshock.cli.replay import run_all
    from foreshock.cli.replaying import Replay, choose_snapshot
    from foreshock.recorder.files import step_of
    from foreshock.replay.examination import examine, suspected_step, the_event, window_of

    event = the_event(found)
    snapshot = choose_snapshot(read, suspected_step(event) - 1 if plan.start is None else plan.start)
    window = window_of(read, event, step_of(snapshot))
    as_it_was = Replay(
        snapshot,
        plan.model,
        plan.data,
        window.steps,
        window.recorded,
        threads=plan.threads,
        measure=False,
        rate_factor=window.rate_factor,
    )
    tasks = [as_it_was, replace(as_it_was, perturbed=1)]
    tasks += [replace(as_it_was, change=change, optional=True) for change in window.changes]
    unchanged, perturbed, *changed = run_all(console, tasks, plan.jobs, quiet=quiet)
    examined = examine(event, unchanged, changed, perturbed=perturbed, recorded=window.recorded)
    return (replace(event, examination=examined),)
