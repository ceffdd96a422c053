"""Find the encoding of the table (.dbf) of a Shapefile, which often does not state it."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np

from panoseg.text_files import shortened

_HEADER_BYTES = 32
_LANGUAGE = 29
_UNKNOWN = (0x00, 0x57)
"""Language drivers that say nothing: none, and "the computer's own"."""
_CHUNK = 100_000
_MOST_VALUES = 20_000


def dbf_encoding(
    shapefile: Path, named: Path, encoding: str | None
) -> tuple[str | None, list[str]]:
    """Return the encoding with which to read a Shapefile, and notes for the user.

    Without a statement, text that can be UTF-8 is UTF-8; other text is read as CP1252, and a note
    shows how it reads then.

    Args:
        shapefile: The .shp.
        named: What the user passed, for the note.
        encoding: What the user says.

    Returns:
        The encoding, or None for the one that the file states.
    """
    if encoding is not None:
        return encoding, []
    beside = {path.suffix.lower(): path for path in _siblings(shapefile)}
    if ".dbf" not in beside or (".cpg" in beside and _is_known(beside[".cpg"])):
        return None, []
    try:
        language, values = _values(beside[".dbf"])
    except (OSError, ValueError, IndexError):  # damaged: GDAL says how
        return None, []
    if not values or (language not in _UNKNOWN and not _all_utf8(values)):
        return None, []
    if _all_utf8(values):
        return "utf-8", []
    try:
        text, name = values[0].decode("cp1252"), "cp1252"
        for value in values:
            value.decode("cp1252")
    except UnicodeDecodeError:
        text, name = values[0].decode("latin-1"), "latin-1"
    return name, [
        f"{named} does not state the encoding of its text, which was read as {name}, e.g."
        f" {shortened(text.strip(), 40)!r}. If that is wrong, pass --encoding, e.g. --encoding"
        " cp1251 (Cyrillic) or cp1250 (Czech, Slovak, Polish, Hungarian)."
    ]


def _is_known(cpg: Path) -> bool:
    """Return whether the file that states the encoding names one, such as UTF-8 or ANSI 1251."""
    try:
        name = cpg.read_bytes()[:100].decode("ascii").strip().casefold()
        number = name.removeprefix("ansi").removeprefix("oem").strip()
        codecs.lookup(f"cp{number}" if number.isdecimal() else name)
    except (OSError, ValueError, LookupError):
        return False
    return True


def _siblings(shapefile: Path) -> list[Path]:
    return [
        path
        for path in shapefile.parent.iterdir()
        if path.stem.casefold() == shapefile.stem.casefold() and path.is_file()
    ]


def _all_utf8(values: list[bytes]) -> bool:
    """Return whether all values are UTF-8; the last letter may be cut off by the field's width."""
    for value in values:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return False
    return True


def _values(path: Path) -> tuple[int, list[bytes]]:
    """Return the language driver of a table and its different values that are not ASCII."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        header_bytes = int.from_bytes(head[8:10], "little")
        record_bytes = int.from_bytes(head[10:12], "little")
        fields = file.read(max(header_bytes - _HEADER_BYTES, 0))
    if record_bytes < 2 or path.stat().st_size <= header_bytes:
        return head[_LANGUAGE], []
    columns, start = [], 1  # the first byte of a record says whether it is deleted
    found: set[bytes] = set()
    for place in range(0, len(fields) - 31, 32):
        if fields[place] == 0x0D:
            break
        width = fields[place + 16]
        if fields[place + 11 : place + 12] == b"C":
            columns.append(slice(start, start + width))
        start += width
        name = fields[place : place + 11].split(b"\0")[0]
        found |= {name} if not name.isascii() else set()
    data = np.memmap(path, np.uint8, "r", offset=header_bytes)
    records = data[: len(data) // record_bytes * record_bytes].reshape(-1, record_bytes)
    for first in range(0, len(records), _CHUNK):
        for column in columns:
            texts = np.ascontiguousarray(records[first : first + _CHUNK, column])
            foreign = texts[(texts >= 0x80).any(axis=1)]
            if len(foreign) and len(found) < _MOST_VALUES:
                found |= set(foreign.view(f"S{foreign.shape[1]}").ravel().tolist())
    return head[_LANGUAGE], [value.rstrip(b" \0") for value in sorted(found)]
