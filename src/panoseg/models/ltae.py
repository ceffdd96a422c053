"""Lightweight temporal attention, and the encodings of dates that it adds to maps.

A date is encoded by sines of its day, by a learnt vector a day of the year, or by both.

Vaswani et al. 2017, "Attention is all you need", section 3.5, in the form of utae-paps @ 987874e,
src/backbones/positional_encoding.py and ltae.py; tables, linear maps and combinations: Crop2Seg @
aee7827. Shape suffixes: B batch, T dates, G heads (1 where all share an encoding), D channels of
one head, C channels, H W pixels, P pixels of a piece, N heads times queries.
"""

from __future__ import annotations

import math
from datetime import date

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.imagery.sentinel2 import REFERENCE_DATE
from panoseg.models.configs.season import AttentionUnetConfig, Dates

_PERIOD_DAYS = 1000
_TABLE_DAYS = 365
_MARCH_TO_JANUARY = 306


def positional_encoding(days_BT: Tensor, channels: int) -> Tensor:
    """Return sines (even channels) and cosines (odd ones) of the days.

    Two consecutive channels share a frequency, from 1 radian a day to almost 1 / 1000.

    Args:
        days_BT: Any integers.
        channels: Number of channels.

    Returns:
        float32 B x T x channels, -1..1.
    """
    channel = torch.arange(channels, device=days_BT.device)
    angle_BTD = days_BT[..., None] / _PERIOD_DAYS ** (2 * (channel // 2) / channels)
    return torch.where(channel % 2 == 0, angle_BTD.sin(), angle_BTD.cos())


def day_of_year(days_BT: Tensor, reference_date: str) -> Tensor:
    """Return the day of the year, int64 in 1..366, of days that are counted from a date.

    By arithmetic in the Gregorian calendar, so that the days may stay on their device. For example
    day 122 from 2018-09-01 is 2019-01-01:

    >>> day_of_year(torch.tensor([0, 122]), "2018-09-01").tolist()
    [244, 1]

    Args:
        days_BT: int64, any.
        reference_date: YYYY-MM-DD.
    """
    # Counted from 1 March of the year 0: a leap day is then the last of its year. date.toordinal
    # counts from 1 January after.
    days_BT = days_BT + (date.fromisoformat(reference_date).toordinal() - 1 + _MARCH_TO_JANUARY)
    cycle_BT, day_BT = days_BT // 146097, days_BT % 146097
    year_BT = (day_BT - day_BT // 1460 + day_BT // 36524 - day_BT // 146096) // 365
    march_day_BT = day_BT - (365 * year_BT + year_BT // 4 - year_BT // 100)
    year_BT = year_BT + 400 * cycle_BT
    leap_BT = (year_BT % 4 == 0) & ((year_BT % 100 != 0) | (year_BT % 400 == 0))
    return torch.where(
        march_day_BT < _MARCH_TO_JANUARY,
        march_day_BT + 60 + leap_BT,
        march_day_BT - _MARCH_TO_JANUARY + 1,
    )


class Sines(nn.Module):
    """The sines of a day, the same for all heads or mapped linearly for each head."""

    def __init__(self, channels: int, heads: int, linear: bool = False) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.fc = nn.Linear(heads * channels, heads * channels) if linear else None

    def forward(self, days_BT: Tensor) -> Tensor:
        """Return the encoding B x T x G x D; G is 1 or, with the linear map, the number of heads.

        Args:
            days_BT: Any integers.
        """
        encoding_BTGD = positional_encoding(days_BT, self.channels)[:, :, None]
        if self.fc is None:
            return encoding_BTGD
        mapped_BTM: Tensor = self.fc(encoding_BTGD.expand(-1, -1, self.heads, -1).flatten(2))
        by_head_BTGD: Tensor = mapped_BTM.unflatten(2, (self.heads, -1))
        return by_head_BTGD


class DayTable(nn.Module):
    """A learnt vector for each day of the year, the same for all heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(_TABLE_DAYS, channels)

    def forward(self, days_BT: Tensor) -> Tensor:
        """Return the vector of each day, B x T x 1 x D.

        Published weights have 365 vectors and were trained with days from 1, so that 31 December
        was out of reach.

        Args:
            days_BT: Integers; those outside 0..364 take the nearest of the 365 vectors.
        """
        return (F.embedding(days_BT.clamp(0, _TABLE_DAYS - 1), self.fc.weight.T) + self.fc.bias)[
            :, :, None
        ]


class DateEncoder(nn.Module):
    """The sum of the encodings of the days since the reference date and of the day of the year.

    Each is optional.

    Args:
        channels: Channels of one head.
        linear: Map the sines linearly for each head.
        relative_as_day_of_year: Look the days since the reference date up in a table too, where
            both are encoded; so do U-TAE and TimeUNet as released, with both.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dates: Dates = "relative",
        linear: bool = False,
        relative_as_day_of_year: bool = False,
        reference_date: str = REFERENCE_DATE,
    ) -> None:
        super().__init__()
        self.reference_date = reference_date
        self.relative: nn.Module | None = None
        self.day_of_year: nn.Module | None = None
        if dates != "day_of_year":
            self.relative = (
                DayTable(channels) if relative_as_day_of_year else Sines(channels, heads, linear)
            )
        if dates != "relative":
            by_sines = dates == "day_of_year" and linear
            self.day_of_year = Sines(channels, heads, linear) if by_sines else DayTable(channels)

    def forward(self, days_BT: Tensor) -> Tensor:
        """Return the encoding B x T x G x D; G is 1 or the number of heads.

        Args:
            days_BT: int64, days since the reference date.
        """
        encoding_BTGD: list[Tensor] = [] if self.relative is None else [self.relative(days_BT)]
        if self.day_of_year is not None:
            encoding_BTGD.append(self.day_of_year(day_of_year(days_BT, self.reference_date)))
        return sum(encoding_BTGD[1:], encoding_BTGD[0])


_MASKED_SCORE = -1e3
CACHED_ELEMENTS = 2**19
"""Size of a piece on a CPU: with 2 MiB of float32, it and what is made of it stay in the cache."""


class AttentionHeads(nn.Module):
    """The learnt queries of all heads and the layer that makes keys of values; used by ``Ltae``."""

    def __init__(self, heads: int, key_width: int, d_model: int, queries: int = 1) -> None:
        super().__init__()
        # One query a head has no separate axis in the published checkpoints.
        shape = (heads, key_width) if queries == 1 else (heads, queries, key_width)
        self.Q = nn.Parameter(torch.empty(shape).normal_(0, math.sqrt(2 / key_width)))
        self.fc1_k = nn.Linear(d_model, heads * key_width)
        nn.init.normal_(self.fc1_k.weight, 0, math.sqrt(2 / key_width))

    def query(self) -> tuple[Tensor, Tensor]:
        """Return weights N x d_model and offsets N that turn a value into the scores of its date.

        The queries of a head are taken together. They depend on no input, so the product of query
        and key is one linear map of the value.
        """
        heads, key_width = self.Q.shape[0], self.Q.shape[-1]
        query_GQK = self.Q.view(heads, -1, key_width)
        weight_NM = (query_GQK @ self.fc1_k.weight.view(heads, key_width, -1)).flatten(0, 1)
        offset_N = (query_GQK @ self.fc1_k.bias.view(heads, key_width, 1)).flatten()
        scale = 1 / math.sqrt(key_width)
        return weight_NM * scale, offset_N * scale


class Ltae(nn.Module):
    """Lightweight temporal attention encoder: a series of maps becomes one map.

    The values of all dates (linear in the maps, plus the encoding of the date) are never made:
    scores and averages are linear in the values, so both are taken of the maps themselves, and the
    encoding enters once a date. Always in float32, also under mixed precision: it is a small part
    of the work, and attention is sensitive.

    Args:
        queries: Queries of each head; their attention is averaged.
        date_encoder: Encodes dates; None encodes the days since the reference date by sines.
        attention_only: Leave out the layers behind the attention; only ``attend`` is used then.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 16,
        key_width: int = 4,
        d_model: int = 256,
        padding_invariant: bool = False,
        queries: int = 1,
        date_encoder: DateEncoder | None = None,
        attention_only: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.padding_invariant = heads, padding_invariant
        self.inconv = nn.Conv1d(channels, d_model, 1)
        self.date_encoder = date_encoder or DateEncoder(d_model // heads, heads)
        self.attention_heads = AttentionHeads(heads, key_width, d_model, queries)
        self.in_norm = nn.GroupNorm(heads, channels)
        self.attention_dropout = nn.Dropout(0.1)
        if not attention_only:
            self.out_norm = nn.GroupNorm(heads, channels)
            self.mlp = nn.Sequential(
                nn.Linear(d_model, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True)
            )
            self.dropout = nn.Dropout(0.2)

    def forward(
        self, maps_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return one map a sample and the attention to each date.

        Args:
            maps_BTCHW: Any range, zero where not valid.
            days_BT: int64, days since the reference date.
            valid_BT: bool.

        Returns:
            The map B x C x H x W, and the attention G x B x T x H x W, which sums to 1 over valid
                dates.
        """
        height, width = maps_BTCHW.shape[-2:]
        with torch.autocast(maps_BTCHW.device.type, enabled=False):
            encoding_BTGD = self.date_encoder(days_BT)
            values, attention = [], []
            for piece_BTPC in _pieces(maps_BTCHW):
                piece_BTPC = self._normalise(piece_BTPC, valid_BT)
                attention.append(self._attention(piece_BTPC, encoding_BTGD, valid_BT))
                values.append(self._average(piece_BTPC, encoding_BTGD, attention[-1]))
            values_BPM = torch.cat(values, dim=1)
            out_PC = self.out_norm(self.dropout(self.mlp(values_BPM.flatten(0, 1))))
        out_BCHW = out_PC.view(-1, height, width, out_PC.shape[1]).permute(0, 3, 1, 2)
        return out_BCHW, _as_maps(attention, height, width)

    def attend(self, maps_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> Tensor:
        """The attention alone; arguments and result as in ``forward``."""
        with torch.autocast(maps_BTCHW.device.type, enabled=False):
            encoding_BTGD = self.date_encoder(days_BT)
            attention = [
                self._attention(self._normalise(piece_BTPC, valid_BT), encoding_BTGD, valid_BT)
                for piece_BTPC in _pieces(maps_BTCHW)
            ]
        return _as_maps(attention, *maps_BTCHW.shape[-2:])

    def _normalise(self, maps_BTPC: Tensor, valid_BT: Tensor) -> Tensor:
        """Standardise each pixel's series in groups of channels.

        Over all dates or, if padding invariant, the valid ones.
        """
        counted_BT = torch.full_like(valid_BT, 1 / valid_BT.shape[1], dtype=torch.float32)
        if self.padding_invariant:
            counted_BT = valid_BT / valid_BT.sum(1, keepdim=True).clamp(min=1)
        # Dates are summed first and groups last: sums over whole rows of channels are several times
        # faster.
        mean_BPC = self._group_mean(torch.einsum("bt,btpc->bpc", counted_BT, maps_BTPC))
        centred_BTPC = maps_BTPC - mean_BPC[:, None]
        variance_BPC = self._group_mean(
            torch.einsum("bt,btpc->bpc", counted_BT, centred_BTPC.square())
        )
        scale_BPC = (variance_BPC + self.in_norm.eps).rsqrt() * self.in_norm.weight
        return centred_BTPC * scale_BPC[:, None] + self.in_norm.bias

    def _group_mean(self, values_BPC: Tensor) -> Tensor:
        """The mean of each group of channels, in all channels of the group."""
        groups = self.in_norm.num_groups
        mean_BPG: Tensor = values_BPC.unflatten(-1, (groups, -1)).mean(-1)
        return mean_BPG.repeat_interleave(values_BPC.shape[-1] // groups, dim=-1)

    def _attention(self, maps_BTPC: Tensor, encoding_BTGD: Tensor, valid_BT: Tensor) -> Tensor:
        """Attention B x T x P x G of each head, the mean of its queries."""
        query_NM, offset_N = self.attention_heads.query()
        weight_MC, bias_M = self._values()
        encoding_BTM = encoding_BTGD.expand(-1, -1, self.heads, -1).flatten(2)
        date_BTN = (encoding_BTM + bias_M) @ query_NM.T + offset_N
        score_BTPN = maps_BTPC @ (query_NM @ weight_MC).T + date_BTN[:, :, None]
        score_BTPN = score_BTPN.masked_fill(~valid_BT[..., None, None], _MASKED_SCORE)
        attention_BTPN: Tensor = self.attention_dropout(score_BTPN.softmax(1))
        queries = len(query_NM) // self.heads
        if queries == 1:
            return attention_BTPN
        attention_BTPG: Tensor = attention_BTPN.unflatten(-1, (self.heads, queries)).mean(-1)
        return attention_BTPG

    def _average(self, maps_BTPC: Tensor, encoding_BTGD: Tensor, attention_BTPG: Tensor) -> Tensor:
        """Return each head's values averaged over dates with its attention.

        Returns:
            B x P x d_model, the heads concatenated.
        """
        weight_GDC, bias_GD = (value.unflatten(0, (self.heads, -1)) for value in self._values())
        average_BPGC = torch.einsum("btpg,btpc->bpgc", attention_BTPG, maps_BTPC)
        value_BPGD: Tensor = torch.einsum("bpgc,gdc->bpgd", average_BPGC, weight_GDC)
        # Dropout leaves attention that does not sum to 1, so the bias is weighted too.
        value_BPGD = value_BPGD + attention_BTPG.sum(1)[..., None] * bias_GD
        return (
            value_BPGD + torch.einsum("btpg,btgd->bpgd", attention_BTPG, encoding_BTGD)
        ).flatten(2)

    def _values(self) -> tuple[Tensor, Tensor]:
        """Return weights d_model x C and biases d_model from a pixel to the values of all heads."""
        bias_M = self.inconv.bias
        assert bias_M is not None
        return self.inconv.weight[..., 0], bias_M


def temporal_encoder(
    config: AttentionUnetConfig,
    channels: int,
    attention_only: bool = False,
    relative_as_day_of_year: bool = False,
) -> Ltae:
    """The attention that the options of a network select, on maps with this number of channels."""
    encoder = DateEncoder(
        config.d_model // config.heads,
        config.heads,
        config.dates,
        config.linear_dates,
        relative_as_day_of_year,
        config.reference_date,
    )
    return Ltae(
        channels,
        config.heads,
        config.key_width,
        config.d_model,
        config.padding_invariant,
        config.queries,
        encoder,
        attention_only,
    )


def _pieces(maps_BTCHW: Tensor) -> tuple[Tensor, ...]:
    """Return the maps as rows of pixels B x T x P x C, float32.

    On a CPU they are cut in pieces that stay in the cache from step to step.
    """
    maps_BTPC = maps_BTCHW.float().permute(0, 1, 3, 4, 2).flatten(2, 3)
    batch, dates, pixels, channels = maps_BTPC.shape
    limit = (
        max(1, CACHED_ELEMENTS // (batch * dates * channels))
        if maps_BTPC.device.type == "cpu"
        else pixels
    )
    pieces: tuple[Tensor, ...] = maps_BTPC.split(limit, dim=2)
    return pieces


def _as_maps(attention: list[Tensor], height: int, width: int) -> Tensor:
    """Pieces B x T x P x G put together and folded: G x B x T x H x W."""
    attention_BTHWG: Tensor = torch.cat(attention, dim=2).unflatten(2, (height, width))
    return attention_BTHWG.permute(4, 0, 1, 2, 3)
