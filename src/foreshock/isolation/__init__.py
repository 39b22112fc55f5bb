"""Keep a probe from changing the training: save what it may change, and restore that afterwards.

A forward pass in train mode moves BatchNorm's running statistics and draws dropout masks, and a loss function
may have any side effect: it may move parameters (the key encoder of MoCo, an embedding with a largest norm),
run a second network, or write into its batch. `isolated` restores all that, bit by bit, also if the probe
fails; `fresh` gives a loss function a batch of its own. `Replay` repeats evaluations from the same random
numbers and modules. `MovedMemory` spares later probes most copies. `alone` keeps a probe from waiting for
other processes.
"""

from foreshock.isolation.isolated import Replay, isolated, kept_options
from foreshock.isolation.moved import MovedMemory
from foreshock.isolation.own_batch import fresh
from foreshock.isolation.processes import alone, plain_module, several_processes
from foreshock.isolation.random_numbers import RandomState

__all__ = [
    "MovedMemory",
    "RandomState",
    "Replay",
    "alone",
    "fresh",
    "isolated",
    "kept_options",
    "plain_module",
    "several_processes",
]
