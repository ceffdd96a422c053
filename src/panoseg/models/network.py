"""The interface of all networks, and how a configuration becomes a network.

Also the base of the networks for seasons. Shape suffixes: B batch, T dates, C bands, H W pixels, K
classes, G heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from panoseg.classes import ClassTable
from panoseg.data.samples import Batch
from panoseg.errors import ConfigError
from panoseg.models.configs import ModelConfig, fit_to_table
from panoseg.models.configs.base import Answers, Inputs, SemanticLossConfig
from panoseg.models.losses import SemanticLoss
from panoseg.models.outputs import FeatureMaps, SemanticOutput
from panoseg.panoptic import Panoptic

_Part = TypeVar("_Part")
_XAVIER = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear


@dataclass(frozen=True)
class PredictOptions:
    """How a batch is predicted."""

    tta: int = 1
    """Number of test-time augmentations (flips and rotations), 1 to the network's ``max_tta``."""
    independent: bool = False
    """Predict each sample as if it were alone, even if a head uses batch statistics."""


PLAIN = PredictOptions()
"""No test-time augmentation, samples together."""


@dataclass(frozen=True, eq=False)
class Details:
    """What a network predicts for a batch, for scores; None for what it does not predict."""

    panoptics: Sequence[Panoptic] | None = None
    """One segmentation a sample."""
    pixels: SemanticOutput | None = None
    """Class scores of the pixels of a season."""
    detections: Sequence[Sequence[dict[str, Any]]] | None = None
    """Candidates of each photograph before merging, rows of COCO's detection form."""
    labels: Sequence[np.ndarray] | None = None
    """Label of each pixel of a photograph, int64 H x W, see ``Labels.semantic_ids``."""


