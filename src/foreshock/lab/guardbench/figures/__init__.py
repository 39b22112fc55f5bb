"""The pictures, one a file."""

from foreshock.lab.guardbench.figures.heat import write_heat
from foreshock.lab.guardbench.figures.pareto import write_pareto

__all__ = ["write_heat", "write_pareto"]
