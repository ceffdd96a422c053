"""What a person writes for a place: coordinates in all usual notations, and names of towns.

Everything is understood without a server.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, unquote, urlsplit

from pyproj import Transformer
from pyproj.exceptions import ProjError

from panoseg.app.world import World, fold, world
from panoseg.errors import AreaError

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; east is above 180 where the box crosses that meridian."""

_NORTHERNMOST, _SOUTHERNMOST = 84.0, -80.0  # where UTM, and so Sentinel-2's grid, ends
_WIDEST_DEGREES = 90.0  # of a box across 180 degrees; a wider one has its sides exchanged
_TOWN_DEGREES = 0.15  # to each side of a town
_MOST_TOWNS, _MOST_CHARACTERS = 6, 2000
_NATIONS = {"uk": "gb", "usa": "us"}  # what many write for the codes
WAYS = (
    "Write it as 51.05, 3.72 (latitude first), 51°03'N 3°43'E, west, south, east, north, UTM (31U"
    " 550000 5650000), an MGRS tile (31UES), a Plus code, a link of a web map, or the name of a"
    " town."
)


class UnknownNameError(AreaError):
    """A name that no town of the map has; a server for names may know it."""


@dataclass(frozen=True)
class Place:
    """A place that a text describes."""

    latitude: float
    """Latitude of its middle in degrees."""
    longitude: float
    """Longitude of its middle in degrees, -180..180."""
    understood: str
    """How the text was understood."""
    box: Box | None = None
    """Its extent, if it has one."""
    only_view: bool = False
    """Whether the extent is only shown, as it is too large for one map or has no clear border."""
    exchanged: tuple[float, float] | None = None
    """Latitude and longitude if the text has them in the other order, which it does not say."""


def read_place(text: str, *, whole: bool = False) -> Place:
    """Understand a place.

    Args:
        text: Coordinates, a link of a web map, or the name of a town.
        whole: Whether the whole name of a town is needed, not only its beginning.

    Raises:
        UnknownNameError: The text is a name, and no town has it.
        AreaError: The text cannot be understood, or the place is not on the map.

    >>> read_place("33.9 S, 18.4 W").understood
    '33.9000° S, 18.4000° W'
    """
    if len(text) > _MOST_CHARACTERS:
        raise AreaError("This is too long for a place. " + WAYS)
    is_link = "://" in text or text.lower().startswith(("geo:", "www.", "maps."))
    try:
        if is_link:
            return _from_link(text.strip())
        plain = _plain(text)
        place = _from_grid(plain) or _from_plus_code(plain)
        if place is None and not any(sign.isdigit() for sign in plain):
            return _from_name(text, whole)
        return place or _from_degrees(plain, text)
    except UnknownNameError as error:
        # A link is no name, even if a part of it is one.
        if is_link:
            raise AreaError(str(error)) from error
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise _not_understood(text) from error


def _plain(text: str) -> str:
    """Return the text in capitals, with one kind of minus, degree sign, quote and space."""
    signs = {"º": "°", "˚": "°", "−": "-", "–": "-", "—": "-", "\u00a0": " ", "\u202f": " "}
    signs |= dict.fromkeys("′’‘ʹ´`ʼ", "'") | dict.fromkeys("″”“ʺ", '"')
    plain = "".join(signs.get(sign, sign) for sign in text).replace("''", '"').upper()
    return re.sub(r"\s+", " ", plain).strip().strip("()[]").strip()


def _at(latitude: float, longitude: float, note: str = "") -> Place:
    """Return the place with these coordinates, or raise ``AreaError``."""
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise AreaError(
            f"There is no place with the latitude {latitude:g} and the longitude {longitude:g}."
            " Latitudes end at 90, longitudes at 180; check their order."
        )
    if not _SOUTHERNMOST <= latitude <= _NORTHERNMOST:
        raise AreaError(
            f"The latitude {latitude:g} lies too near a pole: maps end at {_SOUTHERNMOST:g} and"
            f" {_NORTHERNMOST:g}."
        )
    understood = f"{in_letters(latitude, longitude)}{note}"
    return Place(latitude, longitude, understood)


