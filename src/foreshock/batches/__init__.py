"""Batches: several that count as one, parts of one, and whether every training step sees the same data.

2/η is the edge of stability of full-batch training. If batches differ, the noise of their curvature moves the
edge, and a forecast that rests on a single batch must take that into account.
"""

from foreshock.batches.counts import part_counts
from foreshock.batches.precision import cast_batch
from foreshock.batches.splitting import SplitFunction, split_along, split_batch
from foreshock.batches.structure import (
    ExampleAxes,
    MicroBatches,
    count_examples,
    example_axes,
    named_tensors,
    tensors_in,
)
from foreshock.batches.watch import BatchWatch

__all__ = [
    "BatchWatch",
    "ExampleAxes",
    "MicroBatches",
    "SplitFunction",
    "cast_batch",
    "count_examples",
    "example_axes",
    "named_tensors",
    "part_counts",
    "split_along",
    "split_batch",
    "tensors_in",
]
