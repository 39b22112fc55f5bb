"""Experiments: one a file, each a configuration and a function that builds or runs it."""
