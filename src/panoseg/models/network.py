"""The interface of all networks: what they learn, what they predict, and what they declare.

A network is an ``nn.Module`` whose configuration (a ``NetworkConfig``) says what it reads, what it
answers and how it is scored. Training calls ``losses``; maps, photographs, scores and figures call
``predict``. A new network is one file with a subclass, one configuration, and one entry in
``panoseg.models.config``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Self

import numpy as np
from torch import Tensor, nn

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.models.configs.base import Answers, Inputs
from panoseg.models.outputs import SemanticOutput
from panoseg.panoptic.panoptic import Panoptic

_XAVIER = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear


@dataclass(frozen=True)
class PredictOptions:
    """How a batch is predicted."""

    tta: int = 1
    """Number of test-time augmentations (flips and rotations), 1 to the network's ``max_tta``."""
    independent: bool = False
    """Predict each sample as if it were alone, whatever statistics a head takes over its batch."""


PLAIN = PredictOptions()
"""No test-time augmentation, samples together."""


@dataclass(frozen=True, eq=False)
class Details:
    """What a network says of a batch, for scores; None for what it does not say."""

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

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self._table: ClassTable | None = None

    @property
    def inputs(self) -> Inputs:
        """What the network reads."""
        return self.config.inputs  # type: ignore[no-any-return]

    @property
    def answers(self) -> Answers:
        """What the network tells apart."""
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

    def prepare(self, table: ClassTable, loss: Any = None) -> Self:
        """Say what the classes mean and how the loss is computed; ``build_network`` calls it.

        Args:
            table: The classes.
            loss: Options of the loss, see ``TrainConfig.loss_options``; None for the defaults.
        """
        self._table = table
        return self

    def losses(self, batch: Any, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return scalars by name (``loss_names``), of which "loss" is minimised.

        Args:
            batch: A batch with labels, on the network's device, seasons standardised.
            heatmap_only: Learn only where objects are; networks without a heat map ignore it.
        """
        raise NotImplementedError

    def predict(self, batch: Any, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return one segmentation a sample, without gradients."""
        raise NotImplementedError

    def details(self, batch: Any, options: PredictOptions = PLAIN) -> Details:
        """Return what scorers need; override it where a network says more than segmentations."""
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

    def attention(self, batch: Any) -> Tensor | None:
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

    def tuned_config(self) -> Any:
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
                module.reference_date = day.isoformat()


def check_table(config: Any, fitted: Any, table: ClassTable) -> None:
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


def labels_of(value: Any) -> Any:
    """Return a part of a batch with labels. Raises ``ValueError`` where it is None."""
    if value is None:
        raise ValueError("the batch has no labels; open the dataset with the network's target")
    return value
