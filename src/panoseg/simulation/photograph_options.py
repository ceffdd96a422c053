"""Options of simulated photographs, and their classes, whose ids have gaps as COCO's have."""

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