def in_letters(latitude: float, longitude: float) -> str:
    """Return coordinates with the letters of their hemispheres.

    >>> in_letters(-33.9, 18.4)
    '33.9000° S, 18.4000° E'
    """
    north, east = "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"
    return f"{abs(latitude):.4f}° {north}, {abs(longitude):.4f}° {east}"


# -- degrees

_WORDS = {"NORTH": "N", "NORD": "N", "NORTE": "N", "SOUTH": "S", "SUD": "S", "SÜD": "S"}
_WORDS |= {"SUR": "S", "EAST": "E", "EST": "E", "ESTE": "E", "OST": "E", "WEST": "W"}
_WORDS |= {"OUEST": "W", "OESTE": "W", "LATITUDE": "Y", "LAT": "Y", "BREITE": "Y"}
_WORDS |= {"LONGITUDE": "X", "LON": "X", "LONG": "X", "LNG": "X", "LÄNGE": "X"}
_AXES = {"N": "Y", "S": "Y", "E": "X", "W": "X", "Y": "Y", "X": "X"}
_TOKEN = re.compile(r"\s*([-+]?\d+(?:\.\d+)?|[°'\"]|[NSEWXY]|[,;/|])")


def _from_degrees(plain: str, text: str) -> Place:
    """Return the place of coordinates in degrees."""
    tokens = _tokens(plain, text)
    letters = [token for token in tokens if token in _AXES]
    if any(token in "NSEW" for token in letters):
        tokens = [token for token in tokens if token not in "XY"]
        letters = [token for token in letters if token not in "XY"]
    if letters:
        return _lettered(tokens, letters, text)
    groups = _groups(tokens, text)
    if len(groups) == 4:
        return _box([_degrees(group, text) for group in groups])
    if len(groups) != 2:
        raise _not_understood(text)
    first, second = (_degrees(group, text) for group in groups)
    if abs(first) > 90 >= abs(second):
        return _at(second, first, ", longitude first")
    place = _at(first, second)
    possible = _SOUTHERNMOST <= second <= _NORTHERNMOST
    return replace(place, exchanged=(second, first)) if possible and first != second else place


def _tokens(plain: str, text: str) -> list[str]:
    """Split a text into numbers, marks, letters and separators."""
    plain = re.sub(r"[^\W\d_]{2,}", lambda word: _WORDS.get(word[0], word[0]), plain)
    plain = re.sub(r"([XY])\s*[:=]", r"\1 ", plain.replace("DEG", "D").replace("MIN", "M"))
    plain = re.sub(r"(\d)\s*:\s*(\d+)(?:\s*:\s*([\d.,]+))?", r"\1° \2' \3", plain)
    if re.search(r"\d\s*D", plain):
        plain = re.sub(r"(\d)\s*D\.?", r"\1°", plain)
        plain = re.sub(r"(\d)\s*M\.?", r"\1'", plain)
        plain = re.sub(r"('\s*[\d.,]+)\s*S(?:EC)?\.?", r'\1"', plain)
    plain = _decimal_points(plain, text)
    tokens, at = [], 0
    while at < len(plain.rstrip()):
        found = _TOKEN.match(plain, at)
        if found is None:
            if re.search(r"\d[°'\"\s]*O\b|\bO\s*\d", plain):
                raise AreaError(
                    f"{text.strip()[:60]!r}: O is east in German and west in French; write E or W."
                )
            raise _not_understood(text)
        tokens.append(found[1])
        at = found.end()
    return tokens


def _decimal_points(plain: str, text: str) -> str:
    """Write decimal commas as points; a comma between whole numbers separates them."""
    pairs = len(re.findall(r"\d,(?=\d)", plain))
    if not pairs or re.search(r"\d\.\d", plain):
        return plain
    if re.search(r",\s|[;/|NSEW°]|\d\s+[-+]?\d", plain):
        return re.sub(r"(\d),(\d)", r"\1.\2", plain)
    if pairs == 3:
        west, south, east, north = (float(number) for number in plain.split(","))
        if not (west < east and south < north):
            raise AreaError(
                f"{text.strip()[:60]!r} can be four numbers or two with decimal commas; write"
                " decimal points, or a space after the comma between two numbers."
            )
    return plain


