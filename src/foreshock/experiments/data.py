"""The data sets of the experiments, under the name that the benchmarks of `benchmarks/` import."""

from foreshock.tasks.data import load_digits, load_stdlib_text

__all__ = ["load_digits", "load_stdlib_text"]
