"""The parts of real batches: short ones, hidden states, sums, padded tokens, dropout, batch normalisation."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from foreshock.batches import MicroBatches
from foreshock.curvature import NoiseProber, NoiseReading
from foreshock.curvature.remarks import batch_normalisations, random_modules
from foreshock.preconditioner import Preconditioner, read_preconditioner

FEATURES = 6

Loss = Callable[[nn.Module, Any], Tensor]


def data(examples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, FEATURES, generator=generator)
    return x, torch.randn(examples, 1, generator=generator)


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def stepping(
    model: nn.Module, loss_fn: Loss, batch: Any, rate: float = 0.05
) -> tuple[optim.Optimizer, Preconditioner]:
    """Return an optimizer with the gradient of a batch, and the step that it is about to take."""
    optimizer = optim.SGD(model.parameters(), lr=rate)
    optimizer.zero_grad()
    pieces = batch.weighted() if isinstance(batch, MicroBatches) else [(batch, 1.0)]
    total = sum(count for _, count in pieces)
    sum(loss_fn(model, piece) * count / total for piece, count in pieces).backward()
    return optimizer, read_preconditioner(optimizer)


def linear(*more: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, FEATURES), *more, nn.Linear(FEATURES, 1))


def names(prober: NoiseProber) -> list[str]:
    return [remark.name for remark in prober.take_remarks()]


def probes(model, loss_fn, batches, *, losses=None, prober=None, **options) -> list[NoiseReading | None]:
    """Return readings of batch after batch at the same parameters."""
    prober = NoiseProber() if prober is None else prober
    _, preconditioner = stepping(model, loss_fn, batches[0])
    found = []
    for step, batch in enumerate(batches):
        loss = math.nan if losses is None else losses[step]
        found.append(prober.probe(model, loss_fn, batch, preconditioner, step=step, loss=loss, **options))
    return found


def test_a_short_batch_is_left_out_and_said_once():
    prober = NoiseProber()
    sizes = (16, 1, 16, 7, 1, 16)
    readings = probes(linear(), squares, [data(size, size) for size in sizes], prober=prober)
    assert [reading is not None for reading in readings] == [True, False, True, False, False, True]
    assert names(prober) == ["short batch"]
    assert not prober.pending


def test_after_twenty_batches_in_succession_it_is_said_and_tried_again():
    prober, model = NoiseProber(), linear()
    assert probes(model, squares, [data(1, seed) for seed in range(19)], prober=prober) == [None] * 19
    assert (prober.pending, prober.given_up) == (True, False)
    probes(model, squares, [data(1)], prober=prober)
    assert (prober.pending, prober.given_up) == (False, True)
    assert names(prober) == ["short batch", "no noise"]
    assert probes(model, squares, [data(1)], prober=prober) == [None]
    assert names(prober) == []
    assert probes(model, squares, [data(8)], prober=prober)[0] is not None
    assert (prober.pending, prober.given_up) == (False, False)


def test_a_batch_without_tensors_is_left_out_with_the_remedy():
    prober, model = NoiseProber(), linear()
    _, preconditioner = stepping(model, squares, data(8))
    loss_fn = lambda model, batch: squares(model, data(8))  # noqa: E731
    assert prober.probe(model, loss_fn, "text", preconditioner, step=0) is None
    [remark] = prober.take_remarks()
    assert "pass the counts to MicroBatches" in remark.message


def test_the_variance_is_that_of_the_usual_batch_size():
    """σ² of the mean of 12 is 16/12 of that of 16; the mean curvature stays."""
    model, batch = linear(), data(12)
    [own] = probes(model, squares, [batch], usual=12)
    [usual] = probes(model, squares, [batch], usual=16)
    assert own.examples == 12
    assert usual.examples == 16
    for name in ("variance", "variance_along", "gradient_noise"):
        assert getattr(usual, name) == pytest.approx(0.75 * getattr(own, name), rel=1e-9)
    assert usual.mean == own.mean
    assert usual.gradient_signal == own.gradient_signal


def test_batches_of_other_sizes_come_out_alike():
    """Of 300 with some three degrees of freedom each the mean is good to √(2/900) = 5 %; three of two's."""
    model = linear()
    found = {}
    for size in (12, 16):
        readings = probes(model, squares, [data(size, seed) for seed in range(300)], usual=16)
        found[size] = sum(reading.gradient_noise for reading in readings) / 300
    assert found[12] == pytest.approx(found[16], rel=0.21)


