"""Convolution blocks of U-TAE and its relatives, the halves of a U-Net, and frames of all dates.

Frames are the valid dates of all samples, one after the other, so that a block shared over dates is
an ordinary block.

Garnot & Landrieu 2021, "Panoptic segmentation of satellite image time series", Fig. 2; names of
entries follow the published checkpoints (utae-paps @ 987874e, src/backbones/utae.py).
Depthwise-separable convolutions, MBConv (Sandler et al. 2018, "MobileNetV2") and squeeze and
excitation (Hu et al. 2018): Crop2Seg @ aee7827, src/backbones/conv.py, mbconv.py and
squeeze_and_excitation.py. Shape suffixes: B batch, T dates, N F frames, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.models.configs.base import NORM_GROUPS, Convolution, Norm

Border = Literal["reflect", "zeros"]
"""What a convolution sees beyond the image: its mirror image, or nothing."""

_MBCONV_EXPANSION = 4
_SQUEEZE_RATIO = 16


@dataclass(frozen=True)
class BlockConfig:
    """What the blocks of a U-Net are made of."""

    convolution: Convolution = "2d"
    """Kind of convolution."""
    mbconv: bool = False
    """MBConv instead of pairs of convolutions; halving stays a convolution."""
    squeeze: bool = False
    """Squeeze and excitation at the end of each block, unless it is MBConv, which has its own."""


def _norm(kind: Norm, channels: int) -> nn.Module:
    # Scores of 15 classes or of two sides of a boundary do not make four groups, and the published
    # MBConv fails on them.
    groups = 1 if channels % NORM_GROUPS else NORM_GROUPS
    kinds: dict[Norm, Callable[[], nn.Module]] = {
        "group": lambda: nn.GroupNorm(groups, channels),
        "batch": lambda: nn.BatchNorm2d(channels),
        "instance": lambda: nn.InstanceNorm2d(channels),
    }
    return kinds[kind]()


class SeparableConv(nn.Module):
    """A convolution of each channel on its own, then one that mixes channels at each pixel.

    Neither has biases.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, border: Border) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            before,
            before,
            kernel,
            stride,
            padding=1,
            groups=before,
            bias=False,
            padding_mode=border,
        )
        self.pointwise = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the convolved frames, N x C x H x W."""
        convolved_NCHW: Tensor = self.pointwise(self.depthwise(frames_NCHW))
        return convolved_NCHW


class SqueezeExcitation(nn.Module):
    """Weigh each channel of a frame between 0 and 1, by the means of all its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _SQUEEZE_RATIO)
        self.sae = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the frames with each channel weighed, N x C x H x W."""
        weight_NC: Tensor = self.sae(frames_NCHW.mean((2, 3), keepdim=True))
        return frames_NCHW * weight_NC[..., None, None]


class ConvLayer(nn.Module):
    """Convolutions, each followed by normalisation and ReLU.

    Args:
        widths: Channels of the input, then of each convolution.
        last_relu: Whether the last convolution gets its ReLU.
        squeeze: Add squeeze and excitation at the end.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: Norm = "batch",
        kernel: int = 3,
        stride: int = 1,
        last_relu: bool = True,
        border: Border = "reflect",
        convolution: Convolution = "2d",
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step, (before, after) in enumerate(pairwise(widths), 2):
            if convolution == "depthwise_separable":
                layers.append(SeparableConv(before, after, kernel, stride, border))
            else:
                layers.append(
                    nn.Conv2d(before, after, kernel, stride, padding=1, padding_mode=border)
                )
            layers.append(_norm(norm, after))
            if last_relu or step < len(widths):
                layers.append(nn.ReLU(inplace=True))
        if squeeze:
            layers.append(SqueezeExcitation(widths[-1]))
        self.conv = nn.Sequential(*layers)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the convolved frames, N x C x H x W."""
        convolved_NCHW: Tensor = self.conv(frames_NCHW)
        return convolved_NCHW


class Residual(nn.Module):
    """The input added to what a block makes of it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the frames plus the output of the block, N x C x H x W."""
        change_NCHW: Tensor = self.block(frames_NCHW)
        return frames_NCHW + change_NCHW


class MBConv(nn.Sequential):
    """Four times as many channels, a convolution of each, squeeze and excitation, then fewer.

    Residual where the widths agree.
    """

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        wide = _MBCONV_EXPANSION * before
        layers = nn.Sequential(
            nn.Conv2d(before, wide, 1),
            _norm(norm, wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, padding_mode="reflect"),
            _norm(norm, wide),
            nn.ReLU(inplace=True),
            SqueezeExcitation(wide),
            nn.Conv2d(wide, after, 1),
            _norm(norm, after),
        )
        super().__init__(
            nn.Sequential(Residual(layers) if before == after else nn.Sequential(layers))
        )


class MBConvLayer(nn.Module):
    """One ``MBConv`` after the other.

    Args:
        widths: Channels of the input, then of each block.
    """

    def __init__(self, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(MBConv(before, after, norm) for before, after in pairwise(widths))
        )

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the convolved frames, N x C x H x W."""
        convolved_NCHW: Tensor = self.conv(frames_NCHW)
        return convolved_NCHW


