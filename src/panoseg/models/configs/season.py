"""Options of the networks for seasons: U-TAE and its relatives, U-Net 3D and recurrent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.imagery.sentinel2 import REFERENCE_DATE
from panoseg.models.configs.base import (
    NORM_GROUPS,
    Convolution,
    NetworkConfig,
    Norm,
    expect,
    expect_date,
    expect_levels,
    expect_one_kind_of_block,
    expect_one_of,
    expect_size,
    expect_sizes,
)

Aggregation = Literal["att_group", "att_mean", "mean"]
Dates = Literal["relative", "day_of_year", "both"]


class SeasonConfig(NetworkConfig):
    """What the networks for satellite image time series declare that score the classes of pixels.

    They can also give maps to the head of PaPs: ``map_widths`` are the channels of these maps.
    """

    inputs = "season"
    answers = "semantic"
    scorer = "pixels"
    loss_option = "semantic_loss"
    train_options = frozenset({"data", "semantic_loss", "tune_threshold"})


@dataclass(frozen=True)
class AttentionUnetConfig(SeasonConfig):
    """Options of a U-Net with lightweight attention over time.

    Each network defines where the attention is.
    """

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last must equal the last of the encoder."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    encoder_norm: Norm = "group"
    """Normalisation in the encoder."""
    heads: int = 16
    """Number of attention heads; must divide d_model and the width of the maps that attention reads
    or weights.
    """
    d_model: int = 256
    """Width of the values that are averaged over dates."""
    key_width: int = 4
    """Width of keys and queries of one head."""
    padding_invariant: bool = False
    """Leave padded dates out of the normalisation in the attention; all published weights include
    them.
    """
    convolution: Convolution = "2d"
    """Convolutions of the encoder: ordinary or depthwise separable ones."""
    squeeze: bool = False
    """Use squeeze and excitation on each level of the encoder."""
    queries: int = 1
    """Number of learned queries per head; the attention of several queries is averaged."""
    dates: Dates = "relative"
    """How dates are encoded: sines of the days since the reference date, a learned vector per day
    of the year, or both.
    """
    linear_dates: bool = False
    """Add a learned linear layer after the sines; with dates day_of_year these are sines of the day
    of the year.
    """
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD; follows from the data. The day of the year is
    computed with it.
    """

    def __post_init__(self) -> None:
        for name, allowed in (
            ("encoder_norm", Norm),
            ("convolution", Convolution),
            ("dates", Dates),
        ):
            expect_one_of(name, getattr(self, name), get_args(allowed))
        expect_sizes(self)
        expect_size(
            "heads x queries x key_width",
            f"{self.heads} x {self.queries} x {self.key_width}",
            self.heads * self.queries * self.key_width,
        )
        self._check_widths()
        expect_date("reference_date", self.reference_date)

    def _check_widths(self) -> None:
        expect_levels(self.encoder_widths, self.decoder_widths)
        expect(
            self.encoder_norm != "group"
            or all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths must be multiples of {NORM_GROUPS} with encoder_norm group, not"
            f" {self.encoder_widths}.",
        )
        expect(
            self.d_model % self.heads == 0
            and all(width % self.heads == 0 for width in self._grouped_widths()),
            "heads must divide d_model and the widths that they group: there are"
            f" {self.heads} heads, d_model {self.d_model} and encoder_widths"
            f" {self.encoder_widths}.",
        )

    def _grouped_widths(self) -> tuple[int, ...]:
        """Return the widths of the maps whose channels are grouped by the attention's heads.

        Attention normalises or weighs these maps in as many groups as it has heads.
        """
        raise NotImplementedError

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return 1 << (len(self.encoder_widths) - 1)


def expect_both_dates(relative_as_day_of_year: bool, config: AttentionUnetConfig) -> None:
    """Raise ``ConfigError`` where relative_as_day_of_year would do nothing."""
    expect(
        not relative_as_day_of_year or (config.dates == "both" and not config.linear_dates),
        "relative_as_day_of_year needs dates both without linear_dates, not dates"
        f" {config.dates}{' and linear_dates' if config.linear_dates else ''}.",
    )


@dataclass(frozen=True)
class UtaeConfig(AttentionUnetConfig):
    """U-TAE: attention over time at the coarsest size of a U-Net.

    The convolutional encoder is shared over dates; the decoder is convolutional too.
    """

    name: ClassVar[str] = "utae"
    title: ClassVar[str] = "U-TAE"
    network: ClassVar[str] = "panoseg.models.utae:UTAE"

    aggregation: Aggregation = "att_group"
    """How the dates of a level become one map: attention per group of channels, mean attention, or
    the mean over dates.
    """
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    boundary: bool = False
    """Also score whether a pixel is on a boundary between classes."""
    relative_as_day_of_year: bool = False
    """With dates both: look up the relative days in the table of days of the year as well, as
    released; days outside of it take its first or last entry.
    """

    def __post_init__(self) -> None:
        expect_one_of("aggregation", self.aggregation, get_args(Aggregation))
        super().__post_init__()
        expect_one_kind_of_block(self.mbconv, self.squeeze)
        expect_both_dates(self.relative_as_day_of_year, self)

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths if self.aggregation == "att_group" else self.encoder_widths[-1:]