@pytest.mark.parametrize("known", [True, False], ids=["loss known", "loss unknown"])
def test_a_sum_is_that_of_the_mean_times_the_examples(known):
    """Sum and mean differ by the factor B = 16: μ by 16, σ² by 256, whatever the size of the halves."""
    model = linear()
    summed = lambda model, batch: functional.mse_loss(model(batch[0]), batch[1], reduction="sum")  # noqa: E731
    for size in (16, 15):
        batch = data(size)
        prober = NoiseProber()
        _, preconditioner = stepping(model, squares, batch, rate=1e-4)
        losses = {"loss": summed(model, batch).item()} if known else {}
        total = prober.probe(model, summed, batch, preconditioner, step=0, **losses)
        mean = NoiseProber().probe(model, squares, batch, preconditioner, step=0)
        assert (total.weighting, mean.weighting) == ("sum", "examples")
        assert total.mean == pytest.approx(size * mean.mean, rel=1e-3)
        assert total.variance == pytest.approx(size**2 * mean.variance, rel=1e-3)
        assert total.gradient_noise == pytest.approx(size**2 * mean.gradient_noise, rel=1e-3)
        assert total.loss_mismatch < 1e-5
        assert names(prober) == ["sum loss"]


def test_of_a_sum_mean_and_variance_grow_with_the_batch():
    model = linear()
    summed = lambda model, batch: functional.mse_loss(model(batch[0]), batch[1], reduction="sum")  # noqa: E731
    batch = data(12)
    _, preconditioner = stepping(model, squares, batch, rate=1e-4)
    own, usual = (
        NoiseProber().probe(model, summed, batch, preconditioner, step=0, usual=size) for size in (12, 16)
    )
    assert usual.mean == pytest.approx(16 / 12 * own.mean, rel=1e-9)
    assert usual.variance == pytest.approx(16 / 12 * own.variance, rel=1e-9)