class Network(nn.Module):
    """A network of any kind.

    Args:
        config: Its options, a ``NetworkConfig``.
    """

    loss_names: tuple[str, ...] = ("loss",)
    """Names of the losses, for the log of a training."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.config = config
        self._table: ClassTable | None = None

    @property
    def inputs(self) -> Inputs:
        """What the network reads."""
        return self.config.inputs  # type: ignore[no-any-return]

    @property
    def answers(self) -> Answers:
        """What the network predicts."""
        return self.config.answers  # type: ignore[no-any-return]

    @property
    def scorer(self) -> str:
        """Name of the scorer that scores it."""
        return self.config.scorer  # type: ignore[no-any-return]

    @property
    def max_tta(self) -> int:
        """Largest number of test-time augmentations."""
        return self.config.max_tta  # type: ignore[no-any-return]

    @property
    def table(self) -> ClassTable:
        """What the classes of the network mean."""
        if self._table is None:
            raise ValueError("the network was built without a table of classes")
        return self._table

    def prepare(self, table: ClassTable, loss: Any = None) -> Self:  # noqa: ANN401
        """Say what the classes mean and how the loss is computed; ``build_network`` calls it.

        Args:
            table: The classes.
            loss: Options of the loss, see ``TrainConfig.loss_options``; None for the defaults.
        """
        self._table = table
        return self

    def losses(self, batch: Any, heatmap_only: bool = False) -> dict[str, Tensor]:  # noqa: ANN401
        """Return scalars by name (``loss_names``), of which "loss" is minimised.

        Args:
            batch: A batch with labels, on the network's device, seasons standardised.
            heatmap_only: Learn only where objects are; networks without a heat map ignore it.
        """
        raise NotImplementedError

    def predict(self, batch: Any, options: PredictOptions = PLAIN) -> list[Panoptic]:  # noqa: ANN401
        """Return one segmentation a sample, without gradients."""
        raise NotImplementedError

    def details(self, batch: Any, options: PredictOptions = PLAIN) -> Details:  # noqa: ANN401
        """Return what scorers need; override it if a network predicts more than segmentations."""
        return Details(self.predict(batch, options))

    def use_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Merge with other thresholds than those of the options.

        Args:
            thresholds: Score, mask and overlap 0..1, and stuff_area in pixels; any of them.

        Raises:
            ConfigError: A threshold would do nothing.
        """
        raise ConfigError(
            f"--{next(iter(thresholds)).replace('_', '-')} does nothing with {self.config.title}."
            " Leave it out."
        )

    def use_sides(self, min_side: int, max_side: int) -> None:
        """Resize photographs to other sides; for networks that resize them themselves.

        Args:
            min_side: Length of the shorter side in pixels; 0 leaves it.
            max_side: Maximum length of the longer side in pixels; 0 is no limit.
        """
        raise NotImplementedError

    def attention(self, batch: Any) -> Tensor | None:  # noqa: ANN401
        """Return the attention over dates, G x B x T x h x w, or None where there is none."""
        return None

    def draw_weights(
        self,
        scheme: Literal["published", "torch"],
        heat: float = 0.0,
        taken: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Draw the initial weights of a training.

        Args:
            scheme: "published" draws as the published training for seasons does, "torch" keeps
                what the layers drew.
            heat: Heat of every pixel at the start, for networks with a heat map; 0 leaves it.
            taken: Entries that replace drawn ones afterwards.

        Returns:
            A line to print; empty for none.
        """
        if scheme == "published":
            initialise(self)
        return ""

    def tune(self, batches: Iterable[Any], add_up: Callable[[np.ndarray], np.ndarray]) -> None:
        """Tune on a set what training does not learn; most networks have nothing to tune.

        Args:
            batches: The set.
            add_up: Adds an array up over all processes.
        """

    def tuned_config(self) -> Any:  # noqa: ANN401
        """Return the configuration with what ``tune`` found."""
        return self.config

    def compile_features(self) -> None:
        """Compile what computes the features, whose shapes are fixed, with torch.compile."""

    def count_days_from(self, day: date) -> None:
        """Set day 0 of the seasons that follow.

        Seasons of another year than the training's are counted from their own start, and only with
        it is the day of the year right where one of both is a leap year.
        """
        for module in self.modules():
            if isinstance(module, Network):
                module.config = module.config.fitted(reference_date=day.isoformat())
            if hasattr(module, "reference_date"):
                module.reference_date = day.isoformat()  # type: ignore[assignment]


def check_table(config: Any, fitted: Any, table: ClassTable) -> None:  # noqa: ANN401
    """Raise ``ConfigError`` where a network has other numbers of classes than its table.

    Args:
        config: The network's options.
        fitted: The same with the numbers of the table.
        table: The classes.
    """
    if fitted != config:
        raise ConfigError(
            f"This network of {config.classes} classes does not fit the {fitted.classes} classes"
            f" of {table.name}. Train a new network on this dataset."
        )


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights as the published training does, from torch's random numbers.

    Convolutions and linear layers: weights Xavier normal, biases normal(0, 1). Convolutions in one
    dimension: both normal(0, 1). Batch norms: scales normal(0, 1), biases 0. Group norms and
    queries keep what they have. (utae-paps @ 987874e, src/learning/weight_init.py.)

    Returns:
        The model itself.
    """
    for module in model.modules():
        if isinstance(module, _XAVIER):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Conv1d | _XAVIER) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model


def classes_as_segments(classes_BHW: Tensor, table: ClassTable) -> list[Panoptic]:
    """Return segmentations in which all pixels of a class are one segment.

    Args:
        classes_BHW: int64, ids of the table; -1 for pixels of no segment.
        table: The classes.
    """
    # Segment ids start at 1, classes at 0.
    ids = {entry.id + 1: entry.id for entry in table.classes}
    return [
        Panoptic.from_maps(classes_HW + 1, ids, table) for classes_HW in classes_BHW.cpu().numpy()
    ]


def labels_of(value: _Part | None) -> _Part:
    """Return a part of a batch with labels.

    Raises:
        ValueError: The part is None.
    """
    if value is None:
        raise ValueError("the batch has no labels; open the dataset with the network's target")
    return value


MOST_PARAMETERS = 200_000_000
"""The most parameters of a network, 800 MB: a hundred times any published network for seasons."""
MOST_OF_LARGE = 2_000_000_000
"""The same of networks that may be large; the largest published one for photographs has 1.2
billion.
"""


