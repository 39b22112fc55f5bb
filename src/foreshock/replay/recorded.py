"""What a replay takes from the log of its run: the losses to compare with, and where it was brought back."""

from __future__ import annotations

from foreshock.runlog import Run
from foreshock.runlog.values import recorded_losses


def losses_of(run: Run) -> tuple[tuple[int, float], ...]:
    """Return steps and losses of a run.

    Args:
        run: The run.
    """
    steps, losses = recorded_losses(run)
    return tuple(zip(steps.tolist(), losses.tolist(), strict=True))


def rewinds_of(run: Run) -> list[tuple[int, int, float]]:
    """Return where a run was brought back: at which step, to which, and what its rate was multiplied by then.

    Args:
        run: The run.
    """
    rows = [row for row in run.records["event"] if row["name"].partition(":")[0] == "rewind"]
    return [(int(row["step"]), int(row["to"]), float(row.get("rate_factor", 1.0))) for row in rows]


def rate_factor_at(run: Run, step: int) -> float:
    """Return what a ladder of recovery had the learning rate multiplied by at a snapshot.

    Args:
        run: The run.
        step: Step of the snapshot.
    """
    # A snapshot of the very step at which the run was brought back is from before that.
    return [1.0, *(factor for at, _, factor in rewinds_of(run) if at < step)][-1]
