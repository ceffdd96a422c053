"""Compare parcels with true parcels: found, missed, invented; quality of the outlines; agreement of
the classes.

Areas are those of the polygons, exactly, not of a raster. A parcel and a true parcel match where
their intersection over union (IoU) is above one half (Kirillov et al., "Panoptic Segmentation",
CVPR 2019, section 4.1).

``declared_only`` is for registers that cover part of the land: a parcel counts only with what lies
inside declared land, and one that matches nothing is invented only if most of it lies there.

Shape suffixes: P parcels, T true parcels, X pairs that intersect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from panoseg.errors import ConfigError, ParcelsError
from panoseg.maps.outlines import shared_areas
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE
from panoseg.maps.read_parcels import (
    check_place,
    left_out_notes,
    read_parcels,
    read_truth,
    valid_outlines,
)

_MATCH = 0.5
_MOSTLY = 0.5
DECLARED_MIN_AREA_HA = 0.1
"""Ten pixels of 10 m: smaller true parcels are neither found nor missed when only declared land
counts.
"""
_CLASS_COLUMNS = ("class", "crop:name", "crop:code", "crop_code")


@dataclass(frozen=True)
class Quality:
    """Panoptic quality, 0..1: PQ = sum of IoU / (found + missed / 2 + invented / 2), and its
    factors SQ and RQ.
    """

    found: int
    missed: int
    invented: int
    iou_sum: float

    @property
    def sq(self) -> float:
        """Mean IoU of what was found; 0 where nothing was."""
        return self.iou_sum / self.found if self.found else 0.0

    @property
    def rq(self) -> float:
        """F-score of finding; 0 where there is nothing on both sides."""
        denominator = self.found + 0.5 * (self.missed + self.invented)
        return self.found / denominator if denominator else 0.0

    @property
    def pq(self) -> float:
        """SQ x RQ."""
        return self.sq * self.rq

    def to_json(self) -> dict[str, float]:
        """A JSON-ready dictionary of counts and qualities."""
        counts = {"found": self.found, "missed": self.missed, "invented": self.invented}
        return counts | {"iou_sum": self.iou_sum, "sq": self.sq, "rq": self.rq, "pq": self.pq}


@dataclass(frozen=True)
class Comparison:
    """What was found.

    parcels, true_parcels: how many there are on each side; ``left_out`` true parcels are too small
    to count. matches: rows of parcel, true parcel, and their IoU, by descending IoU. missed: rows
    of true parcels. invented: rows of parcels. quality: whatever the class. class_agreement: share
    of the matches whose two classes are known and equal, None without. by_class: the quality of
    each class of the truth or of the parcels, empty without classes. notes: what to know of the
    files, in sentences.
    """

    parcels: int
    true_parcels: int
    left_out: int
    declared_only: bool
    matches: tuple[tuple[int, int, float], ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]
    quality: Quality
    class_agreement: float | None
    by_class: Mapping[str, Quality]
    notes: tuple[str, ...] = ()

    @property
    def class_pq(self) -> float | None:
        """Mean PQ of the classes, as benchmarks report it; None without classes."""
        return (
            float(np.mean([quality.pq for quality in self.by_class.values()]))
            if self.by_class
            else None
        )

    def to_json(self) -> dict:
        """A JSON-ready dictionary."""
        return {
            "parcels": self.parcels,
            "true_parcels": self.true_parcels,
            "true_parcels_left_out": self.left_out,
            "declared_only": self.declared_only,
            **self.quality.to_json(),
            "class_agreement": self.class_agreement,
            "class_pq": self.class_pq,
            "classes": {name: quality.to_json() for name, quality in self.by_class.items()},
            "matches": [
                {"parcel": parcel, "true": true, "iou": iou} for parcel, true, iou in self.matches
            ],
            "missed_rows": list(self.missed),
            "invented_rows": list(self.invented),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The numbers for people, a line each."""
        small = f", {self.left_out} smaller ones left out" if self.left_out else ""
        rows = [
            (
                "parcels",
                f"{self.parcels}"
                + (" (counted inside declared land)" if self.declared_only else ""),
            ),
            ("true parcels", f"{self.true_parcels}{small}"),
            ("matched", f"{self.quality.found}"),
            ("missed", f"{self.quality.missed}"),
            ("invented", f"{self.quality.invented}"),
            ("mean IoU of matches (SQ)", f"{100 * self.quality.sq:.1f} %"),
            ("recognition (RQ)", f"{100 * self.quality.rq:.1f} %"),
            ("PQ, whatever the class", f"{100 * self.quality.pq:.1f} %"),
        ]
        if self.class_agreement is not None:
            rows.append(("matches of the same class", f"{100 * self.class_agreement:.1f} %"))
        if self.class_pq is not None:
            rows.append(
                (f"PQ, mean of {len(self.by_class)} classes", f"{100 * self.class_pq:.1f} %")
            )
        lines = [f"{name:<28}{value}" for name, value in rows]
        if self.by_class:
            lines.append(
                f"\n{'class':<28}{'matched':>8}{'missed':>8}{'invented':>9}{'SQ':>7}{'RQ':>7}{'PQ':>7}"
            )
        for name, own in self.by_class.items():
            percents = "".join(f"{100 * value:7.1f}" for value in (own.sq, own.rq, own.pq))
            lines.append(f"{name[:27]:<28}{own.found:>8}{own.missed:>8}{own.invented:>9}{percents}")
        return "\n".join([*(f"note: {note}" for note in self.notes), *lines])


