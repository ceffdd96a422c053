"""COCO's JSON files, of any size: one pass finds where the rows of each image are in the file.

A row is read when it is needed. Memory grows with the number of rows (16 bytes each, a few hundred
per image), not with their length.

Source: the formats of panoptic, detection and image files as cocodataset/panopticapi @ 7bb4655
reads and writes them.
"""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from codecs import BOM_UTF8, utf_8_decode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from panoseg.errors import PanopticFormatError
from panoseg.files import atomic

ImageId = int | str
_Row = tuple[str, int, Any, int, int]  # name of the array, index, value, first byte, byte after it

READ_BYTES = 2**20
"""Bytes read at once."""
MAX_VALUE_BYTES = 2**28
"""Of one value in an array."""
_MOST_CATEGORIES = 2**16
_ARRAYS = ("images", "annotations", "categories")
_LONGEST_SHOWN = 40
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, eq=False)
class CocoJson:
    """The index of one of COCO's JSON files.

    Spans are pairs of the first byte of a value and the byte after it.
    """

    path: Path
    """The file."""
    images: Mapping[ImageId, array[int]]
    """Span of the entry of each image; several where an image is listed several times."""
    annotations: Mapping[ImageId, array[int]] | None
    """Spans of the annotations of each image; None if the file has no annotations."""
    categories: tuple[Any, ...]
    """The categories as they stand in the file."""
    used_categories: Counter[int]
    """Number of annotations of each category, or of segments in a panoptic file."""
    crowds: Counter[int]
    """How many of them are crowds (iscrowd 1)."""
    spans: Mapping[str, tuple[int, int]]
    """Span of each value of the file."""
    problems: tuple[PanopticFormatError, ...]
    """Errors of rows that belong to no image; they are left out."""

    @classmethod
    def open(cls, path: Path | str, bare: str = "annotations") -> CocoJson:
        """Index a file.

        Args:
            path: The JSON file.
            bare: The key that an array stands for if the file consists of it alone.

        Raises:
            PanopticFormatError: The file cannot be read, or is not JSON.
        """
        path = Path(path)
        try:
            if not path.is_file():
                raise FileNotFoundError("no such file")
            with path.open("rb") as file:
                return _index(path, file, bare)
        except OSError as error:
            raise _no_json(path, error.strerror or str(error)) from error

    def rows(self, image_id: ImageId) -> tuple[bytes, ...]:
        """Return the annotations of an image as they stand in the file."""
        spans = (self.annotations or {}).get(image_id, ())
        return tuple(self._bytes(*span) for span in zip(spans[::2], spans[1::2], strict=True))

    def image(self, image_id: ImageId) -> dict[str, Any]:
        """Return the entry of an image.

        Raises:
            PanopticFormatError: The image has no entry, or several.
        """
        spans = self.images.get(image_id, ())
        if len(spans) != 2:
            raise PanopticFormatError(
                f"{self.path} has {len(spans) // 2} entries of image {shown(image_id)} among the"
                f" images{other_type(image_id, self.images)}; "
                "it needs exactly one."
            )
        return read_row(self._bytes(*spans))

    def value(self, key: str) -> bytes | None:
        """Return a value of the file as written there, None if the file does not have it."""
        return self._bytes(*self.spans[key]) if key in self.spans else None

    def _bytes(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@contextmanager
def write_rows(
    path: Path | str, head: Mapping[str, Any], key: str = "annotations"
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write a JSON object atomically whose last value is an array of rows.

    Args:
        path: The file.
        head: The other values; ``bytes`` are JSON already, None is left out.
        key: Key of the rows.

    Yields:
        A function that appends a row.
    """
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(b"{")
        for name, value in head.items():
            if value is not None:
                is_json = isinstance(value, bytes)
                content = value if is_json else json.dumps(value, allow_nan=False).encode()
                file.write(b"%s: %s,\n" % (json.dumps(name).encode(), content))
        file.write(b"%s: [" % json.dumps(key).encode())
        between = b"\n"

        def write(row: Mapping[str, Any]) -> None:
            nonlocal between
            file.write(between + json.dumps(row, allow_nan=False).encode())
            between = b",\n"

        yield write
        file.write(b"\n]}\n")


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Prefix the errors of the block with what they are about.

    Errors that values of a wrong type cause become ``PanopticFormatError`` too.
    """
    try:
        yield
    except PanopticFormatError as error:
        raise PanopticFormatError(f"{subject}: {error}") from error
    except KeyError as error:
        raise PanopticFormatError(f"{subject}: no {error} is given.") from error
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise PanopticFormatError(f"{subject}: {str(error).rstrip('.')}.") from error


def read_row(text: bytes) -> dict[str, Any]:
    """Decode a row of a file. Raises ``ValueError`` if a number is not finite.

    Whether the row is an object is not checked: using another value raises an error that ``about``
    reports.
    """
    row: dict[str, Any] = _STRICT_DECODER.decode(text.decode())
    return row


def shown(value: object) -> str:
    """Return a value as JSON shows it, at most forty characters.

    >>> shown(1), shown("1"), shown(None), shown([1.5, True])
    ('1', '"1"', 'null', '[1.5, true]')
    """
    if isinstance(value, list | tuple | str):
        value = value[:_LONGEST_SHOWN]  # the rest would be cut
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 4]} …"


