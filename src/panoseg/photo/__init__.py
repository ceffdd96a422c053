"""Photographs become panoptic segmentations, overlays with names, and a table of segments.

The options are in this file. It imports nothing heavy, so that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.errors import ConfigError


@dataclass(frozen=True)
class PhotoOptions:
    """How photographs are segmented; by default as the weights define."""

    score: float | None = None
    """Minimum score of an object that is drawn."""
    mask: float | None = None
    """Minimum probability of a pixel that belongs to an object."""
    overlap: float | None = None
    """Leave out objects if better ones cover more than this share of them."""
    stuff_area: int | None = None
    """Leave out stuff with fewer remaining pixels in a photograph."""
    min_side: int | None = None
    """Resize the shorter side to this many pixels for the network; 0 does not resize."""
    max_side: int | None = None
    """Maximum length of the longer side in pixels for the network; 0 is no limit."""
    device: str = "auto"
    """Device of the networks: auto, cpu, cuda, cuda:1 or mps."""

    def __post_init__(self) -> None:
        for name in ("score", "mask", "overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"--{name} must be from 0 to 1, not {value}.")
        if self.stuff_area is not None and self.stuff_area < 0:
            raise ConfigError(
                f"--stuff-area must be a number of pixels from 0, not {self.stuff_area}."
            )

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that are given, by name."""
        names = ("score", "mask", "overlap", "stuff_area")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
