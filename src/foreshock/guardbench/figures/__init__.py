"""The pictures, one a file."""

from foreshock.guardbench.figures.heat import write_heat
from foreshock.guardbench.figures.pareto import write_pareto

__all__ = ["write_heat", "write_pareto"]
