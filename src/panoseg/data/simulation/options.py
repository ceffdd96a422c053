"""What a simulated season may look like: the options, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from panoseg.data.simulation.regions import REGIONS
from panoseg.errors import ConfigError


@dataclass(frozen=True)
class SimulationOptions:
    """How seasons are simulated; what is left at its default varies from season to season."""

    region: str | None = None
    """Kind of countryside; by default one is drawn for each season."""
    field_size: float = 1.0
    """Factor on the area of fields."""
    harvest_year: int = 2019
    """The season runs from 1 September of the year before to 31 October."""
    dates: tuple[int, int] = (38, 61)
    """Fewest and most acquisitions."""
    cloudy: tuple[float, float] = (0.05, 0.6)
    """Smallest and largest share of acquisitions with clouds; small shares are drawn more often."""
    snow: float = 0.15
    """Chance of a winter with snow."""
    shift_days: float = 20.0
    """How many days a season may be early or late."""
    heterogeneity: float = 1.0
    """Factor on the variation inside parcels."""
    noise: float = 1.0
    """Factor on pixel noise, radiometric drift and haze."""
    registration: float = 0.15
    """Standard deviation of the shift between dates, pixels."""
    resampling: Literal["nearest", "bilinear"] | None = None
    """How 20 m bands come to 10 m; by default drawn for each season."""
    void: bool = True
    """Parcels that lie mostly outside the patch become void, as in PASTIS."""
    crops: tuple[int, ...] | None = None
    """Class ids that may occur; all by default."""

    def __post_init__(self) -> None:
        if self.region is not None and self.region not in REGIONS:
            _refuse("region", self.region, "one of " + ", ".join(REGIONS))
        if not 0.05 <= self.field_size <= 20:
            _refuse("field_size", self.field_size, "a factor between 0.05 and 20")
        if not 2016 <= self.harvest_year <= 2100:
            _refuse("harvest_year", self.harvest_year, "a year between 2016 and 2100")
        if not 1 <= self.dates[0] <= self.dates[1] <= 140:
            _refuse("dates", self.dates, "fewest and most dates, 1 to 140, ascending")
        if not 0 <= self.cloudy[0] <= self.cloudy[1] <= 1:
            _refuse("cloudy", self.cloudy, "two shares between 0 and 1, ascending")
        if not 0 <= self.snow <= 1:
            _refuse("snow", self.snow, "a chance between 0 and 1")
        if not 0 <= self.shift_days <= 60:
            _refuse("shift_days", self.shift_days, "0 to 60 days")
        for name in ("heterogeneity", "noise"):
            if not 0 <= getattr(self, name) <= 10:
                _refuse(name, getattr(self, name), "a factor between 0 and 10")
        if not 0 <= self.registration <= 1:
            _refuse("registration", self.registration, "0 to 1 pixels")
        if self.resampling not in (None, "nearest", "bilinear"):
            _refuse("resampling", self.resampling, "nearest or bilinear")
        if self.crops is not None and (not self.crops or not set(self.crops) <= set(range(1, 19))):
            _refuse("crops", self.crops, "class ids between 1 and 18")


def _refuse(name: str, value: object, expected: str) -> None:
    raise ConfigError(f"{name} is {value!r}", expected, f"change --{name.replace('_', '-')}")
