"""COCO's categories and class tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panoseg.classes import ClassTable, Kind, SegmentClass
from panoseg.coco.json import CocoJson, about, whole_number
from panoseg.errors import PanopticFormatError

_HIGHEST_CATEGORY = 2**16 - 1
_GREY = (128, 128, 128)


def class_table(source: Path | str, categories: Sequence[Any]) -> ClassTable:
    """The classes of COCO's categories: rows of id, name, isthing and color.

    Without isthing a category is a thing, as in files of detections; without name it is called by
    its id. A name that several share is followed by the id. Raises ``PanopticFormatError``, which
    names ``source``.
    """
    source = Path(source)
    rows = []
    with about(f"{source}: categories"):
        json.dumps(categories, allow_nan=False)
    for number, category in enumerate(categories):
        with about(f"{source}: category {number}"):
            rows.append(_segment_class(category))
    ids = Counter(row.id for row in rows)
    repeated = [id_ for id_, count in ids.items() if count > 1]
    if repeated or not rows:
        found = (
            f"category {repeated[0]} is listed {ids[repeated[0]]} times"
            if repeated
            else "no categories"
        )
        raise PanopticFormatError(
            f"{source}: {found}", "each category once", "mend the list of categories"
        )
    names = Counter(row.name for row in rows)
    named = [
        row if names[row.name] == 1 else _renamed(row)
        for row in sorted(rows, key=lambda row: row.id)
    ]
    return ClassTable(source.stem, tuple(named))


def category_rows(table: ClassTable) -> list[dict[str, Any]]:
    """The categories of a class table, without void."""
    return [
        {
            "id": entry.id,
            "name": entry.name,
            "isthing": int(entry.kind == "thing"),
            "color": list(colour_of(entry)),
        }
        for entry in table.classes
        if entry.kind != "void"
    ]


def read_categories(*files: CocoJson | None) -> tuple[list[Any], ClassTable]:
    """The categories of the first of some files that has any, and their class table. Raises
    ``PanopticFormatError``.
    """
    present = [file for file in files if file is not None]
    for file in present:
        if file.categories:
            return list(file.categories), class_table(file.path, file.categories)
    raise PanopticFormatError(
        f"no categories in {' or '.join(str(file.path) for file in present)}",
        "what the classes are called and which are things",
        "name a JSON that has them with --categories",
    )


def kinds_by_id(table: ClassTable) -> dict[int, Kind]:
    """Kind of each class."""
    return {entry.id: entry.kind for entry in table.classes}


def kind_of_row(row: Mapping[str, Any], kinds: Mapping[int, Kind]) -> Kind:
    """Kind of the category of an annotation. Raises ``PanopticFormatError`` for one that is
    unknown.
    """
    class_id = row["category_id"]
    if type(class_id) is not int or class_id not in kinds:
        raise PanopticFormatError(
            f"the unknown category {str(class_id)[:40]}",
            f"one of the {len(kinds)} known",
            "add it to the categories",
        )
    return kinds[class_id]


def colour_of(entry: SegmentClass) -> tuple[int, int, int]:
    """Red, green and blue of a class, 0..255.

    >>> colour_of(SegmentClass(1, "person", "#dc143c", "thing"))
    (220, 20, 60)
    """
    red, green, blue = (int(entry.colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def _segment_class(category: Any) -> SegmentClass:
    id_ = whole_number(category, "id", 0, _HIGHEST_CATEGORY)
    is_thing = category.get("isthing", 1)
    if is_thing not in (0, 1):
        raise ValueError(f"isthing {str(is_thing)[:40]}, which is neither 0 nor 1")
    colour = category.get("color") or _GREY
    if len(colour) != 3:
        raise ValueError(f"a color of {len(colour)} values")
    channels: Iterable[int] = (whole_number({"color": value}, "color", 0, 255) for value in colour)
    text = (
        str(category.get("name", id_)).encode("utf-8", "replace").decode()
    )  # halves of characters cannot be printed
    name = " ".join(text.split()) or str(id_)
    return SegmentClass(
        id_, name, "#{:02x}{:02x}{:02x}".format(*channels), "thing" if is_thing else "stuff"
    )


def _renamed(row: SegmentClass) -> SegmentClass:
    return SegmentClass(row.id, f"{row.name} ({row.id})", row.colour, row.kind)
