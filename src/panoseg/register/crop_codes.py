"""The table that says which class of a dataset each crop code of a register is.

    code,class
    1110,soft winter wheat
    1200,3

A CSV with these two columns among others; a class is the number or the name of one in ``panoseg.classes``.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseg.classes import ClassTable
from panoseg.errors import ParcelsError

_LARGEST_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class CropCodes:
    """Class id by crop code, codes as text."""

    classes: Mapping[str, int]

    def classes_of(self, column: Iterable[Any]) -> list[int | None]:
        """The class of each value of a register's column; None for unknown codes and for none.

        Whole numbers mean the same however they are written: 110, 110.0, "0110".

        >>> CropCodes({"0110": 2, "WTR": 3}).classes_of([110.0, "0110", "wtr", " WTR ", None])
        [2, 2, None, 3, None]
        """
        numbers = {plain_code(code): class_id for code, class_id in self.classes.items()}
        return [numbers.get(plain_code(value)) for value in column]


def plain_code(value: Any) -> str:
    """A code as text, by which codes are compared; empty for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    text = text.removesuffix(".0")
    return (text.lstrip("0") or "0") if text.isascii() and text.isdecimal() else "" if text in ("<NA>", "NaT") else text


def read_crop_codes(path: Path | str, table: ClassTable) -> CropCodes:
    """Read a table of codes for the classes of ``table``. Raises ``ParcelsError``."""
    path = Path(path)
    rows = read_rows(path)
    found: dict[str, int] = {}
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        code, name = (row.get("code") or "").strip(), (row.get("class") or "").strip()
        if not code and not name:
            continue
        class_id = _class_id(name, table, f"line {number} of {path}")
        if first.setdefault(plain_code(code), class_id) != class_id:
            raise ParcelsError(
                f"line {number} of {path}: code {code} is {table[class_id].name} here and "
                f"{table[first[plain_code(code)]].name} above",
                "one class a code",
                "take one of the lines out",
            )
        found[code] = class_id
    if not found:
        raise ParcelsError(f"{path} has no line", "a code and a class on each", "write them")
    return CropCodes(found)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The lines of a table of codes, classes unchecked. Raises ``ParcelsError``."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ParcelsError(f"{path} has {path.stat().st_size} bytes", "a table of crop codes", "check the path")
        lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
        delimiter = max(",;\t", key=lines[0].count)
        columns = [name.strip() for name in next(csv.reader(lines[:1], delimiter=delimiter), [])]
        rows = list(csv.DictReader(lines[1:], columns, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParcelsError(f"{path} cannot be read ({reason})", "a CSV with columns code and class", "check it") from error
    if not {"code", "class"} <= set(columns):
        raise ParcelsError(
            f"{path} has the columns {', '.join(columns)}", "code and class", "name them so: code,class in the first line"
        )
    return rows


def _class_id(text: str, table: ClassTable, where: str) -> int:
    """The class that a number or a name means."""
    names = {entry.name.casefold(): entry.id for entry in table.classes}
    if text.casefold() in names:
        return names[text.casefold()]
    if text.isascii() and text.isdecimal() and int(text) in names.values():
        return int(text)
    close = difflib.get_close_matches(text.casefold(), names, n=1)
    raise ParcelsError(
        f"{where}: {text!r} is no class of {table.name}",
        f"the number or name of one: {', '.join(f'{entry.id} {entry.name}' for entry in table.classes)}",
        f"did you mean {close[0]}?" if close else "correct the line",
    )
