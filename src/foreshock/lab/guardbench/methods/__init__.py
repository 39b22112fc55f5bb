"""The methods of the benchmark, one family a file."""

from foreshock.lab.guardbench.methods.adam_variants import PLAIN
from foreshock.lab.guardbench.methods.method import Intervention, Method, Source, Subject
from foreshock.lab.guardbench.methods.table import METHODS, chosen_methods, method

__all__ = ["METHODS", "PLAIN", "Intervention", "Method", "Source", "Subject", "chosen_methods", "method"]
