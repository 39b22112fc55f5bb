"""`ForeshockCallback` in the real ``Trainer``: training is left alone, and what is measured is its loss."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import foreshock
from compatibility.state import bits

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from foreshock.integrations.transformers import ForeshockCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages, about each other
SPEED = ("runtime", "per_second")


class Tokens(torch.utils.data.Dataset):
    """Sequences of different lengths, so that the mean over tokens is no mean over examples."""

    def __init__(self, examples: int = 52) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 31, (examples, 12), generator=generator)
        self.lengths = torch.randint(4, 12, (examples,), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        labels = self.tokens[index].clone()
        labels[self.lengths[index] :] = -100
        return {"input_ids": self.tokens[index], "labels": labels}


def train(folder, callback=None, *, dropout=0.1, steps=8, trainer=Trainer, resume=None, **options):
    set_seed(0)
    config = GPT2Config(
        vocab_size=32, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, attn_pdrop=dropout, embd_pdrop=dropout,
    )  # fmt: skip
    arguments = {
        "per_device_train_batch_size": 8, "max_steps": steps, "learning_rate": 3e-3, "max_grad_norm": 0.5,
        "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no",
        "report_to": [], "use_cpu": True, "disable_tqdm": True,
    } | options  # fmt: skip
    made = trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(str(folder), **arguments),
        train_dataset=Tokens(),
        eval_dataset=Tokens(8),
        callbacks=[] if callback is None else [callback],
    )
    made.train(resume_from_checkpoint=resume)
    return made


def everything(trainer):
    """Return all that a training leaves behind, as values that compare."""
    state = trainer.optimizer.state_dict()["state"].values()
    logs = [
        {key: value for key, value in row.items() if not any(word in key for word in SPEED)}
        for row in trainer.state.log_history
    ]
    return {
        "weights": [bits(tensor) for tensor in trainer.model.state_dict().values()],
        "optimizer": [bits(torch.as_tensor(value)) for one in state for value in one.values()],
        "random": (bits(torch.get_rng_state()), random.getstate(), repr(np.random.get_state())),
        "logs": logs,
        "own": sorted(vars(trainer)),
    }


SETTINGS = {
    "accumulation, bf16, clipping, dropout": {"gradient_accumulation_steps": 3, "bf16": True},
    "label smoothing without clipping": {"label_smoothing_factor": 0.1, "max_grad_norm": 0.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_with_the_callback_is_the_one_without(tmp_path, name):
    plain = everything(train(tmp_path / "a", **SETTINGS[name]))
    callback = ForeshockCallback(tmp_path / "run", probe_every=2)
    watched = everything(train(tmp_path / "b", callback, **SETTINGS[name]))
    for part, value in plain.items():
        assert watched[part] == value, part
    run = foreshock.read_run(tmp_path / "run")
    assert [row["step"] for row in run.records["step"]] == list(range(8))
    assert len(run.records["noise"]) >= 2


def with_mean(outputs, labels, num_items_in_batch=None):
    shifted = labels[..., 1:].reshape(-1)
    logits = outputs["logits"][..., :-1, :].reshape(len(shifted), -1)
    return torch.nn.functional.cross_entropy(logits, shifted, reduction="sum") / num_items_in_batch


class OwnLoss(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_loss_func=with_mean, **kwargs)


class Counting(Trainer):
    """A Trainer that keeps metrics of its own in ``compute_loss``, as those of TRL do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.metrics, self.calls = {"train": []}, 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs.pop("token_type_ids", None)
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        self.metrics["train"].append(loss.item())
        self.calls += 1
        return result


