"""The baselines of U-TAE: recurrences over the dates of a season by convolutions, and U-Net 3D.

The recurrent networks are ConvRNN, U-ConvLSTM and FPN + ConvLSTM, of cells of ConvLSTM or ConvGRU.
U-Net 3D convolves over space and time together, and averages over dates at the end.

Shi et al. 2015, "Convolutional LSTM network", equation 3 without peepholes; Ballas et al. 2016,
"Delving deeper into convolutional networks for learning video representations", equations 8 to 11
(ConvGRU). Garnot & Landrieu 2021, Table 1, after Rustowicz et al. 2019, "Semantic segmentation of
crop type in Africa" (U-Net 3D). Names of entries follow the published checkpoints (utae-paps @
987874e, src/backbones/convlstm.py, convgru.py and unet3d.py).

Shape suffixes: B batch, T dates (S at one level), F frames (the valid dates of all samples one
after the other), N samples that have a frame at a step, C channels or bands, H W pixels, K classes,
J three shifts in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.configs.season import (
    Cell,
    ConvRnnConfig,
    FpnConfig,
    UConvLstmConfig,
    UNet3dConfig,
)
from panoseg.models.layers import (
    ConvBlock,
    DownPath,
    UpPath,
    check_sides,
    cut_frames,
    encode_frames,
    season_of_frames,
    sum_by_sample,
    sum_of_frames,
)
from panoseg.models.network import Backbone
from panoseg.models.outputs import FeatureMaps

State = tuple[Tensor, ...]
"""What a cell passes on from step to step, N x C x H x W each; the last one is what it has learned
of the season.
"""
# Up to this number of channels x dates x rows, torch convolves a single sample without oneDNN, ten
# times slower.
_ONE_SAMPLE = 20480


class _JoinedConv(nn.Conv2d):
    """A 3 x 3 convolution of inputs and hidden state, joined along the channels."""

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__(channels + hidden, width, 3, padding=1)
        self.channels = channels

    def of_inputs(self, inputs_NCHW: Tensor) -> Tensor:
        """The share of the inputs, with the bias."""
        return F.conv2d(inputs_NCHW, self.weight[:, : self.channels], self.bias, padding=1)

    def of_both(self, inputs_NCHW: Tensor, hidden_NCHW: Tensor, ahead: bool) -> Tensor:
        """The whole. ahead: the inputs are what ``of_inputs`` gave."""
        if ahead:
            return inputs_NCHW + F.conv2d(hidden_NCHW, self.weight[:, self.channels :], padding=1)
        whole_NCHW: Tensor = self(
            torch.cat([inputs_NCHW, hidden_NCHW.to(inputs_NCHW.dtype)], dim=1)
        )
        return whole_NCHW


class LstmCell(nn.Module):
    """One step of ConvLSTM; its state is the hidden state and the memory."""

    states = 2

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = _JoinedConv(channels, hidden, 4 * hidden)

    def ahead(self, frames_FCHW: Tensor) -> Tensor:
        """What the inputs contribute, independent of the state."""
        return self.conv.of_inputs(frames_FCHW)

    def forward(self, inputs_NCHW: Tensor, state: State, ahead: bool) -> State:
        """Return the state after one more frame of each sample; ``ahead`` as in ``Recurrence``."""
        hidden_NCHW, memory_NCHW = state
        enter, keep, show, new = self.conv.of_both(inputs_NCHW, hidden_NCHW, ahead).chunk(4, dim=1)
        memory_NCHW = keep.sigmoid() * memory_NCHW + enter.sigmoid() * new.tanh()
        return show.sigmoid() * memory_NCHW.tanh(), memory_NCHW


class GruCell(nn.Module):
    """One step of ConvGRU; its state is the hidden state alone."""

    states = 1

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.in_conv = _JoinedConv(channels, hidden, 2 * hidden)
        self.out_conv = _JoinedConv(channels, hidden, hidden)

    def ahead(self, frames_FCHW: Tensor) -> Tensor:
        """What the inputs contribute, independent of the state."""
        return torch.cat(
            [self.in_conv.of_inputs(frames_FCHW), self.out_conv.of_inputs(frames_FCHW)], dim=1
        )

    def forward(self, inputs_NCHW: Tensor, state: State, ahead: bool) -> State:
        """Return the state after one more frame of each sample; ``ahead`` as in ``Recurrence``."""
        (hidden_NCHW,) = state
        to_gates, to_new = (
            inputs_NCHW.split((2 * self.hidden, self.hidden), dim=1)
            if ahead
            else (inputs_NCHW, inputs_NCHW)
        )
        update, reset = self.in_conv.of_both(to_gates, hidden_NCHW, ahead).sigmoid().chunk(2, dim=1)
        new_NCHW = self.out_conv.of_both(to_new, reset * hidden_NCHW, ahead).tanh()
        return (hidden_NCHW + update * (new_NCHW - hidden_NCHW),)


_CELLS: dict[Cell, type[LstmCell | GruCell]] = {"lstm": LstmCell, "gru": GruCell}


class Recurrence(nn.Module):
    """The hidden state of a cell at the end of each season.

    The end is the last valid date, or the first one if the recurrence runs backwards.

    Args:
        ahead: Convolve the inputs of all dates in one call before the first step. For small maps
            that is quicker; for large ones, where one date is work enough, it would only move more
            memory.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        cell: Cell = "lstm",
        backwards: bool = False,
        ahead: bool = False,
    ) -> None:
        super().__init__()
        self.hidden, self.backwards, self.ahead = hidden, backwards, ahead
        self.cell_list = nn.ModuleList([_CELLS[cell](channels, hidden)])

    def forward(
        self,
        frames_FCHW: Tensor,
        valid_BT: Tensor,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the state after each season, B x hidden x H x W, float32.

        Args:
            frames_FCHW: Frames of the valid dates, in the order of ``maps_BTCHW[valid_BT]``.
            valid_BT: bool, at least one date a sample.
            prepare: A network that each date's frames go through first, so that its results never
                exist for all dates.
        """
        cell: LstmCell | GruCell = self.cell_list[0]  # type: ignore[assignment]
        steps = Steps.of(valid_BT, self.backwards)
        if self.ahead:
            frames_FCHW = cell.ahead(frames_FCHW)
        state: State = ()
        ended = []
        for frame_N in steps.frames:
            inputs_NCHW = frames_FCHW[frame_N]
            if prepare is not None:
                inputs_NCHW = prepare(inputs_NCHW)
            state = state or self._blank(inputs_NCHW, cell.states)
            if len(frame_N) < len(state[-1]):
                ended.append(state[-1][len(frame_N) :])
                state = tuple(part_NCHW[: len(frame_N)] for part_NCHW in state)
            state = cell(inputs_NCHW, state, self.ahead)
        return torch.cat([state[-1], *reversed(ended)])[steps.row_B]

    def _blank(self, inputs_NCHW: Tensor, count: int) -> State:
        # The state is always float32, also under mixed precision, since it adds up dates.
        size = (len(inputs_NCHW), self.hidden, *inputs_NCHW.shape[2:])
        blank_NCHW = torch.zeros(size, device=inputs_NCHW.device).contiguous(
            memory_format=torch.channels_last
        )
        return (blank_NCHW,) * count


class Bidirectional(nn.Module):
    """A ConvLSTM forwards through the season and another one backwards.

    Their states are concatenated.
    """

    def __init__(self, channels: int, hidden: int, ahead: bool = False) -> None:
        super().__init__()
        self.convlstm_forward = Recurrence(channels, hidden, ahead=ahead)
        self.convlstm_backward = Recurrence(channels, hidden, backwards=True, ahead=ahead)

    def forward(self, frames_FCHW: Tensor, valid_BT: Tensor) -> Tensor:
        """State B x (2 hidden) x H x W, float32; arguments as in ``Recurrence``."""
        both = [
            direction(frames_FCHW, valid_BT)
            for direction in (self.convlstm_forward, self.convlstm_backward)
        ]
        return torch.cat(both, dim=1)


@dataclass(frozen=True)
class Steps:
    """The order in which a recurrence reads frames.

    Longer seasons come first, so that those which have ended fall off the end.
    """

    frames: tuple[Tensor, ...]
    """For each step the indices of the frames to read, int64, one per sample that has not ended."""
    row_B: Tensor
    """Row of each sample's result, int64."""

    @classmethod
    def of(cls, valid_BT: Tensor, backwards: bool = False) -> Steps:
        """The steps through the valid dates of each sample, first to last, or ``backwards``."""
        samples = len(valid_BT)
        count_B = valid_BT.sum(1)
        row_B = count_B.argsort(descending=True, stable=True).argsort()
        step_BT = count_B[:, None] - valid_BT.cumsum(1) if backwards else valid_BT.cumsum(1) - 1
        frame_F = (step_BT * samples + row_B[:, None])[valid_BT].argsort()
        step_T = torch.arange(valid_BT.shape[1], device=valid_BT.device)
        sizes = [size for size in (count_B[:, None] > step_T).sum(0).tolist() if size]
        return cls(frame_F.split(sizes), row_B)


def blank_padding(images_BTCHW: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Padded dates as published recurrences see them: dates like others, whose images are 0."""
    return images_BTCHW.masked_fill(~valid_BT[:, :, None, None, None], 0), torch.ones_like(valid_BT)


class ConvRnn(Backbone):
    """ConvLSTM or ConvGRU: scores of the classes for each pixel.

    It reads the order of the dates of a season, not their days.
    """

    classifier = "classification_layer"

    def __init__(self, config: ConvRnnConfig) -> None:
        super().__init__(config)
        # The published checkpoints name it after the cell.
        self._encoder = f"conv{config.cell}_encoder"
        self.add_module(self._encoder, Recurrence(config.bands, config.hidden, config.cell))
        self.classification_layer = nn.Conv2d(config.hidden, config.classes, 3, padding=1)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The recurrence's last state, a map of full size; arguments as in ``forward``."""
        if self.config.runs_over_padding:
            images_BTCHW, valid_BT = blank_padding(images_BTCHW, valid_BT)
        frames_FCHW = images_BTCHW[valid_BT].contiguous(memory_format=torch.channels_last)
        return FeatureMaps((self.get_submodule(self._encoder)(frames_FCHW, valid_BT),))


class UConvLstm(Backbone):
    """U-ConvLSTM: scores of the classes for each pixel, by the order of the dates of a season."""

    def __init__(self, config: UConvLstmConfig) -> None:
        super().__init__(config)
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
        *levels, coarsest = encode_frames(
            self._levels, images_BTCHW[valid_BT], sizes, together=False
        )
        out_BCHW = self.out_convlstm(self._season(coarsest, valid_BT))
        dates_B111 = valid_BT.sum(1).view(-1, 1, 1, 1)
        means = (
            sum_by_sample(map(sum_of_frames, level), samples) / dates_B111
            for level in reversed(levels)
        )
        return FeatureMaps(self.up_blocks(out_BCHW, means))

    def _season(self, pieces: Sequence[Tensor], valid_BT: Tensor) -> Tensor:
        """Return the ConvLSTM's state after each season, B x C x H x W.

        Args:
            pieces: Maps of all frames.
            valid_BT: bool.
        """
        if self.config.runs_over_padding:
            frames_FCHW = season_of_frames(pieces, valid_BT).flatten(0, 1)
            valid_BT = torch.ones_like(valid_BT)
        else:
            frames_FCHW = torch.cat(list(pieces))
        last_BCHW: Tensor = self.temporal_encoder(frames_FCHW, valid_BT)
        return last_BCHW

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Return maps of all levels, finest first.

        On a CPU, where frames come season by season, all but the coarsest are sums.
        """
        levels: list[Tensor] = self.down_blocks(self.in_conv(frames_FCHW))
        if frames_FCHW.device.type != "cpu":
            return levels
        # The skip connections need no more, so that the finer maps of all dates never exist
        # together.
        return [*(sum_of_frames(level_FCHW)[None] for level_FCHW in levels[:-1]), levels[-1]]


class Pyramid(nn.Module):
    """Convolutions of several dilations side by side, and the image's maximum at each pixel."""

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.inconv = nn.Conv2d(channels, width, 3, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, dilation=reach, padding=reach, padding_mode="reflect")
            for reach in dilations
        )

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the maps of the frames, N x C x H x W."""
        frames_NCHW = self.inconv(frames_NCHW)
        # The paper says average; the published program takes the maximum.
        highest_NCHW = frames_NCHW.amax((2, 3), keepdim=True).expand_as(frames_NCHW)
        return torch.cat([*(conv(frames_NCHW) for conv in self.convs), highest_NCHW], dim=1)


class FpnConvLstm(Backbone):
    """FPN + ConvLSTM: scores of the classes for each pixel.

    It reads the order of the dates of a season, not their days.
    """

    classifier = "outconv"

    def __init__(self, config: FpnConfig) -> None:
        super().__init__(config)
        self.inconv = ConvBlock((config.bands, *config.input_widths), "group")
        self.pyramid = Pyramid(config.input_widths[-1], config.pyramid_width, config.dilations)
        levels = len(config.dilations) + 1
        self.mid_conv = ConvBlock((levels * config.pyramid_width, config.joined_width), "group")
        self.convlstm = Recurrence(config.joined_width, config.hidden)
        self.outconv = nn.Conv2d(config.hidden, config.classes, 1)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The ConvLSTM's last memory, a map of full size; arguments as in ``forward``."""
        # A mirrored border as wide as the farthest reach needs one pixel more.
        check_sides(images_BTCHW, self.config.stride, max(self.config.dilations) + 1)
        if self.config.runs_over_padding:
            images_BTCHW, valid_BT = blank_padding(images_BTCHW, valid_BT)
        frames_FCHW = images_BTCHW[valid_BT].contiguous(memory_format=torch.channels_last)
        return FeatureMaps((self.convlstm(frames_FCHW, valid_BT, self._date),))

    def _date(self, frames_NCHW: Tensor) -> Tensor:
        """What the ConvLSTM gets of one date."""
        maps_NCHW: Tensor = self.mid_conv(self.pyramid(self.inconv(frames_NCHW)))
        if self.config.runs_over_padding:
            # Published blocks leave frames of zeros as they are.
            maps_NCHW = maps_NCHW * frames_NCHW.flatten(1).any(1)[:, None, None, None]
        return maps_NCHW


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