def build_network(
    config: ModelConfig,
    table: ClassTable | None = None,
    loss: Any = None,  # noqa: ANN401
) -> Network:
    """Build the network of a configuration, with torch's own initial weights.

    Args:
        config: Its options.
        table: What its classes mean; needed to predict and to learn.
        loss: Options of its loss, ``TrainConfig.loss_options``; None for the defaults.

    Raises:
        ConfigError: The table has other classes, or the network more than ``MOST_PARAMETERS``
            (``MOST_OF_LARGE`` where it may be large): options that are harmless one by one may,
            from a file that somebody else wrote, multiply to a network that fills the memory.
    """
    if table is not None:
        check_table(config, fit_to_table(config, table), table)
    module, name = config.network.split(":")
    with counting_parameters(config, MOST_OF_LARGE if config.large else MOST_PARAMETERS):
        network: Network = getattr(import_module(module), name)(config)
    return network if table is None else network.prepare(table, loss)


def allowed(held: int) -> int:
    """Return how many parameters a network may have whose file holds this many numbers."""
    return held + held // 20 + 10_000  # a few parameters are made twice


@contextmanager
def counting_parameters(config: ModelConfig, most: int = MOST_PARAMETERS) -> Iterator[None]:
    """Refuse the layer with which a network grows too large, before its memory is written to."""
    total = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > most:
            raise ConfigError(
                f"A {config.title} of {total:,} parameters or more is too large: at most"
                f" {most:,} are allowed. Lower its widths."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class Backbone(Network):
    """A network whose options have ``map_widths``: maps for a head, and class scores of its own.

    A network defines ``features``, and the layer that scores, by the name that it has in the
    published checkpoints. One that scores boundaries of classes as well sets ``boundary_conv``.
    """

    classifier: ClassVar[str] = "out_conv"
    """Name of the layer that makes scores of the finest map."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__(config)
        self.boundary_conv: nn.Module | None = None

    @property
    def loss_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The loss, and its parts where boundaries are scored too."""
        return ("loss",) if self.boundary_conv is None else ("loss", "pixel", "boundary")

    def prepare(self, table: ClassTable, loss: SemanticLossConfig | None = None) -> Self:
        """Say what the classes mean; loss: ``SemanticLossConfig``, None for the defaults."""
        self.criterion = SemanticLoss(loss, table)
        return super().prepare(table)

    def forward(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> SemanticOutput:
        """Score each pixel.

        Where the published layers end with a normalisation and a ReLU, scores are taken after
        those.

        Args:
            images_BTCHW: float32, standardised per band; dates that are not valid are ignored.
            days_BT: int64, days since the reference date.
            valid_BT: bool, at least one date a sample.
        """
        return self.output(self.features(images_BTCHW, days_BT, valid_BT))

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return the maps of a batch of seasons, coarsest first, and the attention if there is one.

        Args:
            images_BTCHW: As in ``forward``.
            days_BT: As in ``forward``.
            valid_BT: As in ``forward``.
        """
        raise NotImplementedError

    def output(self, maps: FeatureMaps) -> SemanticOutput:
        """Return the scores of what ``features`` gave."""
        boundary_B2HW = (
            None if self.boundary_conv is None else self.boundary_conv(maps.pyramid[-1]).float()
        )
        return SemanticOutput(self.scores(maps), maps.attention_GBTHW, boundary_B2HW)

    def scores(self, maps: FeatureMaps) -> Tensor:
        """Return class scores B x K x H x W, float32, of what ``features`` gave."""
        scores_BKHW: Tensor = self.get_submodule(self.classifier)(maps.pyramid[-1])
        return scores_BKHW.float()

    def losses(self, batch: Batch, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the loss of the pixels, and of the boundaries where the network scores them."""
        maps = self.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        losses = self.criterion(self.output(maps), labels_of(batch.classes_BHW))
        parts = {"loss": losses.total, "pixel": losses.pixel, "boundary": losses.boundary}
        return {name: parts[name] for name in self.loss_names}

    @torch.no_grad()
    def predict(self, batch: Batch, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return one segmentation a season, in which all pixels of a class are one segment."""
        maps = self.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        return classes_as_segments(self.scores(maps).argmax(1), self.table)

    @torch.no_grad()
    def details(self, batch: Batch, options: PredictOptions = PLAIN) -> Details:
        """Return the scores of the pixels."""
        maps = self.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        return Details(pixels=self.output(maps))

    @torch.no_grad()
    def attention(self, batch: Batch) -> Tensor | None:
        """Return the attention over dates, at the size at which the network attends."""
        maps = self.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        return maps.attention_GBTHW

    def compile_features(self) -> None:
        """Compile ``features``; what follows is small."""
        self.features = torch.compile(self.features)  # type: ignore[method-assign]
