"""The laboratory: tasks that spike, benchmarks of forecasts and guards, the paper's experiments.

The product never imports it; only the command line does, when one of its commands is called.
"""
