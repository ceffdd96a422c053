"""Options of simulated seasons: crops and materials, kinds of countryside, and what may be set.

A unit of land is covered by a crop (PASTIS class ids 1..18) or by a material outside parcels (ids
from 100).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any, Literal, get_args

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import ConfigError


class Material(IntEnum):
    """Land cover outside parcels; the numbers differ from class ids."""

    GRASS = 100
    """Verges, gardens, undeclared pastures."""
    SCRUB = 101
    BROADLEAF = 102
    CONIFER = 103
    HEDGE = 104
    WATER = 105
    ASPHALT = 106
    TRACK = 107
    ROOF_RED = 108
    ROOF_GREY = 109
    ROOF_WHITE = 110
    YARD = 111
    ROOF_DARK = 112
    GRAVEL = 113
    PANEL = 114
    """Solar panels."""
    GLASS = 115
    """Greenhouses."""
    LAWN = 116
    """Grass that is kept short all year."""
    GARDEN = 117
    """Beds, shrubs and paths, mixed."""
    FALLOW = 118
    """Idle grass and weeds of the size of a field."""


# PASTIS's class ids. HORTICULTURE is "fruits, vegetables, flowers", FODDER "leguminous fodder".
MEADOW, WHEAT, CORN, WINTER_BARLEY, RAPESEED, SPRING_BARLEY, SUNFLOWER, GRAPEVINE, BEET = range(
    1, 10
)
TRITICALE, DURUM, HORTICULTURE, POTATOES, FODDER, SOYBEANS, ORCHARD, MIXED_CEREAL, SORGHUM = range(
    10, 19
)
VOID = 19


@dataclass(frozen=True)
class Region:
    """A kind of countryside."""

    crops: dict[int, float]
    """Weight of each class id."""
    field_ha: tuple[float, float]
    """Median area of a field in hectares, and standard deviation of its logarithm."""
    strips: float
    """Probability that a block is cut into strips."""
    borders: tuple[float, float, float, float]
    """Probability of nothing, a grass margin, a hedge and a track between two fields."""
    block_ha: tuple[float, float]
    """Median area between roads in hectares, and standard deviation of its logarithm."""
    wood: float
    """Share of blocks that are wood."""
    village: float
    """Share of blocks that are villages."""
    water: float
    """Share of blocks that are water."""
    idle: float
    """Share of blocks that are undeclared grassland and scrub."""
    soil: tuple[float, float]
    """Smallest and largest brightness of soil, as factors."""
    delay: float
    """Days by which the season lags behind the average."""


REGIONS: dict[str, Region] = {
    "open-cereals": Region(
        crops={
            1: 6,
            2: 36,
            3: 8,
            4: 12,
            5: 14,
            6: 6,
            9: 9,
            13: 3,
            14: 3,
            12: 1,
            7: 2,
            10: 1,
            17: 1,
        },
        field_ha=(4.5, 0.8),
        strips=0.25,
        borders=(0.72, 0.16, 0.04, 0.08),
        block_ha=(35, 0.5),
        wood=0.09,
        village=0.05,
        water=0.01,
        idle=0.03,
        soil=(0.8, 1.35),
        delay=3,
    ),
    "lowland-mixed": Region(
        crops={1: 30, 2: 20, 3: 22, 13: 10, 9: 7, 12: 7, 4: 4, 16: 1, 14: 1, 10: 2, 5: 1},
        field_ha=(1.5, 0.75),
        strips=0.3,
        borders=(0.62, 0.2, 0.08, 0.1),
        block_ha=(16, 0.5),
        wood=0.06,
        village=0.09,
        water=0.02,
        idle=0.06,
        soil=(0.7, 1.15),
        delay=6,
    ),
    "bocage": Region(
        crops={1: 42, 2: 16, 3: 22, 4: 5, 5: 3, 10: 5, 17: 4, 14: 2, 16: 1, 12: 1},
        field_ha=(1.5, 0.65),
        strips=0.08,
        borders=(0.28, 0.2, 0.42, 0.1),
        block_ha=(14, 0.5),
        wood=0.09,
        village=0.06,
        water=0.02,
        idle=0.08,
        soil=(0.65, 1.05),
        delay=0,
    ),
    "south-west": Region(
        crops={
            1: 16,
            2: 14,
            3: 18,
            7: 16,
            15: 9,
            18: 5,
            11: 6,
            4: 4,
            5: 4,
            12: 4,
            14: 4,
            10: 2,
            17: 2,
            16: 2,
            8: 2,
        },
        field_ha=(2.2, 0.8),
        strips=0.22,
        borders=(0.55, 0.25, 0.12, 0.08),
        block_ha=(18, 0.5),
        wood=0.12,
        village=0.06,
        water=0.02,
        idle=0.08,
        soil=(0.75, 1.25),
        delay=-8,
    ),
    "vineyards": Region(
        crops={8: 44, 16: 12, 11: 8, 12: 9, 1: 9, 2: 6, 14: 4, 7: 3, 18: 3, 4: 2},
        field_ha=(1.0, 0.65),
        strips=0.35,
        borders=(0.5, 0.26, 0.08, 0.16),
        block_ha=(10, 0.5),
        wood=0.13,
        village=0.07,
        water=0.01,
        idle=0.12,
        soil=(0.9, 1.5),
        delay=-14,
    ),
    "uplands": Region(
        crops={1: 58, 14: 8, 2: 8, 10: 7, 17: 6, 3: 6, 4: 3, 6: 4},
        field_ha=(1.2, 0.8),
        strips=0.18,
        borders=(0.42, 0.24, 0.24, 0.1),
        block_ha=(13, 0.6),
        wood=0.24,
        village=0.05,
        water=0.01,
        idle=0.1,
        soil=(0.6, 1.0),
        delay=10,
    ),
    "strip-fields": Region(
        crops={2: 20, 3: 20, 1: 16, 9: 6, 4: 8, 6: 6, 5: 6, 15: 5, 13: 3, 10: 4, 14: 4, 8: 2},
        field_ha=(1.3, 0.7),
        strips=0.75,
        borders=(0.82, 0.1, 0.03, 0.05),
        block_ha=(18, 0.5),
        wood=0.08,
        village=0.08,
        water=0.015,
        idle=0.04,
        soil=(0.7, 1.2),
        delay=0,
    ),
}


FAR_REGIONS: dict[str, Region] = {
    "plains": Region(
        crops={3: 30, 15: 22, 2: 20, 18: 8, 14: 6, 1: 8, 7: 4, 13: 2},
        field_ha=(12.0, 0.7),
        strips=0.15,
        borders=(0.6, 0.25, 0.03, 0.12),
        block_ha=(64, 0.3),
        wood=0.05,
        village=0.02,
        water=0.01,
        idle=0.1,
        soil=(0.7, 1.3),
        delay=5,
    ),
    "smallholders": Region(
        crops={3: 22, 18: 14, 12: 18, 17: 12, 2: 10, 14: 6, 13: 6, 1: 8, 15: 4},
        field_ha=(0.5, 0.6),
        strips=0.3,
        borders=(0.7, 0.15, 0.1, 0.05),
        block_ha=(8, 0.5),
        wood=0.08,
        village=0.12,
        water=0.01,
        idle=0.12,
        soil=(0.8, 1.5),
        delay=-12,
    ),
}
"""Countryside beyond Europe, drawn in the style real only."""

LandFeature = Literal[
    "ribbons",
    "streams",
    "ponds",
    "tree-rows",
    "farmyards",
    "solar-parks",
    "greenhouses",
    "allotments",
    "paddocks",
    "pivots",
    "strips",
]
"""What may lie in the land of the style "real"."""
GrowthFeature = Literal[
    "grassland",
    "neighbours",
    "cereals",
    "staged",
    "catch-crops",
    "second-crops",
    "wet-spots",
    "lodging",
    "tramlines",
    "old-limits",
]
"""What may vary between and inside fields."""
WeatherFeature = Literal["view-angle", "haze-steps", "residual-clouds", "swath-edges"]
"""What may differ between dates besides clouds."""


@dataclass(frozen=True)
class SimulationOptions:
    """Options of simulated seasons; some defaults vary from season to season."""

    region: str | None = None
    """Kind of countryside; by default drawn for each season."""
    field_size: float = 1.0
    """Factor on the area of fields, 0.05-20."""
    harvest_year: int = 2019
    """Year of the harvest; the season runs from 1 September of the year before to 31 October."""
    dates: tuple[int, int] = (38, 61)
    """Smallest and largest number of acquisitions, 1-140."""
    cloudy: tuple[float, float] = (0.05, 0.6)
    """Smallest and largest share of acquisitions with clouds, 0-1; small ones are more likely."""
    snow: float = 0.15
    """Probability of a winter with snow, 0-1."""
    shift_days: float = 20.0
    """Largest number of days by which a season is early or late, 0-60."""
    heterogeneity: float = 1.0
    """Factor on the variation inside parcels, 0-10."""
    noise: float = 1.0
    """Factor on pixel noise, radiometric drift and haze, 0-10."""
    registration: float | None = None
    """Standard deviation of the shift between dates in pixels, 0-1; by default 0.15, and 0.2-0.45
    in the style real.
    """
    resampling: Literal["nearest", "bilinear"] | None = None
    """Resampling of 20 m bands to 10 m; by default drawn for each season."""
    void: bool = True
    """Make parcels void that lie mostly outside the patch, as in PASTIS."""
    crops: tuple[int, ...] | None = None
    """Class ids that may occur, 1-18; all by default."""
    style: Literal["plain", "real"] = "plain"
    """plain: the options below that are not given are off. real: each of them is drawn again for
    every season, within wide bounds.
    """
    fields_share: float | None = None
    """Share of the land in fields, 0-1; only in the style real."""
    village_share: float | None = None
    """Share of the land in villages, 0-1; only in the style real."""
    median_field: float | None = None
    """Median area of a field in pixels, 4-5000; only in the style real."""
    land: tuple[LandFeature, ...] | None = None
    """What may lie in the land; only in the style real."""
    growth: tuple[GrowthFeature, ...] | None = None
    """What may vary between and inside fields."""
    weather: tuple[WeatherFeature, ...] | None = None
    """What may differ between dates besides clouds."""
    unevenness: float | None = None
    """Mean deviation of log reflectance inside a field, 0-0.5; only in the style real."""
    labels: Literal["declared", "drawn"] | None = None
    """declared: as in a register of farmers. drawn: as a person draws fields: idle grass of the
    size of a field is one, and a field whose parts differ before sowing or after harvest is two;
    only in the style real.
    """
    mislabelled: float | None = None
    """Share of fields with the class of another crop, 0-1."""
    unlabelled: float | None = None
    """Share of fields that nobody declared, 0-1."""
    far_shifts: float | None = None
    """Share of dates that are shifted by 1 to 1.5 pixels, 0-1."""
    band_shift: float | None = None
    """Standard deviation of the shift between 10 m and 20 m bands in pixels, 0-1."""
    gain: float | None = None
    """Standard deviation of a factor on each band that lasts all season, 0-0.3."""
    composites: Literal["none", "median", "best"] | None = None
    """Monthly composites in place of dates: the median of clear pixels, or the clearest date."""
    land_cover: bool | None = None
    """Write the land cover of each pixel too: built, garden, trees, water, road, idle, field."""

    def __post_init__(self) -> None:
        regions = REGIONS | FAR_REGIONS
        if self.region is not None and self.region not in regions:
            _refuse("region", self.region, "one of " + ", ".join(regions))
        if not 0.05 <= self.field_size <= 20:
            _refuse("field_size", self.field_size, "a factor between 0.05 and 20")
        if not 2016 <= self.harvest_year <= 2100:
            _refuse("harvest_year", self.harvest_year, "a year between 2016 and 2100")
        if not 1 <= self.dates[0] <= self.dates[1] <= 140:
            _refuse("dates", self.dates, "the smallest and largest number of dates, 1 to 140")
        if not 0 <= self.cloudy[0] <= self.cloudy[1] <= 1:
            _refuse("cloudy", self.cloudy, "two shares between 0 and 1, ascending")
        if not 0 <= self.snow <= 1:
            _refuse("snow", self.snow, "a probability between 0 and 1")
        if not 0 <= self.shift_days <= 60:
            _refuse("shift_days", self.shift_days, "between 0 and 60 days")
        for name in ("heterogeneity", "noise"):
            if not 0 <= getattr(self, name) <= 10:
                _refuse(name, getattr(self, name), "a factor between 0 and 10")
        if self.registration is not None and not 0 <= self.registration <= 1:
            _refuse("registration", self.registration, "between 0 and 1 pixels")
        if self.resampling not in (None, "nearest", "bilinear"):
            _refuse("resampling", self.resampling, "nearest or bilinear")
        if self.crops is not None and (not self.crops or not set(self.crops) <= set(range(1, 19))):
            _refuse("crops", self.crops, "class ids between 1 and 18")
        self._check_style()

    def contents(self) -> dict[str, Any]:
        """Return what a dataset notes of its options; later ones only where they are given.

        So a dataset that an earlier version began can still be completed.
        """
        given = asdict(self)
        if given["registration"] is None:
            given["registration"] = 0.15
        names = [field.name for field in fields(self)]
        for name in names[names.index("style") :]:
            if given[name] in (None, "plain"):
                del given[name]
        return given

    def _check_style(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            chosen = value if isinstance(value, tuple) else (value,)
            if value is not None and not set(chosen) <= set(allowed):
                _refuse(name, value, ", ".join(allowed))
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                _refuse(name, value, f"between {low} and {high}")
        if (self.fields_share or 0) + (self.village_share or 0) > 1:
            _refuse("village_share", self.village_share, "at most what --fields-share leaves")
        given = [name for name in _ONLY_REAL if getattr(self, name) is not None]
        if given and self.style != "real":
            raise ConfigError(
                f"--{given[0].replace('_', '-')} needs --style real; add it or leave the option"
                " out."
            )


_CHOICES = {
    "style": ("plain", "real"),
    "land": get_args(LandFeature),
    "growth": get_args(GrowthFeature),
    "weather": get_args(WeatherFeature),
    "labels": ("declared", "drawn"),
    "composites": ("none", "median", "best"),
}
_BOUNDS = {
    "fields_share": (0, 1),
    "village_share": (0, 1),
    "median_field": (4, 5000),
    "unevenness": (0, 0.5),
    "mislabelled": (0, 1),
    "unlabelled": (0, 1),
    "far_shifts": (0, 1),
    "band_shift": (0, 1),
    "gain": (0, 0.3),
}
_ONLY_REAL = ("fields_share", "village_share", "median_field", "land", "unevenness", "labels")


def _refuse(name: str, value: object, expected: str) -> None:
    raise ConfigError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}.")


BALL, CRATE, STAR, LEAF, RING, KITE = THINGS = (1, 2, 3, 5, 6, 8)
SKY, GRASS, WATER, BRICKS = STUFF = (100, 102, 103, 105)

SIMULATED_PHOTOGRAPHS = ClassTable(
    "simulated photographs",
    (
        SegmentClass(BALL, "ball", "#d62728", "thing"),
        SegmentClass(CRATE, "crate", "#8c564b", "thing"),
        SegmentClass(STAR, "star", "#ffd700", "thing"),
        SegmentClass(LEAF, "leaf", "#2ca02c", "thing"),
        SegmentClass(RING, "ring", "#e377c2", "thing"),
        SegmentClass(KITE, "kite", "#9467bd", "thing"),
        SegmentClass(SKY, "sky", "#aec7e8", "stuff"),
        SegmentClass(GRASS, "grass", "#bcbd22", "stuff"),
        SegmentClass(WATER, "water", "#17becf", "stuff"),
        SegmentClass(BRICKS, "bricks", "#c49c94", "stuff"),
    ),
)


@dataclass(frozen=True)
class PhotographOptions:
    """Options of simulated photographs."""

    things: tuple[int, int] = (3, 8)
    """Smallest and largest number of objects, 0-100, before some hide others."""
    thing_size: float = 1.0
    """Factor on the size of objects, 0.1-10."""
    crowds: float = 0.1
    """Probability of a crowd, many small objects of a class that are annotated as one, 0-1."""
    smudges: float = 0.2
    """Probability of dirt on the lens, which has no label, 0-1."""
    grain: float = 1.0
    """Factor on the noise of the camera, 0-10."""

    def __post_init__(self) -> None:
        if not 0 <= self.things[0] <= self.things[1] <= 100:
            raise ConfigError(
                "--things must be the smallest and largest number of objects, 0 to 100, not"
                f" {self.things}."
            )
        for name in ("crowds", "smudges"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"--{name} must be a probability between 0 and 1, not {getattr(self, name)}."
                )
        for name, lowest in (("thing_size", 0.1), ("grain", 0)):
            if not lowest <= getattr(self, name) <= 10:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be a factor between {lowest} and 10, not"
                    f" {getattr(self, name)}."
                )
