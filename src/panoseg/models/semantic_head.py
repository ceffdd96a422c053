"""The semantic head of Panoptic FPN: the maps of a feature pyramid, brought to stride 4 and summed.

Kirillov et al. 2019, "Panoptic feature pyramid networks" (1901.02446), section 3.1 and figure 3. Shape suffixes: B images,
K classes, h w pixels at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from panoseg.models.resnet import group_norm


class SemanticHead(nn.Module):
    """Scores of the classes of pixels, at stride 4."""

    stride = 4

    def __init__(self, levels: int, pyramid_width: int, width: int, classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_way_up(steps, pyramid_width, width) for steps in range(levels))
        self.scores = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(self.scores.get_parameter("bias"), 0.0)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Scores B x K x h x w; maps: finest first, each half the size of the one before."""
        brought = [level(entry) for level, entry in zip(self.levels, maps, strict=True)]
        return self.scores(torch.stack(brought).sum(0))


def _way_up(steps: int, pyramid_width: int, width: int) -> nn.Sequential:
    """From a level of the pyramid to stride 4: ``steps`` times a convolution and twice the size, or one convolution."""
    layers: list[nn.Module] = []
    for number in range(max(1, steps)):
        convolution = nn.Conv2d(pyramid_width if number == 0 else width, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, group_norm(width), nn.ReLU(inplace=True)]
        if steps:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
