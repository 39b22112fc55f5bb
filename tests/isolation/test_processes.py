"""Probes and guards in several processes: nobody waits, and no weights drift apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from foreshock.failures import ProbeRefusedError
from foreshock.isolation import alone, plain_module


# In one start, which would be most of the time; the last "scenario" that is printed is the one that failed.
@pytest.mark.distributed
def test_processes_that_train_together(tmp_path):
    script = Path(__file__).with_name("processes.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr


class FullyShardedDataParallel(nn.Module):
    """Named like that of torch, which needs several processes."""


def partitioned():
    model = nn.Linear(1, 1)
    model.weight.ds_id = 0
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [(nn.Sequential(FullyShardedDataParallel()), "FullyShardedDataParallel"), (partitioned(), "ZeRO-3")],
)
def test_models_that_one_process_does_not_have_are_refused(model, message):
    with pytest.raises(ProbeRefusedError, match=message), alone(model):
        pass


def test_the_wrapped_module_is_found_below_a_compiled_wrapper():
    class DistributedDataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    wrapper = DistributedDataParallel()
    assert plain_module(wrapper) is wrapper.module
    assert plain_module(torch.compile(wrapper, backend="eager")) is wrapper.module
