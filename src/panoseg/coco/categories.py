"""Conversion between COCO's categories and class tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from panoseg.classes import ClassTable, Kind, SegmentClass
from panoseg.coco.json import CocoJson, about, other_type, shown, whole_number
from panoseg.errors import PanopticFormatError

_HIGHEST_CATEGORY = 2**16 - 1
_GREY = (128, 128, 128)


def class_table(source: Path | str, categories: Sequence[Any]) -> ClassTable:
    """Return the classes of COCO's categories: rows of id, name, isthing and color.

    Without ``isthing`` a category is a thing, as in files of detections; without ``name`` it is
    named by its id. A name that several categories share gets the id appended.

    Args:
        source: The file, for the name of the table and for messages.
        categories: The rows.

    Raises:
        PanopticFormatError: There are no categories, or one is wrong or repeated.
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
    if not rows:
        raise PanopticFormatError(f"{source} has no categories.")
    if repeated:
        raise PanopticFormatError(
            f"{source}: category {repeated[0]} is listed {ids[repeated[0]]} times; list it once."
        )
    names = Counter(row.name for row in rows)
    named = (
        row if names[row.name] == 1 else replace(row, name=f"{row.name} ({row.id})") for row in rows
    )
    return ClassTable(source.stem, tuple(sorted(named, key=lambda row: row.id)))


def category_rows(table: ClassTable) -> list[dict[str, Any]]:
    """Return the categories of a class table, without void."""
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
    """Return the categories of the first file that has any, and their class table.

    Raises:
        PanopticFormatError: No file has categories, or they are wrong.
    """
    present = [file for file in files if file is not None]
    for file in present:
        if file.categories:
            return list(file.categories), class_table(file.path, file.categories)
    raise PanopticFormatError(
        f"There are no categories in {' or '.join(str(file.path) for file in present)}; pass a "
        "JSON that has them with --categories."
    )


def kinds_by_id(table: ClassTable) -> dict[int, Kind]:
    """Return the kind of each class."""
    return {entry.id: entry.kind for entry in table.classes}


def kind_of_row(row: Mapping[str, Any], kinds: Mapping[int, Kind]) -> Kind:
    """Return the kind of an annotation's category. Raises ``PanopticFormatError`` if unknown."""
    class_id = row["category_id"]
    if type(class_id) is not int or class_id not in kinds:
        raise PanopticFormatError(
            f"the unknown category {shown(class_id)} is used{other_type(class_id, kinds)}; add it"
            " to the categories."
        )
    return kinds[class_id]


def colour_of(entry: SegmentClass) -> tuple[int, int, int]:
    """Return red, green and blue of a class, 0..255.

    >>> colour_of(SegmentClass(1, "person", "#dc143c", "thing"))
    (220, 20, 60)
    """
    red, green, blue = (int(entry.colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def _segment_class(category: Mapping[str, Any]) -> SegmentClass:
    """Return the class of a category. Raises the errors that ``about`` turns into its own."""
    id_ = whole_number(category, "id", 0, _HIGHEST_CATEGORY)
    is_thing = 1 if category.get("isthing") is None else category["isthing"]
    if is_thing not in (0, 1):
        raise ValueError(f"isthing {shown(is_thing)}, which is neither 0 nor 1")
    channels = _channels(category.get("color") or _GREY)
    # Halves of surrogate pairs cannot be printed.
    text = str(category.get("name", id_)).encode("utf-8", "replace").decode()
    name = " ".join(text.split()) or str(id_)
    code = "#{:02x}{:02x}{:02x}".format(*channels)
    return SegmentClass(id_, name, code, "thing" if is_thing else "stuff")


def _channels(colour: object) -> tuple[int, ...]:
    """Return red, green and blue, 0..255, of a color as programs write it.

    These are three or four numbers 0..255, the same as shares 0..1 (matplotlib's), or a text that
    CSS has, such as "#dc143c"; opacity is left out.

    >>> _channels("#dc143c"), _channels([220, 20, 60, 255]), _channels([1.0, 0.5, 0.0])
    ((220, 20, 60), (220, 20, 60), (255, 128, 0))
    """
    if isinstance(colour, str):
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(colour)[:3]
        except ValueError as error:
            raise ValueError(f'color {shown(colour)} is not a color such as "#dc143c"') from error
    if not isinstance(colour, list | tuple) or len(colour) not in (3, 4):
        raise ValueError(f"color {shown(colour)} is neither three numbers nor a text")
    if any(type(value) is float for value in colour) and all(
        type(value) in (int, float) and 0 <= value <= 1 for value in colour
    ):
        return tuple(round(255 * value) for value in colour[:3])
    return tuple(
        whole_number({"color": int(value) if _is_whole(value) else value}, "color", 0, 255)
        for value in colour[:3]
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()
