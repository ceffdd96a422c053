"""The classes of simulated photographs. Their ids have gaps, as COCO's have."""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import ConfigError

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
    """How photographs are simulated."""

    things: tuple[int, int] = (3, 8)
    """Fewest and most objects, before some hide others."""
    thing_size: float = 1.0
    """Factor on the size of objects."""
    crowds: float = 0.1
    """Chance of a crowd: many small objects of a class, annotated as one."""
    smudges: float = 0.2
    """Chance of dirt on the lens, which nobody annotated."""
    grain: float = 1.0
    """Factor on the noise of the camera."""

    def __post_init__(self) -> None:
        if not 0 <= self.things[0] <= self.things[1] <= 100:
            raise ConfigError(
                f"things {self.things}",
                "fewest and most objects, 0 to 100, ascending",
                "change --things",
            )
        for name in ("crowds", "smudges"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)}", "a chance between 0 and 1", f"change --{name}"
                )
        for name, lowest in (("thing_size", 0.1), ("grain", 0)):
            if not lowest <= getattr(self, name) <= 10:
                option = name.replace("_", "-")
                raise ConfigError(
                    f"{name} {getattr(self, name)}",
                    f"a factor, {lowest} .. 10",
                    f"change --{option}",
                )
