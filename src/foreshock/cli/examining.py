"""What replays of one event say of its cause, for ``foreshock explain --model … --data …``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from foreshock.explain import Explanation
    from foreshock.replay.examination import Examination
    from foreshock.runlog import Run


def the_event(found: Sequence[Explanation]) -> Explanation:
    """Return the event that is to be tested.

    Args:
        found: The events that were asked for.

    Raises:
        ValueError: If there is not exactly one.
    """
    if not found:
        raise ValueError("the loss of this run has no spike, no divergence, no climb and no NaN to test")
    if len(found) > 1:
        steps = ", ".join(f"{one.onset:,}" for one in found[:10])
        raise ValueError(
            f"the run has {len(found)} events, at steps {steps}{' …' if len(found) > 10 else ''}; one is "
            "tested at a time: say which with --spike or --step"
        )
    return found[0]


def examine_event(
    console: Console,
    read: Run,
    event: Explanation,
    names: tuple[str, str],
    *,
    start: int | None,
    jobs: int,
    threads: int,
    quiet: bool,
) -> Examination:
    """Replay an event as it was and with one thing changed at a time, and say what follows.

    Args:
        console: Where to say which replay is done.
        read: The run.
        event: The event.
        names: ``module:factory`` and ``module:batches``.
        start: Begin at the last snapshot not after this step; None for the last from before the event.
        jobs: In how many processes; 0 for as many as fit.
        threads: Threads of torch; 0 for its own choice.
        quiet: Whether to say nothing meanwhile.

    Raises:
        OSError: If there is no snapshot.
        ValueError: If that is not from before the event.
    """
    from foreshock.cli.replay import run_all
    from foreshock.cli.replaying import Replay, choose_snapshot
    from foreshock.recorder.files import step_of
    from foreshock.replay.examination import changes_to_test, examine, steps_to_train, suspected_step
    from foreshock.runlog.values import recorded_losses

    snapshot = choose_snapshot(read, suspected_step(event) - 1 if start is None else start)
    first = step_of(snapshot)
    changes = changes_to_test(event, first)
    recorded = tuple(zip(*(part.tolist() for part in recorded_losses(read)), strict=True))
    as_it_was = Replay(snapshot, *names, steps_to_train(event, first), recorded, "", threads, measure=False)
    tasks = [as_it_was, replace(as_it_was, perturbed=1)]
    tasks += [replace(as_it_was, change=change) for change in changes]
    unchanged, perturbed, *tested = run_all(console, tasks, jobs, quiet=quiet)
    return examine(event, unchanged, tested, perturbed=perturbed, recorded=recorded)
