"""One random case: model, optimizer, loop, a way to watch, and what the loss function does in probes."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from benchmarks.harm.effects import EFFECTS, VALUES, Surroundings
from benchmarks.harm.models import INPUTS, MODELS, OUTPUTS
from benchmarks.harm.state import differences, digests
from torch import Tensor, nn, optim
from torch.nn import functional

import foreshock

STEPS = 4
OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p, lr: optim.Adam(p, lr=lr),
    "Adam, L2": lambda p, lr: optim.Adam(p, lr=lr, weight_decay=0.1),
    "AdamW": lambda p, lr: optim.AdamW(p, lr=lr, betas=(0.9, 0.95)),
    "AMSGrad": lambda p, lr: optim.Adam(p, lr=lr, amsgrad=True),
    "fused AdamW": lambda p, lr: optim.AdamW(p, lr=lr, fused=True),
    "foreach Adam": lambda p, lr: optim.Adam(p, lr=lr, foreach=True),
    "Adam, lr tensor": lambda p, lr: optim.Adam(p, lr=torch.tensor(lr)),
    "NAdam": lambda p, lr: optim.NAdam(p, lr=lr),
    "RAdam": lambda p, lr: optim.RAdam(p, lr=lr),
    "Adamax": lambda p, lr: optim.Adamax(p, lr=lr),
    "RMSprop": lambda p, lr: optim.RMSprop(p, lr=lr, momentum=0.5),
    "Adafactor": lambda p, lr: optim.Adafactor(p, lr=lr),
    "Adagrad": lambda p, lr: optim.Adagrad(p, lr=lr),
    "Adadelta": lambda p, lr: optim.Adadelta(p, lr=lr),
    "SGD": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.1),
    "two groups": lambda p, lr: optim.AdamW([{"params": p[:1], "lr": lr / 2}, {"params": p[1:]}], lr=lr),
}
GUARDED = frozenset(OPTIMIZERS) - {"Adagrad", "Adadelta", "SGD"}
WATCHES = ("curvature", "noise", "guard", "guard and pairs", "curvature and guard", "free signals")
LOOPS = (
    "accumulation",
    "clipping",
    "kept graph",
    "schedule",
    "autocast",
    "float64",
    "zeroed gradients",
    "eval mode",
    "bad batch",
    "under no_grad",
    "hooks",
    "freezing",
    "saved and loaded",
)


@dataclass(frozen=True)
class Case:
    """What is trained, and how it is watched.

    Attributes:
        seed: Of all random numbers.
        model: Name in `MODELS`.
        optimizer: Name in `OPTIMIZERS`.
        watch: One of `WATCHES`.
        effect: Name in `EFFECTS`, or "".
        value: Name in `VALUES`, or "".
        loop: Which of `LOOPS` the training loop does.
        same_data: Whether every step sees the same batch.
    """

    seed: int
    model: str
    optimizer: str
    watch: str
    effect: str
    value: str
    loop: frozenset[str]
    same_data: bool

    @classmethod
    def draw(cls, seed: int) -> Case:
        """Return the case of a seed.

        Args:
            seed: Any number.
        """
        choice = random.Random(seed)
        optimizer = choice.choice(list(OPTIMIZERS))
        watch = choice.choice([one for one in WATCHES if "guard" not in one or optimizer in GUARDED])
        fault = choice.random()
        return cls(
            seed=seed,
            model=choice.choice(list(MODELS)),
            optimizer=optimizer,
            watch=watch,
            effect=choice.choice(list(EFFECTS)) if fault < 0.5 else "",
            value=choice.choice(list(VALUES)) if 0.5 <= fault < 0.6 else "",
            loop=frozenset(one for one in LOOPS if choice.random() < 0.15),
            same_data=choice.random() < 0.5,
        )


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        different: Places at which the watched training differs from the plain one.
        error: What the watched training raised, or "".
        counts: Evaluations of the loss function in probes, actions of the guard.
    """

    different: list[str]
    error: str
    counts: Counter[str] = field(default_factory=Counter)


def compare(case: Case) -> Outcome | None:
    """Train a case plain and watched; None if it can't be trained at all.

    Args:
        case: The case.
    """
    try:
        plain, _ = _train(case, watched=False)
    except Exception:  # noqa: BLE001 - torch refuses some combinations
        return None
    try:
        watched, counts = _train(case, watched=True)
    except Exception as error:  # noqa: BLE001 - is what the harness looks for
        return Outcome([], f"{type(error).__name__}: {error}")
    return Outcome(differences(plain, watched), "", counts)


