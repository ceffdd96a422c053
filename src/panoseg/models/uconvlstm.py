"""U-ConvLSTM, one way or both: U-TAE's encoder and decoder, with a ConvLSTM over dates at the coarsest size.

A baseline of Garnot & Landrieu 2021, Tables 1 and 2, after Rustowicz et al. 2019, "Semantic segmentation of crop type in
Africa"; utae-paps @ 987874e, src/backbones/utae.py (RecUNet). Shape suffixes: B batch, T dates, C channels or bands,
H W pixels, F frames: the valid dates of all samples one after the other, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from panoseg.models.backbone import Backbone
from panoseg.models.configs.uconvlstm import UConvLstmConfig
from panoseg.models.frames import check_sides, cut_frames, encode_frames, season_of_frames, sum_by_sample, sum_of_frames
from panoseg.models.layers import ConvBlock, DownPath, UpPath
from panoseg.models.outputs import FeatureMaps
from panoseg.models.recurrence import Bidirectional, Recurrence


class UConvLstm(Backbone):
    """U-ConvLSTM: scores of the classes for each pixel, by the order of the dates of a season."""

    def __init__(self, config: UConvLstmConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.encoder_widths, config.decoder_widths
        # The published program gives all blocks but the first one a border of zeros.
        self.in_conv = ConvBlock((config.bands, encoder[0], encoder[0]), "group")
        self.down_blocks = DownPath(encoder, "group", border="zeros")
        self.up_blocks = UpPath(encoder, decoder, norm="group", border="zeros")
        recurrence = Recurrence if config.directions == 1 else Bidirectional
        self.temporal_encoder = recurrence(encoder[-1], config.hidden, ahead=True)
        self.out_convlstm = nn.Conv2d(config.directions * config.hidden, encoder[-1], 3, padding=1)
        self.out_conv = ConvBlock((decoder[0], *config.head_widths, config.classes), border="zeros")

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        samples, sizes = zip(*cuts, strict=True)
        *levels, coarsest = encode_frames(self._levels, images_BTCHW[valid_BT], sizes, together=False)
        out_BCHW = self.out_convlstm(self._season(coarsest, valid_BT))
        dates_B111 = valid_BT.sum(1).view(-1, 1, 1, 1)
        means = (sum_by_sample(map(sum_of_frames, level), samples) / dates_B111 for level in reversed(levels))
        return FeatureMaps(self.up_blocks(out_BCHW, means))

    def _season(self, pieces: Sequence[Tensor], valid_BT: Tensor) -> Tensor:
        """What the ConvLSTM has learned of each season, B x C x H x W. pieces: maps of all frames."""
        if self.config.runs_over_padding:
            return self.temporal_encoder(season_of_frames(pieces, valid_BT).flatten(0, 1), torch.ones_like(valid_BT))
        return self.temporal_encoder(torch.cat(list(pieces)), valid_BT)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first; on a CPU, where frames come season by season, all but the coarsest as sums."""
        levels = self.down_blocks(self.in_conv(frames_FCHW))
        if frames_FCHW.device.type != "cpu":
            return levels
        # The skip connections need no more, so that the finer maps of all dates never exist together.
        return [*(sum_of_frames(level_FCHW)[None] for level_FCHW in levels[:-1]), levels[-1]]
