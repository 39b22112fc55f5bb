"""Loss against learning rate: each method at its own best rate."""