@dataclass(frozen=True)
class WtaeConfig(AttentionUnetConfig):
    """W-TAE: attention computed on downsampled maps weights the dates at full size.

    A U-Net works on the one map that results.
    """

    name: ClassVar[str] = "wtae"
    title: ClassVar[str] = "W-TAE"
    network: ClassVar[str] = "panoseg.models.utae:WTAE"

    aggregation: Aggregation = "att_group"
    """How dates become one map: attention per group of channels, mean attention, or the mean over
    dates without attention.
    """
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    boundary: bool = False
    """Also score whether a pixel is on a boundary between classes."""

    def __post_init__(self) -> None:
        expect_one_of("aggregation", self.aggregation, get_args(Aggregation))
        super().__post_init__()
        expect_one_kind_of_block(self.mbconv, self.squeeze)

    def _grouped_widths(self) -> tuple[int, ...]:
        weighed = self.encoder_widths[:1] if self.aggregation == "att_group" else ()
        return (*weighed, self.encoder_widths[-1])


@dataclass(frozen=True)
class TimeUnetConfig(AttentionUnetConfig):
    """TimeUNet: attention over time at full size, and a U-Net works on the one map that results."""

    name: ClassVar[str] = "timeunet"
    title: ClassVar[str] = "TimeUNet"
    network: ClassVar[str] = "panoseg.models.utae:TimeUNet"

    relative_as_day_of_year: bool = False
    """With dates both: look up the relative days in the table of days of the year as well, as
    released; days outside of it take its first or last entry.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_both_dates(self.relative_as_day_of_year, self)

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths[:1]


@dataclass(frozen=True)
class NaiveUnetConfig(SeasonConfig):
    """Naive U-Net: the dates of a season are stacked as the bands of one image."""

    name: ClassVar[str] = "unet_naive"
    title: ClassVar[str] = "naive U-Net"
    network: ClassVar[str] = "panoseg.models.utae:NaiveUnet"

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    length: int = 61
    """Number of dates of a season; shorter ones are padded with zeros, longer ones are refused."""
    encoder_widths: tuple[int, ...] = (8, 8, 8, 16)
    """Channels of the encoder for every two dates, finest level first; each level halves the size
    of the one before.
    """
    decoder_widths: tuple[int, ...] = (4, 4, 8, 16)
    """Channels of the decoder for every two dates, finest level first; the last must equal the last
    of the encoder.
    """
    head_widths: tuple[int, ...] = (4,)
    """Hidden channels for every date of the convolutions that score the classes of pixels."""
    convolution: Convolution = "2d"
    """Convolutions of the encoder: ordinary or depthwise separable ones."""
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    squeeze: bool = False
    """Use squeeze and excitation on each level of the encoder."""

    def __post_init__(self) -> None:
        expect_one_of("convolution", self.convolution, get_args(Convolution))
        expect_one_kind_of_block(self.mbconv, self.squeeze)
        expect_sizes(self)
        for width in self.season_widths(
            (*self.encoder_widths, *self.decoder_widths, *self.head_widths)
        ):
            expect_size("Widths for every two dates, times dates, over two,", width, width)
        expect_size("bands x dates", self.bands * self.length, self.bands * self.length)
        expect_levels(self.encoder_widths, self.decoder_widths)

    def season_widths(self, widths: tuple[int, ...]) -> tuple[int, ...]:
        """Channels for a whole season, of those for every two dates."""
        return tuple(width * self.length // 2 for width in widths)

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.season_widths(self.decoder_widths)

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return 1 << (len(self.encoder_widths) - 1)


@dataclass(frozen=True)
class UNet3dConfig(SeasonConfig):
    """U-Net 3D: convolutions over space and time together.

    Both are halved twice, and the mean over time is taken at the end.
    """

    name: ClassVar[str] = "unet3d"
    title: ClassVar[str] = "U-Net 3D"
    network: ClassVar[str] = "panoseg.models.baselines:UNet3d"
    stride: ClassVar[int] = 4

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    width: int = 32
    """Channels at full size, an even number; they double each time the size is halved."""

    def __post_init__(self) -> None:
        expect_sizes(self)
        expect_size("Four times the width", 4 * self.width, 4 * self.width)
        expect(
            self.width >= 2 and self.width % 2 == 0,
            f"width must be an even number from 2, not {self.width}.",
        )

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Return the channels of the maps that a head gets, finest first.

        At full size, half the width at three shifts in time.
        """
        return 3 * self.width // 2, 2 * self.width, 4 * self.width


