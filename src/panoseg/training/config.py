"""Options of the losses. No torch in here, so that ``--help`` stays quick."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from panoseg.data.config import AugmentationConfig, PhotographConfig
from panoseg.errors import ConfigError
from panoseg.imagery.calendar import REFERENCE_DATE
from panoseg.models.config import (
    ModelConfig,
    config_from_json,
    config_to_json,
    looks_at_photographs,
)
from panoseg.models.configs.paps import PapsConfig
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig
from panoseg.models.configs.season import UtaeConfig


@dataclass(frozen=True)
class PapsLossConfig:
    """The panoptic loss: a weighted sum of four published parts, and of a fifth that teaches the
    backbone classes directly.
    """

    centre_weight: float = 1.0
    """Weight of the heat map's loss."""
    size_weight: float = 1.0
    """Weight of the relative error of heights and widths."""
    shape_weight: float = 1.0
    """Weight of the masks' loss."""
    class_weight: float = 1.0
    """Weight of the classification loss."""
    pixel_weight: float = 0.0
    """Weight of the cross-entropy of every pixel's class, by the semantic head of the backbone; 0,
    as published, leaves that head untrained. Parcels alone teach classes slowly: a patch has fifty
    of them, and thousands of pixels.
    """
    alpha: float = 0.0
    """Heat map: exponent that weighs pixels by how wrong they are."""
    beta: float = 4.0
    """Heat map: exponent that spares pixels near a true centre."""
    gamma: float = 0.0
    """Classification: focal exponent; 0 is cross-entropy."""
    shape: Literal["published", "cross_entropy"] = "published"
    """Masks: the published loss, a softmax of probabilities that stays between 0.31 and 1.31, or
    plain cross-entropy.
    """
    mask_threshold: float = 0.4
    """Probability above which a pixel counts in the reported IoU."""
    every_centre: bool = False
    """Every local maximum of the heat learns the parcel of its zone, not only the hottest pixel of
    each zone.
    """


@dataclass(frozen=True)
class SemanticLossConfig:
    """The loss of each pixel's class, and of the boundaries between classes where the network
    scores them.
    """

    kind: Literal["cross_entropy", "focal", "recall"] = "cross_entropy"
    """Cross-entropy of pixels; focal weighs each by how wrong it is, recall weighs each class by
    the share that is missed.
    """
    gamma: float = 2.0
    """Focal: exponent that spares pixels which are almost right; 0 is cross-entropy."""
    class_weights: tuple[float, ...] = ()
    """A weight for each class of the table, from class 0; none: all alike. The loss is the mean by
    weight.
    """
    smoothing: float = 0.0
    """Label smoothing: share of a pixel that is spread over all classes; 0 is none. Cross-entropy
    only.
    """
    smoothing_by: Literal["class", "neighbours"] = "class"
    """What keeps the rest of a smoothed pixel: its class, or in equal parts all classes that it or
    a pixel beside it has.
    """
    background_share: float = 0.0
    """Smoothing by neighbours: what a background pixel keeps, as it may hold crops that nobody
    declared; the rest goes to the other classes. Crop2Seg has 0.6. 0 treats background like a crop.
    """
    class_shares: tuple[float, ...] = ()
    """How that rest is divided over the classes other than background, by any positive numbers;
    none: in equal parts.
    """
    void: Literal["left_out", "published"] = "left_out"
    """Pixels of the void class: left out of everything, or as in Crop2Seg, whose class weight of 0
    leaves them to teach what smoothing spreads over the others, and counts them in the mean of
    recall and of smoothing by neighbours.
    """
    boundary_weight: float = 1.0
    """Weight of the boundary's focal loss, for a network that scores boundaries."""
    boundary_gamma: float = 2.0
    """Exponent of the boundary's focal loss."""

    def __post_init__(self) -> None:
        for name in ("gamma", "smoothing", "background_share", "boundary_weight", "boundary_gamma"):
            value, limit = (
                getattr(self, name),
                1 if name in ("smoothing", "background_share") else math.inf,
            )
            _expect_loss(
                0 <= value < limit,
                f"{name} {value}",
                f"a number from 0{f' up to {limit}' if limit == 1 else ''}",
            )
        _expect_loss(
            all(0 <= weight < math.inf for weight in self.class_weights),
            f"class_weights {self.class_weights}",
            "from 0",
        )
        _expect_loss(
            all(0 < share < math.inf for share in self.class_shares),
            f"class_shares {self.class_shares}",
            "above 0",
        )
        for name, needs, holds in (
            ("smoothing", "kind cross_entropy", self.kind == "cross_entropy"),
            ("smoothing_by", "smoothing", self.smoothing > 0),
            ("background_share", "smoothing_by neighbours", self.smoothing_by == "neighbours"),
            ("class_shares", "background_share", self.background_share > 0),
            ("gamma", "kind focal", self.kind == "focal"),
        ):
            default = type(self).__dataclass_fields__[name].default
            _expect_loss(holds or getattr(self, name) == default, f"{name} without {needs}", needs)

    @property
    def changes_boundary(self) -> bool:
        """Whether the boundary's loss is another than by default."""
        return (self.boundary_weight, self.boundary_gamma) != (1.0, 2.0)


