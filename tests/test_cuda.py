"""What the product promises, on a GPU: skipped where there is none.

``FORESHOCK_TEST_DEVICE=cpu`` runs on a processor what has a meaning there, so that the tests themselves can
be tried.
"""

from __future__ import annotations

import copy
import os
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import foreshock
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run
from guarding.training import Script, asked

DEVICE = os.environ.get("FORESHOCK_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"),
    # Kernels without a deterministic form and compilers warn, which is nothing that these tests are about.
    pytest.mark.filterwarnings("default"),
]
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="it is about GPUs")


class Attention(nn.Module):
    """One block of attention on bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(32, 16)
        self.mix = nn.Linear(16, 48)
        self.output = nn.Linear(16, 32)

    def forward(self, tokens):
        q, k, v = self.mix(self.token(tokens)).chunk(3, dim=-1)
        return self.output(functional.scaled_dot_product_attention(q, k, v, is_causal=True))


def regression():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 12, generator=generator).to(DEVICE)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 1)).to(DEVICE)
    return model, (inputs, inputs[:, :1].sin()), lambda m, batch: functional.mse_loss(m(batch[0]), batch[1])


def images():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 1, 8, 8, generator=generator).to(DEVICE)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).to(DEVICE)
    labels = torch.arange(32).to(DEVICE) % 4
    return model, (inputs, labels), lambda m, batch: functional.cross_entropy(m(batch[0]), batch[1])


def language():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(32, (16, 9), generator=generator).to(DEVICE)

    def loss_fn(m, batch):
        return functional.cross_entropy(m(batch[0]).flatten(0, 1), batch[1].flatten())

    return Attention().to(DEVICE), (tokens[:, :-1], tokens[:, 1:]), loss_fn


class Recurrent(nn.Module):
    """A recurrent network, which cuDNN runs on a GPU, and has no second derivative of."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 12, batch_first=True)
        self.output = nn.Linear(12, 1)

    def forward(self, x):
        return self.output(self.cells(x)[0])


def sequences():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(16, 5, 6, generator=generator).to(DEVICE)
    return (
        Recurrent().to(DEVICE),
        (inputs, inputs[..., :1].sin()),
        lambda m, batch: functional.mse_loss(m(batch[0]), batch[1]),
    )


def autocast():
    """The language model in bfloat16, with fused attention where there is any."""
    model, batch, loss_fn = language()

    def in_bfloat16(m, batch):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return loss_fn(m, batch)

    return model, batch, in_bfloat16


MODELS = [regression, images, language, sequences, autocast]
WAYS = [{"foreach": True}, {"fused": True}, *([{"capturable": True}] if DEVICE == "cuda" else [])]


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make_adam(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, **options)


def train(model, batch, loss_fn, optimizer, observe, steps=60):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        observe(batch, loss)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("backend", ["aot_eager", *(["inductor"] if DEVICE == "cuda" else [])])
def test_a_compiled_model_is_watched_bit_by_bit(backend, tmp_path):
    model, batch, loss_fn = language()
    twin = copy.deepcopy(model)
    options = {"fused": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend=backend)
        plain = train(compiled, batch, loss_fn, make_adam(compiled, **options), lambda *_: None, steps=25)
        compiled = torch.compile(twin, backend=backend)
        optimizer = make_adam(compiled, **options)
        with foreshock.Monitor(compiled, optimizer, loss_fn, run=tmp_path, probe_every=8) as monitor:
            watched = train(compiled, batch, loss_fn, optimizer, monitor.observe, steps=25)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    run = read_run(tmp_path)
    assert len(run.records["curvature"]) >= 2
    [choice] = [one["message"] for one in run.records["event"] if one["name"] == "backend"]
    assert "before torch.compile" in choice


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("build", MODELS)
def test_a_watched_training_is_the_plain_one_bit_by_bit(build, options):
    model, batch, loss_fn = build()
    twin = copy.deepcopy(model)
    plain = train(model, batch, loss_fn, make_adam(model, **options), lambda *_: None)
    optimizer = make_adam(twin, **options)
    with foreshock.Monitor(twin, optimizer, loss_fn, probe_every=7) as monitor:
        seen = []
        watched = train(twin, batch, loss_fn, optimizer, lambda b, x: seen.append(monitor.observe(b, x)))
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert seen[-1].stability_ratio > 0


