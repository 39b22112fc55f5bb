"""The paper's language model on a GPU, shortened: 187 M parameters, a high rate, with forecast and guard.

Model, text and optimizer are those of ``foreshock reproduce llm --scale paper``; what differs is said in the
result: bfloat16 autocast, a smaller batch, and as many steps as there is time for. The same training is made
twice: watched by a monitor, and watched and guarded.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from typing import Any

import torch
from benchmarks.gpu.models import count_parameters
from benchmarks.gpu.setting import Keep, Result, Setting, peak_memory

import foreshock
from foreshock.lab.reproduction.experiments.llm import EXPERIMENT
from foreshock.lab.tasks import Training
from foreshock.runlog import read_run
from foreshock.spikes import SpikeDefinition, detect_spikes

_BATCH, _RATE = 16, 3e-3
_LONGEST = 2000  # steps of one training
_FACTORS = (1.2, 3.0)


def measure(setting: Setting, keep: Keep) -> None:
    """Train twice, for half of the time each."""
    found: Result = {"runs": {}}
    half = setting.left / 2
    for name in ("watched", "guarded"):
        run, settings = _train(setting, guarded=name == "guarded", seconds=min(half, setting.left) - 3)
        found |= settings
        found["runs"][name] = run
        keep(found)


def _train(setting: Setting, *, guarded: bool, seconds: float) -> tuple[Result, Result]:
    scale = EXPERIMENT.scales["cpu" if setting.tiny else "paper"]
    plan = scale.plan(scale.beta2)
    rate = plan.optimizer.learning_rate if setting.tiny else _RATE
    plan = dataclasses.replace(
        plan,
        device=setting.device,
        precision="bfloat16",
        steps=12 if setting.tiny else _LONGEST,
        batch_size=4 if setting.tiny else _BATCH,
        optimizer=dataclasses.replace(plan.optimizer, learning_rate=rate),
    )
    training = Training(plan, 0)
    losses: list[float] = []
    chances: list[float] = []
    alarms: list[int] = []
    with tempfile.TemporaryDirectory() as folder, peak_memory(setting) as peak:
        guard = foreshock.guard(training.optimizer) if guarded else None
        monitor = foreshock.Monitor(
            training.model,
            training.optimizer,
            training.loss_fn,
            run=folder,
            guard=guard,
            on_alarm=lambda alarm: alarms.append(alarm.step),
        )

        def observe(step: Any) -> None:
            losses.append(step.loss)
            chances.append(monitor.observe(step.batch, step.loss).probability)

        began = time.monotonic()
        for _ in training.run(before_step=observe):
            if time.monotonic() - began > seconds and not setting.tiny:
                break
        elapsed = time.monotonic() - began
        monitor.close()
        log = read_run(folder)
    run: Result = {
        "steps": len(losses),
        "ms": 1e3 * elapsed / len(losses),
        "memory": peak(),
        "losses": [round(one, 4) for one in losses],
        "probabilities": [round(one, 4) for one in chances[::10]],
        "alarms": alarms,
        "actions": 0 if guard is None else len(guard.actions),
        "summary": "" if guard is None else str(guard.summary()),
        "noise_readings": len(log.records.get("noise", ())),
        "curvature_readings": len(log.records.get("curvature", ())),
        "failed_probes": [
            row["message"] for row in log.records.get("event", ()) if row["name"] == "probe failed"
        ][:3],
    }
    for factor in _FACTORS:
        spikes = detect_spikes(range(len(losses)), losses, SpikeDefinition(factor=factor))
        run[f"spikes_{factor:g}"] = [[one.onset, one.peak, one.height] for one in spikes]
    parameters = count_parameters(training.model)
    del training
    if setting.is_cuda:
        torch.cuda.empty_cache()
    return run, {"parameters": parameters, "rate": rate, "batch": plan.batch_size, "beta2": scale.beta2}
