"""The class table of tests on COCO's panoptic form: two kinds of things, two of stuff."""

from __future__ import annotations

from panoseg.classes import ClassTable, SegmentClass

TABLE = ClassTable(
    "four",
    (
        SegmentClass(1, "person", "#dc143c", "thing"),
        SegmentClass(2, "dog", "#00ff00", "thing"),
        SegmentClass(3, "sky", "#0000ff", "stuff"),
        SegmentClass(
            4, "grass", "#000000", "stuff"
        ),  # the colour that means nothing in a picture of ids
    ),
)
