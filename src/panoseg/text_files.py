"""Read small files of users, such as tables and JSON: of bounded size, in any usual encoding.

Nothing else reads such files, so that a device, a pipe, a file without end, deep nesting and huge
numbers are refused for all of them.

Text is UTF-8 or UTF-16 where it can be; otherwise it has the encoding that the user names, or that
of Windows in western Europe (CP1252), which Excel writes.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseg.errors import ConfigError, PanosegError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATOR_LINE = re.compile(r"\"?sep=(.)\"?[\t ]*(\r\n|\r|\n)", re.IGNORECASE)
_DELIMITERS = ",;\t|"
_LONGEST_SHOWN = 80
LARGEST_JSON = 16 * 1024**2
"""Bytes of a JSON file, unless its reader allows more; most have a few thousand."""
_LONGEST_NUMBER = 300


@dataclass(frozen=True)
class Text:
    """The text of a file."""

    text: str
    """The text, without a byte order mark."""
    encoding: str
    """Its encoding."""
    guessed: bool
    """Whether neither the file nor the user says that it has this encoding."""


def shortened(value: object, most: int = _LONGEST_SHOWN) -> str:
    """Return a value for a message, on one line and cut to ``most`` characters.

    >>> shortened("9" * 5000, 12)
    '99999999999…'
    """
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(values: list[str], most: int = 3) -> str:
    """Return the first values of a list for a message.

    >>> listed(["a", "b", "c", "d"])
    'a, b, c, ..'
    """
    return ", ".join([*(shortened(value, 40) for value in values[:most]), ".."][: len(values)])


def reason_of(error: BaseException) -> str:
    """Return what an exception of any library says, in a few words."""
    text = getattr(error, "strerror", None) or str(error).strip()
    lines = str(text).splitlines() or [type(error).__name__]
    return shortened(lines[0].split("; It might help")[0].rstrip("."), 160)


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file of at most ``most_bytes``.

    Raises:
        PanosegError: It is missing, no regular file, or larger.
    """
    try:
        return _regular_bytes(path, most_bytes)
    except ValueError as error:
        raise PanosegError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise PanosegError(f"{path} cannot be read ({reason_of(error)}). Check the path.") from (
            error
        )


def _regular_bytes(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file; ``ValueError``, in sentences, says what is wrong with it."""
    if "\0" in str(path):
        raise ValueError("its name has a character NUL. Check the path.")
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"it is {kind}. Pass a file.")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)  # the size that it states may be wrong
        size = max(os.fstat(file.fileno()).st_size, len(data))
    if len(data) > most_bytes:
        raise ValueError(f"it has {size:,} bytes, too many for such a file. Check the path.")
    return data


def read_json(path: Path, most_bytes: int = LARGEST_JSON) -> Any:  # noqa: ANN401
    """Return the value in a JSON file.

    Args:
        path: A regular file.
        most_bytes: Its most bytes.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is no regular file, larger, or no JSON, see ``json_of``.
    """
    return json_of(_regular_bytes(path, most_bytes))


def json_of(text: str | bytes) -> Any:  # noqa: ANN401
    """Return the value of JSON text, from UTF-8, UTF-16 or UTF-32 if it is in bytes.

    >>> json_of('{"mean": [1, 2.5]}')
    {'mean': [1, 2.5]}

    Raises:
        ValueError: The text is no JSON, is nested too deeply, or has a number that no computation
            can use; the message is short and has no full stop.
    """
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite)
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deeply or too large") from error
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(reason_of(error)) from error


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"the number {shortened(digits, 20)} is too large")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {shortened(digits, 20)} is too large")
    return value


def decode(data: bytes, encoding: str | None = None) -> Text:
    """Return bytes as text.

    Args:
        data: The content of a file, or its beginning.
        encoding: The encoding of text that is neither UTF-8 nor UTF-16; CP1252 if it is None.

    Raises:
        ConfigError: There is no encoding of that name.
        ValueError: The bytes are no text, or have another encoding than the user says.
    """
    check_encoding(encoding)
    for mark, name in _MARKS:
        if data.startswith(mark):
            return Text(_decoded(data, name), name, False)
    if b"\0" in data:
        # Text in UTF-16 without a mark: every other byte of ASCII is NUL.
        half = len(data) // 4
        for name, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
            if half and high.count(0) > half and len(data) % 2 == 0:
                return Text(_decoded(data, name), name, False)
        raise ValueError("it is not text")
    try:
        return Text(data.decode("utf-8"), "utf-8", False)
    except UnicodeDecodeError:
        pass
    if encoding is not None:
        return Text(_decoded(data, encoding), encoding, False)
    try:
        return Text(data.decode("cp1252"), "cp1252", True)
    except UnicodeDecodeError:
        return Text(data.decode("latin-1"), "latin-1", True)


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"its text is not in {encoding}") from error


def check_encoding(encoding: str | None) -> None:
    """Raise ``ConfigError`` if there is no text encoding of a name."""
    try:
        if encoding is not None:
            codecs.lookup(encoding)
            "".encode(encoding)
    except (LookupError, ValueError, TypeError) as error:
        raise ConfigError(
            f"--encoding {shortened(encoding, 40)!r} is not known; write it as in utf-8, cp1251 or"
            " iso-8859-2."
        ) from error


def read_text(path: Path, most_bytes: int, encoding: str | None = None) -> Text:
    """Read a small text file, see ``read_bytes`` and ``decode``; raises ``PanosegError``."""
    data = read_bytes(path, most_bytes)
    try:
        return decode(data, encoding)
    except ValueError as error:
        raise PanosegError(
            f"{path} cannot be read: {error}. Save it as UTF-8, or name its encoding with"
            " --encoding."
        ) from error


@dataclass(frozen=True)
class TextTable:
    """A table of text (CSV)."""

    columns: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[dict[str, str], ...]
    """Values by column, without surrounding spaces; rows without any value are left out."""
    lines: tuple[int, ...]
    """Number of the line in which each row ends."""


def table_of(text: str, longest: int = 131_072) -> TextTable:
    r"""Read a table whose first line names its columns.

    Its values are separated by what that line has most of: commas, semicolons, tabs or bars. A line
    before it such as ``sep=;``, which Excel understands, names the separator.

    >>> table_of('sep=;\ncode;"class"\n0110; corn \n').rows
    ({'code': '0110', 'class': 'corn'},)

    Args:
        text: The table.
        longest: Most characters of a value.

    Raises:
        ValueError: The text is no table.
    """
    named = _SEPARATOR_LINE.match(text)
    head = (text[named.end() :] if named else text).lstrip("\r\n").split("\n", 1)[0]
    delimiter = named[1] if named else max(_DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: tuple[str, ...] = ()
    rows, lines = [], []
    before = csv.field_size_limit(longest)
    try:
        for line in reader:
            values = [value.strip() for value in line]
            if not any(values) or (named and reader.line_num == 1):
                continue
            if not columns:
                columns = tuple(values)
                continue
            if any(values[len(columns) :]):
                raise ValueError(
                    f"line {reader.line_num} has {len(values)} values, and the first line names"
                    f" {len(columns)} columns; a value with {delimiter!r} in it needs quotes"
                )
            values += [""] * (len(columns) - len(values))
            rows.append(dict(zip(columns, values, strict=False)))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(before)
    return TextTable(columns, tuple(rows), tuple(lines))
