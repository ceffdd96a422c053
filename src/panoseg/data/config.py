"""Options of reading and augmentation, without torch, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from panoseg.errors import ConfigError
from panoseg.imagery.calendar import REFERENCE_DATE


@dataclass(frozen=True)
class AugmentationConfig:
    """What happens to training samples by chance; everything is off by default."""

    crop: int = 0
    """Size in pixels of a square window anywhere in the patch; 0 takes the whole patch."""
    flips: bool = False
    """Mirror rows and columns, each in half of the samples."""
    turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees; by 0 or 180 where the window is not square."""
    min_dates: int = 0
    """Least number of dates that are kept; 0 is all."""
    max_dates: int = 0
    """Largest number of dates that are kept; 0 is all. The number is uniform between the two,
    bounded by the series.
    """
    date_dropout: float = 0.0
    """Probability with which each of the dates that are kept so far is left out (Crop2Seg's
    temporal dropout); one stays.
    """
    day_jitter: int = 0
    """Largest number of days by which each date moves, either way; images stay in the order of
    their dates.
    """
    season_shift: int = 0
    """Largest number of days by which the whole season moves, either way."""
    band_gain: float = 0.0
    """Deviation of the logarithm of a factor for each band."""
    band_offset: float = 0.0
    """Deviation of an offset for each band, reflectance x 10 000."""
    date_gain: float = 0.0
    """Deviation of the logarithm of a factor for each date."""
    noise: float = 0.0
    """Deviation of the noise of each value, reflectance x 10 000."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value < float("inf"):
                raise ConfigError(
                    f"augmentation {entry.name} {value}", "a number from 0", "correct the option"
                )
        if self.date_dropout >= 1:
            raise ConfigError(
                f"augmentation date_dropout {self.date_dropout}",
                "from 0 up to 1",
                "correct the option",
            )
        if 0 < self.max_dates < self.min_dates:
            raise ConfigError(
                f"min_dates {self.min_dates} above max_dates {self.max_dates}",
                "at least as many at most",
                "exchange the two",
            )

    @property
    def changes_geometry(self) -> bool:
        """Whether pixels may move, and labels with them."""
        return bool(self.crop or self.flips or self.turns)

    @property
    def changes_values(self) -> bool:
        """Whether reflectances may change."""
        return bool(self.band_gain or self.band_offset or self.date_gain or self.noise)

    @property
    def changes_dates(self) -> bool:
        """Whether dates may be left out or move."""
        return bool(
            self.min_dates
            or self.max_dates
            or self.date_dropout
            or self.day_jitter
            or self.season_shift
        )


LONGEST_SIDE = 8192
"""Pixels; a photograph of a larger size is not asked for."""


@dataclass(frozen=True)
class PhotographConfig:
    """Sizes of photographs, and what happens to training samples by chance. Predictions are of the
    size on disk regardless.
    """

    min_side: int = 0
    """Pixels to which the shorter side is resized; 0 takes photographs as they are."""
    max_side: int = 0
    """Most pixels of the longer side, which bounds the resizing; 0 is no bound."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and largest factor of the size in training, uniform between the two (published: 0.8
    1.25); 1 1 changes nothing.
    """
    flip: bool = False
    """Mirror left and right in half of the training samples."""
    crop: int = 0
    """Side in pixels of a square window anywhere in a training sample; 0 takes the whole. Smaller
    samples stay as they are.
    """

    def __post_init__(self) -> None:
        for name in ("min_side", "max_side", "crop"):
            value = getattr(self, name)
            if not 0 <= value <= LONGEST_SIDE:
                raise ConfigError(
                    f"photographs {name} {value}",
                    f"pixels, 0 .. {LONGEST_SIDE}",
                    "correct the option",
                )
        if 0 < self.max_side < self.min_side:
            raise ConfigError(
                f"photographs min_side {self.min_side} above max_side {self.max_side}",
                "at least as many at most",
                "exchange them",
            )
        low, high = self.scale
        if not 0.05 <= low <= high <= 20:
            raise ConfigError(
                f"photographs scale {low} {high}",
                "two ascending factors, 0.05 .. 20",
                "correct the option",
            )

    @property
    def changes(self) -> bool:
        """Whether chance changes training samples at all."""
        return bool(self.crop or self.flip or self.scale != (1.0, 1.0))


@dataclass(frozen=True)
class DataConfig:
    """How patches become samples."""

    normalisation: Literal["train", "published"] = "train"
    """Mean and deviation of the bands: over the training folds, or of each set's own folds as
    published.
    """
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD: 1 September before the harvest year."""
    single_date: str | None = None
    """Only one date of each season: an index, or the date nearest to YYYY-MM-DD."""
    ndvi: bool = False
    """Give the network the vegetation index NDVI as one more channel."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What happens to training samples."""