def other_type(wanted: object, known: Collection[Any]) -> str:
    """Say that a value is known as the other of number and text; empty where it is not.

    >>> other_type(1, {"1": 0}), other_type("7", {7}), other_type(1, {2})
    (' (it has "1", a text, which is not 1)', ' (it has 7, a number, which is not "7")', '')
    """
    twins: list[Any] = []
    if type(wanted) is int:
        twins = [str(wanted), f"{wanted:012d}"]
    elif isinstance(wanted, str) and wanted.isascii() and wanted.isdigit() and len(wanted) < 19:
        twins = [int(wanted)]
    for twin in twins:
        if twin in known:
            kind = "a text" if isinstance(twin, str) else "a number"
            return f" (it has {shown(twin)}, {kind}, which is not {shown(wanted)})"
    return ""


def is_crowd(row: Mapping[str, Any]) -> bool:
    """Return whether an annotation or segment stands for many objects.

    Raises:
        ValueError: ``iscrowd`` is neither 0 nor 1.
    """
    value = row.get("iscrowd")
    if value is None or value in (0, 1):
        return value == 1
    raise ValueError(f"iscrowd {shown(value)} of {shown(row.get('id'))} is neither 0 nor 1")


def whole_number(row: Mapping[str, Any], key: str, lowest: int, highest: int) -> int:
    """Return an integer of a row.

    Raises:
        KeyError: The row does not have the key.
        PanopticFormatError: The value is not an integer, or out of bounds.

    >>> whole_number({"id": 7}, "id", 1, 9)
    7
    """
    value = row[key]
    if type(value) is not int or not lowest <= value <= highest:  # True is an int
        raise PanopticFormatError(
            f"{key} {shown(value)} is not a whole number {lowest} .. {highest}."
        )
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_LENIENT_DECODER = json.JSONDecoder()
_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


class _Reader:
    """Reads a JSON file value by value through a window, which grows for a long value.

    ``byte`` is the position of the next character, ``row`` says in words which row is read.
    """

    row = ""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._length = file, os.fstat(file.fileno()).st_size
        self.byte = len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
        self._fill(READ_BYTES)

    def next(self) -> str:
        """Return the next character that is not a space, empty at the end."""
        while True:
            found = _SPACE.match(self._window, self._at)
            self._advance(found.end() if found else self._at)
            if self._at < len(self._window) or self._is_last:
                return self._window[self._at : self._at + 1]
            self._fill(READ_BYTES)

    def skip(self, wanted: str) -> str:
        """Skip the next character and return it; it must be one of ``wanted``."""
        found = self.next()
        if not found or found not in wanted:
            raise ValueError(
                f"{repr(found) if found else 'the end'} where {' or '.join(wanted)} belongs"
            )
        self._advance(self._at + 1)
        return found

    def value(self) -> tuple[Any, int, int]:
        """Return the next value, its first byte and the byte after it."""
        self.next()
        start, size = self.byte, READ_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                # A number may continue behind the window.
                if end < len(self._window) or self._is_last:
                    self._advance(end)
                    return value, start, self.byte
            except json.JSONDecodeError:
                if self._is_last:
                    raise
            except ValueError as error:  # a constant; the key that has it is found, if possible
                try:
                    value, _ = _LENIENT_DECODER.raw_decode(self._window, self._at)
                except ValueError:
                    if self._is_last:
                        raise error from None
                else:
                    raise ValueError(f"{_constant_key(value)}{error}") from error
            if size > MAX_VALUE_BYTES:
                raise ValueError(f"a value of more than {MAX_VALUE_BYTES} bytes")
            self._fill(size)
            size *= 2

    def _fill(self, size: int) -> None:
        self._file.seek(self.byte)
        self._is_last = self.byte + size >= self._length
        self._window, _ = utf_8_decode(self._file.read(size), "strict", self._is_last)
        self._at = 0

    def _advance(self, to: int) -> None:
        passed = self._window[self._at : to]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = to


