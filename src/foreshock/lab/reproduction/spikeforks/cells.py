"""The trainings whose spikes are forked, the order in which they are run, and the half that is held out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from foreshock.demo.options import check_count
from foreshock.lab.reproduction.spikemap.cells import BATCHES, Cell, Kind, fingerprint

MEMORIES = (0.95, 0.999)


@dataclass(frozen=True)
class ForkKind:
    """A kind of task, of a size that trains in a second or two.

    Attributes:
        network: What is trained, for how long, at which rates.
        decays: Decoupled weight decays.
        after: Updates of a branch after the window in which the spike is prevented.
        spikes: How many spikes of a training are forked at most.
    """

    network: Kind
    decays: tuple[float, float]
    after: int
    spikes: int = 2


KINDS: Mapping[str, ForkKind] = MappingProxyType(
    {
        "sines": ForkKind(
            Kind("regression, MLP", "mlp", {"points": 40, "width": 48}, 10, 1500, (0.03, 0.1)),
            (0.0, 0.1),
            after=400,
            spikes=3,
        ),
        "residual": ForkKind(
            Kind(
                "regression, residual MLP",
                "residual",
                {"points": 100, "width": 16, "blocks": 1},
                25,
                800,
                (0.01,),
            ),
            (0.0, 0.1),
            after=250,
        ),
        "cnn": ForkKind(
            Kind("digits, CNN", "cnn", {"images": 30, "pool": "average"}, 8, 700, (0.03,)),
            (0.0, 0.1),
            after=250,
        ),
        "lstm": ForkKind(
            Kind("digits, LSTM", "lstm", {"examples": 40, "hidden": 16}, 10, 700, (0.01, 0.03)),
            (0.0, 0.1),
            after=250,
        ),
        "addition": ForkKind(
            Kind(
                "modular addition, Transformer",
                "addition",
                {"modulus": 17, "width": 24, "heads": 2, "share": 0.7},
                50,
                1000,
                (0.003,),
            ),
            (0.3, 1.0),
            after=300,
        ),
        "language": ForkKind(
            Kind(
                "bytes, Transformer",
                "language",
                {"sequences": 32, "length": 8, "context": 4, "layers": 1, "width": 16, "heads": 2},
                8,
                700,
                (0.01,),
            ),
            (0.1, 1.0),
            after=200,
        ),
    }
)
"""The kinds of tasks by name."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the experiment; smaller ones show that everything runs.

    Attributes:
        copies: Perturbed starts of each branch, ≥ 2.
        cells: How many of the cells, in the order in which they are run; None for all.
        steps: Updates of each training; None for those of its kind.
        after: Updates of a branch after the window; None for those of its kind.

    Raises:
        ValueError: If a number is too small.
    """

    copies: int = 2
    cells: int | None = None
    steps: int | None = None
    after: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count("copies", self.copies, least=2)
        for name in ("cells", "steps", "after"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))


def all_cells() -> list[Cell]:
    """Return all cells in the order in which they are run: mixed, the kinds in turn.

    Whatever part of them has been run covers all kinds.

    Example:
        >>> len(all_cells()), len({cell.name for cell in all_cells()})
        (64, 64)
    """
    rows = []
    for name, kind in KINDS.items():
        settings = itertools.product(BATCHES, MEMORIES, kind.decays, kind.network.rates)
        cells = [Cell(name, *setting) for setting in settings]
        rows.append(sorted(cells, key=lambda cell: hashed(cell.name)))
    return [cell for turn in itertools.zip_longest(*rows) for cell in turn if cell is not None]


def held_out(cell: Cell) -> bool:
    """Return whether a cell is in the half on which rules are scored, with all of its seeds.

    Every other cell of each kind of task is, in the order in which they are run: the half was fixed by a hash
    of the names, before anything was run.

    Args:
        cell: A cell.
    """
    alike = [other for other in all_cells() if other.kind == cell.kind]
    return alike.index(cell) % 2 == 1


def fork_fingerprint(cell: Cell, seed: int, sizes: Sizes) -> str:
    """Return a hash of what the forks of a training depend on.

    Args:
        cell: The cell.
        seed: Seed of weights and batches.
        sizes: Sizes of the experiment.
    """
    kind = KINDS[cell.kind]
    training = fingerprint(cell.training(kind.network), seed)
    parts = [training, sizes.copies, sizes.steps, sizes.after or kind.after, kind.spikes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def hashed(name: str) -> str:
    """Return a hash of a name, by which cells are ordered."""
    return hashlib.sha256(f"forks-{name}".encode()).hexdigest()
