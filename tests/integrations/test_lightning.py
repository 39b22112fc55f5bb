"""`ForeshockCallback` in the real Trainers of Lightning: they step, log and count as without it."""

from __future__ import annotations

import random
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import foreshock
from compatibility.state import bits

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages, about each other
PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}


@pytest.fixture(params=PACKAGES)
def lightning(request):
    """Return the package, and its callback."""
    package = pytest.importorskip(PACKAGES[request.param])
    return package, import_module(f"foreshock.integrations.{request.param}").ForeshockCallback


def module_of(package, *, manual=False, dropout=0.2, optimizers=1):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            self.net = torch.nn.Sequential(
                torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)
            )
            self.losses, self.calls = [], 0

        def configure_optimizers(self):
            halves = [self.net[0].parameters(), self.net[3].parameters()]
            groups = [self.parameters()] if optimizers == 1 else halves
            return [torch.optim.AdamW(one, lr=5e-3) for one in groups]

        def training_step(self, batch, batch_idx):
            inputs = batch.pop("inputs")
            loss = functional.cross_entropy(self.net(inputs), batch["targets"])
            self.losses.append(loss.detach())
            self.calls += 1
            self.log("loss", loss, on_step=True, on_epoch=True)
            self.log_dict({"index": float(batch_idx)})
            self.logger.log_metrics({"calls": float(self.calls)}, step=self.calls)
            if manual:
                for optimizer in self.optimizers() if optimizers > 1 else [self.optimizers()]:
                    optimizer.zero_grad()
                self.manual_backward(loss)
                for optimizer in self.optimizers() if optimizers > 1 else [self.optimizers()]:
                    optimizer.step()
            return {"loss": loss}

        def validation_step(self, batch, _):
            self.log("validation", functional.cross_entropy(self.net(batch["inputs"]), batch["targets"]))

    return Module()


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = 2 * torch.randn(120, 10, generator=generator)
        self.targets = torch.randint(3, (120,), generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "targets": self.targets[index]}


def train(package, folder, callback=None, *, steps=12, module=None, checkpoint=None, callbacks=(), **options):
    package.seed_everything(0)
    module = module or {}
    trained = module_of(package, **module)
    logger = package.loggers.CSVLogger(str(folder), name=None, version="log")
    trainer = package.Trainer(
        max_steps=steps, accelerator="cpu", logger=logger, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, enable_checkpointing=bool(callbacks),
        gradient_clip_val=None if module.get("manual") else 0.5,
        callbacks=[*callbacks, *([] if callback is None else [callback])], **options,
    )  # fmt: skip
    trainer.fit(trained, DataLoader(Rows(), 16, shuffle=True), DataLoader(Rows(), 64), ckpt_path=checkpoint)
    return trainer, trained


def everything(trainer, module):
    """Return all that a training leaves behind, as values that compare."""
    return {
        "weights": [bits(tensor) for tensor in module.state_dict().values()],
        "optimizer": [
            bits(torch.as_tensor(value))
            for one in trainer.optimizers
            for state in one.state_dict()["state"].values()
            for value in state.values()
        ],
        "random": (bits(torch.get_rng_state()), random.getstate(), repr(np.random.get_state())),
        "logged": metrics(trainer),
        "module": ([float(loss) for loss in module.losses], module.calls, sorted(vars(module))),
    }


def metrics(trainer):
    return Path(trainer.logger.experiment.metrics_file_path).read_text("utf-8")