class ConvBlock(nn.Module):
    """A ``ConvLayer`` or an ``MBConvLayer`` under the name that published checkpoints carry."""

    def __init__(
        self,
        widths: Sequence[int],
        norm: Norm = "batch",
        border: Border = "reflect",
        style: BlockConfig | None = None,
    ) -> None:
        super().__init__()
        self.conv = _layer(widths, norm, border, style or BlockConfig())

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the convolved frames, N x C x H x W."""
        convolved_NCHW: Tensor = self.conv(frames_NCHW)
        return convolved_NCHW


class DownBlock(nn.Module):
    """Halve the size, then two convolutions, the second one residual."""

    def __init__(
        self,
        channels: int,
        width: int,
        norm: Norm,
        border: Border = "reflect",
        style: BlockConfig | None = None,
    ) -> None:
        super().__init__()
        style = style or BlockConfig()
        self.mbconv, plain = style.mbconv, replace(style, squeeze=False)
        self.down = ConvLayer(
            (channels, channels), norm, 4, 2, border=border, convolution=style.convolution
        )
        self.conv1 = _layer((channels, width), norm, border, plain)
        self.conv2 = _layer((width, width), norm, border, plain)
        self.sae = SqueezeExcitation(width) if style.squeeze else None

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the frames at half the size, N x C x H/2 x W/2."""
        frames_NCHW = self.conv1(self.down(frames_NCHW))
        # MBConv adds its input itself.
        frames_NCHW = (
            self.conv2(frames_NCHW) if self.mbconv else frames_NCHW + self.conv2(frames_NCHW)
        )
        return frames_NCHW if self.sae is None else self.sae(frames_NCHW)


