"""Coasts, borders and towns of the world: ``world.json.gz``, which ``tools/world.py`` makes."""

from __future__ import annotations

import gzip
import json
import math
import re
import unicodedata
from functools import cache, cached_property
from importlib import resources
from typing import Any

import numpy as np
import shapely

_EARTH_KM = 6371.0
_AT_KM, _FAR_KM, _COAST_DEGREES = 2.0, 300.0, 0.05
_PLAIN = str.maketrans(
    {"ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ø": "o", "þ": "th", "ð": "d"}
)  # letters that Unicode does not take apart
_WINDS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")


class World:
    """Towns, coasts and borders."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.unit: int = data["unit"]
        self.nations: dict[str, str] = data["nations"]
        self.names = [town[0] for town in data["towns"]]
        self.codes = [town[1] for town in data["towns"]]
        places = np.array([town[2:] for town in data["towns"]], float) / self.unit
        self.longitude_N, self.latitude_N = places.T
        self._arcs, self._countries = data["arcs"], data["countries"]

    @cached_property
    def folded(self) -> list[str]:
        """The names of the towns without accents and capitals."""
        return [fold(name) for name in self.names]

    @cached_property
    def land(self) -> shapely.STRtree:
        """The outlines of the countries."""
        arcs = [np.array(arc).reshape(-1, 2).cumsum(0) / self.unit for arc in self._arcs]
        polygons = []
        for _, rings in self._countries:
            for ring in rings:
                line = np.concatenate([arcs[at] if at >= 0 else arcs[~at][::-1] for at in ring])
                if len(line) >= 4:
                    polygons.append(shapely.make_valid(shapely.Polygon(line)))
        return shapely.STRtree(polygons)

    def at_sea(self, latitude: float, longitude: float) -> bool:
        """Return whether a place lies in the sea, more than a few kilometres from any coast."""
        place = shapely.Point(longitude, latitude)
        return not len(self.land.query(place, predicate="dwithin", distance=_COAST_DEGREES))

    def town(self, at: int) -> str:
        """Return a town with its country."""
        return f"{self.names[at]}, {self.nations.get(self.codes[at], self.codes[at])}"

    def near(self, latitude: float, longitude: float) -> str:
        """Say where a place is: the nearest town, and whether it is in the sea."""
        up, across = np.radians(self.latitude_N), np.radians(self.longitude_N - longitude)
        here = math.radians(latitude)
        half = np.sin((up - here) / 2) ** 2 + math.cos(here) * np.cos(up) * np.sin(across / 2) ** 2
        nearest = int(half.argmin())
        km = 2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, float(half[nearest]))))
        sea = self.at_sea(latitude, longitude)
        if km > _FAR_KM:
            return "in the sea, far from any town" if sea else "far from any town"
        east = math.sin(-across[nearest]) * math.cos(here)
        wind = math.degrees(math.atan2(east, here - up[nearest]))
        where = (
            f"near {self.town(nearest)}"
            if km < _AT_KM
            else f"{km:.0f} km {_WINDS[round(wind / 45) % 8]} of {self.town(nearest)}"
        )
        return f"in the sea, {where}" if sea else where


@cache
def world_bytes() -> bytes:
    """Return the map of the world, JSON compressed by gzip, as browsers take it."""
    return (resources.files("panoseg.app") / "world.json.gz").read_bytes()


@cache
def world() -> World:
    """Return the towns, coasts and borders."""
    return World(json.loads(gzip.decompress(world_bytes())))


def fold(name: str) -> str:
    """Return a name without accents, capitals and punctuation, as names are compared.

    >>> fold("Saint-Étienne")
    'saint etienne'
    >>> fold("ŁÓDŹ"), fold("Tromsø"), fold("Diyarbakır"), fold("Gießen")
    ('lodz', 'tromso', 'diyarbakir', 'giessen')
    """
    letters = unicodedata.normalize("NFKD", name).casefold().translate(_PLAIN)
    plain = "".join(sign for sign in letters if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", " ", plain).strip()
