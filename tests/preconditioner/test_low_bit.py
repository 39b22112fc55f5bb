"""Adam in 8 bits: against the real libraries where they are installed, and against their layout always.

The libraries are not among the dependencies of the tests: install them to run these (last run with
bitsandbytes 0.50.2 and torchao 0.18.0, on a CPU).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn, optim

from foreshock.preconditioner import find_reader, read_preconditioner, read_second_moment_sums
from preconditioner.stepping import moving, predicted, same, set_gradients, snapshot

# Quantized from 4096 entries on; below, both libraries keep float32. 6144 is 24 blocks of 256.
SHAPES = [(64, 96), (10,)]
EPSILON = torch.finfo(torch.float32).eps


def float32_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def float32_error(optimizer: optim.Optimizer, steps: int, *, scalar: float = EPSILON) -> float:
    """Return the largest error of the prediction, relative to what the rounding of float32 explains.

    That is one rounding of the parameter, and a relative error `scalar` of the change.
    """
    worst = 0.0
    for step in range(steps):
        set_gradients(moving(optimizer), scale=10.0 ** (step % 3 - 1))
        before, changes = [p.detach().clone() for p in moving(optimizer)], predicted(optimizer)
        optimizer.step()
        for old, new, change in zip(before, moving(optimizer), changes, strict=True):
            unit = EPSILON * old.abs() + scalar * change.abs()
            worst = max(worst, float(((new.detach() - old - change) / unit).abs().max()))
    return worst


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adam8bit", "AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_bitsandbytes(name, weight_decay):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    cls = getattr(bitsandbytes.optim, name)
    optimizer = cls(float32_parameters(), lr=0.01, weight_decay=weight_decay)
    # A few roundings of the parameter itself.
    assert float32_error(optimizer, steps=5) < 4
    quantized = optimizer.state[moving(optimizer)[0]]["state1"].dtype == torch.uint8
    assert quantized == ("8bit" in name)
    before = snapshot(optimizer)
    [sums] = read_second_moment_sums(optimizer)
    assert sums.step == 6
    assert sums.previous > 0
    assert same(before, snapshot(optimizer))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Adam8bit", "AdamW8bit", "AdamW4bit", "AdamWFp8"])
@pytest.mark.filterwarnings("ignore")
def test_torchao(name):
    torchao = pytest.importorskip("torchao.optim")
    optimizer = getattr(torchao, name)(float32_parameters(), lr=0.01, weight_decay=0.1)
    # torchao keeps t in float32: 1 − β₂ᵗ = .001 at t = 1 is off by EPSILON/2/.001, its root by half of that.
    assert float32_error(optimizer, steps=4, scalar=250 * EPSILON) < 4
    [sums] = read_second_moment_sums(optimizer)
    assert sums.previous > 0


class Adam8bit(optim.Optimizer):
    """The stored layout of bitsandbytes' optimizer, with a step in plain torch."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": weight_decay})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self._move(p, self.state[p], group)

    @torch.no_grad()
    def _move(self, p, state, group):
        blocks = p.numel() // 256
        first, second = torch.zeros(blocks, 256), torch.zeros(blocks, 256)
        if state:
            first = state["qmap1"][state["state1"].long()].view(-1, 256) * state["absmax1"][:, None]
            second = state["qmap2"][state["state2"].long()].view(-1, 256) * state["absmax2"][:, None]
        t = state["step"] = state.get("step", 0) + 1
        g = p.grad.view(-1, 256)
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g * g
        denominator = (second / (1 - 0.99**t)).sqrt() + group["eps"]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_((group["lr"] * first / (1 - 0.9**t) / denominator).view(p.shape))
        state["qmap1"], state["qmap2"] = torch.linspace(-1, 1, 256), torch.linspace(0, 1, 256)
        for index, moment in ((1, first), (2, second)):
            state[f"absmax{index}"] = scale = moment.abs().amax(1)
            codes = (moment / scale[:, None])[..., None].sub(state[f"qmap{index}"]).abs().argmin(-1)
            state[f"state{index}"] = codes.to(torch.uint8).view(p.shape)


Adam8bit.__module__ = "bitsandbytes.optim.adam"


def test_layout_of_bitsandbytes():
    optimizer = Adam8bit([nn.Parameter(torch.randn(4, 128))], lr=0.05, weight_decay=0.3)
    assert float32_error(optimizer, steps=6) < 8
    [theta] = moving(optimizer)
    set_gradients([theta], 1.0)
    before = snapshot(optimizer)
    [step] = read_preconditioner(optimizer).active
    assert same(before, snapshot(optimizer))
    assert (step.coupled_decay, step.decoupled_decay) == (0.0, 0.3)
    [sums] = read_second_moment_sums(optimizer)
    state = optimizer.state[theta]
    total = sum(
        float(state["qmap2"][int(code)]) * float(state["absmax2"][i // 256])
        for i, code in enumerate(state["state2"].flatten())
    )
    assert sums.previous == pytest.approx(total, rel=1e-5)
    assert sums.step == 7


def test_clipping_of_bitsandbytes_is_refused():
    optimizer = Adam8bit([theta := nn.Parameter(torch.randn(2, 128))], lr=0.05, weight_decay=0.0)
    set_gradients([theta], 1.0)
    optimizer.step()
    optimizer.state[theta]["unorm_vec"] = torch.zeros(1)
    with pytest.raises(TypeError, match="max_unorm"):
        read_preconditioner(optimizer)


class Quantized(Tensor):
    """A tensor that keeps its content elsewhere, as torchao's states do."""

    @staticmethod
    def __new__(cls, content):
        return Tensor._make_wrapper_subclass(cls, content.shape, dtype=content.dtype)

    def __init__(self, content):
        self.content = content

    def dequantize(self):
        return self.content

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(f"{function} of a quantized tensor")


class AdamW8bit(optim.AdamW):
    """torchao's layout: the same keys as torch's, with quantized values."""

    def step(self, closure=None):
        return None


AdamW8bit.__module__ = "torchao.optim.adam"


def test_layout_of_torchao():
    exact = optim.AdamW(float32_parameters(), lr=0.01, weight_decay=0.3)
    for _ in range(3):
        set_gradients(moving(exact), 1.0)
        exact.step()
    set_gradients(moving(exact), 1.0)
    quantized = AdamW8bit(moving(exact), lr=torch.tensor(0.01), weight_decay=0.3)
    for group in quantized.param_groups:
        del group["decoupled_weight_decay"]
    for p in moving(exact):
        state = exact.state[p]
        quantized.state[p] = {
            "step": state["step"],
            "exp_avg": Quantized(state["exp_avg"]),
            "exp_avg_sq": Quantized(state["exp_avg_sq"]),
        }
    for change, expected in zip(predicted(quantized), predicted(exact), strict=True):
        assert torch.allclose(change, expected, rtol=1e-6, atol=1e-9)
    assert read_second_moment_sums(quantized) == read_second_moment_sums(exact)
    assert find_reader(quantized) is not find_reader(exact)
