"""Columns of numbers over steps, which grow at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foreshock.report.decimation import keep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FIRST = 1024


class Curve:
    """Some columns over the same steps.

    Args:
        names: Names of the columns.

    Example:
        >>> curve = Curve(["loss"])
        >>> curve.extend(np.arange(3.0), [np.array([3.0, 2.0, 1.0])])
        True
        >>> curve.steps.tolist(), curve.column("loss").tolist()
        ([0.0, 1.0, 2.0], [3.0, 2.0, 1.0])
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._places = {name: place for place, name in enumerate(names, start=1)}
        self._data = np.empty((len(names) + 1, _FIRST))
        self._size = 0

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._size

    @property
    def steps(self) -> NDArray[np.float64]:
        """The steps, shape (n,); the array changes when the curve does."""
        return self._data[0, : self._size]

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column, shape (n,); the array changes when the curve does.

        Args:
            name: Its name.
        """
        return self._data[self._places[name], : self._size]

    def clear(self) -> None:
        """Forget all."""
        self._size = 0

    def extend(self, steps: NDArray[np.float64], columns: Sequence[NDArray[np.float64]]) -> bool:
        """Append values; return whether what was there before kept its place.

        Args:
            steps: Steps, shape (n,). Where they go back, all are sorted: a record may be logged late.
            columns: Values, in the order of the names, each of shape (n,).
        """
        before, self._size = self._size, self._size + len(steps)
        if self._size > self._data.shape[1]:
            larger = np.empty((len(self._data), max(self._size, 2 * self._data.shape[1])))
            larger[:, :before] = self._data[:, :before]
            self._data = larger
        for row, values in zip(self._data, (steps, *columns), strict=True):
            row[before : self._size] = values
        if (np.diff(self.steps[max(before - 1, 0) :]) >= 0).all():
            return True
        order = np.argsort(self.steps, kind="stable")
        self._data[:, : self._size] = self._data[:, : self._size][:, order]
        return False

    def view(
        self, names: Sequence[str], *, first: float, last: float, points: int, since: int = 0
    ) -> list[NDArray[np.float64]]:
        """Return steps and columns between two steps, few enough to draw: no extreme of any is left out.

        One point beyond either end is kept, so that lines reach the edge of a picture.

        Args:
            names: The columns.
            first: First step.
            last: Last step.
            points: Up to so many all points are kept; above, about so many a column.
            since: Points before this place are left out: whoever asks has them.
        """
        since = min(max(since, 0), len(self))  # whoever asks may have seen an earlier session
        low = max(int(np.searchsorted(self.steps, first)) - 1, since)
        high = max(int(np.searchsorted(self.steps, last, side="right")) + 1, low)
        columns = [self.column(name)[low:high] for name in names]
        kept = low + keep(columns, points=points)
        return [self.steps[kept], *(self.column(name)[kept] for name in names)]
