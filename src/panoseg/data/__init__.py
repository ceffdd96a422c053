"""Cubes and datasets on disk become samples and batches.

The options of samples are in this file: how seasons are read, augmentation, and sizes of
photographs. It imports no torch, so that ``--help`` and configurations need none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from panoseg.errors import ConfigError
from panoseg.imagery.sentinel2 import REFERENCE_DATE


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training samples (seasons); all are off by default."""

    crop: int = 0
    """Side in pixels of a random square crop of the patch; 0 uses the whole patch."""
    flips: bool = False
    """Mirror rows and mirror columns, each in half of the samples."""
    turns: bool = False
    """Rotate by 0, 90, 180 or 270 degrees; by 0 or 180 if the crop is not square."""
    min_dates: int = 0
    """Smallest number of dates to keep; 0 keeps all."""
    max_dates: int = 0
    """Largest number of dates to keep; 0 keeps all. The number is drawn uniformly between the two,
    at most the length of the series.
    """
    date_dropout: float = 0.0
    """Probability, 0 to below 1, that each date kept so far is left out (Crop2Seg's temporal
    dropout); at least one stays.
    """
    day_jitter: int = 0
    """Largest number of days by which each date moves, either way; images are sorted by their new
    dates.
    """
    season_shift: int = 0
    """Largest number of days by which the whole season moves, either way."""
    band_gain: float = 0.0
    """Standard deviation of the logarithm of a random factor for each band."""
    band_offset: float = 0.0
    """Standard deviation of a random offset for each band, reflectance x 10 000."""
    date_gain: float = 0.0
    """Standard deviation of the logarithm of a random factor for each date."""
    noise: float = 0.0
    """Standard deviation of the noise added to each value, reflectance x 10 000."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value < float("inf"):
                raise ConfigError(
                    f"Augmentation {entry.name} must be a number from 0, not {value}."
                )
        if self.date_dropout >= 1:
            raise ConfigError(
                f"Augmentation date_dropout must be at least 0 and below 1, not"
                f" {self.date_dropout}."
            )
        if 0 < self.max_dates < self.min_dates:
            raise ConfigError(
                f"Augmentation min_dates {self.min_dates} must not exceed max_dates"
                f" {self.max_dates}."
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
"""Largest side in pixels to which a photograph may be resized or cropped."""


@dataclass(frozen=True)
class PhotographConfig:
    """Sizes of photographs, and random changes of training samples.

    Predictions have the size on disk regardless.
    """

    min_side: int = 0
    """Resize the shorter side to this many pixels; 0 leaves photographs as they are."""
    max_side: int = 0
    """Maximum length of the longer side in pixels; 0 is no limit."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest random factor on the size in training (published: 0.8 1.25); 1 1 changes
    nothing.
    """
    flip: bool = False
    """Mirror left and right in half of the training samples."""
    crop: int = 0
    """Side in pixels of a random square crop of training samples; 0 uses the whole photograph.
    Smaller photographs are not cropped.
    """

    def __post_init__(self) -> None:
        for name in ("min_side", "max_side", "crop"):
            value = getattr(self, name)
            if not 0 <= value <= LONGEST_SIDE:
                raise ConfigError(
                    f"Photographs {name} must lie between 0 and {LONGEST_SIDE} pixels, not be"
                    f" {value}."
                )
        if 0 < self.max_side < self.min_side:
            raise ConfigError(
                f"Photographs min_side {self.min_side} must not exceed max_side {self.max_side}."
            )
        low, high = self.scale
        if not 0.05 <= low <= high <= 20:
            raise ConfigError(
                f"Photographs scale must be two ascending factors between 0.05 and 20, not {low}"
                f" {high}."
            )

    @property
    def changes(self) -> bool:
        """Whether training samples are changed at random."""
        return bool(self.crop or self.flip or self.scale != (1.0, 1.0))


@dataclass(frozen=True)
class DataConfig:
    """How patches become samples."""

    normalisation: Literal["train", "published"] = "train"
    """Mean and standard deviation of the bands: those of the training folds, or of each set's own
    folds as published.
    """
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD: 1 September before the harvest year."""
    single_date: str | None = None
    """Use only one date of each season: a position, or the date nearest to YYYY-MM-DD."""
    ndvi: bool = False
    """Add the vegetation index NDVI as one more channel."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of training samples."""