@pytest.mark.parametrize("build", MODELS)
def test_an_idle_guard_changes_nothing(build):
    model, batch, loss_fn = build()
    twin = copy.deepcopy(model)
    plain = train(model, batch, loss_fn, make_adam(model), lambda *_: None, steps=20)
    optimizer = make_adam(twin)
    actions = []
    foreshock.guard(optimizer, on_action=actions.append)
    watched = train(twin, batch, loss_fn, optimizer, lambda *_: None, steps=20)
    assert not actions
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


@needs_gpu
def test_in_mini_batches_a_guard_that_may_be_late_does_not_wait_for_the_device():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    guard = foreshock.guard(optimizer, wait=False)
    measurer, quiet = guard._engine._measurer, 0
    for step in range(240):
        optimizer.zero_grad()
        (loss_fn(model, batch) * (1.0, 1.5, 0.8)[step % 3]).backward()
        late = step >= 80 and measurer._wait > 0 and not measurer._alert
        torch.cuda.set_sync_debug_mode("error" if late else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not guard._engine.skipped
        quiet += late
    assert quiet >= 120
    assert "failed" not in str(guard.summary())


@needs_gpu
def test_a_guard_that_may_be_late_bears_a_default_device():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    guard = foreshock.guard(optimizer, wait=False)
    with torch.device(DEVICE):
        for step in range(80):
            optimizer.zero_grad()
            (loss_fn(model, batch) * (1.0, 1.5, 0.8)[step % 3]).backward()
            optimizer.step()
    assert "failed" not in str(guard.summary())


@needs_gpu
def test_a_step_that_logs_nothing_does_not_wait_for_the_device():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, budget=0.0, log_every=10)
    quiet = 0
    for step in range(300):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        settled = step >= 200
        torch.cuda.set_sync_debug_mode("error" if settled else "default")
        try:
            monitor.observe(batch, loss)
            quiet += settled
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.step()
    assert quiet >= 85


@pytest.mark.parametrize("build", [regression, images, language, sequences])
def test_the_eigenvalue_is_that_of_the_processor_within_its_error(build):
    model, batch, loss_fn = build()
    optimizer = make_adam(model)
    train(model, batch, loss_fn, optimizer, lambda *_: None, steps=30)
    found = foreshock.sharpness(model, loss_fn, batch)
    exact = foreshock.sharpness(
        copy.deepcopy(model).cpu().double(),
        loss_fn,
        tuple(part.cpu().double() if part.is_floating_point() else part.cpu() for part in batch),
    )
    assert found.value == pytest.approx(exact.value, abs=max(2 * found.error, 1e-3 * exact.value))


@needs_gpu
def test_a_probe_takes_the_memory_of_a_few_steps():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    with foreshock.Monitor(model, optimizer, loss_fn, probe_every=5) as monitor:
        train(model, batch, loss_fn, optimizer, lambda *_: None, steps=10)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(model, batch, loss_fn, optimizer, monitor.observe, steps=10)
        free = torch.cuda.memory_allocated()
    assert free - before < 40 * sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("build", [regression, language])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_stability_ratio_is_that_of_the_processor(build, options):
    model, batch, loss_fn = build()
    optimizer = make_adam(model, **options)
    train(model, batch, loss_fn, optimizer, lambda *_: None, steps=30)
    on_processor = copy.deepcopy(model).cpu().double()
    exact = torch.optim.AdamW(on_processor.parameters(), lr=3e-3)
    exact.load_state_dict(plain_state(optimizer))
    there = tuple(part.cpu().double() if part.is_floating_point() else part.cpu() for part in batch)
    for one, at, given in ((model, optimizer, batch), (on_processor, exact, there)):
        at.zero_grad()
        loss_fn(one, given).backward()
    found = foreshock.preconditioned_sharpness(model, optimizer, loss_fn, batch)
    true = foreshock.preconditioned_sharpness(on_processor, exact, loss_fn, there)
    assert found.stability_ratio == pytest.approx(true.stability_ratio, rel=0.02)


