"""The report of a map: one HTML page that needs no network.

``summarise`` reduces the parcels of a map of any size to sums and the few parcels that the page
shows; ``render_report`` makes the page from the template ``report.html.j2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr

import panoseg
from panoseg.cube.open import reading
from panoseg.cube.season import Season
from panoseg.imagery.sentinel2 import PIXEL_M
from panoseg.maps import MapOptions
from panoseg.maps.compare import Comparison
from panoseg.maps.figures import (
    TEMPLATES,
    Curve,
    class_image,
    clearest_date,
    ndvi_curve,
    svg_paths,
    true_colour,
)
from panoseg.maps.rasters import background_class
from panoseg.models.weights import WeightsCard

MAX_OUTLINES = 6000
_CURVES = 6
_MAX_UNCERTAIN_PAIRS = 6
_CURVE_WIDTH, _CURVE_HEIGHT = 300, 130


@dataclass(frozen=True)
class ClassSummary:
    """The parcels of one class."""

    name: str
    """Name of the class."""
    count: int
    """Number of parcels."""
    area_ha: float
    """Their area in hectares."""
    confidence: float
    """Their mean confidence, 0-1."""


@dataclass(frozen=True)
class UncertainPair:
    """Two classes that the network confuses."""

    name: str
    """The class of the parcels."""
    second: str
    """Their most probable other class."""
    area_ha: float
    """Sum of area times probability of the second class, in hectares: what is expected to be of
    that class if the probabilities are right.
    """


@dataclass(frozen=True, eq=False)
class ParcelSummary:
    """The parcels of a map, summed up."""

    count: int
    """Number of parcels."""
    area_ha: float
    """Their area in hectares."""
    confidence: float | None
    """Their mean confidence, 0-1; None without parcels."""
    classes: tuple[ClassSummary, ...]
    """The classes that occur, by descending area."""
    uncertain_pairs: tuple[UncertainPair, ...]
    """At most 6 pairs of classes, by descending area."""
    largest: gpd.GeoDataFrame
    """The largest parcels; all of them in a small map."""
    examples: gpd.GeoDataFrame
    """The largest parcels of each class."""

    @property
    def complete(self) -> bool:
        """Whether ``largest`` holds every parcel."""
        return len(self.largest) == self.count

    def choose_examples(self, count: int) -> gpd.GeoDataFrame:
        """Return the largest parcel of each of the largest classes, then the next largest."""
        by_size = self.examples.sort_values("area_ha", ascending=False, kind="stable")
        first = by_size.drop_duplicates("class").set_index("class", drop=False)
        names = [row.name for row in self.classes[:count]]
        others = by_size[~by_size["id"].isin(first.loc[names, "id"])]
        return pd.concat(
            [first.loc[names].reset_index(drop=True), others.iloc[: max(count - len(names), 0)]],
            ignore_index=True,
        )


def summarise(parts: Iterable[gpd.GeoDataFrame], max_outlines: int = MAX_OUTLINES) -> ParcelSummary:
    """Sum up a table of parcels that comes in parts; memory holds one part at a time.

    Args:
        parts: One or more parts of a table of parcels.
        max_outlines: Maximum number of parcels in ``ParcelSummary.largest``.
    """
    sums: list[pd.DataFrame] = []
    pairs: list[pd.DataFrame] = []
    largest: list[gpd.GeoDataFrame] = []
    examples: list[gpd.GeoDataFrame] = []
    for part in parts:
        own = part[["class", "area_ha"]].assign(
            count=1, confidence=part["confidence"].astype(np.float64)
        )
        sums = [pd.concat([*sums, own]).groupby("class", as_index=False).sum()]
        pair = part[["class", "second_class"]].assign(
            area_ha=part["area_ha"] * part["second_probability"]
        )
        pairs = [pd.concat([*pairs, pair]).groupby(["class", "second_class"], as_index=False).sum()]
        largest = [_largest([*largest, part], max_outlines)]
        examples = [_largest([*examples, part], _CURVES, "class")]
        del part, own, pair  # before the next part is read
    table = sums[0].sort_values("area_ha", ascending=False, kind="stable")
    classes = tuple(
        ClassSummary(name, int(count), float(area), float(total / count))
        for name, count, area, total in zip(
            table["class"], table["count"], table["area_ha"], table["confidence"], strict=True
        )
    )
    rows = pairs[0].sort_values("area_ha", ascending=False, kind="stable")
    rows = rows.head(_MAX_UNCERTAIN_PAIRS)
    uncertain_pairs = tuple(
        UncertainPair(name, second, float(area))
        for name, second, area in zip(
            rows["class"], rows["second_class"], rows["area_ha"], strict=True
        )
    )
    count = sum(row.count for row in classes)
    return ParcelSummary(
        count=count,
        area_ha=float(table["area_ha"].sum()),
        confidence=float(table["confidence"].sum() / count) if count else None,
        classes=classes,
        uncertain_pairs=uncertain_pairs,
        largest=largest[0],
        examples=examples[0],
    )


def _largest(
    parts: Sequence[gpd.GeoDataFrame], count: int, of_each: str | None = None
) -> gpd.GeoDataFrame:
    """Return the largest parcels of all parts, or of each value of a column, largest first."""
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values("area_ha", ascending=False, kind="stable")
    rows = table.head(count) if of_each is None else table.groupby(of_each).head(count)
    return rows.reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class ReportContent:
    """What a report is made of."""

    title: str
    """Title of the page."""
    source: Path
    """Path of the cube, for messages."""
    cube: xr.Dataset
    """The checked cube, with only the dates of ``season``."""
    season: Season
    """The dates that were used and left out."""
    parcels: ParcelSummary
    """The parcels."""
    classes_path: Path
    """classes.tif, shown in place of outlines where there are too many parcels."""
    card: WeightsCard
    """Card of the weights."""
    weights: str | None
    """What the user called the weights; None for those in the package."""
    options: MapOptions
    """How the map was made."""
    notes: tuple[str, ...] = ()
    """Sentences that the reader should see first."""
    comparison: Comparison | None = None
    """Comparison with ``truth``; None without."""
    truth: gpd.GeoDataFrame | None = None
    """The true parcels; None without."""
    invented: gpd.GeoDataFrame | None = None
    """The parcels that match no true one; None without ``truth``."""
    origin: Mapping[str, Any] | None = None
    """Where fetched weights came from; None for others."""


def render_report(content: ReportContent) -> str:
    """Return the report as HTML."""
    position = clearest_date(content.season)
    with reading(content.source):
        scene_image = true_colour(content.cube, position)
    grid = content.cube.odc.geobox
    longitude, latitude = grid.extent.centroid.to_crs("EPSG:4326").coords[0]
    crops = None
    if not content.parcels.complete:
        crops = class_image(content.classes_path, background_class(content.card.classes))
    colours = {entry.name: entry.colour for entry in content.card.classes.classes}
    return TEMPLATES.get_template("report.html.j2").render(
        title=content.title,
        version=panoseg.__version__,
        width=grid.shape[1],
        height=grid.shape[0],
        location=(
            f"{abs(latitude):.3f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.3f}°"
            f" {'E' if longitude >= 0 else 'W'}"
        ),
        harvest_year=content.season.harvest_year,
        scene_image=scene_image,
        scene_date=str(content.season.dates_T[position]),
        scale=scale_bar(grid.shape[1]),
        outlines=_outlines(content, colours),
        class_image=crops,
        classes=[
            {
                **asdict(row),
                "colour": colours[row.name],
                "share": row.area_ha / content.parcels.area_ha,
            }
            for row in content.parcels.classes
        ],
        uncertain_pairs=[
            {**asdict(row), "colours": (colours[row.name], colours[row.second])}
            for row in content.parcels.uncertain_pairs
        ],
        total_ha=content.parcels.area_ha,
        confidence=content.parcels.confidence,
        count=content.parcels.count,
        curves=_curves(content, colours),
        season=_season(content.season),
        comparison=_comparison(content),
        provenance=_provenance(content),
        notes=content.notes,
    )


def scale_bar(width_pixels: int) -> dict[str, Any]:
    """Return the length of a scale bar, a round number near a quarter of the width.

    Returns:
        "pixels", its length in pixels of 10 m, and "text", its label.
    """
    metres = max(
        digit * 10**power
        for digit in (1, 2, 5)
        for power in range(1, 7)
        if digit * 10**power <= max(50, width_pixels * 3)
    )
    text = f"{metres} m" if metres < 1000 else f"{metres // 1000} km"
    return {"pixels": metres / PIXEL_M, "text": text}


def _outlines(content: ReportContent, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Return path, colour and tooltip of every parcel; none where there are too many."""
    if not content.parcels.complete:
        return []
    shown = content.parcels.largest
    grid = content.cube.odc.geobox
    paths = svg_paths(np.asarray(shown.geometry.values, dtype=object), grid.affine)
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


