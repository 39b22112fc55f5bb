"""Small trainings that spike by themselves, one family a file: model, loss and batches, no optimizer.

Everything is seeded by its own generators: the global random state is left alone, and building a task
twice gives the same weights and the same batches.
"""

from foreshock.lab.tasks.families import FAMILIES, build_task
from foreshock.lab.tasks.optimization import OptimizerConfig, build_optimizer, build_scheduler
from foreshock.lab.tasks.perturbation import perturb_weights
from foreshock.lab.tasks.task import Task
from foreshock.lab.tasks.training import Step, Training, TrainingConfig

__all__ = [
    "FAMILIES",
    "OptimizerConfig",
    "Step",
    "Task",
    "Training",
    "TrainingConfig",
    "build_optimizer",
    "build_scheduler",
    "build_task",
    "perturb_weights",
]
