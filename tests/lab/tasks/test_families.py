import itertools
import math

import pytest
import torch

from foreshock.lab.tasks import FAMILIES, build_task

SMALL_TEXT = {"length": 6, "width": 8, "heads": 2}
SHORT_TEXT = {"length": 6, "context": 2, "width": 8}
CASES = [
    ("mlp", None, {"points": 20, "width": 5}),
    ("mlp", 4, {"points": 20, "width": 5, "layers": 2, "target": "quadratic"}),
    ("cnn", None, {"images": 12}),
    ("cnn", 5, {"images": 12, "side": 16, "pool": "average", "loss": "ce"}),
    ("cnn", 5, {"images": 12, "activation": "relu", "batch_norm": True, "hidden": 7}),
    ("transformer", None, {"sequences": 6, "width": 8}),
    ("transformer", 2, {"sequences": 6, "width": 8, "loss": "ce"}),
    ("language", None, {"sequences": 6, **SMALL_TEXT}),
    ("language", 3, {"sequences": 6, "norm": "post", **SMALL_TEXT}),
    ("language", 3, {"sequences": 6, "unit": "word", "vocabulary": 50, **SMALL_TEXT}),
    ("language", 3, {"sequences": None, "norm": "none", **SMALL_TEXT}),
    ("addition", None, {"modulus": 5, "width": 8}),
    ("addition", 4, {"modulus": 5, "width": 8, "share": 1.0}),
    ("language", 3, {"sequences": 6, "architecture": "llama", **SMALL_TEXT}),
    ("anchors", None, {"sequences": 6, "keys": 20, "width": 8}),
    ("anchors", 3, {"sequences": 6, "keys": 20, "width": 8, "norm": "none"}),
    ("lstm", None, {"examples": 12, "hidden": 4}),
    ("lstm", 4, {"examples": 12, "hidden": 4, "data": "text", "length": 6, "loss": "ce"}),
    ("pinn", None, {"points": 10, "width": 4}),
    ("pinn", 4, {"points": 10, "width": 4, "equation": "burgers"}),
    ("pinn", 4, {"points": None, "width": 4, "layers": 1}),
    ("value", None, {"transitions": 10, "width": 4}),
    ("value", 4, {"transitions": 10, "width": 4, "refresh": 2}),
    ("autoencoder", None, {"images": 12, "width": 8, "code": 3}),
    ("autoencoder", 4, {"images": 12, "width": 8, "code": 3}),
    ("contrastive", None, {"images": 12, "others": 3, "width": 6, "code": 4}),
    ("contrastive", 4, {"images": 12, "others": 3, "width": 6, "code": 4}),
    ("coordinates", None, {"side": 4, "width": 6}),
    ("coordinates", 4, {"side": 4, "width": 6, "layers": 1}),
    ("experts", None, {"sequences": 6, **SHORT_TEXT}),
    ("experts", 3, {"sequences": 6, "experts": 2, **SHORT_TEXT}),
    ("flow", None, {"trajectories": 6, "length": 3, "width": 5}),
    ("flow", 3, {"trajectories": 6, "length": 3, "width": 5}),
    ("graph", None, {"graphs": 8, "nodes": 6, "width": 5}),
    ("graph", 3, {"graphs": 8, "nodes": 6, "width": 5, "layers": 1}),
    ("gru", None, {"sequences": 6, "length": 6, "context": 2, "hidden": 5}),
    ("gru", 3, {"sequences": 6, "length": 6, "context": 0, "hidden": 5}),
    ("mixer", None, {"sequences": 6, "length": 8, "gaps": 2, "width": 6}),
    ("mixer", 3, {"sequences": 6, "length": 8, "gaps": 3, "width": 6, "layers": 1}),
    ("residual", None, {"points": 10, "width": 6}),
    ("residual", 4, {"points": 10, "width": 6, "blocks": 1}),
    ("statespace", None, {"sequences": 6, "length": 6, "context": 2, "hidden": 5}),
    ("statespace", 3, {"sequences": 6, "length": 6, "context": 0, "hidden": 5}),
]
every_case = pytest.mark.parametrize(("family", "batch_size", "options"), CASES)


def test_the_cases_have_every_family_with_both_kinds_of_batches():
    kinds = {(family, batch_size is None) for family, batch_size, _ in CASES}
    assert kinds == set(itertools.product(FAMILIES, (True, False)))


@every_case
def test_the_loss_is_a_finite_scalar_that_every_parameter_receives_a_gradient_from(
    family, batch_size, options
):
    task = build_task(family, batch_size=batch_size, seed=0, **options)
    batch = next(task.batches)
    loss = task.loss_fn(task.model, batch)
    loss.backward()
    assert loss.ndim == 0
    assert math.isfinite(loss.item())
    assert {len(tensor) for tensor in batch} == {batch_size or task.examples}
    for name, parameter in task.model.named_parameters():
        # A last bias can have no influence (a softmax is blind to shifts), but never no gradient.
        assert parameter.grad is not None, name


@every_case
def test_the_loss_is_a_mean_over_examples(family, batch_size, options):
    if options.get("batch_norm"):
        pytest.skip("the loss of an example depends on its batch")
    task = build_task(family, batch_size=batch_size, seed=0, **options)
    batch = next(task.batches)
    singles = [tuple(tensor[i : i + 1] for tensor in batch) for i in range(len(batch[0]))]
    mean = sum(task.loss_fn(task.model, single).item() for single in singles) / len(singles)
    # float32: the sums run in another order.
    assert task.loss_fn(task.model, batch).item() == pytest.approx(mean, rel=1e-5)