def _train(case: Case, *, watched: bool) -> tuple[dict[str, str], Counter[str]]:
    torch.manual_seed(case.seed), np.random.seed(case.seed % 2**31), random.seed(case.seed)
    return _Training(case).run(watched=watched)


class _Training:
    """One training of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dtype = torch.float64 if "float64" in case.loop else torch.float32
        self.model = MODELS[case.model]().to(self.dtype)
        trained = [one for one in self.model.parameters() if one.requires_grad]
        # Far below the edge, so that a guard has nothing to do.
        self.optimizer = OPTIMIZERS[case.optimizer](trained, 1e-4)
        self.around = Surroundings(self.model, self.optimizer)
        self.fixed = self.batch()
        if "hooks" in case.loop:
            trained[0].register_hook(lambda gradient: gradient * 0.5)
            self.model.register_forward_hook(lambda *_: None)
        self.schedule = None
        if "schedule" in case.loop and "tensor" not in case.optimizer:
            self.schedule = optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.monitor: foreshock.Monitor | None = None
        self.guard: foreshock.guarding.Guard | None = None

    def batch(self) -> dict[str, Any]:
        x = torch.randn(6, INPUTS, dtype=self.dtype)
        return {"x": x, "y": torch.randint(0, OUTPUTS, (6,)), "tag": "a label"}

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return functional.cross_entropy(model(batch["x"]), batch["y"])

    def probed(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        """Return the loss as probes see it."""
        self.around.calls += 1
        if self.case.effect:
            EFFECTS[self.case.effect](self.around, batch)
        loss = self.loss(model, batch)
        return VALUES[self.case.value](loss) if self.case.value else loss

    def watch(self) -> None:
        watch = self.case.watch
        if "guard" in watch:
            self.guard = foreshock.guard(self.optimizer, "mean_square" if "pairs" in watch else "auto")
        if watch in ("curvature", "noise", "curvature and guard", "free signals"):
            self.monitor = foreshock.Monitor(
                self.model,
                self.optimizer,
                None if watch == "free signals" else self.probed,
                probe_every=2,
                full_batch=watch != "noise",
                guard=self.guard,
            )

    def run(self, *, watched: bool) -> tuple[dict[str, str], Counter[str]]:
        if watched:
            self.watch()
        if "eval mode" in self.case.loop:
            self.model.eval()
        # Pairs are measured at every fifth step at most.
        steps = [self.step(number) for number in range(STEPS + 2 * (self.case.watch == "guard and pairs"))]
        if self.guard is not None:
            self.guard.detach()
        owners = {**vars(self.around), "fixed": self.fixed, "steps": steps}
        counts = Counter(
            evaluations=owners.pop("calls"), acted=0 if self.guard is None else self.guard.summary().acted
        )
        return digests(owners), counts

    def step(self, number: int) -> list[Any]:
        loop, optimizer, model = self.case.loop, self.optimizer, self.model
        if "freezing" in loop and number == 2:
            list(model.parameters())[-1].requires_grad_(False).grad = None
        optimizer.zero_grad(set_to_none="zeroed gradients" not in loop)
        batches = [
            self.fixed if self.case.same_data else self.batch() for _ in range(1 + ("accumulation" in loop))
        ]
        if "bad batch" in loop and number == 1:
            batches[0]["x"] = batches[0]["x"] * float("nan")
        total: Any = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = self.loss(model, batch) / len(batches)
            loss.backward(retain_graph="kept graph" in loop)
            total = total + loss.detach()
        if "clipping" in loop:
            nn.utils.clip_grad_norm_([one for one in model.parameters() if one.grad is not None], 1.0)
        self.observe(batches, total, number)
        if "kept graph" in loop:
            loss.backward()
        optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return [total, batches]

    @property
    def autocast(self) -> bool:
        return "autocast" in self.case.loop and "float64" not in self.case.loop

    def observe(self, batches: list[dict[str, Any]], loss: Tensor, number: int) -> None:
        batch = batches[0] if len(batches) == 1 else foreshock.MicroBatches(batches)
        with contextlib.ExitStack() as stack:
            if "under no_grad" in self.case.loop:
                stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=self.autocast))
            if self.monitor is not None:
                self.monitor.observe(batch, loss)
            elif self.guard is not None and self.case.watch == "guard and pairs":
                self.guard.measure(self.model, self.probed, batch, every=1)
        if self.monitor is not None and "saved and loaded" in self.case.loop and number == 2:
            self.monitor.load_state_dict(self.monitor.state_dict())
