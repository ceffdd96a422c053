"""U-Net 3D: convolutions over space and time together, averaged over dates at the end.

A baseline of Garnot & Landrieu 2021, Table 1, after Rustowicz et al. 2019, "Semantic segmentation
of crop type in Africa"; utae-paps @ 987874e, src/backbones/unet3d.py. Shape suffixes: B batch, T
dates (S at one level), C channels or bands, H W pixels, K classes, J three shifts in time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.configs.season import UNet3dConfig
from panoseg.models.layers import check_sides
from panoseg.models.network import Backbone
from panoseg.models.outputs import FeatureMaps

# Up to this number of channels x dates x rows, torch convolves a single sample without oneDNN, ten
# times slower.
_ONE_SAMPLE = 20480


class _Conv3d(nn.Conv3d):
    """A 3 x 3 x 3 convolution, in forms that CPUs compute rightly and quickly."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        samples, channels, dates, height, _ = input.shape
        if input.device.type != "cpu":
            return super().forward(input)
        if dates == 2:
            # Over two dates in half precision, the gradient of the kernel holds memory that nothing
            # was written to (oneDNN 3.13). A third, blank one is what the border is anyway.
            three_dates: Tensor = self(F.pad(input, (0, 0, 0, 0, 0, 1)))
            return three_dates[:, :, :2]
        if samples == 1 and channels * dates * height <= _ONE_SAMPLE and height % 2 == 0:
            return self._in_halves(input)
        return super().forward(input)

    def _in_halves(self, input: Tensor) -> Tensor:
        """Return the same for one sample, as two samples: its upper and its lower half.

        Each half has the rows of the other that are next to it.
        """
        half, bordered = input.shape[3] // 2, F.pad(input, (0, 0, 1, 1))
        halves = torch.cat([bordered[:, :, :, : half + 2], bordered[:, :, :, half:]])
        return torch.cat(
            F.conv3d(halves, self.weight, self.bias, padding=(1, 0, 1)).split(1), dim=3
        )


def _conv(before: int, after: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return _Conv3d(before, after), nn.BatchNorm3d(after), nn.LeakyReLU(inplace=True)


def _doubling(before: int, after: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(before, after, 3, stride=2, padding=1, output_padding=1)


class UNet3d(Backbone):
    """U-Net 3D: scores of the classes for each pixel of a season.

    Two halvings of time use groups of four dates: the dates after the last whole group shape the
    features, but their scores are not part of the mean, as published. Padded dates are images of
    zeros to it, and come last. The order of dates is what counts, not their days.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__(config)
        width = config.width
        self.en3 = nn.Sequential(*_conv(config.bands, width), *_conv(width, width))
        self.en4 = nn.Sequential(*_conv(width, 2 * width), *_conv(2 * width, 2 * width))
        self.center_in = nn.Sequential(*_conv(2 * width, 4 * width))
        self.center_out = nn.Sequential(
            *_conv(4 * width, 4 * width), _doubling(4 * width, 2 * width)
        )
        self.dc4 = nn.Sequential(*_conv(4 * width, 2 * width), *_conv(2 * width, 2 * width))
        self.trans3 = nn.Sequential(
            _doubling(2 * width, width), nn.BatchNorm3d(width), nn.LeakyReLU(inplace=True)
        )
        self.dc3 = nn.Sequential(*_conv(2 * width, width), *_conv(width, width // 2))
        self.final = _Conv3d(width // 2, config.classes)

    def scores(self, maps: FeatureMaps) -> Tensor:
        """Class scores B x K x H x W, float32, of what ``features`` gave."""
        # The mean over dates of a convolution in time is the convolution of three means, one a
        # shift in time.
        weight_KCHW = self.final.weight.transpose(1, 2).flatten(1, 2)
        return F.conv2d(maps.pyramid[-1], weight_KCHW, self.final.bias, padding=1).float()

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return means over valid dates of three levels, coarsest first.

        The last one holds three means, as each date is seen from the next one, from itself, and
        from the one before.

        Args:
            images_BTCHW: As in ``forward``.
            days_BT: As in ``forward``.
            valid_BT: As in ``forward``.
        """
        check_sides(images_BTCHW, self.config.stride, self.config.stride)
        blank_BCTHW = images_BTCHW.masked_fill(~valid_BT[:, :, None, None, None], 0).transpose(1, 2)
        # Time is halved as often as space: fewer than four dates get blank ones after them.
        missing = max(0, self.config.stride - valid_BT.shape[1])
        blank_BCTHW, valid_BT = (
            F.pad(blank_BCTHW, (0, 0, 0, 0, 0, missing)),
            F.pad(valid_BT, (0, missing)),
        )
        fine_BCTHW = self.en3(blank_BCTHW.contiguous(memory_format=torch.channels_last_3d))
        half_BCTHW = self.en4(F.max_pool3d(fine_BCTHW, 2))
        coarse_BCTHW = self.center_in(F.max_pool3d(half_BCTHW, 2))
        half_BCTHW = self.dc4(_joined(self.center_out(coarse_BCTHW), half_BCTHW))
        fine_BCTHW = self.dc3(_joined(self.trans3(half_BCTHW), fine_BCTHW))
        weight_BT = valid_BT[:, : fine_BCTHW.shape[2]].float()
        weight_BT = weight_BT / weight_BT.sum(1, keepdim=True)
        # The last convolution sees a date from the one after it, from itself, and from the one
        # before.
        seen_BTJ = F.pad(weight_BT, (1, 1)).unfold(1, 3, 1).flip(2)
        return FeatureMaps(
            (
                _mean(coarse_BCTHW, weight_BT.unflatten(1, (-1, 4)).sum(2, keepdim=True)),
                _mean(half_BCTHW, weight_BT.unflatten(1, (-1, 2)).sum(2, keepdim=True)),
                _mean(fine_BCTHW, seen_BTJ),
            )
        )


def _joined(up_BCSHW: Tensor, skip_BCTHW: Tensor) -> Tensor:
    """Both side by side; dates after the last whole group have no counterpart and are left out."""
    return torch.cat([up_BCSHW, skip_BCTHW[:, :, : up_BCSHW.shape[2]]], dim=1)


def _mean(maps_BCSHW: Tensor, weight_BSJ: Tensor) -> Tensor:
    """J weighted means over time, B x (J C) x H x W."""
    # A product of flat rows, which in this layout is ten times faster than over the third of five
    # dimensions.
    rows_BSP = maps_BCSHW.permute(0, 2, 3, 4, 1).flatten(2)
    means_BJP = weight_BSJ.mT.to(rows_BSP.dtype) @ rows_BSP
    means_BJHWC: Tensor = means_BJP.unflatten(2, (*maps_BCSHW.shape[3:], maps_BCSHW.shape[1]))
    return means_BJHWC.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)
