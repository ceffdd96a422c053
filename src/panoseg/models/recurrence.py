"""A recurrence over the dates of a season by convolutions, with the cell of ConvLSTM or of ConvGRU, in either direction.

Shi et al. 2015, "Convolutional LSTM network", equation 3 without peepholes; Ballas et al. 2016, "Delving deeper into
convolutional networks for learning video representations", equations 8 to 11 (ConvGRU). Names of entries follow the published
checkpoints (utae-paps @ 987874e, src/backbones/convlstm.py and convgru.py). Shape suffixes: B batch, T dates, F frames: the
valid dates of all samples one after the other, N samples that have a frame at a step, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.configs.convrnn import Cell

State = tuple[Tensor, ...]
"""What a cell hands on from step to step, N x C x H x W each; the last one is what it has learned of the season."""


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
        return self(torch.cat([inputs_NCHW, hidden_NCHW.to(inputs_NCHW.dtype)], dim=1))


class LstmCell(nn.Module):
    """One step of ConvLSTM; its state is the hidden state and the memory."""

    states = 2

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = _JoinedConv(channels, hidden, 4 * hidden)

    def ahead(self, frames_FCHW: Tensor) -> Tensor:
        """What the inputs contribute, whatever the state."""
        return self.conv.of_inputs(frames_FCHW)

    def forward(self, inputs_NCHW: Tensor, state: State, ahead: bool) -> State:
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
        """What the inputs contribute, whatever the state."""
        return torch.cat([self.in_conv.of_inputs(frames_FCHW), self.out_conv.of_inputs(frames_FCHW)], dim=1)

    def forward(self, inputs_NCHW: Tensor, state: State, ahead: bool) -> State:
        (hidden_NCHW,) = state
        to_gates, to_new = inputs_NCHW.split((2 * self.hidden, self.hidden), dim=1) if ahead else (inputs_NCHW, inputs_NCHW)
        update, reset = self.in_conv.of_both(to_gates, hidden_NCHW, ahead).sigmoid().chunk(2, dim=1)
        new_NCHW = self.out_conv.of_both(to_new, reset * hidden_NCHW, ahead).tanh()
        return (hidden_NCHW + update * (new_NCHW - hidden_NCHW),)


_CELLS: dict[Cell, type[LstmCell | GruCell]] = {"lstm": LstmCell, "gru": GruCell}


class Recurrence(nn.Module):
    """What a cell has learned of each season after its last valid date, or after its first one if it runs backwards.

    ahead: convolve the inputs of all dates in one call before the first step. For small maps that is quicker; for large ones,
    where one date is work enough, it would only move more memory.
    """

    def __init__(self, channels: int, hidden: int, cell: Cell = "lstm", backwards: bool = False, ahead: bool = False) -> None:
        super().__init__()
        self.hidden, self.backwards, self.ahead = hidden, backwards, ahead
        self.cell_list = nn.ModuleList([_CELLS[cell](channels, hidden)])

    def forward(self, frames_FCHW: Tensor, valid_BT: Tensor, prepare: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """State B x hidden x H x W, float32.

        frames_FCHW: those of the valid dates, in the order of ``maps_BTCHW[valid_BT]``. valid_BT: bool, at least one date a
        sample. prepare: a network that each date's frames go through first, so that its results never exist for all dates.
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
        # The state is float32 whatever the surrounding precision, since it adds up dates.
        size = (len(inputs_NCHW), self.hidden, *inputs_NCHW.shape[2:])
        blank_NCHW = torch.zeros(size, device=inputs_NCHW.device).contiguous(memory_format=torch.channels_last)
        return (blank_NCHW,) * count


class Bidirectional(nn.Module):
    """A ConvLSTM through the season and another one back from its end: their states one after the other."""

    def __init__(self, channels: int, hidden: int, ahead: bool = False) -> None:
        super().__init__()
        self.convlstm_forward = Recurrence(channels, hidden, ahead=ahead)
        self.convlstm_backward = Recurrence(channels, hidden, backwards=True, ahead=ahead)

    def forward(self, frames_FCHW: Tensor, valid_BT: Tensor) -> Tensor:
        """State B x (2 hidden) x H x W, float32; arguments as in ``Recurrence``."""
        both = [direction(frames_FCHW, valid_BT) for direction in (self.convlstm_forward, self.convlstm_backward)]
        return torch.cat(both, dim=1)


@dataclass(frozen=True)
class Steps:
    """In which order a recurrence reads frames: longer seasons first, so that those which have ended fall off the end.

    frames: for each step the frames to read, one a sample that is not at its end. row_B: where each sample's result lies.
    """

    frames: tuple[Tensor, ...]
    row_B: Tensor

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
