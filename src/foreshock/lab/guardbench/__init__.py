"""GuardBench: a benchmark of methods against loss spikes, Foreshock's guards among them."""
