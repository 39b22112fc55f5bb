"""The optimizers that are read and guarded by themselves, by class name: no other library is imported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from foreshock.preconditioner.adadelta import read_adadelta_second_moment, read_adadelta_step
from foreshock.preconditioner.adafactor import read_adafactor_second_moment, read_adafactor_step
from foreshock.preconditioner.adagrad import read_adagrad_step
from foreshock.preconditioner.adam import read_adam_step
from foreshock.preconditioner.adamax import read_adamax_step
from foreshock.preconditioner.live import Reader, read_adam_second_moment
from foreshock.preconditioner.low_bit import (
    read_bitsandbytes_second_moment,
    read_bitsandbytes_step,
    read_torchao_second_moment,
    read_torchao_step,
)
from foreshock.preconditioner.muon import read_muon_step
from foreshock.preconditioner.nadam import read_nadam_step
from foreshock.preconditioner.radam import read_radam_step
from foreshock.preconditioner.raising import (
    raise_average,
    raise_factored,
    raise_maximum,
    raise_square_average,
)
from foreshock.preconditioner.rmsprop import read_rmsprop_second_moment, read_rmsprop_step
from foreshock.preconditioner.sgd import read_sgd_step

_TORCH = {
    "Adadelta": Reader(read_adadelta_step, read_adadelta_second_moment),
    "Adafactor": Reader(
        read_adafactor_step,
        read_adafactor_second_moment,
        raise_factored,
        elementwise=False,  # of a matrix only sums over rows and columns are kept
        decoupled_decay=True,
    ),
    "Adagrad": Reader(read_adagrad_step),
    "Adam": Reader(
        partial(read_adam_step, decoupled=False),
        read_adam_second_moment,
        partial(raise_average, decoupled=False),
    ),
    "Adamax": Reader(read_adamax_step, raise_second_moment=raise_maximum),
    "AdamW": Reader(
        partial(read_adam_step, decoupled=True),
        read_adam_second_moment,
        partial(raise_average, decoupled=True),
        decoupled_decay=True,
    ),
    "Muon": Reader(read_muon_step),
    "NAdam": Reader(read_nadam_step, read_adam_second_moment, raise_average),
    "RAdam": Reader(read_radam_step, read_adam_second_moment, raise_average),
    "RMSprop": Reader(read_rmsprop_step, read_rmsprop_second_moment, raise_square_average),
    "SGD": Reader(read_sgd_step),
}
# bitsandbytes' Adam has decoupled decay as its AdamW has, hence one reader for all.
_BITSANDBYTES = {
    f"{module}.{prefix}{stem}{bits}": Reader(read_bitsandbytes_step, read_bitsandbytes_second_moment)
    for module, stem in (("adam", "Adam"), ("adamw", "AdamW"))
    for prefix in ("", "Paged")
    for bits in ("", "8bit", "32bit")
}
_TORCHAO = {
    f"{stem}{bits}": Reader(partial(read_torchao_step, decoupled=decoupled), read_torchao_second_moment)
    for stem, decoupled in (("Adam", False), ("AdamW", True))
    for bits in ("8bit", "4bit", "Fp8")
}

BUILT_IN: Mapping[str, Reader] = MappingProxyType(
    {f"torch.optim.{name}": reader for name, reader in _TORCH.items()}
    | {f"bitsandbytes.optim.{name}": reader for name, reader in _BITSANDBYTES.items()}
    | {f"torchao.optim.adam.{name}": reader for name, reader in _TORCHAO.items()}
)

# Optimizers that cannot be read, with the reason and what to do instead.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "torch.optim.SparseAdam": "it moves only the rows that have a gradient, and its v decays "
        "only there: build the embedding with sparse=False and use Adam",
        "torch.optim.LBFGS": "its step is not diagonal, and one step may evaluate several losses",
        "torch.optim.Rprop": "its step depends on the sign of the gradient only: it has no edge of stability",
    }
)
