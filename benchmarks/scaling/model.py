r"""What probes cost at any size: counts of the code, measured constants, and a machine that is assumed.

For n trained parameters, N processes of which D have batches of their own and T share layers (N = D·T), a
product of shared parameters sums two vectors of n/T numbers of four bytes over the D processes, and in a
ring each process sends 2(D − 1)/D of what is summed. Behind DistributedDataParallel it is one vector of n.
Where products are differences of gradients on shards it is none: a product is two gradients and more, whose
gathering and averaging is that of training and is not counted, as it isn't for a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from foreshock.operators.cost import GRAPH_PASSES, PRODUCT_PASSES

_NUMBER = 4  # bytes of an entry of a vector: float32 at least
_GROUPS = 3  # of parameters that the measured model gathers at once: two blocks and the rest
SHARDS = "fsdp2, in shards"
"""As fsdp2, with products by differences of gradients: no process ever has all parameters."""


@dataclass(frozen=True)
class Measured:
    """Constants that were measured on the example's GPT; see the page.

    Attributes:
        product: Time of one Hessian product over that of a training step, in one process.
        graph: What double backward keeps of activations over what a training step keeps.
        shards: Vectors of the size of a process's shards that a probe holds beside products and their
            directions.
        whole: Vectors of all parameters that a probe of shared parameters holds, the gathered ones included.
        products: Products of a probe that starts warm.
        short: Short messages of a probe of shared parameters.
        short_bytes: Bytes of each.
        shard_product: Time of one product by differences on shards over that of a training step.
        shard_vectors: Vectors of the size of a process's shards that such a probe holds beside products and
            their directions.
        shard_short: Short messages of such a product for each group of parameters that is gathered at once.
        shard_gradients: Gradients of such a probe: two a product, and those of a step size that did not fit.
    """

    product: float
    graph: float
    shards: float
    whole: float
    products: float
    short: float
    short_bytes: float
    shard_product: float
    shard_vectors: float
    shard_short: float
    shard_gradients: float


@dataclass(frozen=True)
class Machine:
    """What was assumed, not measured.

    Attributes:
        memory: Bytes of one accelerator.
        speed: Operations a second that training reaches on one.
        host_link: Bytes a second between accelerator and host.
        network: Bytes a second that gloo sends from one process, over TCP.
        latency: Seconds of a short sum for each doubling of the number of processes.
    """

    memory: float = 80e9
    speed: float = 400e12
    host_link: float = 25e9
    network: float = 2e9
    latency: float = 60e-6


@dataclass(frozen=True)
class Run:
    """A training whose costs are asked for.

    Attributes:
        name: What it is called.
        parameters: n.
        data: D, processes with batches of their own.
        tensor: T, processes that share the layers.
        layers: Number of layers.
        width: Their width.
        tokens: Tokens that a process, or those that share layers together, see in a step.
        shared: Whether ``fully_shard`` shares the parameters; else each process has a copy.
        weight_bytes: Bytes of a gathered parameter: 2 with a mixed precision of bfloat16.
        checkpointed: Whether activations are computed again in the backward pass.
        in_shards: Whether products are differences of gradients on shards.
    """

    name: str
    parameters: float
    data: int
    tensor: int
    layers: int
    width: int
    tokens: int
    shared: bool = True
    weight_bytes: int = 2
    checkpointed: bool = False
    in_shards: bool = False

    @property
    def processes(self) -> int:
        """N."""
        return self.data * self.tensor


@dataclass(frozen=True)
class Cost:
    """What a probe costs.

    Attributes:
        step_seconds: Time of a training step without its communication.
        training_memory: Bytes that training holds on one accelerator.
        probe_memory: Bytes that a probe holds besides.
        host_memory: Bytes that a probe holds on the host.
        sent: Bytes that one process sends for a product.
        product_compute: Seconds of a product's derivatives.
        product_exchange: Seconds of its messages.
        probe_seconds: Seconds of a probe that starts warm.
        interval: Steps from one probe to the next at a budget of .05 passes a step.
        share: Time of probes over that of training, at this interval.
    """

    step_seconds: float
    training_memory: float
    probe_memory: float
    host_memory: float
    sent: float
    product_compute: float
    product_exchange: float
    probe_seconds: float
    interval: float
    share: float

    def fits(self, machine: Machine) -> bool:
        """Return whether training and a probe fit into the memory of one accelerator."""
        return self.training_memory + self.probe_memory <= machine.memory


def passes_of(products: float) -> float:
    """Return the forward-backward passes that a probe of so many products is counted as.

    Example:
        >>> passes_of(4)
        11.5
    """
    return GRAPH_PASSES + PRODUCT_PASSES * products


def activations(run: Run) -> float:
    """Return the bytes of activations that a training step keeps in one process.

    34 bytes for each token, layer and unit of width, without the matrices of attention, as fused attention
    has it (Korthikanti et al. 2022); with checkpointing two bytes, and one layer in full.
    """
    each = 34.0 * run.tokens * run.width / run.tensor
    return 2.0 * run.tokens * run.width * run.layers + each if run.checkpointed else each * run.layers


def cost_of(run: Run, measured: Measured, machine: Machine, *, budget: float = 0.05) -> Cost:
    """Return what probes of a run cost.

    Args:
        run: The run.
        measured: Constants of the product.
        machine: What is assumed of the machine.
        budget: Forward-backward passes a step that probes may cost.
    """
    own = run.parameters / run.tensor  # of one process once all is gathered
    shard = own / run.data if run.shared else own
    recomputed = 8 / 6 if run.checkpointed else 1.0
    step = recomputed * 6 * run.parameters * run.tokens / (run.tensor * machine.speed)
    # Weights, gradients and two moments in float32, and what a layer has gathered.
    training = 16 * shard + activations(run) + (run.weight_bytes * own / run.layers if run.shared else 0)
    kept = 34.0 * run.tokens * run.width * run.layers / run.tensor  # double backward keeps what is recomputed
    doublings = math.ceil(math.log2(max(run.processes, 2)))
    interval = passes_of(measured.products) / budget
    if run.in_shards:
        # What a step holds of activations it has given back by then: the gradients of a probe take no more.
        product = measured.shard_product * step
        messages = measured.shard_short * (run.layers + 1) * machine.latency * doublings
        seconds = measured.products * (product + messages) + step
        interval = measured.shard_gradients / budget
        return Cost(
            step_seconds=step,
            training_memory=training,
            probe_memory=_NUMBER * (2 * measured.products + measured.shard_vectors) * shard,
            host_memory=0.0,
            sent=0.0,
            product_compute=product,
            product_exchange=messages,
            probe_seconds=seconds,
            interval=interval,
            share=seconds / (interval * step),
        )
    vectors = 2 * measured.products + measured.shards
    probe = _NUMBER * (vectors * shard + (measured.whole * own if run.shared else 0)) + measured.graph * kept
    sums = 2 if run.shared else 1
    ring = 2 * (run.data - 1) / run.data
    sent = sums * ring * _NUMBER * own
    # Between accelerator and host each vector goes there and back.
    exchange = sent / machine.network + sums * 2 * _NUMBER * own / machine.host_link
    short = measured.short if run.shared else 0.0
    per_product = short / measured.products * machine.latency * doublings
    compute = measured.product * step
    probe_seconds = (
        measured.products * (compute + exchange + per_product) + GRAPH_PASSES * step + exchange / 2
    )
    return Cost(
        step_seconds=step,
        training_memory=training,
        probe_memory=probe,
        host_memory=_NUMBER * own * (1 if run.data > 1 or not run.shared else 0),
        sent=sent,
        product_compute=compute,
        product_exchange=exchange + per_product,
        probe_seconds=probe_seconds,
        interval=interval,
        share=probe_seconds / (interval * step),
    )


def measured_from(results: dict[str, Any]) -> Measured:
    """Return the constants that the results of `measure` give.

    Args:
        results: By number of processes and way.
    """
    alone = results["1"]["alone"]
    timed = alone["timed"]
    # A probe is its graph, its products and what stands around them: all of it is counted to the products.
    product = (timed["seconds"] / alone["step_seconds"] - GRAPH_PASSES) / timed["products"]
    n = _NUMBER * alone["parameters"]
    probe_fixed, probe_slope = _split(alone["memory"], "probe")
    _, step_slope = _split(alone["memory"], "step")
    shards = probe_fixed / n - 2 * alone["counted"]["products"]
    several = {int(world): ways["fsdp2"] for world, ways in results.items() if world != "1"}
    # What is left of a probe of shared parameters is whole in each process, however many there are.
    whole = [
        _split(row["memory"], "probe")[0] / n - (2 * row["counted"]["products"] + shards) / world
        for world, row in several.items()
    ]
    counted = several[max(several)]["counted"]
    split = {int(world): ways[SHARDS] for world, ways in results.items() if SHARDS in ways}
    in_shards = split[max(split)]
    each = [
        _split(row["memory"], "probe")[0] * world / n - 2 * row["counted"]["products"]
        for world, row in split.items()
    ]
    seconds = in_shards["timed"]["seconds"] / in_shards["step_seconds"] - 1
    return Measured(
        product=product,
        graph=probe_slope / step_slope,
        shards=shards,
        whole=sum(whole) / len(whole),
        products=alone["timed"]["products"],
        short=counted["short"] / counted["products"] * alone["timed"]["products"],
        short_bytes=counted["short_bytes"] / counted["short"],
        shard_product=seconds / in_shards["timed"]["products"],
        shard_vectors=sum(each) / len(each),
        shard_short=in_shards["counted"]["short"] / in_shards["counted"]["products"] / _GROUPS,
        shard_gradients=in_shards["timed"]["passes"],
    )


def _split(memory: dict[str, dict[str, int]], name: str) -> tuple[float, float]:
    """Return what of a peak does not grow with the batch, and what does for each example."""
    (few, one), (many, other) = sorted((int(examples), peaks[name]) for examples, peaks in memory.items())
    slope = (other - one) / (many - few)
    return one - slope * few, slope


RUNS = (
    Run("GPT-2 124M, DDP on 8", 124e6, 8, 1, 12, 768, 16_384, shared=False, weight_bytes=4),
    Run("1.3B, DDP on 8", 1.3e9, 8, 1, 24, 2048, 4_096, shared=False, weight_bytes=4),
    Run("1.3B, FSDP2 on 8", 1.3e9, 8, 1, 24, 2048, 4_096),
    Run("1.3B, FSDP2 on 8, in shards", 1.3e9, 8, 1, 24, 2048, 4_096, in_shards=True),
    Run("7B, FSDP2 on 64", 7e9, 64, 1, 32, 4096, 4_096),
    Run("7B, FSDP2 on 64, in shards", 7e9, 64, 1, 32, 4096, 4_096, in_shards=True),
    Run("7B, FSDP2 × TP on 64 (16 × 4)", 7e9, 16, 4, 32, 4096, 4_096),
    Run("70B, FSDP2 × TP on 512 (64 × 8)", 70e9, 64, 8, 80, 8192, 4_096, checkpointed=True),
    Run("70B, FSDP2 on 512, in shards", 70e9, 512, 1, 80, 8192, 4_096, checkpointed=True, in_shards=True),
    Run("1T, FSDP2 × TP on 4,096 (512 × 8)", 1e12, 512, 8, 128, 25_600, 4_096, checkpointed=True),
)
"""The runs of the page."""
