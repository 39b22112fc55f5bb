"""A labelled set of spikes: trainings whose spike has a cause that is known, because it was put there."""