def compare_files(
    parcels: Path | str,
    truth: Path | str,
    *,
    class_column: str | None = None,
    truth_class_column: str | None = None,
    class_map: Path | str | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
) -> Comparison:
    """``compare_parcels`` of two files. class_map: a JSON object from classes of the truth to
    classes of the parcels.

    Columns of classes that are not named are looked for (class, crop:name, crop:code, crop_code);
    those of the two files are compared only where at least one was named or both have the same
    column. Raises ``ParcelsError`` and ``ConfigError``.
    """
    found, true = read_parcels(parcels), read_truth(truth)
    if len(found):
        check_place(true, truth, found.geometry, parcels)
    mapping = _read_class_map(Path(class_map)) if class_map else None
    named = class_column or truth_class_column or mapping
    column, truth_column = (
        _class_column(found, class_column, parcels),
        _class_column(true, truth_class_column, truth),
    )
    comparable = (
        column is not None and truth_column is not None and (named or column == truth_column)
    )
    comparison = compare_parcels(
        found,
        true,
        classes=found[column] if comparable else None,
        truth_classes=true[truth_column] if comparable else None,
        class_map=mapping,
        declared_only=declared_only,
        min_area_ha=min_area_ha,
    )
    return replace(comparison, notes=left_out_notes(found, true))


def compare_parcels(
    parcels: gpd.GeoDataFrame,
    truth: gpd.GeoDataFrame,
    *,
    classes: pd.Series | None = None,
    truth_classes: pd.Series | None = None,
    class_map: Mapping[str, str] | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
) -> Comparison:
    """Match parcels with true parcels, in the truth's coordinate system (another one that measures,
    if that is in degrees).

    classes, truth_classes: class of each row, or None. class_map: true classes in the words of the
    parcels; true classes that it lacks are compared with nothing. min_area_ha: smaller true parcels
    do not count, and parcels that match them are excused;
    None: 0.1 where only declared land counts, else 0.
    """
    if min_area_ha is None:
        min_area_ha = DECLARED_MIN_AREA_HA if declared_only else 0.0
    outlines_P, outlines_T = _in_one_system(parcels, truth)
    counts_T = shapely.area(outlines_T) >= min_area_ha * SQUARE_METRES_PER_HECTARE * (1 - 1e-9)
    overlap = _Overlap.of(outlines_P, outlines_T)
    comparison = _whatever_the_class(overlap, counts_T, declared_only)
    if classes is None or truth_classes is None:
        return comparison
    return _with_classes(comparison, _words(classes), _words(truth_classes, class_map))


def _whatever_the_class(overlap: _Overlap, counts_T: np.ndarray, declared_only: bool) -> Comparison:
    """What was found, missed and invented. counts_T: bool, which true parcels are large enough to
    count.
    """
    pairs = _matches(overlap, declared_only)
    matched_P, matched_T = np.zeros(len(overlap.area_P), bool), np.zeros(len(overlap.area_T), bool)
    matched_P[[parcel for parcel, _, _ in pairs]] = True
    matched_T[[true for _, true, _ in pairs]] = True
    invented_P = ~matched_P
    if declared_only:
        invented_P &= overlap.inside_P > _MOSTLY * overlap.area_P
    counted = tuple(pair for pair in pairs if counts_T[pair[1]])
    missed, invented = np.flatnonzero(counts_T & ~matched_T), np.flatnonzero(invented_P)
    quality = Quality(len(counted), len(missed), len(invented), sum(iou for _, _, iou in counted))
    return Comparison(
        len(overlap.area_P),
        int(counts_T.sum()),
        int((~counts_T).sum()),
        declared_only,
        counted,
        tuple(missed.tolist()),
        tuple(invented.tolist()),
        quality,
        None,
        {},
    )


