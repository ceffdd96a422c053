"""What the options of U-TAE, W-TAE and TimeUNet share: U-Nets in which attention over time makes one map of a season's maps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from panoseg.models.configs.base import (
    NORM_GROUPS,
    Convolution,
    Norm,
    expect,
    expect_levels,
    expect_one_of,
    expect_size,
    expect_sizes,
)

Aggregation = Literal["att_group", "att_mean", "mean"]
Dates = Literal["relative", "day_of_year", "both"]


@dataclass(frozen=True)
class AttentionUnetConfig:
    """Options of a U-Net with lightweight attention over time; each network says where the attention sits."""

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last equals the encoder's last."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    encoder_norm: Norm = "group"
    """Normalisation in the encoder."""
    heads: int = 16
    """Attention heads; divides d_model and the width of the maps that attention reads or weighs."""
    d_model: int = 256
    """Width of the values that are averaged over dates."""
    key_width: int = 4
    """Width of keys and queries of one head."""
    padding_invariant: bool = False
    """Leave padded dates out of the attention's normalisation; False as in all published weights."""
    convolution: Convolution = "2d"
    """Convolutions of the encoder: ordinary ones, or one a channel followed by one that mixes channels."""
    squeeze: bool = False
    """Weigh the channels of each level of the encoder by squeeze and excitation."""
    queries: int = 1
    """Learnt queries of each head; the attention of several is averaged."""
    dates: Dates = "relative"
    """How attention knows a date: sines of the days since the reference date, a learnt vector a day of the year, or both."""
    linear_dates: bool = False
    """A learnt linear map of the sines; with dates day_of_year these are sines of the day of the year."""
    reference_date: str = "2018-09-01"
    """Days are counted from this date, YYYY-MM-DD; follows from the data. The day of the year is computed with it."""

    def __post_init__(self) -> None:
        for name, allowed in (("encoder_norm", Norm), ("convolution", Convolution), ("dates", Dates)):
            expect_one_of(name, getattr(self, name), get_args(allowed))
        expect_sizes(self)
        keys = f"{self.heads} of {self.queries} queries of width"
        expect_size("heads x queries x key_width:", f"{keys} {self.key_width}", self.heads * self.queries * self.key_width)
        self._check_widths()
        try:
            date.fromisoformat(self.reference_date)
        except ValueError:
            expect(False, f"reference_date {self.reference_date!r}", "a date YYYY-MM-DD")

    def _check_widths(self) -> None:
        expect_levels(self.encoder_widths, self.decoder_widths)
        expect(
            self.encoder_norm != "group" or all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths {self.encoder_widths} with encoder_norm group",
            f"multiples of {NORM_GROUPS}",
        )
        expect(
            self.d_model % self.heads == 0 and all(width % self.heads == 0 for width in self._grouped_widths()),
            f"heads {self.heads} with d_model {self.d_model} and encoder_widths {self.encoder_widths}",
            "heads that divide d_model and the widths they group",
        )

    def _grouped_widths(self) -> tuple[int, ...]:
        """Widths of the maps that attention normalises or weighs in as many groups as it has heads."""
        raise NotImplementedError

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Pixels of the images that one pixel of the coarsest map stands for."""
        return 2 ** (len(self.encoder_widths) - 1)


def expect_both_dates(relative_as_day_of_year: bool, config: AttentionUnetConfig) -> None:
    """Raise ``ConfigError`` where relative_as_day_of_year would do nothing."""
    expect(
        not relative_as_day_of_year or (config.dates == "both" and not config.linear_dates),
        f"relative_as_day_of_year with dates {config.dates}" + (" and linear_dates" if config.linear_dates else ""),
        "dates both without linear_dates",
    )
