"""Frames through a network that all dates share.

Frames are the valid dates of all samples, one after the other. Shape suffixes: B batch, T dates, C
channels, H W pixels, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from panoseg.errors import ConfigError

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
