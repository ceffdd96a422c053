"""L-TAE: lightweight temporal attention, for every pixel of a map on its own.

Garnot & Landrieu 2020, "Lightweight temporal self-attention for classifying satellite image time series", in the form of
utae-paps @ 987874e, src/backbones/ltae.py. Shape suffixes: B batch, T dates, P pixels of a map, C channels of the map,
G heads, M channels of the values (d_model), D those of one head, K channels of a key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_PERIOD_DAYS = 1000
_MASKED_SCORE = -1e3


def positional_encoding(days_BT: Tensor, channels: int) -> Tensor:
    """Sines (even channels) and cosines (odd ones) of the days, float32 B x T x channels, in -1..1.

    days_BT: any integers; two consecutive channels share a frequency, from 1 radian a day to almost 1 / 1000.
    """
    channel = torch.arange(channels, device=days_BT.device)
    angle_BTD = days_BT[..., None] / _PERIOD_DAYS ** (2 * (channel // 2) / channels)
    return torch.where(channel % 2 == 0, angle_BTD.sin(), angle_BTD.cos())


class AttentionHeads(nn.Module):
    """The learnt queries of all heads and the layer that makes keys of values; used by ``Ltae``."""

    def __init__(self, heads: int, key_width: int, d_model: int) -> None:
        super().__init__()
        self.Q = nn.Parameter(torch.empty(heads, key_width).normal_(0, math.sqrt(2 / key_width)))
        self.fc1_k = nn.Linear(d_model, heads * key_width)
        nn.init.normal_(self.fc1_k.weight, 0, math.sqrt(2 / key_width))

    def query(self) -> tuple[Tensor, Tensor]:
        """Weights G x d_model and offsets G that turn a value into the score of its date.

        The queries depend on no input, so the product of query and key is one linear map of the value.
        """
        keys_GKM = self.fc1_k.weight.view(*self.Q.shape, -1)
        weight_GM = torch.einsum("gk,gkm->gm", self.Q, keys_GKM)
        offset_G = (self.Q * self.fc1_k.bias.view_as(self.Q)).sum(-1)
        scale = 1 / math.sqrt(self.Q.shape[1])
        return weight_GM * scale, offset_G * scale


class Ltae(nn.Module):
    """Lightweight temporal attention encoder: a series of maps becomes one map, with the attention that it paid to each date.

    The values of all dates (linear in the maps, plus the encoding of the date) are never made: scores and averages are
    linear in the values, so both are taken of the maps themselves, and the encoding enters once a date. In float32 whatever
    the surrounding precision: it is a small part of the work, and attention is sensitive.
    """

    def __init__(
        self, channels: int, heads: int = 16, key_width: int = 4, d_model: int = 256, padding_invariant: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.padding_invariant = heads, padding_invariant
        self.inconv = nn.Conv1d(channels, d_model, 1)
        self.attention_heads = AttentionHeads(heads, key_width, d_model)
        self.in_norm = nn.GroupNorm(heads, channels)
        self.out_norm = nn.GroupNorm(heads, channels)
        self.mlp = nn.Sequential(nn.Linear(d_model, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True))
        self.attention_dropout = nn.Dropout(0.1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, maps_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        """A map B x C x H x W and the attention G x B x T x H x W, which sums to 1 over valid dates.

        maps_BTCHW: any range, zero where not valid. days_BT: int64 days since the reference date. valid_BT: bool.
        """
        height, width = maps_BTCHW.shape[-2:]
        with torch.autocast(maps_BTCHW.device.type, enabled=False):
            maps_BPTC = maps_BTCHW.float().permute(0, 3, 4, 1, 2).flatten(1, 2)
            maps_BPTC = self._normalise(maps_BPTC, valid_BT)
            encoding_BTD = positional_encoding(days_BT, self.inconv.out_channels // self.heads)
            attention_BPGT = self._attention(maps_BPTC, encoding_BTD, valid_BT)
            values_BPM = self._average(maps_BPTC, encoding_BTD, attention_BPGT)
            out_PC = self.out_norm(self.dropout(self.mlp(values_BPM.flatten(0, 1))))
        out_BCHW = out_PC.view(-1, height, width, out_PC.shape[1]).permute(0, 3, 1, 2)
        attention_GBTHW = attention_BPGT.unflatten(1, (height, width)).permute(3, 0, 4, 1, 2)
        return out_BCHW, attention_GBTHW

    def _normalise(self, maps_BPTC: Tensor, valid_BT: Tensor) -> Tensor:
        """Standardise each pixel's series in groups of channels, over all dates or, if padding invariant, the valid ones."""
        norm = self.in_norm
        groups_BPTGc = maps_BPTC.unflatten(-1, (norm.num_groups, -1))
        if self.padding_invariant:
            counted_BT = valid_BT / valid_BT.sum(1, keepdim=True).clamp(min=1)
        else:
            counted_BT = torch.full_like(valid_BT, 1 / valid_BT.shape[1], dtype=torch.float32)
        counted = counted_BT[:, None, :, None, None]
        mean = (groups_BPTGc.mean(-1, keepdim=True) * counted).sum(2, keepdim=True)
        centred = groups_BPTGc - mean
        variance = (centred.square().mean(-1, keepdim=True) * counted).sum(2, keepdim=True)
        return (centred * (variance + norm.eps).rsqrt()).flatten(-2) * norm.weight + norm.bias

    def _attention(self, maps_BPTC: Tensor, encoding_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        query_GM, offset_G = self.attention_heads.query()
        weight_MC, bias_M = self._values()
        date_BTG = encoding_BTD @ query_GM.unflatten(1, (self.heads, -1)).sum(1).T + query_GM @ bias_M + offset_G
        score_BPTG = maps_BPTC @ (query_GM @ weight_MC).T + date_BTG[:, None]
        score_BPTG = score_BPTG.masked_fill(~valid_BT[:, None, :, None], _MASKED_SCORE)
        return self.attention_dropout(score_BPTG.softmax(2).transpose(2, 3))

    def _average(self, maps_BPTC: Tensor, encoding_BTD: Tensor, attention_BPGT: Tensor) -> Tensor:
        """The values of each head averaged over dates with its attention, heads one after the other: B x P x d_model."""
        weight_GDC, bias_GD = (value.unflatten(0, (self.heads, -1)) for value in self._values())
        value_BPGD = torch.einsum("bpgc,gdc->bpgd", attention_BPGT @ maps_BPTC, weight_GDC)
        # Dropout leaves attention that does not sum to 1, so the bias is weighted too.
        value_BPGD = value_BPGD + attention_BPGT.sum(-1, keepdim=True) * bias_GD + attention_BPGT @ encoding_BTD[:, None]
        return value_BPGD.flatten(2)

    def _values(self) -> tuple[Tensor, Tensor]:
        """Weights d_model x C and biases d_model that turn a map's pixel into the values of all heads."""
        bias_M = self.inconv.bias
        assert bias_M is not None
        return self.inconv.weight[..., 0], bias_M