LOSSES = {
    "tokens": {},
    "tokens, accumulated": {"gradient_accumulation_steps": 3},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "label smoothing, accumulated": {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "a loss of its own, accumulated": {"trainer": OwnLoss, "gradient_accumulation_steps": 2},
    "a subclass": {"trainer": Counting},
    "bf16": {"bf16": True},
}


@pytest.mark.parametrize("name", LOSSES)
def test_probes_see_the_loss_and_the_gradient_of_training(tmp_path, name):
    seen = []
    callback = ForeshockCallback(tmp_path / "run", probe_every=2, full_batch=False)

    def compared(monitor):
        original = monitor.observe

        def observe(batch, loss, **options):
            model = callback._trainer.model
            rows = batch.weighted() if isinstance(batch, foreshock.MicroBatches) else [(batch, 1.0)]
            own = sum(count * callback._loss(model, one) for one, count in rows) / sum(n for _, n in rows)
            wanted = torch.autograd.grad(own, list(model.parameters()))
            norm = torch.stack([one.square().sum() for one in wanted]).sum().sqrt()
            seen.append((float(own), float(loss), float(norm), float(options["gradient_norm"])))
            return original(batch, loss, **options)

        monitor.observe = observe

    begin = callback.on_train_begin
    callback.on_train_begin = lambda *args, **kwargs: (begin(*args, **kwargs), compared(callback.monitor))[0]
    train(tmp_path / "out", callback, dropout=0.0, **LOSSES[name])
    assert len(seen) == 8
    tolerance = 1e-2 if name == "bf16" else 1e-5
    for own, loss, norm, given in seen:
        assert own == pytest.approx(loss, rel=tolerance)
        assert norm == pytest.approx(given, rel=tolerance)  # the norm before clipping
    assert max(given for *_, given in seen) > 0.5
    run = foreshock.read_run(tmp_path / "run")
    assert [event for event in run.records["event"] if "misuse" in event["name"]] == []
    assert max(row["gradient_norm"] for row in run.records["step"]) <= 0.5 * (1 + 1e-4)
    if "accumulated" not in name:
        # Halves with different numbers of tokens make up the batch exactly.
        assert max(row["loss_mismatch"] for row in run.records["noise"]) < tolerance


def test_a_probe_does_not_touch_what_a_subclass_counts(tmp_path):
    plain = train(tmp_path / "a", trainer=Counting)
    watched = train(tmp_path / "b", ForeshockCallback(probe_every=1), trainer=Counting)
    assert watched.metrics == plain.metrics
    assert watched.calls == plain.calls > 8


def test_a_resumed_training_goes_on_in_the_same_log(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}
    runs = []
    for resume in (None, str(tmp_path / "out" / "checkpoint-4")):
        callback = ForeshockCallback(tmp_path / "run", probe_every=2, guard=True)
        train(tmp_path / "out", callback, resume=resume, **options)
        runs.append(foreshock.read_run(tmp_path / "run"))
    first, second = runs
    assert (first.starts, second.starts) == (1, 2)
    assert first.path == second.path
    for kind, field in (("step", "loss"), ("step", "gradient_norm"), ("noise", "mean")):
        assert second.column(kind, field) == pytest.approx(first.column(kind, field), rel=1e-6)


def test_a_damaged_state_is_said_and_training_goes_on(tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 4}
    train(tmp_path / "out", ForeshockCallback(tmp_path / "run"), **options)
    folder = tmp_path / "out" / "checkpoint-4"
    (folder / "foreshock_0.pt").write_bytes(b"damaged")
    trainer = train(tmp_path / "out", ForeshockCallback(tmp_path / "run"), resume=str(folder), **options)
    assert trainer.state.global_step == 8
    assert "the monitor starts anew" in caplog.text


def test_a_guard_is_told_what_was_clipped_and_leaves_with_the_training(tmp_path):
    callback = ForeshockCallback(tmp_path / "run", guard=True)
    trainer = train(tmp_path / "out", callback)
    guard = callback.monitor.guard
    assert guard.step == 8
    assert guard.state_dict()["engine"]["measurer"]["agreed"]  # that norm is used
    assert foreshock.read_run(tmp_path / "run").meta["guard"] == "auto"
    assert foreshock.guard(trainer.optimizer).step == 0  # an optimizer has one guard at most


def test_a_trainer_that_computes_its_loss_elsewhere_is_told_once(tmp_path, caplog):
    class Elsewhere(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**inputs)["loss"]
            self.accelerator.backward(loss)
            return loss.detach()

    train(tmp_path / "out", ForeshockCallback(), trainer=Elsewhere)
    assert caplog.text.count("does not call compute_loss") == 1


def test_outside_of_a_trainer_it_says_where_it_belongs():
    with pytest.raises(RuntimeError, match=r"pass it to Trainer\(callbacks"):
        ForeshockCallback().on_train_begin(None, None, None)


def test_the_schedule_is_known(tmp_path):
    rates, steps = [], []

    class Asked(ForeshockCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            ahead = self.monitor._subject.learning_rate_at
            rates.append((ahead(state.global_step), ahead(state.global_step + 3)))
            steps.append(kwargs["optimizer"].param_groups[0]["lr"])
            super().on_pre_optimizer_step(args, state, control, **kwargs)

    train(tmp_path / "out", Asked(), lr_scheduler_type="cosine", warmup_steps=4)
    assert [3e-3 * now for now, _ in rates] == pytest.approx(steps)
    assert [3e-3 * later for _, later in rates[:-3]] == pytest.approx(steps[3:])
