"""Attach a monitor to a trainer by one callback: one trainer a file, imported by itself.

>>> from foreshock.integrations.transformers import ForeshockCallback  # doctest: +SKIP
>>> from foreshock.integrations.lightning import ForeshockCallback  # doctest: +SKIP
>>> from foreshock.integrations.accelerate import AccelerateMonitor  # doctest: +SKIP

Importing this package imports no trainer. A training loop of your own needs none of it: there
`foreshock.Monitor` is three lines.
"""