def plain_state(optimizer):
    """Return the state of an optimizer for one that is neither fused nor capturable, on a processor."""
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group.update(fused=None, capturable=False, foreach=None)
    for one in state["state"].values():
        one["step"] = one["step"].cpu()
    return state


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_step_that_is_read_is_the_step_that_is_made(options, amsgrad):
    model, batch, loss_fn = regression()
    rate = torch.tensor(3e-3, device=DEVICE) if "capturable" in options else 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, amsgrad=amsgrad, **options)
    train(model, batch, loss_fn, optimizer, lambda *_: None, steps=20)
    optimizer.zero_grad()
    loss_fn(model, batch).backward()
    read = read_preconditioner(optimizer).displacement()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    optimizer.step()
    made = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    torch.testing.assert_close(read, made, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_guard_that_acts_does_on_a_gpu_what_it_does_on_a_processor(options):
    def run(device):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
        inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(1)).to(device)
        way = options if device == DEVICE else {"foreach": False}
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, **way)
        guard = foreshock.guard(optimizer, Script({6: asked("raise along", 2.0), 9: asked("raise all", 1.5)}))
        train(model, (inputs, inputs[:, :1].sin()), regression()[2], optimizer, lambda *_: None, steps=12)
        moments = torch.cat([state["exp_avg_sq"].flatten().cpu() for state in optimizer.state.values()])
        return moments, [action.step for action in guard.actions], guard.summary().notes

    (here, acted, notes), (there, acted_there, _) = run(DEVICE), run("cpu")
    assert acted == acted_there == [6, 9]
    assert not notes or "failed" not in " ".join(notes)
    torch.testing.assert_close(here, there, rtol=2e-3, atol=1e-9)


def test_a_guard_that_measures_changes_nothing_until_it_acts():
    model, _, loss_fn = autocast()
    twin = copy.deepcopy(model)
    batches = drawn(40)
    plain = mini(model, batches, loss_fn, make_adam(model, fused=True), lambda *_: None)
    optimizer = make_adam(twin, fused=True)
    actions, spent = [], []
    guard = foreshock.guard(optimizer, on_action=actions.append)
    watched = mini(
        twin, batches, loss_fn, optimizer, lambda b, _: spent.append(guard.measure(twin, loss_fn, b, every=2))
    )
    assert any(spent)
    assert not actions
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def drawn(count):
    """Return batches of other tokens each."""
    tokens = torch.randint(32, (count, 16, 9), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    return [(one[:, :-1], one[:, 1:]) for one in tokens]


def mini(model, batches, loss_fn, optimizer, observe):
    for batch in batches:
        train(model, batch, loss_fn, optimizer, observe, steps=1)
    return [p.detach().clone() for p in model.parameters()]


def test_the_noise_of_mini_batches_is_measured_in_bfloat16(tmp_path):
    model, _, loss_fn = autocast()
    optimizer = make_adam(model, fused=True)
    batches = drawn(60)
    with foreshock.Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=10) as monitor:
        mini(model, batches, loss_fn, optimizer, monitor.observe)
    run = read_run(tmp_path)
    assert run.records["noise"]
    assert not [one for one in run.records.get("event", ()) if one["name"] == "probe failed"]


@needs_gpu
@pytest.mark.parametrize("where", ["around the loop", "inside loss_fn"])
def test_flash_attention_is_probed(where, tmp_path):
    """It has no second derivative: a probe takes the math kernel, or differences if loss_fn insists."""
    torch.manual_seed(0)
    tokens = torch.randint(64, (8, 33), device=DEVICE)
    model = Flash().to(DEVICE)

    def loss_fn(m, batch):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            if where == "inside loss_fn":
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    logits = m(batch[0])
            else:
                logits = m(batch[0])
        return functional.cross_entropy(logits.float().flatten(0, 1), batch[1].flatten())

    optimizer = make_adam(model, fused=True)
    batch = (tokens[:, :-1], tokens[:, 1:])
    around = [SDPBackend.FLASH_ATTENTION] if where == "around the loop" else list(_ANY)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=10, full_batch=True)
    with sdpa_kernel(around), monitor:
        train(model, batch, loss_fn, optimizer, monitor.observe, steps=31)
    run = read_run(tmp_path)
    [choice] = [one["message"] for one in run.records["event"] if one["name"] == "backend"]
    assert choice.startswith("central differences" if where == "inside loss_fn" else "double backward")
    ratios = [one["stability_ratio"] for one in run.records["curvature"]]
    assert len(ratios) >= 3
    assert all(ratio > 0 for ratio in ratios)