class UpBlock(nn.Module):
    """Double the size, join the encoder's map of that size, then convolve twice.

    The second convolution is residual.

    Args:
        norm: Kind of norm after the last two convolutions; the others always have batch norm.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        skip_channels: int,
        norm: Norm = "batch",
        border: Border = "reflect",
        mbconv: bool = False,
    ) -> None:
        super().__init__()
        self.mbconv = mbconv
        self.skip_conv = nn.Sequential(
            nn.Conv2d(skip_channels, skip_channels, 1),
            nn.BatchNorm2d(skip_channels),
            nn.ReLU(inplace=True),
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.conv1 = _layer(
            (width + skip_channels, width), norm, border, BlockConfig(mbconv=mbconv)
        )
        self.conv2 = _layer((width, width), norm, border, BlockConfig(mbconv=mbconv))

    def forward(self, coarse_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        """Return the joined map, of the size of ``skip_NCHW``."""
        joined_NCHW = torch.cat([self.up(coarse_NCHW), self.skip_conv(skip_NCHW)], dim=1)
        joined_NCHW = self.conv1(joined_NCHW)
        refined_NCHW: Tensor = self.conv2(joined_NCHW)
        return refined_NCHW if self.mbconv else joined_NCHW + refined_NCHW


def _layer(widths: Sequence[int], norm: Norm, border: Border, style: BlockConfig) -> nn.Module:
    if style.mbconv:
        return MBConvLayer(widths, norm)
    return ConvLayer(
        widths, norm, border=border, convolution=style.convolution, squeeze=style.squeeze
    )


class DownPath(nn.ModuleList):
    """The encoder of a U-Net: a ``DownBlock`` from each width to the next.

    Args:
        widths: Channels of the levels, finest first.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: Norm,
        style: BlockConfig | None = None,
        border: Border = "reflect",
    ) -> None:
        super().__init__(
            DownBlock(before, after, norm, border, style) for before, after in pairwise(widths)
        )

    def forward(self, finest_NCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first, beginning with the one given."""
        levels = [finest_NCHW]
        for block in self:
            levels.append(block(levels[-1]))
        return levels


class UpPath(nn.ModuleList):
    """The decoder of a U-Net.

    Args:
        encoder_widths: Channels of the encoder's levels, finest first.
        decoder_widths: Channels of the decoder's levels, finest first; the rest as in ``UpBlock``.
    """

    def __init__(
        self,
        encoder_widths: Sequence[int],
        decoder_widths: Sequence[int],
        mbconv: bool = False,
        norm: Norm = "batch",
        border: Border = "reflect",
    ) -> None:
        levels = range(len(encoder_widths) - 1)
        super().__init__(
            UpBlock(
                decoder_widths[i + 1], decoder_widths[i], encoder_widths[i], norm, border, mbconv
            )
            for i in reversed(levels)
        )

    def forward(self, coarsest_NCHW: Tensor, skips: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Return maps of all levels, coarsest first, beginning with the one given.

        Args:
            coarsest_NCHW: The encoder's coarsest map.
            skips: The encoder's other maps, coarsest first.
        """
        levels = [coarsest_NCHW]
        for block, skip_NCHW in zip(self, skips, strict=True):
            levels.append(block(levels[-1], skip_NCHW))
        return tuple(levels)


# 8 MiB of float32: larger maps leave the cache, and their memory is allocated again by the system.
CACHED_ELEMENTS = 2**21


def cut_frames(images_BTCHW: Tensor, valid_BT: Tensor, width: int) -> list[tuple[int, int]]:
    """Return how frames are cut: pairs of a sample and a number of its consecutive frames.

    Pairs are in the order of the frames. On a CPU a piece's maps of ``width`` channels stay in the
    cache from one layer to the next, which halves the time of an evaluation; elsewhere a piece is a
    whole season.
    """
    limit = images_BTCHW.shape[1]
    if images_BTCHW.device.type == "cpu":
        elements = width * images_BTCHW.shape[-2] * images_BTCHW.shape[-1]
        limit = max(1, CACHED_ELEMENTS // elements)
    return [
        (sample, min(limit, dates - start))
        for sample, dates in enumerate(valid_BT.sum(1).tolist())
        for start in range(0, max(dates, 1), limit)
    ]


def split_frames(frames_FCHW: Tensor, sizes: Sequence[int], together: bool) -> tuple[Tensor, ...]:
    """Split frames into the pieces in which they go through a network.

    Args:
        frames_FCHW: All frames.
        sizes: Frames of each piece on a CPU; elsewhere all frames are one piece.
        together: The network has to see all frames at once, as a batch norm in training.
    """
    # Channels last: convolutions on CPUs and with tensor cores are several times faster in this
    # layout.
    frames_FCHW = frames_FCHW.contiguous(memory_format=torch.channels_last)
    return (
        (frames_FCHW,)
        if together or frames_FCHW.device.type != "cpu"
        else frames_FCHW.split(list(sizes))
    )


def encode_frames(
    levels: Callable[[Tensor], list[Tensor]],
    frames_FCHW: Tensor,
    sizes: Sequence[int],
    together: bool,
) -> list[tuple[Tensor, ...]]:
    """Return the maps of all levels, each cut into pieces of ``sizes`` frames.

    Args:
        levels: The network, from frames to one map a level.
        frames_FCHW: All frames.
        sizes: Frames of each piece.
        together: As in ``split_frames``.
    """
    encoded = [levels(piece_FCHW) for piece_FCHW in split_frames(frames_FCHW, sizes, together)]
    if len(encoded) == len(sizes):
        return list(zip(*encoded, strict=True))
    return [level.split(list(sizes)) for level in encoded[0]]


def season_of_frames(pieces: Iterable[Tensor], valid_BT: Tensor) -> Tensor:
    """Return pieces of frames as seasons B x T x C x H x W, zero where not valid.

    Args:
        pieces: Maps F x C x H x W of any numbers of frames. Without gradients each is copied as it
            comes, so that those of a generator never exist together.
        valid_BT: bool.
    """
    if torch.is_grad_enabled():
        pieces = [torch.cat(list(pieces))]
    place_F, start, season_NHWC = valid_BT.flatten().nonzero().flatten(), 0, None
    for piece_FCHW in pieces:
        piece_FHWC = piece_FCHW.permute(0, 2, 3, 1)
        if len(piece_FHWC) == valid_BT.numel():
            season_NHWC = piece_FHWC
            break
        if season_NHWC is None:
            season_NHWC = piece_FHWC.new_zeros((valid_BT.numel(), *piece_FHWC.shape[1:]))
        season_NHWC[place_F[start : start + len(piece_FHWC)]] = piece_FHWC
        start += len(piece_FHWC)
    assert season_NHWC is not None
    season_BTHWC: Tensor = season_NHWC.unflatten(0, valid_BT.shape)
    return season_BTHWC.permute(0, 1, 4, 2, 3)


def sum_of_frames(maps_FCHW: Tensor) -> Tensor:
    """The sum over frames, C x H x W."""
    frames, channels, height, width = maps_FCHW.shape
    # Summed as flat rows, which is much faster than over the first of four dimensions.
    return (
        maps_FCHW.permute(0, 2, 3, 1)
        .reshape(frames, -1)
        .sum(0)
        .view(height, width, channels)
        .permute(2, 0, 1)
    )


def sum_by_sample(maps: Iterable[Tensor], sample_of: Sequence[int]) -> Tensor:
    """Add up maps within each sample.

    Args:
        maps: Maps C x H x W.
        sample_of: Sample of each map, ascending from 0.

    Returns:
        Sums, B x C x H x W.
    """
    sums: dict[int, Tensor] = {}
    for sample, piece_CHW in zip(sample_of, maps, strict=True):
        sums[sample] = sums[sample] + piece_CHW if sample in sums else piece_CHW
    return torch.stack(list(sums.values()))


def check_sides(images_BTCHW: Tensor, multiple: int, least: int) -> None:
    """Raise ``ConfigError`` unless both sides of the images fit the network.

    Args:
        images_BTCHW: The images.
        multiple: Number of which both sides must be multiples.
        least: Smallest side, in pixels.
    """
    height, width = images_BTCHW.shape[-2:]
    if height % multiple or width % multiple or min(height, width) < least:
        raise ConfigError(
            f"The images have {height} x {width} pixels, but the network needs sides that are"
            f" multiples of {multiple}, at least {least}: crop or pad them."
        )
