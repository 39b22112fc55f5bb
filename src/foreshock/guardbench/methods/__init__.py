"""The methods of the benchmark, one family a file."""

from foreshock.guardbench.methods.method import Intervention, Method, Source, Subject
from foreshock.guardbench.methods.settings import PLAIN
from foreshock.guardbench.methods.table import METHODS, method

__all__ = ["METHODS", "PLAIN", "Intervention", "Method", "Source", "Subject", "method"]
