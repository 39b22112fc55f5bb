"""The directions along which v can be raised, parameter by parameter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foreshock.guarding.families import Slot
from foreshock.guarding.measuring import Displacement
from foreshock.vectors import split


def find_directions(
    slots: Sequence[Slot], displacement: Displacement, *, vector: Tensor | None, parameters: Sequence[Tensor]
) -> dict[str, list[Tensor | None]]:
    """Return −d of each parameter, and the components of the eigenvector if one was measured.

    Args:
        slots: Parameters with a gradient and a state.
        displacement: The last step.
        vector: Eigenvector of the symmetric form, in the order of the trained parameters; None if unknown.
        parameters: All parameters of the optimizer.
    """
    directions: dict[str, list[Tensor | None]] = {"displacement": displacement.backs(slots)}
    if vector is not None:
        trained = [p for p in parameters if p.requires_grad]
        parts = dict(zip(trained, split(vector, trained), strict=True))
        directions["eigenvector"] = [parts[slot.key] for slot in slots]
    return directions
