"""``panoseg compare``: score a file of parcels against a file of true parcels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from panoseg.maps.compare import Comparison


def run(
    parcels: tyro.conf.Positional[Path],
    truth: tyro.conf.Positional[Path],
    class_column: str | None = None,
    truth_class_column: str | None = None,
    class_map: Path | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
    json: Path | None = None,
) -> None:
    """Score parcels against true parcels: matched, missed, invented, IoU, agreement of classes, PQ.

    Two parcels match where their intersection over union is above 0.5. Files may differ in format
    and coordinate system.

    example: panoseg compare map/parcels.parquet truth.gpkg --declared-only

    Args:
        parcels: The parcels (GeoParquet, GeoPackage, GeoJSON).
        truth: The true parcels.
        class_column: Column of the classes in PARCELS; class, crop:name, crop:code or crop_code
            where it is not named.
        truth_class_column: Column of the classes in TRUTH; likewise.
        class_map: JSON object from classes of the truth to classes of the parcels.
        declared_only: The truth covers part of the land: count parcels only with what lies inside
            it, take those for invented that lie mostly there, and leave out true parcels below 0.1
            ha (ten pixels).
        min_area_ha: True parcels below this area do not count; 0, or 0.1 with --declared-only.
        json: Write all numbers here as well.
    """
    from panoseg.maps.compare import compare_files

    _check_place(json)
    comparison = compare_files(
        parcels,
        truth,
        class_column=class_column,
        truth_class_column=truth_class_column,
        class_map=class_map,
        declared_only=declared_only,
        min_area_ha=min_area_ha,
    )
    _report(comparison, json)


def _check_place(json: Path | None) -> None:
    from panoseg.files import check_writable

    if json is not None:
        check_writable(json)


def _report(comparison: Comparison, json: Path | None) -> None:
    from panoseg.files import write_json

    print(comparison.table())
    if json is not None:
        write_json(json, comparison.to_json())
        print(f"\nwritten to {json}")
