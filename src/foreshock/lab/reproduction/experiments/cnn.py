"""A convolutional network on 50 CIFAR-10 images, full batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foreshock.demo.options import check_choice
from foreshock.lab.reproduction.curvatures import SpectrumWatch
from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import captions, draw_training
from foreshock.lab.reproduction.patterns import full_batch_pattern
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.tasks import OptimizerConfig
from foreshock.lab.tasks.cifar_download import ImageSource, find_images


@dataclass(frozen=True)
class CnnConfig:
    """Settings.

    Attributes:
        steps: Updates.
        learning_rate: η of Adam.
        beta1: β₁.
        beta2: β₂.
        images: Number of images.
        side: Height and width of the images, a multiple of 4.
        data: "cifar10", "digits", or "auto": CIFAR-10 if it is here or can be downloaded, else digits.
        path: Folder or archive of CIFAR-10, or of other 32×32 images in one folder a class; None to look
            where the environment variable FORESHOCK_CIFAR10 says, in the cache, and on the network.
        probe_every: Steps between measurements of λ_max(Ĥ).
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 620
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    images: int = 50
    side: int = 32
    data: str = "auto"
    path: str | None = None
    probe_every: int = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        check_choice("data", self.data, ("auto", "cifar10", "digits"))
        self.plan(ImageSource("digits", None, ""))

    def plan(self, source: ImageSource) -> Plan:
        """Return the training.

        Args:
            source: Where the images come from.
        """
        return Plan(
            name="cnn",
            family="cnn",
            options={
                "data": source.data,
                "path": source.path,
                "images": self.images,
                "side": self.side,
                "pool": "average",
            },
            optimizer=OptimizerConfig("adam", self.learning_rate, betas=(self.beta1, self.beta2)),
            steps=self.steps,
            probe_every=self.probe_every,
            sharpness_every=4 * self.probe_every,
            device=self.device,
        )


def run(config: CnnConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train and judge one seed.

    Args:
        config: Settings.
        seed: Seed of the weights.
        folder: Where the run is kept.
        on_step: Called with steps done.
    """
    source = find_images(config.data, config.path)
    watch = SpectrumWatch(folder)
    trace = record(config.plan(source), seed, folder, watchers=(watch,), on_step=on_step)
    return Outcome(full_batch_pattern(trace), (source.notice,))


CLAIMS = (
    Claim(
        "crossed",
        "λ_max(Ĥ) crosses 2/η before each spike, as in the fully connected networks.",
        "share of spikes that a crossing precedes by at most 150 steps",
        "at least",
        0.99,
        0.9,
    ),
    Claim(
        "direction_reached",
        "At each spike the curvature along the gradient has passed the threshold.",
        "share of spikes that it preceded by at most 30 steps",
        "at least",
        0.99,
        0.9,
    ),
    Claim(
        "decay_exponent",
        "Before each spike v decays as β₂ᵗ.",
        "decay exponent of v over the 40 steps before the crossing, median over spikes",
        "at least",
        0.9,
        0.7,
    ),
    Claim(
        "landscape_share",
        "λ_max(H) stays flat while λ_max(Ĥ) grows.",
        "growth of ln λ_max(H) ÷ growth of ln λ_max(Ĥ) over the 40 steps before the crossing, in modulus",
        "at most",
        0.2,
        0.5,
    ),
)

EXPERIMENT = Experiment(
    name="cnn",
    title="A convolutional network on 50 images",
    setup="Two 3×3 convolutions of 8 and 16 channels (GELU, average pooling) and a hidden layer of 32, 50 "
    "images of CIFAR-10, squared error to the one-hot label summed over classes, full batch, Adam, η = 10⁻³, "
    "β = (0.9, 0.999). The paper's network is not known to us in detail.",
    scales={
        "cpu": CnnConfig(),
        "paper": CnnConfig(steps=4000, probe_every=1, device="auto"),
    },
    run=run,
    claims=CLAIMS,
    draw=lambda folder, target: draw_training(folder, target, "cnn"),
    figures=captions("cnn"),
)
