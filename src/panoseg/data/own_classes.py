"""Classes and bands of an own dataset in PASTIS's layout.

The classes are a CSV file with a row a class and the columns id (the value in TARGET files) and
name; kind (thing, stuff or void) and colour (#rrggbb) may be left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from panoseg.classes import PASTIS, ClassTable, Kind, SegmentClass
from panoseg.data.arrays import map_array
from panoseg.data.pastis_files import read_metadata
from panoseg.errors import ConfigError, PanosegError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.text_files import read_text, shortened, table_of

_HIGHEST = 254  # TARGET files have a byte a pixel
_LARGEST_FILE = 2**20
_NAMES = {
    "id": ("id", "code", "class_id", "value"),
    "name": ("name", "class", "label"),
    "kind": ("kind", "type"),
    "colour": ("colour", "color"),
}


def read_class_table(path: Path | str) -> ClassTable:
    """Read a table of classes.

    Without a kind, id 0 is stuff, a class named void is void, and all others are things. Without a
    colour, classes have those of PASTIS.

    Raises:
        ConfigError: The file cannot be read, or a row is wrong.
    """
    path = Path(path)
    try:
        text = read_text(path, _LARGEST_FILE).text
    except PanosegError as error:
        raise ConfigError(str(error)) from error
    try:
        table = table_of(text)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    columns = {name.lower(): name for name in table.columns}
    found = {
        key: next((columns[name] for name in names if name in columns), None)
        for key, names in _NAMES.items()
    }
    if not table.rows or found["id"] is None or found["name"] is None:
        raise ConfigError(
            f"{path} has no columns id and name with a row for each class; its first line is"
            f" {shortened(text.split(chr(10), 1)[0], 60)!r}."
        )
    entries = [
        _entry(f"{path}, line {line}", {key: row[name] for key, name in found.items() if name})
        for line, row in zip(table.lines, table.rows, strict=True)
    ]
    for key in ("id", "name"):
        values = [getattr(entry, key) for entry in entries]
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ConfigError(f"{path} has several rows of the {key} {repeated}; give it one.")
    return ClassTable(path.stem, tuple(sorted(entries, key=lambda entry: entry.id)))


def _entry(where: str, row: dict[str, str]) -> SegmentClass:
    """Return the class of a row. Raises ``ConfigError``."""
    text = row["id"]
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST):
        raise ConfigError(f"{where}: the id is {text!r}, not a whole number 0 .. {_HIGHEST}.")
    number, name = int(text), row["name"] or text
    default = "stuff" if number == 0 else "void" if name.lower() == "void" else "thing"
    kind = row.get("kind", "").lower() or default
    if kind not in get_args(Kind):
        raise ConfigError(f"{where}: the kind is {kind!r}, not thing, stuff or void.")
    colour = row.get("colour", "").lower() or PASTIS[number % PASTIS.count].colour
    if len(colour) != 7 or colour[0] != "#" or set(colour[1:]) - set("0123456789abcdef"):
        raise ConfigError(f"{where}: the colour is {colour!r}, not such as #1f77b4.")
    return SegmentClass(number, name, colour, cast(Kind, kind))


def own_bands(folder: Path | str) -> tuple[str, ...]:
    """Return the names of the bands of a dataset: PASTIS's, if there are ten, or else numbers.

    Raises:
        DatasetError: The dataset is missing or damaged.
    """
    for patch in read_metadata(Path(folder)):
        path = Path(folder) / "DATA_S2" / f"S2_{patch.id}.npy"
        count = map_array(path, dimensions=4, dtype="int16").shape[1]
        if count != len(PASTIS_BANDS):
            return tuple(f"band {number}" for number in range(1, count + 1))
        break
    return PASTIS_BANDS