def _curves(content: ReportContent, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Return the NDVI charts of a few parcels."""
    charts = []
    inverse = ~content.cube.odc.geobox.affine
    for number, (_, parcel) in enumerate(content.parcels.choose_examples(_CURVES).iterrows(), 1):
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
                "colour": colours[parcel["class"]],
                "text": f"{parcel['area_ha']:.2f} ha, confidence {parcel['confidence']:.2f}",
                **_chart(curve, content.season),
            }
        )
    return charts


def _chart(curve: Curve, season: Season) -> dict[str, Any]:
    """Return the points of a chart, the line through clear ones and the band of their quartiles.

    All coordinates are pixels of the chart.
    """

    def height(value: float) -> float:
        return round(_CURVE_HEIGHT * (1 - (float(np.clip(value, -0.1, 1)) + 0.1) / 1.1), 1)

    points = [
        {
            "x": round(_CURVE_WIDTH * _time_fraction(season, day), 1),
            "y": height(mean),
            "cloudy": bool(cloudy),
            "text": f"{day}: {mean:.2f}",
        }
        for day, mean, cloudy in zip(curve.dates, curve.mean_T, curve.cloudy_T, strict=True)
        if np.isfinite(mean)
    ]
    clear = [
        (round(_CURVE_WIDTH * _time_fraction(season, day), 1), height(low), height(high))
        for day, low, high, cloudy in zip(
            curve.dates, curve.low_T, curve.high_T, curve.cloudy_T, strict=True
        )
        if np.isfinite(low) and not cloudy
    ]
    band = [f"{x} {high}" for x, _, high in clear] + [f"{x} {low}" for x, low, _ in reversed(clear)]
    return {
        "points": points,
        "line": " ".join(f"{point['x']},{point['y']}" for point in points if not point["cloudy"]),
        "band": "M" + "L".join(band) + "Z" if band else "",
        "zero": height(0),
        "half": height(0.5),
    }


def _time_fraction(season: Season, day: np.datetime64 | str) -> float:
    """Return the position of a date on the time axis of a season, 0-1."""
    days = (np.datetime64(day) - np.datetime64(season.reference)).astype(int)
    return float(days / (season.last - season.reference).days)


def _season(season: Season) -> dict[str, Any]:
    """Return the months, used dates and left-out dates on the time axis."""
    months = [
        {
            "along": _time_fraction(season, str(first.date())),
            "name": f"{first:%b}"[0],
            "text": f"{first:%B %Y}",
        }
        for first in pd.date_range(season.reference, season.last, freq="MS")
    ]
    used = [
        {
            "along": _time_fraction(season, str(day)),
            "share": float(clear),
            "text": f"{day}: {clear:.0%} clear",
        }
        for day, clear in zip(season.dates_T, season.clear_T, strict=True)
    ]
    left_out = [
        {"along": _time_fraction(season, day), "text": f"{day}: left out, {reason}"}
        for day, reason in season.left_out
    ]
    return {"months": months, "used": used, "left_out": left_out}


def _comparison(content: ReportContent) -> dict[str, Any] | None:
    """Return scores, the outlines of found and missed true parcels, and those of invented ones."""
    if content.comparison is None or content.truth is None or content.invented is None:
        return None
    comparison, grid = content.comparison, content.cube.odc.geobox
    truth = content.truth.to_crs(content.invented.crs)
    found = {true: iou for _, true, iou in comparison.matches}
    missed = set(comparison.missed)
    true_outlines = []
    paths = svg_paths(np.asarray(truth.geometry.values[:MAX_OUTLINES], dtype=object), grid.affine)
    for row, path in enumerate(paths):
        if row in found:
            kind, text = "found", f"found, IoU {found[row]:.2f}"
        elif row in missed:
            kind, text = "missed", "missed"
        else:
            kind, text = "small", "too small to count"
        true_outlines.append({"path": path, "kind": kind, "text": text})
    invented = content.invented.geometry.values[:MAX_OUTLINES]
    return {
        "quality": comparison.quality,
        "agreement": comparison.class_agreement,
        "class_pq": comparison.class_pq,
        "classes": comparison.by_class,
        "declared_only": comparison.declared_only,
        "truth": true_outlines,
        "invented": svg_paths(np.asarray(invented, dtype=object), grid.affine),
    }


def _provenance(content: ReportContent) -> list[tuple[str, str]]:
    """Return name and value of each line about how the map was made."""
    card, season = content.card, content.season
    grid = content.cube.odc.geobox
    crs = f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else str(grid.crs.proj.name)
    dates = f"{len(season.days_T)} used, {season.dates_T[0]} to {season.dates_T[-1]}"
    made = {
        name: value for name, value in card.provenance.items() if not isinstance(value, dict | list)
    }
    options = {entry.name: getattr(content.options, entry.name) for entry in fields(MapOptions)}
    return [
        ("Season", content.title),
        ("Area", f"{grid.shape[1]} x {grid.shape[0]} pixels of 10 m, {crs}"),
        ("Dates", f"{dates}; {len(season.left_out)} left out"),
        ("Bands", ", ".join(card.bands)),
        ("Network", card.model.title),
        ("Weights", content.weights or "those in the package"),
        ("Trained on", card.trained_on or "not stated"),
        ("Made by", ", ".join(f"{name}: {value}" for name, value in made.items()) or "not stated"),
        (
            "Scores",
            ", ".join(f"{name} {value}" for name, value in card.scores.items()) or "not stated",
        ),
        ("Options", ", ".join(f"{name} {value}" for name, value in options.items())),
        ("Program", f"panoseg {panoseg.__version__}"),
    ]
