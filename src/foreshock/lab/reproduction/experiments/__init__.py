"""The experiments, one a file: a configuration, a run function and the paper's claims."""
