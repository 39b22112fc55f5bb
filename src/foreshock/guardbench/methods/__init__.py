"""The methods of the benchmark, one family a file."""

from foreshock.guardbench.methods.method import Intervention, Method, Source, Subject
from foreshock.guardbench.methods.settings import PLAIN
from foreshock.guardbench.methods.table import METHODS, chosen_methods, method

__all__ = ["METHODS", "PLAIN", "Intervention", "Method", "Source", "Subject", "chosen_methods", "method"]
