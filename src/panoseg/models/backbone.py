"""What all networks for a season share: maps for a head, and scores of the classes of pixels by a
head of their own.

Shape suffixes: B batch, T dates, C bands, H W pixels, K classes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from panoseg.models.outputs import FeatureMaps, SemanticOutput


class Backbone(nn.Module):
    """A network whose options have ``map_widths``: it gives maps to a head, and called alone it
    scores the classes of pixels.

    A network defines ``features``, and the layer that scores, by the name that it has in the
    published checkpoints. One that scores boundaries of classes as well sets ``boundary_conv``.
    """

    classifier: ClassVar[str] = "out_conv"
    """Name of the layer that makes scores of the finest map."""

    def __init__(self) -> None:
        super().__init__()
        self.boundary_conv: nn.Module | None = None

    def forward(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> SemanticOutput:
        """Scores of each pixel; where the published layers end with a normalisation and a ReLU,
        after those.

        images_BTCHW: float32, standardised per band; dates that are not valid are never looked at.
        days_BT: int64 days since the reference date. valid_BT: bool, at least one date a sample.
        """
        maps = self.features(images_BTCHW, days_BT, valid_BT)
        boundary_B2HW = (
            None if self.boundary_conv is None else self.boundary_conv(maps.pyramid[-1]).float()
        )
        return SemanticOutput(self.scores(maps), maps.attention_GBTHW, boundary_B2HW)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Maps of a batch of seasons, coarsest first, and the attention where there is one;
        arguments as in ``forward``.
        """
        raise NotImplementedError

    def scores(self, maps: FeatureMaps) -> Tensor:
        """Class scores B x K x H x W, float32, of what ``features`` gave."""
        return self.get_submodule(self.classifier)(maps.pyramid[-1]).float()
