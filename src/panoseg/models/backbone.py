"""What all networks for a season share that give maps to a head, or scores of pixels by themselves.

Shape suffixes: B batch, T dates, C bands, H W pixels, K classes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from panoseg.classes import ClassTable
from panoseg.data.samples import Batch
from panoseg.models.losses import SemanticLoss
from panoseg.models.network import (
    PLAIN,
    Details,
    Network,
    PredictOptions,
    classes_as_segments,
    labels_of,
)
from panoseg.models.outputs import FeatureMaps, SemanticOutput
from panoseg.panoptic.panoptic import Panoptic


class Backbone(Network):
    """A network whose options have ``map_widths``: maps for a head, and by itself class scores.

    A network defines ``features``, and the layer that scores, by the name that it has in the
    published checkpoints. One that scores boundaries of classes as well sets ``boundary_conv``.
    """

    classifier: ClassVar[str] = "out_conv"
    """Name of the layer that makes scores of the finest map."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.boundary_conv: nn.Module | None = None

    @property
    def loss_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The loss, and its parts where boundaries are scored too."""
        return ("loss",) if self.boundary_conv is None else ("loss", "pixel", "boundary")

    def prepare(self, table: ClassTable, loss: Any = None) -> Self:
        """Say what the classes mean; loss: ``SemanticLossConfig``, None for the defaults."""
        self.criterion = SemanticLoss(loss, table)
        return super().prepare(table)

    def forward(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> SemanticOutput:
        """Score each pixel; where the published layers end with a normalisation and a ReLU, after
        those.

        Args:
            images_BTCHW: float32, standardised per band; dates that are not valid are ignored.
            days_BT: int64, days since the reference date.
            valid_BT: bool, at least one date a sample.
        """
        return self.output(self.features(images_BTCHW, days_BT, valid_BT))

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return the maps of a batch of seasons, coarsest first, and the attention where there is
        one; arguments as in ``forward``.
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
        return self.get_submodule(self.classifier)(maps.pyramid[-1]).float()

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
