"""How attention knows the date of a frame: sines of its day, a learnt vector a day of the year, or both.

Vaswani et al. 2017, "Attention is all you need", section 3.5, in the form of utae-paps @ 987874e,
src/backbones/positional_encoding.py; tables, linear maps and combinations: Crop2Seg @ aee7827, same file. Shape suffixes:
B batch, T dates, G heads (1 where all share an encoding), D channels of one head.
"""

from __future__ import annotations

from datetime import date

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.configs.attention_unet import Dates

_PERIOD_DAYS = 1000
_TABLE_DAYS = 365
_MARCH_TO_JANUARY = 306


def positional_encoding(days_BT: Tensor, channels: int) -> Tensor:
    """Sines (even channels) and cosines (odd ones) of the days, float32 B x T x channels, in -1..1.

    days_BT: any integers; two consecutive channels share a frequency, from 1 radian a day to almost 1 / 1000.
    """
    channel = torch.arange(channels, device=days_BT.device)
    angle_BTD = days_BT[..., None] / _PERIOD_DAYS ** (2 * (channel // 2) / channels)
    return torch.where(channel % 2 == 0, angle_BTD.sin(), angle_BTD.cos())


def day_of_year(days_BT: Tensor, reference_date: str) -> Tensor:
    """Day of the year, int64 in 1..366, of days that are counted from a date.

    days_BT: int64, any; reference_date: YYYY-MM-DD. For example day 122 from 2018-09-01 is 2019-01-01:

    >>> day_of_year(torch.tensor([0, 122]), "2018-09-01").tolist()
    [244, 1]

    By arithmetic in the Gregorian calendar, so that the days may stay on their device.
    """
    # Counted from 1 March of the year 0: a leap day is then the last of its year. date.toordinal counts from 1 January after.
    days_BT = days_BT + (date.fromisoformat(reference_date).toordinal() - 1 + _MARCH_TO_JANUARY)
    cycle_BT, day_BT = days_BT // 146097, days_BT % 146097
    year_BT = (day_BT - day_BT // 1460 + day_BT // 36524 - day_BT // 146096) // 365
    march_day_BT = day_BT - (365 * year_BT + year_BT // 4 - year_BT // 100)
    year_BT = year_BT + 400 * cycle_BT
    leap_BT = (year_BT % 4 == 0) & ((year_BT % 100 != 0) | (year_BT % 400 == 0))
    return torch.where(march_day_BT < _MARCH_TO_JANUARY, march_day_BT + 60 + leap_BT, march_day_BT - _MARCH_TO_JANUARY + 1)


class Sines(nn.Module):
    """The sines of a day, the same for all heads; a linear map of them makes an encoding for each head."""

    def __init__(self, channels: int, heads: int, linear: bool = False) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.fc = nn.Linear(heads * channels, heads * channels) if linear else None

    def forward(self, days_BT: Tensor) -> Tensor:
        """B x T x G x D, G 1 or, with the linear map, the number of heads; days_BT: any integers."""
        encoding_BTGD = positional_encoding(days_BT, self.channels)[:, :, None]
        if self.fc is None:
            return encoding_BTGD
        return self.fc(encoding_BTGD.expand(-1, -1, self.heads, -1).flatten(2)).unflatten(2, (self.heads, -1))


class DayTable(nn.Module):
    """A learnt vector for each day of the year, the same for all heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(_TABLE_DAYS, channels)

    def forward(self, days_BT: Tensor) -> Tensor:
        """B x T x 1 x D; days_BT: integers, those outside 0..364 take the nearest of the 365 vectors.

        Published weights have 365 vectors and were trained with days from 1, so that 31 December was out of reach.
        """
        return (F.embedding(days_BT.clamp(0, _TABLE_DAYS - 1), self.fc.weight.T) + self.fc.bias)[:, :, None]


class DateEncoder(nn.Module):
    """The sum of the encodings of the days since the reference date and of the day of the year, as far as asked for.

    channels: of one head. linear: a linear map of the sines. relative_as_day_of_year: look the days since the reference date up
    in a table too, where both are encoded; so do U-TAE and TimeUNet as released, asked for both.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dates: Dates = "relative",
        linear: bool = False,
        relative_as_day_of_year: bool = False,
        reference_date: str = "2018-09-01",
    ) -> None:
        super().__init__()
        self.reference_date = reference_date
        self.relative: nn.Module | None = None
        self.day_of_year: nn.Module | None = None
        if dates != "day_of_year":
            self.relative = DayTable(channels) if relative_as_day_of_year else Sines(channels, heads, linear)
        if dates != "relative":
            by_sines = dates == "day_of_year" and linear
            self.day_of_year = Sines(channels, heads, linear) if by_sines else DayTable(channels)

    def forward(self, days_BT: Tensor) -> Tensor:
        """B x T x G x D, G 1 or the number of heads. days_BT: int64 days since the reference date."""
        encoding_BTGD = [] if self.relative is None else [self.relative(days_BT)]
        if self.day_of_year is not None:
            encoding_BTGD.append(self.day_of_year(day_of_year(days_BT, self.reference_date)))
        return sum(encoding_BTGD[1:], encoding_BTGD[0])