SETTINGS = {
    "accumulation, bf16, clipping, dropout": {"accumulate_grad_batches": 3, "precision": "bf16-mixed"},
    "clipping by value": {"gradient_clip_algorithm": "value"},
    "manual": {"module": {"manual": True}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_with_the_callback_is_the_one_without(tmp_path, lightning, name):
    package, callback = lightning
    plain = everything(*train(package, tmp_path / "a", **SETTINGS[name]))
    added = callback(tmp_path / "run", probe_every=2)
    watched = everything(*train(package, tmp_path / "b", added, **SETTINGS[name]))
    for part, value in plain.items():
        assert watched[part] == value, part
    run = foreshock.read_run(tmp_path / "run")
    assert [row["step"] for row in run.records["step"]] == list(range(12))
    assert len(run.records.get("noise", [])) >= (0 if name == "manual" else 4)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_probes_see_the_loss_of_training_and_the_optimizer_its_clipped_gradient(
    tmp_path, lightning, accumulated
):
    package, callback = lightning
    seen = []
    added = callback(tmp_path / "run", probe_every=1, full_batch=False)
    start = added.on_train_start

    def on_train_start(trainer, module):
        start(trainer, module)
        original = added.monitor.observe

        def observe(batch, loss, **options):
            rows = batch.batches if isinstance(batch, foreshock.MicroBatches) else [batch]
            own = sum(added._training_loss(module, dict(one)) for one in rows) / len(rows)
            seen.append((float(own), float(loss)))
            return original(batch, loss, **options)

        added.monitor.observe = observe

    added.on_train_start = on_train_start
    train(package, tmp_path / "out", added, module={"dropout": 0.0}, accumulate_grad_batches=accumulated)
    assert len(seen) == 12
    # 8 batches an epoch: each third step is over two of them, and Lightning still divides by three.
    for own, loss in seen:
        assert own == pytest.approx(loss, rel=1e-5)
    run = foreshock.read_run(tmp_path / "run")
    assert [event for event in run.records["event"] if "misuse" in event["name"]] == []
    norms = [row["gradient_norm"] for row in run.records["step"]]
    assert max(norms) == pytest.approx(0.5, rel=1e-4)  # clipped
    assert max(row["loss_mismatch"] for row in run.records["noise"]) < 1e-5


def test_a_resumed_training_goes_on_in_the_same_log(tmp_path, lightning):
    package, callback = lightning
    runs = []
    for checkpoint in (None, str(tmp_path / "saved.ckpt")):
        added = callback(tmp_path / "run", probe_every=2, guard=True)
        saving = package.callbacks.ModelCheckpoint(
            tmp_path, filename="saved-{step}", every_n_train_steps=8, save_top_k=-1
        )
        train(package, tmp_path / "out", added, checkpoint=checkpoint, callbacks=[saving], steps=14)
        saved = tmp_path / "saved-step=8.ckpt"
        saved.rename(tmp_path / "saved.ckpt") if saved.exists() else None
        runs.append(foreshock.read_run(tmp_path / "run"))
    assert [run.starts for run in runs] == [1, 2]
    assert [row["step"] for row in runs[1].records["step"]] == list(range(14))
    kept = [[row["loss"] for row in run.records["step"] if row["step"] < 8] for run in runs]
    assert kept[0] == kept[1]


def test_a_loss_of_ones_own_is_measured_with_manual_optimization(tmp_path, lightning, caplog):
    package, callback = lightning

    def loss_fn(module, batch):
        return functional.cross_entropy(module.net(batch["inputs"]), batch["targets"])

    module = {"manual": True, "dropout": 0.0}
    train(package, tmp_path / "a", callback(), module=module)
    assert caplog.text.count("(manual optimization), so that its loss can't be computed again") == 1
    train(package, tmp_path / "b", callback(tmp_path / "run", loss_fn=loss_fn, probe_every=2), module=module)
    run = foreshock.read_run(tmp_path / "run")
    assert len(run.records["noise"]) >= 4
    assert [event for event in run.records["event"] if "misuse" in event["name"]] == []


def test_of_several_optimizers_one_is_to_be_chosen(tmp_path, lightning):
    package, callback = lightning
    module = {"manual": True, "optimizers": 2}
    with pytest.raises(ValueError, match=r"has 2 optimizers.*ForeshockCallback\(optimizer=0\)"):
        train(package, tmp_path / "a", callback(), module=module)
    added = callback(tmp_path / "run", optimizer=1)
    trainer, _ = train(package, tmp_path / "b", added, module=module, steps=24)
    run = foreshock.read_run(tmp_path / "run")
    assert len(run.records["step"]) == 12
    assert run.meta["parameters"] == 16 * 3 + 3
    assert len(trainer.optimizers) == 2


def test_a_guard_gets_the_norm_before_clipping_and_leaves_with_the_training(tmp_path, lightning):
    package, callback = lightning
    added, told = callback(tmp_path / "run", guard=True), []
    start = added.on_train_start

    def on_train_start(trainer, module):
        start(trainer, module)
        guard = added.monitor.guard
        original = guard.clipped
        guard.clipped = lambda norm, *, max_norm: (
            told.append(float(norm)),
            original(norm, max_norm=max_norm),
        )

    added.on_train_start = on_train_start
    trainer, _ = train(package, tmp_path / "out", added)
    assert added.monitor.guard.step == 12
    assert len(told) == 12
    assert max(told) > 0.5
    assert added.monitor.guard.state_dict()["engine"]["measurer"]["agreed"]  # that norm is used
    assert foreshock.guard(trainer.optimizers[0]).step == 0  # an optimizer has one guard at most
