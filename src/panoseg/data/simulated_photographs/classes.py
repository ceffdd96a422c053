"""The classes of simulated photographs. Their ids have gaps, as COCO's have."""

from __future__ import annotations

from panoseg.classes import ClassTable, SegmentClass

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
