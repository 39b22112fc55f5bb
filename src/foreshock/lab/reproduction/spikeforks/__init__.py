"""Forks at spikes: each is let pass and prevented, to see which do good and what tells that beforehand."""
