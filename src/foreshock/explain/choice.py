"""One event among those of a run."""

from __future__ import annotations

from collections.abc import Sequence

from foreshock.explain.record import Explanation


def choose(
    found: Sequence[Explanation], *, spike: int | None = None, step: int | None = None
) -> tuple[Explanation, ...]:
    """Return all explanations of a run, or the one that is asked for.

    Args:
        found: The explanations, in order.
        spike: Number of the event, counted from 1; None for all.
        step: A step in it, or near it: the event that has it, else the nearest one; None for all.

    Raises:
        ValueError: If both are given, or there is no such event.
    """
    if spike is not None and step is not None:
        raise ValueError(f"spike is {spike} and step is {step}; give one of them")
    if spike is None and step is None:
        return tuple(found)
    if not found:
        raise ValueError("the loss of this run has no spike, no divergence, no climb and no NaN to explain")
    if spike is not None:
        if not 1 <= spike <= len(found):
            steps = ", ".join(f"{one.onset:,}" for one in found[:10])
            raise ValueError(
                f"spike is {spike}; there are {len(found)}, at steps {steps}: give 1 to {len(found)}"
            )
        return (found[spike - 1],)
    wanted = step if step is not None else 0
    return (min(found, key=lambda one: max(one.onset - wanted, wanted - one.end, 0)),)