@every_case
def test_the_loss_can_be_differentiated_twice(family, batch_size, options):
    task = build_task(family, batch_size=batch_size, seed=0, **options)
    batch = next(task.batches)
    parameters = list(task.model.parameters())
    gradient = torch.autograd.grad(task.loss_fn(task.model, batch), parameters, create_graph=True)
    slope = sum((part * part.detach()).sum() for part in gradient)
    product = torch.autograd.grad(slope, parameters, allow_unused=True)
    size = sum(part.square().sum().item() for part in product if part is not None)
    assert 0 < size < math.inf


@every_case
def test_a_seed_gives_the_same_task_and_leaves_the_global_state_alone(family, batch_size, options):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = build_task(family, batch_size=batch_size, seed=3, **options)
    next(one.batches)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    two = build_task(family, batch_size=batch_size, seed=3, **options)
    other = build_task(family, batch_size=batch_size, seed=4, **options)
    vector = torch.nn.utils.parameters_to_vector
    assert torch.equal(vector(one.model.parameters()), vector(two.model.parameters()))
    assert not torch.equal(vector(one.model.parameters()), vector(other.model.parameters()))
    next(two.batches)
    for first, second in zip(next(one.batches), next(two.batches), strict=True):
        assert torch.equal(first, second)


@every_case
def test_what_is_held_out_is_of_the_same_kind_and_not_trained_on(family, batch_size, options):
    task = build_task(family, batch_size=batch_size, seed=0, **options)
    if options.get("share") == 1.0:
        assert task.validation is None
        return
    seen = {tuple(row.flatten().tolist()) for _ in range(20) for row in next(task.batches)[0]}
    held_out = [tuple(row.flatten().tolist()) for row in task.validation[0]]
    assert not seen & set(held_out)
    with torch.enable_grad():
        assert 0 < task.loss_fn(task.model, task.validation).item() < math.inf
    for one, other in zip(next(task.batches), task.validation, strict=True):
        assert one.dtype == other.dtype
        assert one.shape[1:] == other.shape[1:]


@pytest.mark.parametrize(
    ("family", "options"), [(f, o) for f, size, o in CASES if size is None and f != "value"]
)
def test_the_training_set_does_not_depend_on_the_seed(family, options):
    one, other = (build_task(family, batch_size=None, seed=seed, **options) for seed in (0, 1))
    for first, second in zip(next(one.batches), next(other.batches), strict=True):
        assert torch.equal(first, second)


def test_unknown_family():
    with pytest.raises(ValueError, match=r"no family 'gpt'; the families are mlp, cnn"):
        build_task("gpt", batch_size=None, seed=0)


def test_unknown_option():
    with pytest.raises(ValueError, match=r"'mlp' has no option depth, wide; it has target, points"):
        build_task("mlp", batch_size=None, seed=0, wide=3, depth=4)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        build_task("mlp", batch_size=None, seed=seed)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mlp", {"target": "cubic"}, "target is 'cubic'"),
        ("mlp", {"points": 1}, "points must be an integer of at least 2"),
        ("mlp", {"width": math.nan}, "width must be an integer"),
        ("mlp", {"layers": 0}, "layers must be an integer"),
        ("cnn", {"data": "mnist"}, "data is 'mnist'"),
        ("cnn", {"loss": "hinge"}, "loss is 'hinge'"),
        ("cnn", {"activation": "tanh"}, "activation is 'tanh'"),
        ("cnn", {"pool": "sum"}, "pool is 'sum'"),
        ("cnn", {"side": 10}, "side is 10; it must be a multiple of 4"),
        ("cnn", {"hidden": 0}, "hidden must be an integer of at least 1"),
        ("cnn", {"path": "here"}, "the digits come with scikit-learn"),
        ("transformer", {"heads": 3}, "width is 64; it must be a multiple of heads, 3"),
        ("transformer", {"vocabulary": 1}, "vocabulary must be an integer of at least 2"),
        ("language", {"unit": "letter"}, "unit is 'letter'"),
        ("language", {"norm": "batch"}, "norm is 'batch'"),
        ("language", {"sequences": None}, "fresh text has no full batch"),
        ("language", {"sequences": 0}, "sequences must be an integer"),
        ("addition", {"share": math.nan}, "share is nan"),
        ("addition", {"share": 0.0}, r"share is 0\.0"),
        ("addition", {"modulus": 1}, "modulus must be an integer of at least 2"),
        ("lstm", {"data": "speech"}, "data is 'speech'"),
        ("lstm", {"hidden": 0}, "hidden must be an integer"),
        ("pinn", {"equation": "wave"}, "equation is 'wave'"),
        ("pinn", {"points": None}, "resampled points have no full batch"),
        ("value", {"refresh": 0}, "refresh must be an integer"),
        ("autoencoder", {"code": 0}, "code must be an integer"),
        ("contrastive", {"others": 0}, "others must be an integer"),
        ("coordinates", {"side": 1}, "side must be an integer of at least 2"),
        ("experts", {"experts": 0}, "experts must be an integer"),
        ("experts", {"width": 33}, "width is 33; it must be a multiple of heads, 2"),
        ("flow", {"length": 0}, "length must be an integer"),
        ("graph", {"nodes": 2}, "nodes must be an integer of at least 3"),
        ("gru", {"context": 16}, "context is 16; it must be below length, 16"),
        ("mixer", {"gaps": 25}, "gaps is 25; it must be at most length, 24"),
        ("residual", {"blocks": 0}, "blocks must be an integer"),
        ("statespace", {"hidden": 0}, "hidden must be an integer"),
    ],
)
def test_bad_options(family, options, message):
    with pytest.raises(ValueError, match=message):
        build_task(family, batch_size=None, seed=0, **options)
