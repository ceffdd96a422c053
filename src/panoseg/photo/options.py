"""How photographs are segmented. No heavy import in here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.errors import ConfigError


@dataclass(frozen=True)
class PhotoOptions:
    """How photographs are segmented; what is left out is as the weights say."""

    score: float | None = None
    """Objects from this score on become part of the picture."""
    mask: float | None = None
    """A pixel belongs to an object from this probability on."""
    overlap: float | None = None
    """Objects of which a larger share is covered by better ones are left out."""
    stuff_area: int | None = None
    """Stuff that has fewer pixels left in a photograph is left out."""
    min_side: int | None = None
    """Pixels to which the shorter side is resized for the network; 0 takes photographs as they
    are.
    """
    max_side: int | None = None
    """Most pixels of the longer side for the network, which bounds the resizing; 0 is no bound."""
    device: str = "auto"
    """Where the networks run: auto, cpu, cuda, cuda:1, mps."""

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
