"""Pictures of the experiments, in the manner of the paper's, made of what a run kept."""
