"""How photographs are read and what may happen to those of a training; apart from the doing, so that it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.errors import ConfigError

LONGEST_SIDE = 8192
"""Pixels; a photograph of a larger size is not asked for."""


@dataclass(frozen=True)
class PhotographConfig:
    """Sizes of photographs, and what happens to training samples by chance. Predictions are of the size on disk regardless."""

    min_side: int = 0
    """Pixels to which the shorter side is resized; 0 takes photographs as they are."""
    max_side: int = 0
    """Most pixels of the longer side, which bounds the resizing; 0 is no bound."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and largest factor of the size in training, uniform between the two (published: 0.8 1.25); 1 1 changes nothing."""
    flip: bool = False
    """Mirror left and right in half of the training samples."""
    crop: int = 0
    """Side in pixels of a square window anywhere in a training sample; 0 takes the whole. Smaller samples stay as they are."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_side", "crop"):
            value = getattr(self, name)
            if not 0 <= value <= LONGEST_SIDE:
                raise ConfigError(f"photographs {name} {value}", f"pixels, 0 .. {LONGEST_SIDE}", "correct the option")
        if 0 < self.max_side < self.min_side:
            raise ConfigError(
                f"photographs min_side {self.min_side} above max_side {self.max_side}",
                "at least as many at most",
                "exchange them",
            )
        low, high = self.scale
        if not 0.05 <= low <= high <= 20:
            raise ConfigError(f"photographs scale {low} {high}", "two ascending factors, 0.05 .. 20", "correct the option")

    @property
    def changes(self) -> bool:
        """Whether chance changes training samples at all."""
        return bool(self.crop or self.flip or self.scale != (1.0, 1.0))
