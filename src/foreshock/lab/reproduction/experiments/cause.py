"""v against the landscape, with one of the two frozen, before the events of all the other trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from foreshock.demo.options import check_choice, check_count
from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.experiments.cnn import CnnConfig
from foreshock.lab.reproduction.experiments.fnn_1d import Fnn1dConfig
from foreshock.lab.reproduction.experiments.fnn_50d import Fnn50dConfig
from foreshock.lab.reproduction.experiments.llm import EXPERIMENT as LLM
from foreshock.lab.reproduction.experiments.transformer import EXPERIMENT as TRANSFORMER
from foreshock.lab.reproduction.figures import CAUSE_CAPTIONS, draw_causes
from foreshock.lab.reproduction.frozen import CauseWatch, Growth
from foreshock.lab.reproduction.patterns import FAR, median, share_followed
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.lab.tasks.cifar_download import find_images

GROWTHS = "growths.json"
MOST_EVENTS = 12  # that are split; each costs four eigenvalues of the whole training set
TRAININGS = ("fnn-1d", "fnn-50d", "cnn", "transformer", "llm")
_PAPER_FULL = {"width": 1000, "device": "auto"}


@dataclass(frozen=True)
class CauseConfig:
    """Settings.

    Attributes:
        scale: Scale of the trainings, "cpu" or "paper".
        window: Steps over which growth is split; up to a quarter more, as states are kept now and then.
        events: Most events of each training that count, the last ones.
        steps: Updates of the full-batch trainings at most.
        mini_steps: Updates of the mini-batch trainings.
        data: Images of the CNN, as in `cnn`.
        path: Where they are.
    """

    scale: str = "cpu"
    window: int = 40
    events: int = 3
    steps: int = 1700
    mini_steps: int = 750
    data: str = "auto"
    path: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        check_choice("scale", self.scale, ("cpu", "paper"))
        for name in ("window", "events", "steps", "mini_steps"):
            check_count(name, getattr(self, name))

    def plans(self) -> Mapping[str, Plan]:
        """Return the trainings by name, probed often enough to see their events."""
        whole = _PAPER_FULL if self.scale == "paper" else {}
        device = {"device": "auto"} if self.scale == "paper" else {}
        images = find_images(self.data, self.path)
        transformer, llm = TRANSFORMER.scales[self.scale], LLM.scales[self.scale]
        return {
            "fnn-1d": Fnn1dConfig(steps=self.steps, probe_every=4, **whole).plan(),  # type: ignore[arg-type]
            "fnn-50d": Fnn50dConfig(steps=min(self.steps, 700), probe_every=4, **whole).plan(),  # type: ignore[arg-type]
            "cnn": CnnConfig(steps=min(self.steps, 560), probe_every=5, **device).plan(images),  # type: ignore[arg-type]
            "transformer": _shortened(transformer.plan(), self.mini_steps),
            "llm": _shortened(llm.plan(llm.beta2), self.mini_steps),
        }


def _shortened(plan: Plan, steps: int) -> Plan:
    """Return a mini-batch training without the measurements that are not needed here."""
    rare = steps + 1  # never
    return Plan(
        name=plan.name,
        family=plan.family,
        options={**plan.options, **({"sequences": 64} if plan.options.get("sequences", 0) is None else {})},
        optimizer=plan.optimizer,
        steps=steps,
        batch_size=plan.batch_size,
        probe_every=25,
        sharpness_every=rare,
        direction_every=rare,
        device=plan.device,
    )


def run(config: CauseConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train each network and split the growth before its events.

    Args:
        config: Settings.
        seed: Seed of the weights and of the batches.
        folder: Where the runs are kept.
        on_step: Called with steps done.
    """
    measured: dict[str, float] = {}
    kept = {}
    for name, plan in config.plans().items():
        whole = plan.whole_batch(seed)
        watch = CauseWatch(whole, window=config.window, full_batch=plan.full_batch, limit=MOST_EVENTS)
        trace = record(plan, seed, folder / name, watchers=(watch,), on_step=on_step)
        growths = before_spikes(watch.growths, trace)[-config.events :]
        kept[name] = [asdict(growth) for growth in growths]
        measured |= _summary(name, growths)
    (folder / GROWTHS).write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return Outcome(measured)


def before_spikes(growths: list[Growth], trace: Trace) -> list[Growth]:
    """Return the growths that belong to a spike above 3 × the median.

    Args:
        growths: What was split; in mini-batches every event is a spike.
        trace: The recorded run. In full batch the window ends at a crossing, which a spike must follow
            within 150 steps.
    """
    if trace.meta["kind"] == "mini":
        return growths
    spikes = ground_truth(trace)["3x"]
    return [growth for growth in growths if share_followed([growth.step], spikes, within=FAR)]


def _summary(name: str, growths: list[Growth]) -> dict[str, float]:
    """Return medians over the events; growth is in per cent a step."""
    rates = {
        part: median([100 * getattr(growth, part) / growth.length for growth in growths])
        for part in ("total", "preconditioner", "landscape")
    }
    return {
        f"{name}: events": float(len(growths)),
        f"{name}: share": median([growth.share for growth in growths]) if growths else math.nan,
        **{f"{name}: {part}, %/step": rate for part, rate in rates.items()},
    }


def _claim(name: str, what: str) -> Claim:
    return Claim(
        f"{name}: share",
        f"Decay of the preconditioner, not the landscape, makes λ_max(Ĥ) grow before a spike: {what}.",
        "share of the preconditioner (H frozen) in the growth of ln λ_max(Ĥ) over 40 to 50 steps, median "
        "over events",
        "at least",
        0.8,
        0.5,
    )


CLAIMS = (
    _claim("fnn-1d", "two-layer network in one dimension, full batch"),
    _claim("fnn-50d", "network in 50 dimensions, full batch"),
    _claim("cnn", "CNN, full batch"),
    _claim("transformer", "Transformer, mini-batches, weight decay"),
    _claim("llm", "language model, mini-batches, weight decay"),
)

EXPERIMENT = Experiment(
    name="cause",
    title="Is it v, or is it the landscape?",
    setup="The trainings above, shortened. λ_max of the whole training set is measured again with H, or D, "
    "frozen at a state 40 to 50 steps before. The window ends at a crossing of λ_max(Ĥ) that a spike follows "
    "in full batch, and in mini-batches 10 to 20 steps before the loss reaches 3 × its median. At paper "
    "scale the language model's curvature is that of 64 fixed sequences.",
    scales={
        "cpu": CauseConfig(),
        "paper": CauseConfig(scale="paper", events=20, steps=6000, mini_steps=20_000),
    },
    run=run,
    claims=CLAIMS,
    draw=draw_causes,
    figures=CAUSE_CAPTIONS,
)
