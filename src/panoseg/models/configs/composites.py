"""Options of the network of composites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.imagery.sentinel2 import REFERENCE_DATE
from panoseg.models.configs.base import (
    NORM_GROUPS,
    expect,
    expect_date,
    expect_levels,
    expect_share,
    expect_sizes,
)
from panoseg.models.configs.season import SeasonConfig

FEWEST_BANDS = 3
"""How many bands training with ``band_dropout`` leaves at least."""


@dataclass(frozen=True)
class CompositesConfig(SeasonConfig):
    """Composites: a U-Net on a few composites of the season, several times as fast as attention."""

    name: ClassVar[str] = "composites"
    title: ClassVar[str] = "composites"
    network: ClassVar[str] = "panoseg.models.composites:Composites"

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    composites: int = 12
    """Number of composites, evenly spread over the season."""
    first_day: int = 0
    """First day of the composites, counted from the reference date."""
    last_day: int = 425
    """Last day of the composites; the default is the end of October of the next year."""
    encoder_widths: tuple[int, ...] = (48, 64, 96, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 64, 96, 128)
    """Channels of the decoder, finest level first; the last must equal the last of the encoder."""
    band_dropout: float = 0.0
    """Probability in training that a season lacks some of its bands; at least three stay."""
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD; follows from the data."""

    def __post_init__(self) -> None:
        expect_sizes(self, leave_out=("first_day",))
        expect_levels(self.encoder_widths, self.decoder_widths)
        expect_share(self, "band_dropout")
        expect(
            self.first_day < self.last_day,
            f"last_day must be after first_day, {self.first_day}, not {self.last_day}.",
        )
        expect(
            all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths must be multiples of {NORM_GROUPS}, not {self.encoder_widths}.",
        )
        expect_date("reference_date", self.reference_date)

    @property
    def fewest_bands(self) -> int | None:  # type: ignore[override]
        """How many bands a season must have: a few if training dropped bands, or else all."""
        return min(FEWEST_BANDS, self.bands) if self.band_dropout else None

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return 1 << (len(self.encoder_widths) - 1)
