"""U-ConvLSTM, one way or both: U-TAE's encoder and decoder, with a ConvLSTM over dates at the coarsest size.

A baseline of Garnot & Landrieu 2021, Tables 1 and 2, after Rustowicz et al. 2019, "Semantic segmentation of crop type in
Africa"; utae-paps @ 987874e, src/backbones/utae.py (RecUNet). Shape suffixes: B batch, T dates, C channels or bands,
H W pixels, F frames: the valid dates of all samples one after the other, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoseg.models.configs.uconvlstm import UConvLstmConfig
from panoseg.models.frames import check_sides, cut_frames, encode_frames, sum_by_sample, sum_of_frames
from panoseg.models.layers import ConvBlock, DownBlock, UpBlock
from panoseg.models.outputs import FeatureMaps, SemanticOutput
from panoseg.models.recurrence import Bidirectional, Recurrence


class UConvLstm(nn.Module):
    """U-ConvLSTM: scores of the classes for each pixel of a season."""

    def __init__(self, config: UConvLstmConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.encoder_widths, config.decoder_widths
        levels = range(len(encoder) - 1)
        # The published program gives all blocks but the first one a border of zeros.
        self.in_conv = ConvBlock((config.bands, encoder[0], encoder[0]), "group")
        self.down_blocks = nn.ModuleList(DownBlock(encoder[i], encoder[i + 1], "group", "zeros") for i in levels)
        self.up_blocks = nn.ModuleList(
            UpBlock(decoder[i + 1], decoder[i], encoder[i], "group", "zeros") for i in reversed(levels)
        )
        recurrence = Recurrence if config.directions == 1 else Bidirectional
        self.temporal_encoder = recurrence(encoder[-1], config.hidden, ahead=True)
        self.out_convlstm = nn.Conv2d(config.directions * config.hidden, encoder[-1], 3, padding=1)
        self.out_conv = ConvBlock((decoder[0], *config.head_widths, config.classes), border="zeros")

    def forward(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> SemanticOutput:
        """Scores of each pixel, after normalisation and ReLU as published; arguments as in ``UTAE``.

        days_BT is not looked at: the order of dates is what counts.
        """
        return SemanticOutput(self.scores(self.features(images_BTCHW, days_BT, valid_BT)))

    def scores(self, maps: FeatureMaps) -> Tensor:
        """Class scores B x K x H x W, float32, of what ``features`` gave."""
        return self.out_conv(maps.pyramid[-1]).float()

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, self.config.stride)
        pieces = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        samples, sizes = zip(*pieces, strict=True)
        *levels, coarsest = encode_frames(self._levels, images_BTCHW[valid_BT], sizes, together=False)
        pyramid = [self.out_convlstm(self._season(torch.cat(coarsest), valid_BT))]
        for block, level in zip(self.up_blocks, reversed(levels), strict=True):
            sum_BCHW = sum_by_sample(map(sum_of_frames, level), samples)
            pyramid.append(block(pyramid[-1], sum_BCHW / valid_BT.sum(1).view(-1, 1, 1, 1)))
        return FeatureMaps(tuple(pyramid))

    def _season(self, maps_FCHW: Tensor, valid_BT: Tensor) -> Tensor:
        """What the ConvLSTM has learned of each season, B x C x H x W."""
        if self.config.runs_over_padding:
            maps_BTCHW = maps_FCHW.new_zeros((*valid_BT.shape, *maps_FCHW.shape[1:]))
            maps_BTCHW[valid_BT] = maps_FCHW
            maps_FCHW, valid_BT = maps_BTCHW.flatten(0, 1), torch.ones_like(valid_BT)
        return self.temporal_encoder(maps_FCHW, valid_BT)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first."""
        levels = [self.in_conv(frames_FCHW)]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels
