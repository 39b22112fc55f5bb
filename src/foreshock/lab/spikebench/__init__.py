"""SpikeBench: a benchmark of loss spikes that arise by themselves in training with Adam and AdamW."""