class TokenModel(nn.Module):
    """A table of logits: the loss of a token depends on nothing but the token before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 7)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.table(ids)
        return logits


def padded(examples: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 7, (examples, 12), generator=generator)
    lengths = torch.randint(2, 7, (examples,), generator=generator)
    lengths[::2] += 6  # so that the halves have not the same numbers of tokens
    mask = torch.arange(12)[None] < lengths[:, None]
    return {"ids": ids, "labels": torch.where(mask, ids, -100), "attention_mask": mask.long()}


def token_mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(
        model(batch["ids"][:, :-1]).flatten(0, 1), batch["labels"][:, 1:].flatten()
    )


def masked_mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    losses = functional.cross_entropy(
        model(batch["ids"]).flatten(0, 1), batch["ids"].flatten(), reduction="none"
    )
    mask = batch["attention_mask"].flatten()
    return (losses * mask).sum() / mask.sum()


@pytest.mark.parametrize(
    ("loss_fn", "keys", "counts"),
    [
        (token_mean, ("ids", "labels"), lambda part: (part["labels"][:, 1:] != -100).sum()),
        (masked_mean, ("ids", "attention_mask"), lambda part: part["attention_mask"].sum()),
    ],
    ids=["labels", "mask"],
)
def test_a_mean_over_tokens_is_weighted_by_them(loss_fn, keys, counts):
    """As `MicroBatches` with the true counts are; without, the halves of padded batches weigh the same."""
    model, prober = TokenModel(), NoiseProber()
    for seed in range(5):
        batch = {key: value for key, value in padded(8, seed).items() if key in keys}
        halves = [{key: value[start::2] for key, value in batch.items()} for start in (0, 1)]
        true = MicroBatches(halves, counts=[float(counts(half)) for half in halves])
        equal = MicroBatches(halves, counts=[1, 1])
        [expected] = probes(model, loss_fn, [true])
        [wrong] = probes(model, loss_fn, [equal])
        _, preconditioner = stepping(model, loss_fn, batch)
        loss = loss_fn(model, batch).item()
        found = NoiseProber().probe(model, loss_fn, batch, preconditioner, step=seed, loss=loss)
        assert found.loss_mismatch < 1e-5
        assert found.gradient_noise == pytest.approx(expected.gradient_noise, rel=1e-3)
        assert found.gradient_noise != pytest.approx(wrong.gradient_noise, rel=1e-3)
        prober.probe(model, loss_fn, batch, preconditioner, step=seed, loss=loss)
    assert names(prober) == ["token mean"]


def test_dropout_is_no_fault_and_named_as_the_cause():
    model = linear(nn.Dropout(0.5))
    batches = [data(16, seed) for seed in range(12)]
    torch.manual_seed(0)
    losses = [squares(model, batch).item() for batch in batches]
    prober = NoiseProber()
    readings = probes(model, squares, batches, losses=losses, prober=prober)
    assert max(reading.loss_mismatch for reading in readings) > 0.01
    assert {reading.weighting for reading in readings} == {"examples"}
    [remark] = prober.take_remarks()
    assert (remark.name, remark.warning) == ("random loss", False)
    assert "1 (Dropout, p = 0.5)" in remark.message


def test_a_sum_is_recognised_under_dropout():
    model = linear(nn.Dropout(0.2))
    summed = lambda model, batch: functional.mse_loss(model(batch[0]), batch[1], reduction="sum")  # noqa: E731
    torch.manual_seed(0)
    batches = [data(64, seed) for seed in range(6)]
    losses = [summed(model, batch).item() for batch in batches]
    readings = probes(model, summed, batches, losses=losses)
    assert {reading.weighting for reading in readings} == {"sum"}


def test_a_loss_that_is_off_beyond_chance_is_a_fault_under_dropout_too():
    model = linear(nn.Dropout(0.2))
    torch.manual_seed(0)
    batches = [data(256, seed) for seed in range(12)]
    losses = [1.15 * squares(model, batch).item() for batch in batches]
    prober = NoiseProber()
    probes(model, squares, batches, losses=losses, prober=prober)
    assert names(prober) == ["random loss", "no parts"]


def test_batch_normalisation_is_named_as_the_cause():
    model = linear(nn.BatchNorm1d(FEATURES), nn.Tanh())
    prober = NoiseProber()
    probes(model, squares, [data(8, seed) for seed in range(3)], prober=prober)
    [remark] = prober.take_remarks()
    assert (remark.name, remark.warning) == ("batch normalisation", True)
    assert "1 (BatchNorm1d) normalise by the statistics of the batch" in remark.message
    model.eval()
    probes(model, squares, [data(8, seed) for seed in range(3)], prober=(calm := NoiseProber()))
    assert names(calm) == []


def test_a_loss_of_pairs_is_a_fault_with_the_remedy():
    def contrastive(model, batch):
        logits = model[0](batch[0]) @ model[0](batch[0]).T
        return functional.cross_entropy(logits, torch.arange(len(logits)))

    prober = NoiseProber()
    [reading] = probes(linear(), contrastive, [(data(16)[0],)], prober=prober)
    assert reading.loss_mismatch > 0.01
    [remark] = prober.take_remarks()
    assert (remark.name, remark.warning) == ("no parts", True)
    assert "MicroBatches(parts, counts=...)" in remark.message


def off(batches, factors):
    """Return a loss function that multiplies the losses of whole batches, and leaves those of halves."""
    by_batch = {float(one[0].flatten()[0]): factor for one, factor in zip(batches, factors, strict=True)}

    def loss_fn(model, batch):
        whole = len(batch[0]) == len(batches[0][0])
        return squares(model, batch) * (by_batch[float(batch[0].flatten()[0])] if whole else 1.0)

    return loss_fn


@pytest.mark.parametrize(
    ("factors", "meaningless"),
    [
        ([1.5, 1.6], False),
        ([1.5, 1.6, 1.55], True),  # always far above: no mean of the halves
        ([0.5, 0.55, 0.52], True),
        ([1.15] * 3, False),  # a term that balances experts leaves the noise right
        ([1.5, 1.6, 0.6], False),
        ([1.3, 9.0, 1.3], False),  # by chance as well, if it is a mean over items that are not known
    ],
)
def test_parts_that_always_make_far_less_or_more_than_the_batch_mean_nothing(factors, meaningless):
    prober, batches = NoiseProber(), [data(64, seed) for seed in range(len(factors))]
    probes(linear(), off(batches, factors), batches, prober=prober)
    assert prober.meaningless == meaningless
    again = NoiseProber()
    again.load_state_dict(prober.state_dict())
    assert again.meaningless == meaningless


def test_a_loss_that_the_loop_has_otherwise_condemns_nothing():
    """As where it logs the loss without a penalty, smoothed, or that of the last micro-batch."""
    prober, batches = NoiseProber(), [data(64, seed) for seed in range(8)]
    probes(
        linear(),
        squares,
        batches,
        losses=[3.0 * squares(linear(), one).item() for one in batches],
        prober=prober,
    )
    assert not prober.meaningless
    summed = lambda model, batch: squares(model, batch) * len(batch[0])  # noqa: E731
    probes(
        linear(), summed, batches, losses=[squares(linear(), one).item() for one in batches], prober=prober
    )
    assert not prober.meaningless  # its rule is not found so, but it is a sum of that of its parts
    pairs = [MicroBatches([data(64, seed), data(64, seed + 1)]) for seed in range(8)]
    probes(linear(), squares, pairs, losses=[9.0] * 8, prober=(given := NoiseProber()))
    assert not given.meaningless


def test_what_the_loop_has_is_checked_where_it_is_far_off_and_may_turn_out_right():
    prober, factor = NoiseProber(), 1.5
    loss_fn = lambda model, batch: squares(model, batch) * (factor if len(batch[0]) == 64 else 1.0)  # noqa: E731
    batches = [data(64, seed) for seed in range(5)]
    losses = [loss_fn(linear(), one).item() for one in batches]
    probes(linear(), loss_fn, batches, losses=losses, prober=prober)
    assert prober.meaningless
    factor = 1.0
    right = [squares(linear(), one).item() for one in batches]
    probes(linear(), loss_fn, batches[:2], losses=right[:2], prober=prober)
    assert prober.meaningless  # by chance one may fit
    probes(linear(), loss_fn, batches[2:3], losses=right[2:3], prober=prober)
    assert not prober.meaningless  # it is a mean by now


def test_where_batch_normalisation_may_be_the_reason_the_noise_is_too_large_but_is_one():
    model = linear(nn.BatchNorm1d(FEATURES), nn.Tanh())
    batches = [data(8, seed) for seed in range(6)]
    losses = [2.0 * squares(model, one).item() for one in batches]
    prober = NoiseProber()
    probes(model, squares, batches, losses=losses, prober=prober)
    assert not prober.meaningless


class Recurrent(nn.Module):
    """A recurrent network that is given its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.LSTM(3, 4, num_layers=2, batch_first=True)

    def forward(self, hidden: Tensor, memory: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x, (hidden, memory))[0]
        return out


