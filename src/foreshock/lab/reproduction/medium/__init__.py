"""The middle scale: millions of weights, mini-batches, trainings of hours that can be resumed."""