def _constant_key(value: Any, key: str = "") -> str:  # noqa: ANN401
    """Return the key of the first number that is not finite, and its id if it has one."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{key} " if key else ""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for name, entry in inner:
        part = f"[{name}]" if isinstance(name, int) else f".{name}" if key else str(name)
        found = _constant_key(entry, key + part)
        if found:
            number = value.get("id") if isinstance(value, dict) else None
            return found if number is None or key else f"(id {shown(number)}): {found}"
    return ""


def _index(path: Path, file: BinaryIO, bare: str) -> CocoJson:
    """Index an open file; see ``CocoJson.open``."""
    images: dict[ImageId, array[int]] = {}
    annotations: dict[ImageId, array[int]] = {}
    categories: list[Any] = []
    used: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    problems: list[PanopticFormatError] = []
    spans: dict[str, tuple[int, int]] = {}
    for key, number, row, start, stop in _rows(path, file, bare, spans):
        if key == "categories":
            categories.append(row)
            if len(categories) > _MOST_CATEGORIES:
                raise _no_json(path, f"more than {_MOST_CATEGORIES} categories")
        elif key in ("images", "annotations"):
            index, name = (images, "id") if key == "images" else (annotations, "image_id")
            image_id = row.get(name) if isinstance(row, dict) else None
            if key == "annotations":
                _count(row, used, crowds)
            if isinstance(image_id, int | str) and type(image_id) is not bool:
                index.setdefault(image_id, array("q")).extend((start, stop))
            else:
                problems.append(
                    PanopticFormatError(
                        f"{path}: row {number} of the {key} has no {name}; add it, or remove the "
                        "row."
                        if image_id is None
                        else f"{path}: row {number} of the {key} has the {name}"
                        f" {shown(image_id)}, which is neither a whole number nor a text; correct"
                        " it, or remove the row."
                    )
                )
    found = annotations if "annotations" in spans else None
    return CocoJson(path, images, found, tuple(categories), used, crowds, spans, tuple(problems))


def _count(row: Any, used: Counter[int], crowds: Counter[int]) -> None:  # noqa: ANN401
    """Count an annotation, or the segments of a panoptic one, which may be any JSON value."""
    segments = row.get("segments_info", [row]) if isinstance(row, dict) else None
    for segment in segments if isinstance(segments, list) else ():
        if isinstance(segment, dict) and type(segment.get("category_id")) is int:
            used[segment["category_id"]] += 1
            crowds[segment["category_id"]] += segment.get("iscrowd") == 1


def _rows(
    path: Path, file: BinaryIO, bare: str, spans: dict[str, tuple[int, int]]
) -> Iterator[_Row]:
    """Yield the rows of all arrays of a file, and add the span of each whole value to ``spans``."""
    reader = None
    try:
        reader = _Reader(file)
        if reader.next() == "[":
            yield from _array(reader, bare, spans)
        else:
            yield from _object(reader, spans)
        if reader.next():
            raise ValueError("there is more behind the end")
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, json.JSONDecodeError):
            reason = error.msg  # without its place in the window
        at, row = (reader.byte, reader.row) if reader else (0, "")
        where = f"in {row}, which begins" if row else "in the value that begins"
        raise _no_json(path, f"{reason}, {where} at byte {at}") from error


def _object(reader: _Reader, spans: dict[str, tuple[int, int]]) -> Iterator[_Row]:
    reader.skip("{")
    while reader.next() != "}":
        key, _, _ = reader.value()
        if not isinstance(key, str) or key in spans:
            raise ValueError(f"{str(key)[:40]!r} is not a name, or occurs twice")
        reader.skip(":")
        if reader.next() == "[":
            yield from _array(reader, key, spans)
        elif key in _ARRAYS:
            raise ValueError(f"{key} are not an array")
        else:
            _, start, stop = reader.value()
            spans[key] = (start, stop)
        if reader.next() != "}":
            reader.skip(",")
    reader.skip("}")


def _array(reader: _Reader, key: str, spans: dict[str, tuple[int, int]]) -> Iterator[_Row]:
    first, number = reader.byte, 0
    reader.skip("[")
    while reader.next() != "]":
        reader.row = f"row {number} of {shown(key)}"
        yield key, number, *reader.value()
        reader.row = ""
        number += 1
        if reader.next() != "]":
            reader.skip(",")
    reader.skip("]")
    spans[key] = (first, reader.byte)


def _no_json(path: Path, reason: str) -> PanopticFormatError:
    return PanopticFormatError(f"{path}: {reason}; it cannot be read as a JSON file of COCO's.")
