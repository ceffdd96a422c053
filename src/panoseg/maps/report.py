"""What a report says of the parcels of a map of any size: sums, and the few parcels that it
shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import jinja2
import numpy as np
import pandas as pd
import shapely
import xarray as xr

import panoseg
from panoseg.classes import ClassTable
from panoseg.cube.open import reading
from panoseg.cube.season import Season
from panoseg.maps.compare import Comparison
from panoseg.maps.figures import (
    Curve,
    class_picture,
    clearest_date,
    ndvi_curve,
    svg_paths,
    true_colour,
)
from panoseg.maps.options import MapOptions
from panoseg.maps.rasters import background_class
from panoseg.models.weights import WeightsCard

MOST_OUTLINES = 6000
_EXAMPLES_A_CLASS = 6
_MOST_DOUBTS = 6


@dataclass(frozen=True)
class ClassSummary:
    """The parcels of a class: ``name``, their number, hectares, and mean confidence."""

    name: str
    count: int
    area_ha: float
    confidence: float


@dataclass(frozen=True)
class Doubt:
    """Two classes that the network finds hard to tell apart.

    area_ha: of parcels of the class ``name`` whose likeliest other class is ``second``, each times
    the probability of that: the hectares that are of ``second``, if the probabilities are right.
    """

    name: str
    second: str
    area_ha: float


@dataclass(frozen=True, eq=False)
class ParcelSummary:
    """The parcels of a map.

    count, area_ha, confidence (the mean, None without parcels). classes: those that occur, the one
    with the most land first.
    doubts: the pairs of classes with most hectares in doubt, at most 6. largest: the largest
    parcels, at most 6000, all of a small map. examples: the largest of each class.
    """

    count: int
    area_ha: float
    confidence: float | None
    classes: tuple[ClassSummary, ...]
    doubts: tuple[Doubt, ...]
    largest: gpd.GeoDataFrame
    examples: gpd.GeoDataFrame

    @property
    def complete(self) -> bool:
        """Whether ``largest`` holds every parcel."""
        return len(self.largest) == self.count

    def chosen(self, count: int) -> gpd.GeoDataFrame:
        """The largest parcel of each of the classes with the most land; then the next largest. At
        most ``count``.
        """
        by_size = self.examples.sort_values("area_ha", ascending=False, kind="stable")
        first = by_size.drop_duplicates("class").set_index("class", drop=False)
        names = [row.name for row in self.classes[:count]]
        others = by_size[~by_size["id"].isin(first.loc[names, "id"])]
        return pd.concat(
            [first.loc[names].reset_index(drop=True), others.iloc[: max(count - len(names), 0)]],
            ignore_index=True,
        )


def summarise(parts: Iterable[gpd.GeoDataFrame]) -> ParcelSummary:
    """Sum up parcels that come part by part, at least one part; none is kept whole."""
    sums: list[pd.DataFrame] = []
    doubts: list[pd.DataFrame] = []
    largest: list[gpd.GeoDataFrame] = []
    examples: list[gpd.GeoDataFrame] = []
    for part in parts:
        confidence = part["confidence"].astype(np.float64)
        sums.append(
            pd.DataFrame(
                {
                    "class": part["class"],
                    "count": 1,
                    "area_ha": part["area_ha"],
                    "confidence": confidence,
                }
            )
        )
        sums = [pd.concat(sums).groupby("class", as_index=False).sum()]
        doubt = part[["class", "second_class"]].assign(
            area_ha=part["area_ha"] * part["second_probability"]
        )
        doubts = [
            pd.concat([*doubts, doubt]).groupby(["class", "second_class"], as_index=False).sum()
        ]
        largest = [_largest([*largest, part], MOST_OUTLINES)]
        examples = [_largest([*examples, part], _EXAMPLES_A_CLASS, "class")]
        del part, confidence, doubt  # before the next one is read
    table = sums[0].sort_values("area_ha", ascending=False, kind="stable")
    rows = zip(table["class"], table["count"], table["area_ha"], table["confidence"], strict=True)
    classes = tuple(
        ClassSummary(name, int(count), float(area), float(total / count))
        for name, count, area, total in rows
    )
    count = sum(row.count for row in classes)
    confidence = float(table["confidence"].sum() / count) if count else None
    area_ha = float(table["area_ha"].sum())
    return ParcelSummary(
        count, area_ha, confidence, classes, _most(doubts[0]), largest[0], examples[0]
    )


def _most(doubts: pd.DataFrame) -> tuple[Doubt, ...]:
    """The pairs of classes with most hectares in doubt."""
    rows = doubts.sort_values("area_ha", ascending=False, kind="stable").head(_MOST_DOUBTS)
    columns = (rows["class"], rows["second_class"], rows["area_ha"])
    return tuple(
        Doubt(name, second, float(area)) for name, second, area in zip(*columns, strict=True)
    )


def _largest(
    parts: Sequence[gpd.GeoDataFrame], count: int, of_each: str | None = None
) -> gpd.GeoDataFrame:
    """The largest parcels of all parts, or of each value of a column, the largest first."""
    table = pd.concat(parts, ignore_index=True).sort_values(
        "area_ha", ascending=False, kind="stable"
    )
    return (
        table.head(count) if of_each is None else table.groupby(of_each).head(count)
    ).reset_index(drop=True)


_EXAMPLES = 6
_CURVE_WIDTH, _CURVE_HEIGHT = 300, 130


@dataclass(frozen=True)
class ReportContent:
    """What a report is made of.

    title: of the page. source: the cube's path, for messages. cube: checked, with the dates of
    ``season`` only. classes_path: the raster of classes, for maps of more parcels than can be drawn
    one by one. weights: where they came from, None for those in the package. notes: sentences that
    the reader should see first. comparison, truth and invented (the parcels that match no true
    one): all or none.
    """

    title: str
    source: Path
    cube: xr.Dataset
    season: Season
    parcels: ParcelSummary
    classes_path: Path
    card: WeightsCard
    weights: str | None
    options: MapOptions
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None
    truth: gpd.GeoDataFrame | None = None
    invented: gpd.GeoDataFrame | None = None


def render_report(content: ReportContent) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("panoseg.maps", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    place = clearest_date(content.season)
    with reading(content.source):
        picture = true_colour(content.cube, place)
    grid = content.cube.odc.geobox
    return environment.get_template("report.html.j2").render(
        title=content.title,
        version=panoseg.__version__,
        width=grid.shape[1],
        height=grid.shape[0],
        place=_place(content),
        harvest_year=content.season.harvest_year,
        picture=picture,
        picture_date=str(content.season.dates_T[place]),
        scale=_scale_bar(grid.shape[1]),
        outlines=_outlines(content),
        class_picture=_class_picture(content),
        classes=_class_rows(content.parcels, content.card.classes),
        doubts=_doubt_rows(content.parcels, content.card.classes),
        total_ha=content.parcels.area_ha,
        confidence=content.parcels.confidence,
        count=content.parcels.count,
        curves=_curves(content),
        season=_season(content.season),
        comparison=_comparison(content),
        provenance=_provenance(content),
        notes=content.notes,
    )


def _place(content: ReportContent) -> str:
    centre = content.cube.odc.geobox.extent.centroid.to_crs("EPSG:4326")
    longitude, latitude = centre.coords[0]
    return (
        f"{abs(latitude):.3f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.3f}°"
        f" {'E' if longitude >= 0 else 'W'}"
    )


def _scale_bar(width_pixels: int) -> dict[str, Any]:
    """A round length of about a quarter of the picture: its pixels and its words."""
    metres = max(
        digit * 10**power
        for digit in (1, 2, 5)
        for power in range(1, 7)
        if digit * 10**power <= max(50, width_pixels * 3)
    )
    return {
        "pixels": metres / 10,
        "text": f"{metres} m" if metres < 1000 else f"{metres // 1000} km",
    }


def _outlines(content: ReportContent) -> list[dict[str, Any]]:
    """Every parcel of a map that has not too many: path, colour, and what a pointer is told."""
    if not content.parcels.complete:
        return []
    shown = content.parcels.largest
    colours = _colours(content.card.classes)
    paths = svg_paths(
        np.asarray(shown.geometry.values, dtype=object), content.cube.odc.geobox.affine
    )
    return [
        {
            "path": path,
            "colour": colours[row["class"]],
            "text": (
                f"{row['class']}, {row['area_ha']:.2f} ha, confidence {row['confidence']:.2f},"
                f" parcel {row['id']}"
            ),
        }
        for path, (_, row) in zip(paths, shown.iterrows(), strict=True)
    ]


def _class_picture(content: ReportContent) -> str | None:
    """The raster of classes, where there are too many parcels to be drawn one by one."""
    if content.parcels.complete:
        return None
    return class_picture(content.classes_path, background_class(content.card.classes))


def _colours(table: ClassTable) -> dict[str, str]:
    return {entry.name: entry.colour for entry in table.classes}


def _class_rows(parcels: ParcelSummary, table: ClassTable) -> list[dict[str, Any]]:
    """A row a class that occurs, the one with the most land first."""
    colours = _colours(table)
    return [
        {**asdict(row), "colour": colours[row.name], "share": row.area_ha / parcels.area_ha}
        for row in parcels.classes
    ]


def _doubt_rows(parcels: ParcelSummary, table: ClassTable) -> list[dict[str, Any]]:
    """A row for each pair of classes that the network is most often in doubt between."""
    colours = _colours(table)
    return [
        {**asdict(row), "colours": (colours[row.name], colours[row.second])}
        for row in parcels.doubts
    ]


def _curves(content: ReportContent) -> list[dict[str, Any]]:
    """NDVI of a few parcels, in the coordinates of their little charts."""
    charts = []
    inverse = ~content.cube.odc.geobox.affine
    for number, (_, parcel) in enumerate(content.parcels.chosen(_EXAMPLES).iterrows(), 1):
        label = shapely.point_on_surface(parcel.geometry)
        x, y = inverse * (label.x, label.y)
        with reading(content.source):
            curve = ndvi_curve(content.cube, parcel.geometry)
        charts.append(
            {
                "number": number,
                "x": round(x, 1),
                "y": round(y, 1),
                "name": parcel["class"],
                "colour": _colours(content.card.classes)[parcel["class"]],
                "text": f"{parcel['area_ha']:.2f} ha, confidence {parcel['confidence']:.2f}",
                **_chart(curve, content.season),
            }
        )
    return charts


def _along(season: Season, day: np.datetime64 | str) -> float:
    """Where a date lies on the time axis, 0 to 1."""
    days = (np.datetime64(day) - np.datetime64(season.reference)).astype(int)
    return float(days / (season.last - season.reference).days)


def _chart(curve: Curve, season: Season) -> dict[str, Any]:
    """Points, a line through the clear ones, and a band of their quartiles, in pixels of the
    chart.
    """

    def height(value: float) -> float:
        return round(_CURVE_HEIGHT * (1 - (np.clip(value, -0.1, 1) + 0.1) / 1.1), 1)

    points = [
        {
            "x": round(_CURVE_WIDTH * _along(season, day), 1),
            "y": height(mean),
            "cloudy": bool(cloudy),
            "text": f"{day}: {mean:.2f}",
        }
        for day, mean, cloudy in zip(curve.dates, curve.mean_T, curve.cloudy_T, strict=True)
        if np.isfinite(mean)
    ]
    clear = [
        (round(_CURVE_WIDTH * _along(season, day), 1), height(low), height(high))
        for day, low, high, cloudy in zip(
            curve.dates, curve.low_T, curve.high_T, curve.cloudy_T, strict=True
        )
        if np.isfinite(low) and not cloudy
    ]
    band = [f"{x} {high}" for x, _, high in clear] + [f"{x} {low}" for x, low, _ in reversed(clear)]
    line = " ".join(f"{point['x']},{point['y']}" for point in points if not point["cloudy"])
    return {
        "points": points,
        "line": line,
        "band": "M" + "L".join(band) + "Z" if band else "",
        "zero": height(0),
        "half": height(0.5),
    }


def _season(season: Season) -> dict[str, Any]:
    """The dates on a time axis, with the months; used dates with their clear share."""
    months = []
    for number in range(14):
        first = date(season.harvest_year - 1 + (8 + number) // 12, (8 + number) % 12 + 1, 1)
        along = _along(season, str(first))
        if 0 <= along <= 1:
            months.append({"along": along, "name": f"{first:%b}"[0], "text": f"{first:%B %Y}"})
    used = [
        {
            "along": _along(season, str(day)),
            "share": float(clear),
            "text": f"{day}: {clear:.0%} clear",
        }
        for day, clear in zip(season.dates_T, season.clear_T, strict=True)
    ]
    left_out = [
        {"along": _along(season, day), "text": f"{day}: left out, {reason}"}
        for day, reason in season.left_out
    ]
    return {"months": months, "used": used, "left_out": left_out}


def _comparison(content: ReportContent) -> dict[str, Any] | None:
    """Numbers, the true parcels coloured by whether they were found, and the outlines of invented
    ones.
    """
    if content.comparison is None or content.truth is None or content.invented is None:
        return None
    comparison, grid = content.comparison, content.cube.odc.geobox
    truth = content.truth.to_crs(content.invented.crs)
    found = {true: iou for _, true, iou in comparison.matches}
    missed = set(comparison.missed)
    paths = svg_paths(np.asarray(truth.geometry.values[:MOST_OUTLINES], dtype=object), grid.affine)
    true_outlines = [
        {
            "path": path,
            "kind": "found" if row in found else "missed" if row in missed else "small",
            "text": (
                f"found, IoU {found[row]:.2f}"
                if row in found
                else "missed"
                if row in missed
                else "too small to count"
            ),
        }
        for row, path in enumerate(paths)
    ]
    invented = content.invented.geometry.values[:MOST_OUTLINES]
    return {
        "quality": comparison.quality,
        "agreement": comparison.class_agreement,
        "class_pq": comparison.class_pq,
        "classes": comparison.by_class,
        "true_parcels": comparison.true_parcels,
        "declared_only": comparison.declared_only,
        "truth": true_outlines,
        "invented": svg_paths(np.asarray(invented, dtype=object), grid.affine),
    }


def _provenance(content: ReportContent) -> list[tuple[str, str]]:
    """Where the map comes from, a line each."""
    card, season = content.card, content.season
    grid = content.cube.odc.geobox
    made = ", ".join(
        f"{name}: {value}"
        for name, value in card.provenance.items()
        if not isinstance(value, dict | list)
    )
    return [
        ("Season", content.title),
        ("Area", f"{grid.shape[1]} x {grid.shape[0]} pixels of 10 m, {_crs_name(grid.crs)}"),
        (
            "Dates",
            (
                f"{len(season.days_T)} used, {season.dates_T[0]} to {season.dates_T[-1]};"
                f" {len(season.left_out)} left out"
            ),
        ),
        ("Bands", ", ".join(card.bands)),
        ("Network", card.model.title),
        ("Weights", content.weights or "those in the package"),
        ("Trained on", card.trained_on or "not stated"),
        ("Made by", made or "not stated"),
        (
            "Scores",
            ", ".join(f"{name} {value}" for name, value in card.scores.items()) or "not stated",
        ),
        (
            "Options",
            ", ".join(
                f"{entry.name} {getattr(content.options, entry.name)}"
                for entry in fields(content.options)
            ),
        ),
        ("Program", f"panoseg {panoseg.__version__}"),
    ]


def _crs_name(crs: Any) -> str:
    return f"EPSG:{crs.epsg}" if crs.epsg else str(crs.proj.name)