def test_a_hidden_state_that_comes_first_is_split_along_its_examples():
    model = Recurrent()
    hidden, memory, x = torch.randn(2, 8, 4), torch.randn(2, 8, 4), torch.randn(8, 5, 3)
    loss_fn = lambda model, batch: model(*batch).square().mean()  # noqa: E731
    halves = [
        tuple(part.contiguous() for part in (hidden[:, start::2], memory[:, start::2], x[start::2]))
        for start in (0, 1)
    ]
    prober = NoiseProber()
    [found] = probes(model, loss_fn, [(hidden, memory, x)], prober=prober)
    [expected] = probes(model, loss_fn, [MicroBatches(halves, counts=[4, 4])])
    assert found.variance == pytest.approx(expected.variance, rel=1e-6)
    assert found.examples == 8
    [remark] = prober.take_remarks()
    assert "lie along the dimensions (1, 1, 0)" in remark.message


def test_a_sequence_with_time_first_is_split_along_its_examples():
    """Attention across time: halves along time would have another loss."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x)[0]
            return out

    model = Attending()
    x, y = torch.randn(5, 8, 4), torch.randn(5, 8, 4)
    loss_fn = lambda model, batch: functional.mse_loss(model(3 * batch[0]), batch[1])  # noqa: E731
    [found] = probes(model, loss_fn, [(x, y)])
    parts = [(x[:, start::2].contiguous(), y[:, start::2].contiguous()) for start in (0, 1)]
    [expected] = probes(model, loss_fn, [MicroBatches(parts, counts=[4, 4])])
    assert found.gradient_noise == pytest.approx(expected.gradient_noise, rel=1e-5)


def test_a_batch_that_fits_nowhere_is_left_out_with_the_remedy():
    """A loss that only takes eight examples."""

    def picky(model, batch):
        if batch[0].shape != (8, FEATURES):
            raise RuntimeError("a graph of 8 nodes is needed")
        return squares(model, batch)

    prober = NoiseProber()
    assert probes(linear(), picky, [data(8)], prober=prober) == [None]
    [remark] = prober.take_remarks()
    assert (remark.name, remark.warning, prober.given_up) == ("no noise", True, True)
    assert "a graph of 8 nodes is needed" in remark.message
    assert "pass MicroBatches, or a function that splits the batch" in remark.message


def test_a_function_of_the_user_splits_unusual_batches():
    def how(batch, parts):
        return [[one[start::parts] for one in batch] for start in range(parts)]

    def loss_fn(model, batch):
        lengths = torch.tensor([[float(len(text))] for text in batch[0]])
        return model(lengths).square().mean()

    texts, model = [["a", "bb", "ccc", "dd"]], nn.Linear(1, 1)
    prober = NoiseProber(split=lambda batch, parts: MicroBatches(how(batch, parts), counts=[2, 2]))
    [reading] = probes(model, loss_fn, [texts], prober=prober)
    assert reading.variance > 0
    assert math.isnan(reading.examples)
    assert reading.loss_mismatch < 1e-5


def test_an_error_of_the_loss_itself_is_its_own():
    def broken(model, batch):
        raise KeyError("input_ids")

    model = linear()
    _, preconditioner = stepping(model, squares, data(8))
    with pytest.raises(KeyError, match="input_ids"):
        NoiseProber().probe(model, broken, data(8), preconditioner, step=0)


def test_nothing_of_the_training_changes():
    model = linear(nn.BatchNorm1d(FEATURES), nn.Dropout(0.5))
    _, preconditioner = stepping(model, squares, data(8))
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    numbers = torch.get_rng_state()
    prober = NoiseProber()
    for seed in range(3):
        prober.probe(model, squares, data(8, seed), preconditioner, step=seed)
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(map(torch.equal, gradients, (parameter.grad for parameter in model.parameters())))
    assert all(module.training for module in model.modules())


def test_a_resumed_prober_goes_on_as_one_that_was_not_interrupted():
    model = TokenModel()
    batches = [padded(8, seed) for seed in range(6)]
    straight, first, second = NoiseProber(), NoiseProber(), NoiseProber()
    expected = probes(model, token_mean, batches, prober=straight)
    probes(model, token_mean, batches[:3], prober=first)
    state = first.state_dict()
    direction = state.pop("direction")
    second.load_state_dict(json.loads(json.dumps(state)) | {"direction": direction})
    found = probes(model, token_mean, [batches[0], *batches[3:]], prober=second)[1:]
    assert [one.weighting for one in found] == [one.weighting for one in expected[3:]]
    old = NoiseProber()
    old.load_state_dict({"direction": direction})  # as earlier versions kept it
    assert torch.equal(old.state_dict()["direction"], direction)


def test_which_modules_are_random_or_normalise():
    model = nn.ModuleDict(
        {
            "drop": nn.Dropout(0.1),
            "never": nn.Dropout(0.0),
            "attention": nn.MultiheadAttention(4, 1, dropout=0.2),
            "norm": nn.BatchNorm2d(3),
            "layer": nn.LayerNorm(3),
        }
    )
    assert random_modules(model) == ["drop (Dropout, p = 0.1)", "attention (MultiheadAttention, p = 0.2)"]
    assert batch_normalisations(model) == ["norm (BatchNorm2d)"]
    model.eval()
    assert random_modules(model) == batch_normalisations(model) == []