_ANY = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class Flash(nn.Module):
    """Attention in heads of a width that the fused kernel takes."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(64, 64)
        self.mix = nn.Linear(64, 192)
        self.output = nn.Linear(64, 64)

    def forward(self, tokens):
        parts = self.mix(self.token(tokens)).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


def test_half_precision_with_a_gradient_scaler_is_watched_and_guarded_bit_by_bit():
    def run(watch):
        torch.manual_seed(0)
        model, batch, _ = regression()
        optimizer = make_adam(model, fused=True)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=10)
        monitor = None
        if watch:
            monitor = foreshock.Monitor(
                model, optimizer, in_half, probe_every=7, guard="auto", full_batch=True
            )
        for _ in range(30):
            optimizer.zero_grad()
            loss = in_half(model, batch)
            scaler.scale(loss).backward()
            if monitor is not None:
                monitor.observe(batch, loss, gradient_scale=scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
        if monitor is not None:
            monitor.close()
            assert not monitor.guard.actions
            assert monitor.forecast.stability_ratio > 0
        return [p.detach().clone() for p in model.parameters()]

    def in_half(m, batch):
        with torch.autocast(DEVICE, dtype=torch.float16 if DEVICE == "cuda" else torch.bfloat16):
            return functional.mse_loss(m(batch[0]).float(), batch[1])

    plain, watched = run(watch=False), run(watch=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_rewind_puts_a_training_back_bit_by_bit():
    model, batch, loss_fn = language()
    optimizer = make_adam(model, fused=True)
    kept = {}
    with foreshock.Monitor(
        model, optimizer, loss_fn, budget=0.0, recorder=foreshock.Recorder(every=5)
    ) as monitor:
        for step in range(23):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            kept[step] = [p.detach().clone() for p in model.parameters()]
            monitor.observe(batch, loss)
            optimizer.step()
        done = monitor.rewind(before=21)
    assert done.to == 20
    assert all(torch.equal(a, b) for a, b in zip(kept[20], model.parameters(), strict=True))


@needs_gpu
def test_a_step_in_a_cuda_graph_leaves_guard_and_monitor_out():
    """Numbers can't be read inside a capture, and hooks don't run on replay."""
    model, batch, loss_fn = regression()
    optimizer = make_adam(model, capturable=True)
    guard = foreshock.guard(optimizer)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, budget=0.0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        train(model, batch, loss_fn, optimizer, lambda *_: None, steps=3)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = loss_fn(model, batch)
        loss.backward()
        monitor.observe(batch, loss)
        optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert not guard.actions


@needs_gpu
def test_backward_in_a_cuda_graph_is_watched_bit_by_bit(tmp_path):
    """Between the replay and the step numbers may be read, and probes made."""

    def run(watch):
        torch.manual_seed(0)
        model, batch, loss_fn = regression()
        optimizer = make_adam(model, capturable=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                optimizer.zero_grad(set_to_none=True)
                loss_fn(model, batch).backward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            loss = loss_fn(model, batch)
            loss.backward()
        monitor = None
        if watch:
            monitor = foreshock.Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=7)
        for _ in range(30):
            graph.replay()
            if monitor is not None:
                monitor.observe(batch, loss)
            optimizer.step()
        if monitor is not None:
            monitor.close()
            assert read_run(tmp_path).records["curvature"]
        return [p.detach().clone() for p in model.parameters()]

    plain, watched = run(watch=False), run(watch=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
