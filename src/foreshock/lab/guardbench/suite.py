"""The configurations of GuardBench, and which of them methods may be tuned on.

The split was fixed before anything was tuned here, by configuration: both learning rates of a task lie on
the same side, every family has tasks on both, and whatever the guards were designed on (sines, a hundred
digits, the rules, small images, byte text, addition modulo 59) is development. The runs are like those of
`foreshock.lab.spikebench.suite`, but shorter: each is trained with every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from foreshock.lab.guardbench.drawn import drawn
from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT, RunConfig, adam, adamw, configure


def both_rates(run: RunConfig, *, times: float = 3.0) -> tuple[RunConfig, RunConfig]:
    """Return a run at its own learning rate and, as ``NAME-high``, at a multiple of it.

    Args:
        run: The run at the base rate.
        times: The multiple.
    """
    fast = replace(run.optimizer, learning_rate=times * run.optimizer.learning_rate)
    return run, replace(run, name=f"{run.name}-high", optimizer=fast, rate="high")


def alone(run: RunConfig, **changes: Any) -> tuple[RunConfig]:
    """Return a run at one rate only.

    Args:
        run: The run.
        **changes: Other fields of the configuration, such as ``outliers`` or ``precision``.
    """
    return (replace(run, **changes),)


_FRESH: dict[str, Any] = {"sequences": None}
_BARE: dict[str, Any] = {"sequences": None, "norm": "none", "layers": 4, "width": 48}
_TINY: dict[str, Any] = {"sequences": 32, "length": 16, "context": 8, "layers": 1, "width": 32, "heads": 2}
_WORDS: dict[str, Any] = {"unit": "word"}
_IMAGES: dict[str, Any] = {"images": 50, "side": 16, "pool": "average"}
_PHOTOS: dict[str, Any] = {"data": "cifar10", "side": 16, "pool": "average"}
_DEEP: dict[str, Any] = {"points": 50, "layers": 2, "width": 50}
_RULES: dict[str, Any] = {"vocabulary": 16, "length": 10, "width": 32}
_CURVED: dict[str, Any] = {"target": "quadratic"}
_BURGERS: dict[str, Any] = {"equation": "burgers"}
_FALLING: dict[str, Any] = {"schedule": "warmup-cosine", "warmup_steps": 100}
_HALF: dict[str, Any] = {"precision": "bfloat16"}
_NORM: dict[str, Any] = {"activation": "relu", "batch_norm": True}
_BROKEN: dict[str, Any] = {"outliers": 0.01}

_WHOLE = (
    *both_rates(configure(DEVELOPMENT, "mlp-sines", adam(0.01), None, 2300)),
    *both_rates(configure(HELD_OUT, "mlp-quadratic", adam(0.01), None, 1800, **_CURVED)),
    *both_rates(configure(DEVELOPMENT, "cnn-digits", adam(5e-3), None, 700)),
    *both_rates(configure(HELD_OUT, "cnn-relu", adam(5e-3), None, 700, activation="relu")),
    *both_rates(configure(HELD_OUT, "cnn-cifar", adam(3e-3), None, 400, images=100, **_PHOTOS)),
    *both_rates(configure(DEVELOPMENT, "transformer-rules", adam(3e-3), None, 450, **_RULES)),
    *both_rates(
        configure(HELD_OUT, "transformer-ce", adamw(3e-3, 0.3), None, 330, sequences=64, loss="ce", **_RULES)
    ),
    *both_rates(configure(HELD_OUT, "lstm-digits", adam(0.01), None, 900)),
    *both_rates(configure(DEVELOPMENT, "pinn-poisson", adam(3e-3), None, 900), times=10 / 3),
    *both_rates(configure(HELD_OUT, "pinn-burgers", adam(3e-3), None, 700, **_BURGERS), times=10 / 3),
    *both_rates(configure(DEVELOPMENT, "value-whole", adam(3e-3), None, 1600), times=10 / 3),
)
_MINI = (
    *both_rates(configure(DEVELOPMENT, "cnn-batch-25", adam(3e-3), 25, 1000, **_IMAGES)),
    *both_rates(configure(HELD_OUT, "cnn-ce-batch-16", adamw(3e-3, 0.1), 16, 1200, loss="ce")),
    *alone(configure(DEVELOPMENT, "cnn-relu-batch-8", adam(0.01), 8, 1400, activation="relu")),
    *both_rates(
        configure(
            HELD_OUT,
            "cnn-cifar-batch-25",
            adam(3e-3),
            25,
            600,
            images=200,
            loss="ce",
            activation="relu",
            **_PHOTOS,
        )
    ),
    *both_rates(configure(DEVELOPMENT, "mlp-batch-25", adam(0.01), 25, 1800, **_DEEP)),
    *both_rates(configure(HELD_OUT, "mlp-quadratic-batch-50", adam(0.01), 50, 1600, **_CURVED)),
    *both_rates(
        configure(
            DEVELOPMENT,
            "transformer-ce-batch-16",
            adamw(3e-3, 0.5),
            16,
            550,
            sequences=64,
            loss="ce",
            **_RULES,
        )
    ),
    *both_rates(configure(HELD_OUT, "transformer-batch-10", adam(3e-3), 10, 550, **_RULES)),
    *both_rates(configure(DEVELOPMENT, "lstm-batch-25", adam(0.01), 25, 1300)),
    *both_rates(
        configure(HELD_OUT, "lstm-text-batch-25", adam(3e-3), 25, 600, data="text", loss="ce", context=4)
    ),
    *both_rates(configure(DEVELOPMENT, "pinn-fresh", adam(3e-3), 32, 900, points=None), times=10 / 3),
    *both_rates(
        configure(HELD_OUT, "pinn-burgers-fresh", adam(3e-3), 32, 700, points=None, **_BURGERS), times=10 / 3
    ),
    *both_rates(configure(HELD_OUT, "value-batch-25", adam(3e-3), 25, 1600), times=10 / 3),
)
_DISTURBED = (
    *alone(configure(DEVELOPMENT, "mlp-outliers", adam(3e-3), 25, 1800, **_DEEP), **_BROKEN),
    *alone(configure(HELD_OUT, "cnn-ce-outliers", adamw(3e-3, 0.1), 16, 1200, loss="ce"), **_BROKEN),
    *alone(configure(DEVELOPMENT, "mlp-bfloat16", adam(0.01), 25, 1400, **_DEEP), **_HALF),
    *alone(configure(HELD_OUT, "value-bfloat16", adam(3e-3), 25, 1400), **_HALF),
    *alone(configure(HELD_OUT, "mlp-quadratic-bfloat16", adam(0.02), None, 1000, **_CURVED), **_HALF),
)
_LANGUAGE = (
    *alone(configure(DEVELOPMENT, "language-byte", adamw(3e-3, 0.3), 16, 900)),
    *alone(configure(HELD_OUT, "language-post-norm", adamw(3e-3, 0.3), 16, 800, norm="post")),
    *alone(configure(HELD_OUT, "language-word", adamw(3e-3, 0.1), 8, 700, **_WORDS)),
    *alone(configure(DEVELOPMENT, "language-bare", adamw(2e-2, 0.1), 8, 300, **_BARE), rate="high"),
    *both_rates(configure(DEVELOPMENT, "language-tiny", adamw(5e-3, 1.0), 8, 800, **_TINY)),
    *both_rates(configure(HELD_OUT, "language-tiny-batch-16", adamw(7e-3, 0.7), 16, 600, **_TINY)),
    *alone(configure(DEVELOPMENT, "addition-59", adamw(3e-3, 1.0), 256, 800)),
    *alone(configure(HELD_OUT, "addition-47", adamw(3e-3, 1.0), 128, 800, modulus=47)),
)
_CONTROLS = (
    *alone(configure(DEVELOPMENT, "mlp-sines-slow", adam(1e-3), None, 1500, "control")),
    *alone(configure(DEVELOPMENT, "cnn-batch-25-slow", adam(3e-4), 25, 500, "control", **_IMAGES)),
    *alone(configure(DEVELOPMENT, "value-slow", adam(3e-4), None, 1000, "control")),
    *alone(
        configure(DEVELOPMENT, "language-fresh", adamw(3e-3, 0.1, **_FALLING), 8, 350, "control", **_FRESH)
    ),
    *alone(configure(HELD_OUT, "lstm-digits-slow", adam(1e-3), None, 500, "control")),
    *alone(configure(HELD_OUT, "transformer-slow", adam(3e-4), None, 350, "control", **_RULES)),
    *alone(configure(HELD_OUT, "pinn-batch-32-slow", adam(3e-4), 32, 700, "control")),
    *alone(
        configure(
            HELD_OUT,
            "language-fresh-word",
            adamw(3e-3, 0.1, **_FALLING),
            8,
            230,
            "control",
            **_WORDS,
            **_FRESH,
        )
    ),
)
_FULL = (*_WHOLE, *_MINI, *_DISTURBED, *_LANGUAGE, *_CONTROLS)

_QUICK = (
    *alone(configure(DEVELOPMENT, "mlp-quick", adam(0.01), None, 2000)),
    *alone(configure(HELD_OUT, "mlp-quick-quadratic", adam(0.02), None, 1500, **_CURVED)),
    *alone(configure(DEVELOPMENT, "mlp-quick-batch-25", adam(0.01), 25, 1500, **_DEEP)),
    *alone(configure(HELD_OUT, "value-quick-batch-25", adam(5e-3), 25, 1500)),
    *alone(configure(DEVELOPMENT, "lstm-quick-batch-25", adam(0.02), 25, 900)),
    *alone(configure(HELD_OUT, "lstm-quick", adam(0.02), None, 700)),
    *alone(configure(DEVELOPMENT, "language-quick", adamw(5e-3, 1.0), 8, 700, **_TINY)),
    *alone(configure(HELD_OUT, "pinn-quick-burgers", adam(5e-3), None, 500, **_BURGERS)),
    *alone(configure(DEVELOPMENT, "mlp-quick-outliers", adam(3e-3), 25, 1200, **_DEEP), **_BROKEN),
    *alone(configure(DEVELOPMENT, "mlp-quick-slow", adam(1e-3), None, 1000, "control")),
    *alone(configure(HELD_OUT, "pinn-quick-slow", adam(3e-4), 32, 400, "control")),
)

_NORMALISED = (
    *both_rates(configure(DEVELOPMENT, "cnn-norm", adam(5e-3), None, 700, **_NORM)),
    *both_rates(
        configure(
            DEVELOPMENT, "cnn-norm-batch-25", adamw(3e-3, 0.1), 25, 1000, images=200, loss="ce", **_NORM
        )
    ),
    *both_rates(configure(HELD_OUT, "cnn-cifar-norm", adam(3e-3), None, 400, images=100, **_PHOTOS, **_NORM)),
    *both_rates(
        configure(
            HELD_OUT,
            "cnn-cifar-norm-batch-25",
            adam(3e-3),
            25,
            600,
            images=200,
            loss="ce",
            **_PHOTOS,
            **_NORM,
        )
    ),
    *both_rates(
        configure(
            HELD_OUT,
            "cnn-cifar-norm-batch-128",
            adam(3e-3),
            128,
            400,
            images=512,
            loss="ce",
            **_PHOTOS,
            **_NORM,
        )
    ),
)
_SUITES: Mapping[str, tuple[RunConfig, ...]] = MappingProxyType(
    {"full": _FULL, "quick": _QUICK, "normalised": _NORMALISED, "drawn": drawn()}
)
SUITES = tuple(_SUITES)
"""Names of the suites."""

SECTIONS = ("full", "mini", "language", "disturbed", "controls")
"""What of a suite can be chosen by itself; each configuration is in one of them."""


def section(config: RunConfig) -> str:
    """Return which of `SECTIONS` a configuration is in.

    Args:
        config: A configuration of a suite.

    Example:
        >>> [section(config) for config in suite("quick")][-3:]
        ['disturbed', 'controls', 'controls']
    """
    if config.role == "control":
        return "controls"
    return "disturbed" if config.outliers or config.precision != "float32" else config.group


def suite(name: str = "full") -> tuple[RunConfig, ...]:
    """Return the configurations of a suite.

    Args:
        name: "full"; "quick", fewer and shorter runs, for one seed; "normalised", networks with batch
            normalisation, whose halves of a batch are not what the whole is made of; or "drawn", tasks drawn
            at random.

    Raises:
        ValueError: If there is no such suite.

    Example:
        >>> {config.split for config in suite("quick")} == {"development", "held-out"}
        True
    """
    if name not in _SUITES:
        raise ValueError(f"there is no suite {name!r}; there are {', '.join(SUITES)}")
    return _SUITES[name]