@dataclass(frozen=True)
class UConvLstmConfig(SeasonConfig):
    """U-ConvLSTM: U-TAE's encoder and decoder, with a ConvLSTM over dates at the coarsest size.

    The skip connections are means over dates.
    """

    name: ClassVar[str] = "uconvlstm"
    network: ClassVar[str] = "panoseg.models.baselines:UConvLstm"

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last must equal the last of the encoder."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    hidden: int = 64
    """Channels of the ConvLSTM in one direction; published 64, and 30 where there should be two."""
    directions: int = 1
    """1: forwards through the season; 2: also backwards, with separate weights."""
    runs_over_padding: bool = False
    """Continue the recurrence over padded dates, as published; by default each season ends at its
    last valid date.
    """

    def __post_init__(self) -> None:
        expect_sizes(self)
        expect(self.directions in (1, 2), f"directions must be 1 or 2, not {self.directions}.")
        expect_levels(self.encoder_widths, self.decoder_widths)
        normed = (*self.encoder_widths, *self.decoder_widths)
        expect(
            all(width % NORM_GROUPS == 0 for width in normed),
            f"encoder_widths and decoder_widths must be multiples of {NORM_GROUPS}, not"
            f" {self.encoder_widths} and {self.decoder_widths}.",
        )

    @property
    def title(self) -> str:
        """The network's name in the words of its paper."""
        return "U-ConvLSTM" if self.directions == 1 else "BU-ConvLSTM"

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return 1 << (len(self.encoder_widths) - 1)


@dataclass(frozen=True)
class FpnConfig(SeasonConfig):
    """FPN + ConvLSTM: dilated convolutions of each date, then a ConvLSTM over dates.

    The convolutions work at full size with several dilations.
    """

    name: ClassVar[str] = "fpn"
    title: ClassVar[str] = "FPN + ConvLSTM"
    network: ClassVar[str] = "panoseg.models.baselines:FpnConvLstm"
    stride: ClassVar[int] = 1

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    input_widths: tuple[int, ...] = (32, 64)
    """Channels of the first convolutions."""
    pyramid_width: int = 64
    """Channels of each level of the pyramid."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilation of the convolution of each level in pixels; one more level is the maximum over the
    whole image.
    """
    hidden: int = 88
    """Channels of the ConvLSTM."""
    runs_over_padding: bool = False
    """Continue the recurrence over padded dates, as published; by default each season ends at its
    last valid date.
    """

    def __post_init__(self) -> None:
        expect_sizes(self)
        for name in ("input_widths", "dilations"):
            expect(len(getattr(self, name)) >= 1, f"{name} must have at least one entry.")
        expect_size(
            "The number of channels after the pyramid", self.joined_width, self.joined_width
        )
        normed = (*self.input_widths, self.joined_width)
        expect(
            all(width % NORM_GROUPS == 0 for width in normed),
            f"input_widths and the number of channels after the pyramid must be multiples of"
            f" {NORM_GROUPS}, not {self.input_widths} and {self.joined_width}.",
        )

    @property
    def joined_width(self) -> int:
        """Channels that the ConvLSTM gets: half of those of all levels."""
        return self.pyramid_width * (len(self.dilations) + 1) // 2

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets: the ConvLSTM's state at full size alone."""
        return (self.hidden,)


Cell = Literal["lstm", "gru"]


@dataclass(frozen=True)
class ConvRnnConfig(SeasonConfig):
    """ConvLSTM and ConvGRU: a recurrence over dates by convolutions at full size."""

    name: ClassVar[str] = "convrnn"
    network: ClassVar[str] = "panoseg.models.baselines:ConvRnn"
    stride: ClassVar[int] = 1

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    cell: Cell = "lstm"
    """The recurrent cell: ConvLSTM or ConvGRU."""
    hidden: int = 160
    """Channels of the state; published 160 with lstm and 180 with gru."""
    runs_over_padding: bool = False
    """Continue the recurrence over padded dates, as published; by default each season ends at its
    last valid date.
    """

    def __post_init__(self) -> None:
        expect_one_of("cell", self.cell, get_args(Cell))
        expect_sizes(self)

    @property
    def title(self) -> str:
        """The network's name in the words of its paper."""
        return {"lstm": "ConvLSTM", "gru": "ConvGRU"}[self.cell]

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets: the state at full size alone."""
        return (self.hidden,)
