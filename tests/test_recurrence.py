"""The recurrence over dates: both cells by hand, either direction, seasons of different lengths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.baselines import (
    Bidirectional,
    GruCell,
    LstmCell,
    Recurrence,
    Steps,
    blank_padding,
)


def frames_of(valid_BT: Tensor, channels: int = 3, side: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(int(valid_BT.sum()), channels, side, side, generator=generator)


def recurrence(cell: str = "lstm", **options) -> Recurrence:
    torch.manual_seed(1)
    return Recurrence(3, 4, cell, **options).eval()


LENGTHS = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()


def test_steps_by_hand():
    steps = Steps.of(torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())
    assert [frame_N.tolist() for frame_N in steps.frames] == [[2, 0], [3, 1], [4]]
    assert steps.row_B.tolist() == [1, 0]
    back = Steps.of(torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(), backwards=True)
    assert [frame_N.tolist() for frame_N in back.frames] == [[4, 1], [3, 0], [2]]


def test_gaps_are_stepped_over():
    steps = Steps.of(torch.tensor([[1, 0, 1], [0, 1, 0]]).bool())
    assert [frame_N.tolist() for frame_N in steps.frames] == [[0, 2], [1]]


def test_lstm_on_one_pixel_is_the_lstm_of_torch():
    """Beyond a single pixel there is nothing, so that only the kernel's centre counts."""
    torch.manual_seed(0)
    ours, theirs = LstmCell(3, 4), nn.LSTMCell(3, 4)
    inward, forget, outward, new = ours.conv.weight[:, :, 1, 1].chunk(4)
    weight = torch.cat([inward, forget, new, outward])  # torch's order of gates
    bias = torch.cat([ours.conv.bias.chunk(4)[gate] for gate in (0, 1, 3, 2)])
    inputs, hidden, memory = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    with torch.no_grad():
        theirs.weight_ih.copy_(weight[:, :3])
        theirs.weight_hh.copy_(weight[:, 3:])
        theirs.bias_ih.copy_(bias)
        theirs.bias_hh.zero_()
        pixels = [values[..., None, None] for values in (inputs, hidden, memory)]
        found = ours(pixels[0], (pixels[1], pixels[2]), False)
        for part, expected in zip(found, theirs(inputs, (hidden, memory)), strict=True):
            torch.testing.assert_close(part[..., 0, 0], expected)


def test_gru_equals_the_textbook_form():
    torch.manual_seed(0)
    cell, inputs, hidden = GruCell(3, 4), torch.randn(2, 3, 5, 5), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        gates = F.conv2d(
            torch.cat([inputs, hidden], 1), cell.in_conv.weight, cell.in_conv.bias, padding=1
        ).sigmoid()
        both = torch.cat([inputs, gates[:, 4:] * hidden], 1)
        new = F.conv2d(both, cell.out_conv.weight, cell.out_conv.bias, padding=1).tanh()
        torch.testing.assert_close(
            cell(inputs, (hidden,), False)[0], (1 - gates[:, :4]) * hidden + gates[:, :4] * new
        )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("backwards", [False, True])
def test_each_season_is_read_alone_to_its_end(cell, backwards):
    model, frames = recurrence(cell, backwards=backwards), frames_of(LENGTHS)
    with torch.no_grad():
        together = model(frames, LENGTHS)
        for row, season in enumerate(frames.split(LENGTHS.sum(1).tolist())):
            state = tuple(torch.zeros(1, 4, 5, 5) for _ in range(2 if cell == "lstm" else 1))
            for frame in reversed(season) if backwards else season:
                state = model.cell_list[0](frame[None], state, False)
            torch.testing.assert_close(together[row], state[-1][0])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_convolving_ahead_changes_nothing_but_speed(cell):
    frames = frames_of(LENGTHS)
    with torch.no_grad():
        torch.testing.assert_close(
            recurrence(cell, ahead=True)(frames, LENGTHS), recurrence(cell)(frames, LENGTHS)
        )


def test_ahead_convolves_the_inputs_once():
    model, calls = recurrence(ahead=True), []
    ahead = model.cell_list[0].ahead
    model.cell_list[0].ahead = lambda frames: calls.append(len(frames)) or ahead(frames)
    model(frames_of(LENGTHS), LENGTHS)
    assert calls == [11]


def test_directions_differ_and_stand_side_by_side():
    torch.manual_seed(2)
    model, frames = Bidirectional(3, 4), frames_of(LENGTHS)
    with torch.no_grad():
        both = model(frames, LENGTHS)
        torch.testing.assert_close(both[:, :4], model.convlstm_forward(frames, LENGTHS))
        torch.testing.assert_close(both[:, 4:], model.convlstm_backward(frames, LENGTHS))
        model.convlstm_backward.load_state_dict(model.convlstm_forward.state_dict())
        both = model(frames, LENGTHS)
    different = (both[:, :4] - both[:, 4:]).abs().amax((1, 2, 3))
    assert different[2] < 1e-6, "a season of one date is the same either way"
    assert different[[0, 1, 3]].min() > 1e-3


def test_what_prepares_frames_never_sees_more_than_a_date_of_each_season():
    model, frames, sizes = recurrence(), frames_of(LENGTHS), []

    def prepare(frames_NCHW: Tensor) -> Tensor:
        sizes.append(len(frames_NCHW))
        return frames_NCHW * 2

    with torch.no_grad():
        torch.testing.assert_close(model(frames, LENGTHS, prepare), model(2 * frames, LENGTHS))
    assert sizes == [4, 3, 2, 2]


def test_the_state_stays_exact_in_half_precision():
    frames, valid = frames_of(torch.ones(1, 40).bool()), torch.ones(1, 40).bool()
    for cell in ("lstm", "gru"):
        for ahead in (False, True):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                rough = recurrence(cell, ahead=ahead)(frames, valid)
            assert rough.dtype == torch.float32
            with torch.no_grad():
                assert 0 < (rough - recurrence(cell)(frames, valid)).abs().max() < 0.05


def test_gradients_reach_every_date_of_every_season():
    frames = frames_of(LENGTHS).requires_grad_()
    recurrence()(frames, LENGTHS).square().sum().backward()
    assert (frames.grad.abs().amax((1, 2, 3)) > 0).all()


def test_blank_padding_is_zeros_that_count():
    images, valid = torch.ones(1, 2, 1, 2, 2), torch.tensor([[True, False]])
    blank, all_valid = blank_padding(images, valid)
    assert all_valid.all()
    assert blank.sum() == blank[0, 0].sum() == 4
    assert images.sum() == 8