def _groups(tokens: list[str], text: str) -> list[list[str]]:
    """Split tokens without letters into the numbers of each coordinate."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token in ",;/|":
            parts.append([])
        else:
            parts[-1].append(token)
    parts = [part for part in parts if part]
    if len(parts) != 1:
        return parts
    [part] = parts
    starts = [at - 1 for at, token in enumerate(part) if token == "°" and at]
    if len(starts) == 2:
        return [part[: starts[1]], part[starts[1] :]]
    if set(part) & set("°'\""):
        raise _not_understood(text)
    if len(part) == 6:
        return [part[:3], part[3:]]
    return [[number] for number in part]


def _degrees(group: list[str], text: str) -> float:
    """Return degrees of a group of degrees, minutes and seconds."""
    numbers = [token for token in group if token not in "°'\""]
    marks = [token for token in group if token in "°'\""]
    if not 1 <= len(numbers) <= 3 or marks != list("°'\"")[: len(marks)]:
        raise _not_understood(text)
    values = [abs(float(number)) for number in numbers]
    whole = all(value == int(value) for value in values[:-1])
    signs = [number[0] in "+-" for number in numbers[1:]]
    if not whole or any(signs) or any(value >= 60 for value in values[1:]):
        raise AreaError(
            f"{text.strip()[:60]!r} has minutes or seconds that do not exist; they are below 60,"
            " and only the last number has decimals."
        )
    degrees: float = sum(value / 60**at for at, value in enumerate(values))
    return -degrees if numbers[0].startswith("-") else degrees


def _lettered(tokens: list[str], letters: list[str], text: str) -> Place:
    """Return the place of coordinates with letters before or behind them."""
    tokens = [token for token in tokens if token not in ",;/|"]
    before = tokens[0] in _AXES
    named: dict[str, tuple[str, list[str]]] = {}
    group: list[str] = []
    rest: list[str] = []
    for token in tokens[::-1] if before else tokens:
        if token not in _AXES:
            group.append(token)
            continue
        if _AXES[token] in named:
            raise _not_understood(text)
        named[_AXES[token]] = token, group[::-1] if before else group
        group = []
    rest = group[::-1] if before else group
    if rest and len(named) == 1 and len(letters) == 1:
        named["X" if "Y" in named else "Y"] = "", rest
    elif rest or len(named) != 2:
        raise _not_understood(text)
    values = {}
    for axis, (letter, numbers) in named.items():
        value = _degrees(numbers, text)
        if f"{letter}{numbers[0][0]}" in ("N-", "E-", "S+", "W+"):
            raise AreaError(
                f"{text.strip()[:60]!r} has a sign that contradicts its letter {letter}; leave out"
                " one of them."
            )
        signed = letter in ("", "X", "Y")
        values[axis] = value if signed else abs(value) * (-1 if letter in "SW" else 1)
    return _at(values["Y"], values["X"])


def _box(sides: list[float]) -> Place:
    """Return the box with these sides: west, south, east, north."""
    west, south, east, north = sides
    if west > east and west - east > 360 - _WIDEST_DEGREES:
        east += 360  # it crosses the meridian of 180 degrees
    if not (-180 <= west < east <= 540 and south < north):
        raise AreaError(
            "Four numbers are a box: west, south, east, north. Here west is not left of east, or"
            " south not below north."
        )
    place = _at((south + north) / 2, ((west + east) / 2 + 180) % 360 - 180)
    for latitude in (south, north):
        _at(latitude, place.longitude)
    corners = in_letters(south, west), in_letters(north, (east + 180) % 360 - 180)
    return replace(
        place, understood=f"{corners[0]} to {corners[1]}", box=(west, south, east, north)
    )


def _not_understood(text: str) -> AreaError:
    return AreaError(f"{text.strip()[:60]!r} is not understood. {WAYS}")


# -- grids and codes


def _from_grid(plain: str) -> Place | None:
    """Return the place of UTM or MGRS coordinates, or None."""
    utm = re.fullmatch(
        r"(?:UTM\s*)?(?:ZONE\s*)?(\d{1,2})\s*([C-HJ-NP-X])[\s,;]+(?:E\s*)?(\d{5,6}(?:\.\d+)?)\s*"
        r"(?:M?E)?[\s,;]+(?:N\s*)?(\d{1,8}(?:\.\d+)?)\s*(?:M?N)?",
        plain,
    )
    if utm:
        return _from_utm(int(utm[1]), utm[2], float(utm[3]), float(utm[4]))
    compact = plain.removeprefix("MGRS").replace(" ", "").removeprefix(":")
    tile = re.fullmatch(r"T?(\d{1,2}[C-HJ-NP-X])([A-HJ-NP-Z]{2})(\d*)", compact)
    return _from_mgrs(f"{tile[1].zfill(3)}{tile[2]}", tile[3]) if tile else None


def _from_utm(zone: int, band: str, east: float, north: float) -> Place:
    if not 1 <= zone <= 60:
        raise AreaError(f"UTM has the zones 1 to 60, not {zone}.")
    # S is a band north of the equator, and what many write for the southern hemisphere.
    south = band < "N"
    latitude, longitude = _utm_degrees(zone, south, east, north)
    if band == "S" and not 31 <= latitude <= 41:
        latitude, longitude = _utm_degrees(zone, True, east, north)
    place = _at(latitude, longitude)
    return replace(place, understood=f"UTM zone {zone}: {place.understood}")


def _utm_degrees(zone: int, south: bool, east: float, north: float) -> tuple[float, float]:
    try:
        to_degrees = Transformer.from_crs((32700 if south else 32600) + zone, 4326)
        latitude, longitude = to_degrees.transform(east, north)
    except ProjError as error:
        raise AreaError("These UTM coordinates do not exist; check zone and numbers.") from error
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        raise AreaError("These UTM coordinates do not exist; check zone and numbers.")
    return latitude, longitude


def _from_mgrs(tile: str, digits: str) -> Place:
    from mgrs import MGRS
    from mgrs.core import MGRSError

    if len(digits) % 2 or len(digits) > 10:
        raise AreaError(
            f"An MGRS place has the same number of digits, at most five, for east and north;"
            f" {tile}{digits} has {len(digits)}."
        )
    try:
        grid = MGRS()
        half = len(digits) // 2
        side = 10 ** (5 - half)
        zone, hemisphere, east, north = grid.MGRSToUTM(f"{tile}{digits}")
    except MGRSError as error:
        raise AreaError(f"There is no MGRS square {tile}{digits}; check its letters.") from error
    south = hemisphere == "S"
    middle = _utm_degrees(zone, south, east + side / 2, north + side / 2)
    understood = f"{'tile' if not half else 'square'} {tile}{digits} of MGRS"
    place = _at(*middle)
    if half > 2:
        return replace(place, understood=f"{understood}: {place.understood}")
    corners = [
        _utm_degrees(zone, south, east + across, north + up)
        for across in (0, side)
        for up in (0, side)
    ]
    latitudes = [latitude for latitude, _ in corners]
    # A square at 180 degrees may have corners on both sides of it.
    middle_E = place.longitude
    longitudes = [(east_ - middle_E + 180) % 360 - 180 + middle_E for _, east_ in corners]
    if min(longitudes) < -180:
        longitudes = [longitude + 360 for longitude in longitudes]
    box = (min(longitudes), min(latitudes), max(longitudes), max(latitudes))
    return replace(place, understood=understood, box=box, only_view=half < 2)


def _from_plus_code(plain: str) -> Place | None:
    """Return the place of a Plus code, or None. A short one needs a town: "3PQC+5J Gent"."""
    from openlocationcode import openlocationcode

    found = re.match(r"([2-9CFGHJMPQRVWX0]{2,8}\+[2-9CFGHJMPQRVWX]{0,7})(?:[\s,]+(.*))?$", plain)
    if not found:
        return None
    code, town = found[1], found[2]
    if openlocationcode.isShort(code):
        towns = find_towns(town or "")
        if not towns:
            raise AreaError(f"The Plus code {code} is short: write a town behind it.")
        code = openlocationcode.recoverNearest(code, towns[0].latitude, towns[0].longitude)
    if not openlocationcode.isFull(code):
        raise AreaError(f"{code} is not a Plus code; check its letters.")
    area = openlocationcode.decode(code)
    place = _at(area.latitudeCenter, area.longitudeCenter)
    return replace(place, understood=f"Plus code {code}: {place.understood}")


# -- links of web maps

_NUMBER = r"(-?\d{1,3}(?:\.\d+)?)"
_IN_LINKS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"!3d{_NUMBER}!4d{_NUMBER}",  # Google: a place; the view is only near it
        rf"[?&#](?:q|query|destination|center|ll|sll|cp|daddr)=(?:loc:)?{_NUMBER}[,~_ +]+{_NUMBER}",
        rf"point\.{_NUMBER}_{_NUMBER}",  # Bing
        rf"[?&#]m?lat(?:itude)?={_NUMBER}&(?:.*&)?m?(?:lon|lng|longitude)={_NUMBER}",
        rf"/(?:place|search|dir)/{_NUMBER},[ +]*{_NUMBER}",
        rf"@{_NUMBER},{_NUMBER}",  # Google: the view
        rf"#(?:.*[=/])?\d{{1,2}}(?:\.\d+)?/{_NUMBER}/{_NUMBER}",  # OpenStreetMap
        rf"^geo:{_NUMBER},{_NUMBER}",
    )
)
_SHORTENED = ("goo.gl", "maps.app.goo.gl", "osm.org", "bit.ly", "binged.it", "t.co")


def _from_link(link: str) -> Place:
    """Return the place that the address of a web map contains; nothing is asked for it."""
    plain = unquote(link)
    for pattern in _IN_LINKS:
        found = pattern.search(plain)
        if found:
            return _at(float(found[1]), float(found[2]))
    parts = urlsplit(link if "://" in link else f"https://{link}")
    for name in ("q", "query"):
        for value in parse_qs(parts.query).get(name, []):
            return read_place(value.replace("://", " "))
    place = re.search(r"/(?:place|search)/([^/@]+)", plain)
    if place:
        return read_place(place[1].replace("+", " ").replace("://", " "))
    short = any((parts.hostname or "").endswith(name) for name in _SHORTENED)
    raise AreaError(
        "A short link does not contain its place. Open it, and copy the address that appears."
        if short
        else "This link contains no coordinates. " + WAYS
    )


# -- towns


def _from_name(text: str, whole: bool) -> Place:
    towns = find_towns(text, whole=whole)
    if towns:
        return towns[0]
    name = re.search(r"[^\W\d_]{3}", text)
    raise (UnknownNameError if name else AreaError)(
        f"No town is named {text.strip()[:60]!r}. {WAYS}"
    )


def find_towns(text: str, *, whole: bool = False) -> list[Place]:
    """Return the towns with a name, the largest first; those that begin with it if none has it.

    Args:
        text: The name, perhaps with its country behind a comma: "Gent", "Paris, US".
        whole: Whether the whole name is needed, not only its beginning.
    """
    name, _, country = text.partition(",")
    wanted, nation = fold(name), fold(country)
    nation = _NATIONS.get(nation, nation)
    if not wanted:
        return []
    known = world()

    def matches(at: int) -> bool:
        full = fold(known.nations.get(known.codes[at], ""))
        return not nation or nation in (known.codes[at].casefold(), full)

    found = [at for at, town in enumerate(known.folded) if town == wanted and matches(at)]
    if not found and not whole and len(wanted) > 2:
        found = [
            at for at, town in enumerate(known.folded) if town.startswith(wanted) and matches(at)
        ]
    return [_town(known, at) for at in found[:_MOST_TOWNS]]


def _town(known: World, at: int) -> Place:
    latitude, longitude = float(known.latitude_N[at]), float(known.longitude_N[at])
    east = _TOWN_DEGREES / math.cos(math.radians(latitude))
    box = (
        longitude - east,
        latitude - _TOWN_DEGREES,
        longitude + east,
        latitude + _TOWN_DEGREES,
    )
    return Place(latitude, longitude, known.town(at), box, only_view=True)
