r"""What derivatives of a loss cost, in F, one forward and backward pass of the batch as training makes it.

Costs are counted, not timed: a count does not depend on what else the machine does, and is the same in every
run. The constants are medians of an MLP, a CNN and two Transformers on one CPU thread. Where a step takes
more than a few milliseconds, operators take what they count to within a third. Below that, and on batches so
small that the parameters are most of the work, Python and vectors come on top, and the two halves of a batch
take more than the whole: `python -m benchmarks.curvature.passes` prints the ratios. Micro-batches count by
their shares of the batch, so that all of them together count as the batch.
"""

from __future__ import annotations

FORWARD_PASSES = 0.35
"""A forward pass alone."""

GRADIENT_PASSES = 1.0
"""A forward and backward pass: the unit."""

GRAPH_PASSES = 1.5
"""A forward and backward pass that records the graph of the gradient, in which double backward works."""

PRODUCT_PASSES = 2.5
"""One Hessian product from that graph."""