def _expect_loss(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"semantic_loss: {found}", expected, "change the options of the loss")


Task = Literal["semantic", "panoptic", "instances"]


@dataclass(frozen=True)
class DataConfig:
    """How patches become samples."""

    normalisation: Literal["train", "published"] = "train"
    """Mean and deviation of the bands: over the training folds, or of each set's own folds as
    published.
    """
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD: 1 September before the harvest year."""
    single_date: str | None = None
    """Only one date of each season: an index, or the date nearest to YYYY-MM-DD."""
    ndvi: bool = False
    """Give the network the vegetation index NDVI as one more channel."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What happens to training samples."""


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser and its learning rate."""

    algorithm: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent with momentum."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent; Adam has its own."""
    learning_rate: float = 0.001
    """Learning rate before schedule and warm-up."""
    schedule: Literal["constant", "milestones", "cosine"] = "constant"
    """How it changes: not at all, by a factor at milestones, or along a half cosine down to 0."""
    milestones: tuple[int, ...] = (60, 80)
    """Epochs after which it is multiplied by the factor (schedule milestones); steps where --steps
    says the length.
    """
    factor: float = 0.3
    """The factor at milestones."""
    warm_up_steps: int = 0
    """Steps of linear growth at the start."""
    warm_up_from: float = 0.0
    """Learning rate of the first step of the warm-up; 0 begins with the share of one step."""
    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0 leaves gradients as they are."""
    weight_decay: float = 0.0
    """Weight decay: decoupled with Adam (AdamW), added to the gradient with sgd; 0 is none."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "warm_up_steps", "warm_up_from", "gradient_clip", "weight_decay")
        if not 0 <= self.momentum < 1:
            raise ConfigError(
                f"momentum {self.momentum}", "from 0 up to 1", "pass e.g. --optimiser.momentum 0.9"
            )
        if self.warm_up_from > self.learning_rate:
            raise ConfigError(
                f"warm_up_from {self.warm_up_from} above learning_rate {self.learning_rate}",
                "at most as much",
                "lower it",
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"learning_rate {self.learning_rate}",
                "a positive number",
                "pass e.g. --optimiser.learning-rate 0.001",
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
    initialisation: Literal["published", "torch"] = "published"
    """Initial weights: drawn as the published program for seasons does, or as torch does, as always
    for photographs.
    """
    initial_heat: float = 0.0
    """Heat of every pixel at the start of a panoptic model, as the share of centres is small (Lin
    et al. 2017, focal loss, section 3.3: a prior for rare positives); 0 leaves what was drawn,
    about one half.
    """
    start_from: str | None = None
    """Weights to start from, instead of drawn ones: a run, a folder of weights, or the authors'
    folder. What fits is taken.
    """
    swap_classifier: bool = False
    """Draw the classifier anew instead of taking that of the weights to start from; another table
    of classes needs it.
    """
    freeze: tuple[str, ...] = ()
    """Parts that stay as the weights to start from have them: beginnings of the names of entries,
    such as encoder.
    """
    epochs: int = 100
    """Passes over the training folds; not looked at where --steps says the length."""
    steps: int = 0
    """Steps of the optimiser in all, at which the last epoch ends early; 0 leaves it to
    --epochs.
    """
    batch_size: int = 4
    """Patches or photographs a step and process."""
    reference_batch: int = 0
    """Samples a step, over all processes, for which learning rate, steps, milestones and warm-up
    are meant. Another batch has its rates in proportion and its steps in inverse proportion (Goyal
    et al. 2017, 1706.02677); 0 takes them as they are.
    """
    max_steps_per_epoch: int = 0
    """Ends an epoch after so many steps; 0 takes all."""
    max_validation_patches: int = 0
    """Validates on the first so many patches; 0 takes all."""
    validate_every: int = 1
    """Epochs between validations; the last epoch always has one."""
    validate_after: int = 0
    """No validation in the first so many epochs."""
    heatmap_only_epochs: int = 0
    """First epochs in which a panoptic head learns its centres alone."""
    tune_threshold: bool = True
    """Tune the confidence threshold of a panoptic head on the validation fold."""
    seed: int = 1
    """Seed of initialisation, order and augmentation."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the network; bf16-mixed is the quick one."""
    compile: bool = False
    """Compile the network with torch.compile."""
    accelerator: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"
    """Kind of device."""
    devices: int = 1
    """Devices a machine, one process each; -1 takes all."""
    nodes: int = 1
    """Machines."""
    workers: int = 2
    """Processes that read patches, for each device."""
    threads: int = 0
    """Threads of CPU arithmetic; 0 leaves the number to torch."""
    log_every: int = 50
    """Steps between rows of the log."""
    checkpoint_minutes: float = 10.0
    """Least minutes between checkpoints inside an epoch, written with a row of the log; its end
    always has one.
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
            raise ConfigError(
                f"seed {self.seed}", "a number from 0 to 2147483647", "pass e.g. --seed 1"
            )
        if not 0 <= self.initial_heat < 1:
            raise ConfigError(
                f"initial_heat {self.initial_heat}",
                "from 0 up to 1",
                "pass e.g. --initial-heat 0.03",
            )
        if (self.swap_classifier or self.freeze) and self.start_from is None:
            option = (
                "swap_classifier" if self.swap_classifier else f"freeze {' '.join(self.freeze)}"
            )
            raise ConfigError(
                f"{option} without start_from", "weights to start from", "add --start-from FOLDER"
            )
        if self.devices < 1 and self.devices != -1:
            raise ConfigError(
                f"devices {self.devices}", "a number from 1, or -1 for all", "pass e.g. --devices 1"
            )
        if looks_at_photographs(self.model):
            self._check_photographs()
            return
        if self.photographs != PhotographConfig():
            raise ConfigError(
                f"photographs, options of another kind of data, with {self.model.title}",
                "their defaults",
                "leave them out",
            )
        if self.task == "semantic" and (
            self.heatmap_only_epochs or self.initial_heat or self.loss != PapsLossConfig()
        ):
            raise ConfigError(
                "heatmap_only_epochs, initial_heat or loss, options of a panoptic model, with a"
                " semantic one",
                "their defaults",
                "leave them out, or train a panoptic model",
            )
        if self.task == "panoptic" and self.semantic_loss != SemanticLossConfig():
            raise ConfigError(
                "semantic_loss, options of a semantic model, with a panoptic one",
                "their defaults",
                "leave them out, or train a semantic model",
            )
        if self.semantic_loss.changes_boundary and not getattr(self.model, "boundary", False):
            raise ConfigError(
                "semantic_loss.boundary_weight or boundary_gamma with a network that does not score"
                " boundaries",
                "a network with a boundary head",
                "add --model.boundary, or leave them out",
            )

    def _check_photographs(self) -> None:
        """Raise ``ConfigError`` for options that a network for photographs does not have."""
        blank = TrainConfig()
        options = (
            "data",
            "loss",
            "semantic_loss",
            "initial_heat",
            "heatmap_only_epochs",
            "tune_threshold",
        )
        changed = [name for name in options if getattr(self, name) != getattr(blank, name)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} with {self.model.title}",
                "options of networks for photographs",
                "leave them out",
            )

    @property
    def task(self) -> Task:
        """What is learned; it follows from the model."""
        return task_of_model(self.model)

    def validates(self, epoch: int, epochs: int | None = None) -> bool:
        """Whether there is a validation after epoch ``epoch`` (1 first) of ``epochs``, by default
        those of the options.
        """
        last = self.epochs if epochs is None else epochs
        return epoch == last or (epoch > self.validate_after and epoch % self.validate_every == 0)


def task_of_model(model: ModelConfig) -> Task:
    """What a network is made for."""
    if isinstance(model, MaskRcnnConfig):
        return "instances"
    return "panoptic" if isinstance(model, PapsConfig | PanopticFpnConfig) else "semantic"


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


def _at_least(config: Any, lowest: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= lowest:  # refuses NaN too
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{name} {value}", f"a number from {lowest}", f"pass another {option}"
            )


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values; ``from_json`` reads them."""
    return {entry.name: _plain(getattr(config, entry.name)) for entry in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, ModelConfig):
        return config_to_json(value)
    if is_dataclass(value):
        return to_json(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_json(kind: type | Any, value: Any, name: str = "the configuration") -> Any:
    """Read what ``to_json`` wrote as an instance of the type ``kind``. Raises ``ConfigError`` that
    names the wrong entry.

    An option that is left out has its default, so that a run of an older version is still read.
    """
    if kind == ModelConfig:
        return config_from_json(value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        needed = {
            entry.name
            for entry in fields(kind)
            if entry.default is MISSING and entry.default_factory is MISSING
        }
        _expect(isinstance(value, dict), name, value, f"options {', '.join(hints)}")
        _expect(
            needed <= value.keys() <= hints.keys(), name, [*value], f"options {', '.join(hints)}"
        )
        return kind(**{key: from_json(hints[key], entry, key) for key, entry in value.items()})
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        _expect(value in choices, name, value, f"one of {', '.join(map(repr, choices))}")
        return value
    if get_origin(kind) in (Union, types.UnionType):
        return (
            None
            if value is None and types.NoneType in choices
            else from_json(choices[0], value, name)
        )
    if get_origin(kind) is tuple:
        _expect(isinstance(value, list), name, value, "a list")
        inner = choices[:1] * len(value) if ... in choices else choices
        _expect(len(value) == len(inner), name, value, f"{len(inner)} values")
        return tuple(
            from_json(entry_kind, entry, name)
            for entry_kind, entry in zip(inner, value, strict=True)
        )
    accepted = (int, float) if kind is float else (kind,)
    _expect(type(value) in accepted, name, value, f"a value of type {kind.__name__}")
    return kind(value)


def _expect(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(
            f"{name} {value!r}", expected, "mend the file, or use one that panoseg has written"
        )
