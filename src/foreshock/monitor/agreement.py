"""Processes that train together go back together, or none does."""

from __future__ import annotations

from collections.abc import Sequence

from foreshock.distributed import Together, all_peers
from foreshock.isolation import several_processes

TROUBLE, CHOICE, LOADED, ASKED, PROSPECT = range(1, 6)
"""What is exchanged: whether there is a trouble, which snapshots there are, whether one could be put back,
that somebody called `Monitor.rewind`, and whether going back can help."""

WIDTH = 16
"""Numbers of a row: all messages have the same length, whatever they are about."""

NONE = -1.0
"""In a row, where there is no number."""


class Agreement:
    """What all processes know before they do anything about a snapshot.

    At their first steps they find out through the store of ``torch.distributed`` whether all are watched with
    the same options; from then on they meet every few steps, over a connection of their own. One that stays
    away is waited for once, for seconds; then none is rewound any more. A single process agrees with itself.

    Args:
        signature: Options that have to be the same in all processes.
        every: Steps from one meeting to the next.
    """

    def __init__(self, signature: str, *, every: int) -> None:
        self.several = several_processes()
        peers = all_peers() if self.several else None
        self._together = (
            None if peers is None else Together(peers, "rewind", signature=signature, every=every)
        )

    @property
    def refusal(self) -> str:
        """Why the processes can't agree; empty if they can, while that is open, and for a single one."""
        if not self.several:
            return ""
        if self._together is None:
            return "torch.distributed has no store through which they could meet"
        return self._together.alone

    @property
    def pending(self) -> bool:
        """Whether it is still open who takes part."""
        return self._together is not None and self._together.pending

    def meets(self, step: int) -> bool:
        """Take a step into account; return whether all processes agree on something at it.

        Args:
            step: Step number.
        """
        return not self.several if self._together is None else self._together.meets(step)

    def exchange(self, topic: int, *own: float) -> list[tuple[float, ...]] | None:
        """Return the numbers of all processes, one row each; None if they can't be had, for good.

        Args:
            topic: What they are about.
            *own: Those of this process, as many as `WIDTH` at most.
        """
        if not self.several:
            return [own]
        if self._together is None or self.refusal or self.pending:
            return None
        row = [float(topic), *own, *[NONE] * (WIDTH - len(own))]
        rows = self._together.exchange(*row)
        if rows is not None and any(one[0] != topic for one in rows):
            self._together.leave("the processes are at different places: call rewind() in each, or in none")
            return None
        return None if rows is None else [one[1:] for one in rows]

    def all(self, holds: bool) -> bool:  # noqa: FBT001 - as the built-in one has it
        """Return whether something holds in all processes: the same answer in each of them.

        Args:
            holds: Whether it does in this one.
        """
        rows = self.exchange(LOADED, float(holds))
        if rows is None or not all(row[0] for row in rows):
            return False
        return self._together is None or self._together.confirm()

    def close(self) -> None:
        """Take part no more; the others read so before they meet."""
        if self._together is not None:
            self._together.close()


def earliest(numbers: Sequence[float]) -> int | None:
    """Return the lowest of some step numbers; None if there is none.

    Args:
        numbers: Steps, or `NONE`.

    Example:
        >>> earliest([NONE, 40.0, 30.0]), earliest([NONE])
        (30, None)
    """
    found = [int(one) for one in numbers if one != NONE]
    return min(found, default=None)