@dataclass(frozen=True)
class _Overlap:
    """Areas in square metres: of parcels, of true parcels, of their intersections, of parcels
    inside declared land.
    """

    area_P: np.ndarray
    area_T: np.ndarray
    parcel_X: np.ndarray
    true_X: np.ndarray
    shared_X: np.ndarray
    inside_P: np.ndarray

    @classmethod
    def of(cls, outlines_P: np.ndarray, outlines_T: np.ndarray) -> _Overlap:
        parcel_X, true_X, shared_X = shared_areas(outlines_P, outlines_T)
        area_P = shapely.area(outlines_P)
        # Declarations may overlap a little; land is not declared twice.
        inside_P = np.minimum(np.bincount(parcel_X, shared_X, minlength=len(outlines_P)), area_P)
        return cls(area_P, shapely.area(outlines_T), parcel_X, true_X, shared_X, inside_P)


def _matches(overlap: _Overlap, declared_only: bool) -> tuple[tuple[int, int, float], ...]:
    """Pairs with IoU above one half, best first; each parcel and true parcel once, also where
    outlines of one side overlap.
    """
    size_P = overlap.inside_P if declared_only else overlap.area_P
    union_X = size_P[overlap.parcel_X] + overlap.area_T[overlap.true_X] - overlap.shared_X
    iou_X = overlap.shared_X / union_X
    used_P: set[int] = set()
    used_T: set[int] = set()
    matches = []
    for pair in np.argsort(-iou_X, kind="stable"):
        parcel, true, iou = (
            int(overlap.parcel_X[pair]),
            int(overlap.true_X[pair]),
            float(iou_X[pair]),
        )
        if iou <= _MATCH:
            break
        if parcel not in used_P and true not in used_T:
            used_P.add(parcel)
            used_T.add(true)
            matches.append((parcel, true, iou))
    return tuple(matches)


def _with_classes(
    comparison: Comparison, words_P: list[str | None], words_T: list[str | None]
) -> Comparison:
    """The comparison with its classes; a match of two classes is missed in the one and invented in
    the other.
    """
    known = [
        (words_P[p], words_T[t], iou)
        for p, t, iou in comparison.matches
        if words_P[p] and words_T[t]
    ]
    agreement = sum(found == true for found, true, _ in known) / len(known) if known else None
    true_words = {words_T[t] for t in [*comparison.missed, *(t for _, t, _ in comparison.matches)]}
    by_class = {}
    for name in sorted(
        word for word in true_words | {words_P[p] for p in comparison.invented} if word
    ):
        ious = [iou for found, true, iou in known if found == true == name]
        missed = sum(words_T[t] == name for t in comparison.missed) + sum(
            true == name != found for found, true, _ in known
        )
        invented = sum(words_P[p] == name for p in comparison.invented)
        invented += sum(found == name != true for found, true, _ in known)
        by_class[name] = Quality(len(ious), missed, invented, sum(ious))
    return replace(comparison, class_agreement=agreement, by_class=by_class)


def _words(classes: pd.Series, class_map: Mapping[str, str] | None = None) -> list[str | None]:
    """Classes as text that compares: 1110, 1110.0 and " 1110" are one; None where there is none."""
    words: list[str | None] = []
    for value in classes:
        if np.ndim(value) == 0 and pd.isna(value):
            words.append(None)
            continue
        text = (
            str(int(value))
            if isinstance(value, float) and value.is_integer()
            else str(value).strip()
        )
        mapped = text if class_map is None else class_map.get(text)
        words.append(None if mapped is None else mapped.casefold())
    return words


def _in_one_system(
    parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame
) -> tuple[np.ndarray, np.ndarray]:
    crs = truth.crs if not truth.crs.is_geographic else parcels.crs
    if crs.is_geographic:
        crs = _measuring_system(truth)
    return valid_outlines(parcels.to_crs(crs)), valid_outlines(truth.to_crs(crs))


def _measuring_system(parcels: gpd.GeoDataFrame) -> CRS:
    """The UTM zone of parcels in degrees."""
    try:
        return parcels.estimate_utm_crs()
    except RuntimeError as error:
        raise ParcelsError(
            "parcels and true parcels in degrees, where there is no UTM zone",
            "one of them in metres",
            "parcels.to_crs(...) in geopandas",
        ) from error


def _class_column(parcels: gpd.GeoDataFrame, named: str | None, path: Path | str) -> str | None:
    if named is not None and named not in parcels.columns:
        raise ConfigError(
            f"{path} has no column {named!r}",
            f"one of {', '.join(map(str, parcels.columns))}",
            "name the column of the classes",
        )
    return named or next((column for column in _CLASS_COLUMNS if column in parcels.columns), None)


def _read_class_map(path: Path) -> dict[str, str]:
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error})",
            "a JSON object",
            'write one such as {"1110": "soft winter wheat"}',
        ) from error
    if not isinstance(mapping, dict) or not all(
        isinstance(value, str) for value in mapping.values()
    ):
        raise ConfigError(
            f"{path} holds no table of text",
            "a JSON object",
            'write one such as {"1110": "soft winter wheat"}',
        )
    return mapping
