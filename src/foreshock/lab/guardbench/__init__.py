"""GuardBench: a benchmark of measures against loss spikes, Foreshock's guards among them."""
