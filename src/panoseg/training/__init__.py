"""One training loop, its experiments, checkpoints and evaluation.

The options of a training are in this file. It imports no torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from panoseg.data import DataConfig, PhotographConfig
from panoseg.errors import ConfigError
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.base import PapsLossConfig, SemanticLossConfig
from panoseg.models.configs.season import UtaeConfig

_OPTIONS_OF_NETWORKS = frozenset(
    {
        "data",
        "photographs",
        "loss",
        "semantic_loss",
        "initial_heat",
        "heatmap_only_epochs",
        "tune_threshold",
    }
)
"""Entries of ``TrainConfig`` that some networks use and others do not."""


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser and its learning rate."""

    algorithm: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent with momentum."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent; not used by Adam."""
    learning_rate: float = 0.001
    """Learning rate before schedule and warm-up."""
    schedule: Literal["constant", "milestones", "cosine"] = "constant"
    """Schedule of the learning rate: constant, multiplied by a factor at milestones, or half a
    cosine down to 0.
    """
    milestones: tuple[int, ...] = (60, 80)
    """Epochs after which the learning rate is multiplied by the factor (schedule milestones); with
    --steps, they are steps.
    """
    factor: float = 0.3
    """Factor of the learning rate at milestones."""
    warm_up_steps: int = 0
    """Number of steps of linear warm-up at the start."""
    warm_up_from: float = 0.0
    """Learning rate at the start of the warm-up; with 0 the first step already has the rate of one
    step of growth.
    """
    gradient_clip: float = 0.0
    """Maximum norm of the gradient; 0 does not clip."""
    weight_decay: float = 0.0
    """Weight decay: decoupled with Adam (AdamW), added to the gradient with sgd; 0 disables it."""

    def __post_init__(self) -> None:
        at_least_0 = ("warm_up_steps", "warm_up_from", "gradient_clip", "weight_decay")
        _at_least(self, 0, *at_least_0, group="optimiser.")
        if not 0 <= self.momentum < 1:
            raise ConfigError(
                f"--optimiser.momentum must be at least 0 and below 1, not {self.momentum}."
            )
        if self.warm_up_from > self.learning_rate:
            raise ConfigError(
                f"--optimiser.warm-up-from {self.warm_up_from} must not exceed"
                f" --optimiser.learning-rate {self.learning_rate}."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                "--optimiser.learning-rate must be a positive number, e.g. 0.001, not"
                f" {self.learning_rate}."
            )


@dataclass(frozen=True)
class TrainConfig:
    """A training, apart from where the data lie and where the results go."""

    model: ModelConfig = field(default_factory=UtaeConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """How patches become samples."""
    photographs: PhotographConfig = field(default_factory=PhotographConfig)
    """How photographs become samples."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser and its learning rate."""
    loss: PapsLossConfig = field(default_factory=PapsLossConfig)
    """The loss of a panoptic model."""
    semantic_loss: SemanticLossConfig = field(default_factory=SemanticLossConfig)
    """The loss of a semantic model."""
    classes: str | None = None
    """CSV file of the classes of an own dataset in PASTIS's layout, which may have other bands,
    too: columns id and name, and kind (thing, stuff, void) and colour if wanted.
    """
    initialisation: Literal["published", "torch"] = "published"
    """How weights are initialised: as in the published program for seasons, or as in torch.
    Photographs always use torch's.
    """
    initial_heat: float = 0.0
    """Initial heat of every pixel of a panoptic model: a prior, because centres are rare (Lin et
    al. 2017, focal loss, section 3.3). 0 keeps the random initial value, about one half.
    """
    start_from: str | None = None
    """Weights to start from instead of random ones: a run, a folder of weights, a published
    folder, or a name (panoseg weights list). Entries that fit are loaded.
    """
    swap_classifier: bool = False
    """Initialise the classifier at random instead of loading it; needed if the weights have other
    classes.
    """
    freeze: tuple[str, ...] = ()
    """Parts that are not trained: beginnings of the names of entries, such as encoder. Needs
    --start-from.
    """
    epochs: int = 100
    """Number of epochs; ignored with --steps."""
    steps: int = 0
    """Total number of optimiser steps, after which training ends, also in the middle of an epoch; 0
    uses --epochs.
    """
    batch_size: int = 4
    """Patches or photographs per step and process."""
    reference_batch: int = 0
    """Batch size, over all processes, to which learning rate, steps, milestones and warm-up apply.
    For another batch size rates are scaled in proportion and steps in inverse proportion (Goyal et
    al. 2017, 1706.02677); 0 uses them unchanged.
    """
    max_steps_per_epoch: int = 0
    """Maximum number of steps per epoch; 0 is no limit."""
    max_validation_patches: int = 0
    """Maximum number of patches for validation; the first ones are used, and 0 uses all."""
    validate_every: int = 1
    """Number of epochs between validations; the last epoch is always validated."""
    validate_after: int = 0
    """Number of epochs at the start without validation."""
    heatmap_only_epochs: int = 0
    """Number of epochs at the start in which a panoptic head learns only its heat map."""
    tune_threshold: bool = True
    """Tune the confidence threshold of a panoptic head on the validation fold."""
    seed: int = 1
    """Seed of initialisation, order and augmentation."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the network; bf16-mixed is faster on hardware that supports it."""
    compile: bool = False
    """Compile the network with torch.compile."""
    accelerator: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"
    """Kind of device."""
    devices: int = 1
    """Number of devices per machine, with one process each; -1 uses all."""
    nodes: int = 1
    """Number of machines."""
    workers: int = 2
    """Number of processes that read samples, for each device."""
    threads: int = 0
    """Number of threads of CPU arithmetic; 0 uses torch's default."""
    log_every: int = 50
    """Number of steps between rows of the log."""
    checkpoint_minutes: float = 10.0
    """Minimum time in minutes between checkpoints within an epoch, which are written together with
    a row of the log. The end of an epoch always has a checkpoint.
    """

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "batch_size", "validate_every", "nodes", "log_every")
        _at_least(
            self,
            0,
            "max_steps_per_epoch",
            "max_validation_patches",
            "validate_after",
            "heatmap_only_epochs",
            "workers",
        )
        _at_least(self, 0, "threads", "checkpoint_minutes", "steps", "reference_batch")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"--seed must be from 0 to 2147483647, not {self.seed}.")
        if not 0 <= self.initial_heat < 1:
            raise ConfigError(
                f"--initial-heat must be at least 0 and below 1, not {self.initial_heat}."
            )
        if (self.swap_classifier or self.freeze) and self.start_from is None:
            option = "--swap-classifier" if self.swap_classifier else "--freeze"
            raise ConfigError(f"{option} needs weights to start from: add --start-from FOLDER.")
        if self.devices < 1 and self.devices != -1:
            raise ConfigError(
                f"--devices must be a number from 1, or -1 for all, not {self.devices}."
            )
        self._check_options_of_networks()
        if self.semantic_loss.changes_boundary and not getattr(self.model, "boundary", False):
            raise ConfigError(
                f"{self.model.title} does not score boundaries: add --model.boundary, or leave out"
                " semantic_loss.boundary_weight and boundary_gamma."
            )

    def _check_options_of_networks(self) -> None:
        """Raise ``ConfigError`` for an option that would do nothing with this network."""
        unused = [
            entry.name
            for entry in fields(self)
            if entry.name in _OPTIONS_OF_NETWORKS - self.model.train_options
            and getattr(self, entry.name) != _default(entry)
        ]
        if unused:
            raise ConfigError(
                f"{self.model.title} does not use {', '.join(unused)}: leave"
                f" {'it' if len(unused) == 1 else 'them'} out, or train another network."
            )

    @property
    def loss_options(self) -> PapsLossConfig | SemanticLossConfig | None:
        """Options of the network's loss; None where they are options of the network itself."""
        option = self.model.loss_option
        return None if option is None else getattr(self, option)

    def validates(self, epoch: int, epochs: int | None = None) -> bool:
        """Return whether a validation follows an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            epochs: Number of epochs; None takes that of the options.
        """
        last = self.epochs if epochs is None else epochs
        return epoch == last or (epoch > self.validate_after and epoch % self.validate_every == 0)


@dataclass(frozen=True)
class RunConfig:
    """All that a run's config.json holds: enough to repeat the run."""

    experiment: str
    """Name of the experiment that it started from."""
    data_folder: str
    """The dataset's folder."""
    fold: int
    """Which of the five official splits, 1 to 5."""
    train: TrainConfig
    """The training, resolved: every option with its value."""


def _at_least(config: object, lowest: int, *names: str, group: str = "") -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= lowest:  # refuses NaN too
            option = f"--{group}{name.replace('_', '-')}"
            raise ConfigError(f"{option} must be a number from {lowest}, not {value}.")


def _default(entry: Field[Any]) -> object:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
