"""Compare parcels with true parcels: which were found, and with which class.

Areas are exact areas of polygons, not of a raster. A parcel and a true parcel match if their
intersection over union (IoU) is above one half (Kirillov et al., "Panoptic Segmentation", CVPR
2019, section 4.1). True parcels without a match are "missed"; parcels without a match are
"invented".

``declared_only`` is for registers that cover part of the land: a parcel counts only with the part
of it inside declared land, and is invented only if most of it lies there.

Shape suffixes: P parcels, T true parcels, X pairs that intersect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from panoseg.classes import plain_code
from panoseg.errors import ConfigError, PanosegError, ParcelsError
from panoseg.imagery import VectorOptions, of_two
from panoseg.imagery.outlines import too_many_overlaps
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE
from panoseg.maps.read_parcels import (
    Overlap,
    check_place,
    left_out_notes,
    read_parcels,
    read_truth,
    system_in_metres,
    valid_outlines,
    without_unsure,
)
from panoseg.text_files import json_of, listed, read_text, reason_of

_MATCH = 0.5
_MOSTLY = 0.5
_LARGEST_MAP = 16 * 1024**2
DECLARED_MIN_AREA_HA = 0.1
"""Default of ``min_area_ha`` with ``declared_only``: ten pixels of 10 m."""
_CLASS_COLUMNS = ("class", "crop:name", "crop:code", "crop_code")


@dataclass(frozen=True)
class Quality:
    """Panoptic quality, 0-1: PQ = sum of IoU / (found + missed / 2 + invented / 2) = SQ x RQ."""

    found: int
    """True parcels with a match."""
    missed: int
    """True parcels without a match."""
    invented: int
    """Parcels without a match."""
    iou_sum: float
    """Sum of the IoU of the matches."""

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matches; 0 without matches."""
        return self.iou_sum / self.found if self.found else 0.0

    @property
    def rq(self) -> float:
        """Recognition quality: F-score of the matches; 0 if both sides are empty."""
        denominator = self.found + 0.5 * (self.missed + self.invented)
        return self.found / denominator if denominator else 0.0

    @property
    def pq(self) -> float:
        """Panoptic quality: SQ x RQ."""
        return self.sq * self.rq

    def to_json(self) -> dict[str, float]:
        """Return counts and qualities as a JSON-ready dictionary."""
        counts = {"found": self.found, "missed": self.missed, "invented": self.invented}
        return counts | {"iou_sum": self.iou_sum, "sq": self.sq, "rq": self.rq, "pq": self.pq}


@dataclass(frozen=True)
class Comparison:
    """The result of comparing parcels with true parcels. Rows are positions in the two tables."""

    parcels: int
    """Number of parcels that count."""
    true_parcels: int
    """Number of true parcels that count."""
    left_out: int
    """Number of true parcels that do not count: too small, or mostly on ignored land."""
    declared_only: bool
    """Whether parcels count only inside declared land."""
    matches: tuple[tuple[int, int, float], ...]
    """Row of the parcel, row of the true parcel and their IoU, by descending IoU."""
    missed: tuple[int, ...]
    """Rows of the true parcels without a match."""
    invented: tuple[int, ...]
    """Rows of the parcels without a match."""
    quality: Quality
    """Quality of the outlines, ignoring classes."""
    class_agreement: float | None
    """Share of the matches with equal classes, 0-1, among those with two known classes; None if
    there are none.
    """
    by_class: Mapping[str, Quality]
    """Quality of each class of the true parcels or of the parcels; empty without classes."""
    notes: tuple[str, ...] = ()
    """Sentences about the files for the user."""

    @property
    def class_pq(self) -> float | None:
        """Mean PQ of the classes, as benchmarks report it; None without classes."""
        if not self.by_class:
            return None
        return float(np.mean([quality.pq for quality in self.by_class.values()]))

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as a JSON-ready dictionary."""
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
        """Return the numbers as lines of text."""
        where = " (counted inside declared land)" if self.declared_only else ""
        small = f", {self.left_out} smaller ones left out" if self.left_out else ""
        rows = [
            ("parcels", f"{self.parcels}{where}"),
            ("true parcels", f"{self.true_parcels}{small}"),
            ("matched", f"{self.quality.found}"),
            ("missed", f"{self.quality.missed}"),
            ("invented", f"{self.quality.invented}"),
            ("mean IoU of matches (SQ)", f"{100 * self.quality.sq:.1f} %"),
            ("recognition (RQ)", f"{100 * self.quality.rq:.1f} %"),
            ("PQ, ignoring the class", f"{100 * self.quality.pq:.1f} %"),
        ]
        if self.class_agreement is not None:
            rows.append(("matches of the same class", f"{100 * self.class_agreement:.1f} %"))
        if self.class_pq is not None:
            rows.append(
                (f"PQ, mean of {len(self.by_class)} classes", f"{100 * self.class_pq:.1f} %")
            )
        lines = [f"{name:<28}{value}" for name, value in rows]
        if self.by_class:
            names = "".join(f"{name:>7}" for name in ("SQ", "RQ", "PQ"))
            lines.append(f"\n{'class':<28}{'matched':>8}{'missed':>8}{'invented':>9}{names}")
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
    ignore: Path | str | None = None,
    reading: VectorOptions | None = None,
) -> Comparison:
    """Compare two files of parcels, see ``compare_parcels``.

    Classes are compared if both files have the same class column, or if one was named. Where they
    are not compared, or do not match, the notes say why.

    Args:
        parcels: File of the parcels.
        truth: File of the true parcels.
        class_column: Class column of the parcels, and of the true parcels if they have it; or both
            as in "A=crop,B=code". By default the first of class, crop:name, crop:code and crop_code
            that is there.
        truth_class_column: Class column of the true parcels.
        class_map: JSON file: an object from classes of the true parcels to classes of the parcels.
        declared_only: Whether the true parcels cover part of the land.
        min_area_ha: Smaller true parcels do not count.
        ignore: File of polygons that count for nothing.
        reading: What the files do not say themselves; values for each as in "A=crop,B=code".

    Raises:
        ParcelsError: If a file cannot be read or used.
        ConfigError: If a column or the class map cannot be used.
    """
    first, second = (reading or VectorOptions()).of_two()
    found, true = read_parcels(parcels, options=first), read_truth(truth, second)
    if len(found):
        check_place(true, truth, found.geometry, parcels)
    mapping = _read_class_map(Path(class_map)) if class_map else None
    named = class_column or truth_class_column or mapping
    own, others = of_two(class_column)
    if own == others and others not in true.columns:
        others = None  # one name is that of the parcels
    column = _class_column(found, own, parcels, "--class-column")
    truth_column = _class_column(
        true, truth_class_column or others, truth, "--class-column B=... or --truth-class-column"
    )
    comparable = (
        column is not None and truth_column is not None and (named or column == truth_column)
    )
    classes = found[column] if comparable else None
    truth_classes = true[truth_column] if comparable else None
    comparison = compare_parcels(
        found,
        true,
        classes=classes,
        truth_classes=truth_classes,
        class_map=mapping,
        declared_only=declared_only,
        min_area_ha=min_area_ha,
        ignore=None if ignore is None else read_parcels(ignore),
    )
    notes = left_out_notes(found, true)
    if classes is not None and truth_classes is not None:
        notes += _about_classes(classes, truth_classes, mapping)
    else:
        notes += (_not_compared(parcels, column, truth, truth_column),)
    return replace(comparison, notes=notes)


def _not_compared(
    parcels: Path | str, column: str | None, truth: Path | str, truth_column: str | None
) -> str:
    """Return the sentence that says why classes were not compared."""
    lacking = [
        str(path) for path, name in ((parcels, column), (truth, truth_column)) if name is None
    ]
    why = (
        f"{' and '.join(lacking)} {'have' if len(lacking) > 1 else 'has'} no column of classes with"
        " a usual name"
        if lacking
        else f"they are in the columns {column} and {truth_column}"
    )
    example = f"A={column or 'NAME'},B={truth_column or 'NAME'}"
    return f"Classes were not compared: {why}. To compare them, pass --class-column {example}."


def _about_classes(
    classes: pd.Series, truth_classes: pd.Series, class_map: Mapping[str, str] | None
) -> tuple[str, ...]:
    """Return sentences about classes that only one side has, and about codes written apart."""
    found = {name for name in _class_names(classes) if name}
    true = {name for name in _class_names(truth_classes, class_map) if name}
    notes = []
    if class_map is not None:
        codes = {plain_code(value) for value in truth_classes} - {""}
        lacking = sorted(codes - {plain_code(code) for code in class_map})
        if lacking:
            notes.append(
                f"{len(lacking)} of {len(codes)} classes of the true parcels are not in the class"
                f" map, and count as unknown: {listed(lacking, 5)}."
            )
    if found and true and not found & true:
        notes.append(
            f"No class is in both files: the parcels have {listed(sorted(found))}, the true parcels"
            f" {listed(sorted(true))}. Name other columns with --class-column, map classes with"
            " --class-map, or pass --encoding if letters are wrong."
        )
    spellings: dict[str, str] = {}
    for value in (*classes, *truth_classes):
        text = " ".join(str(value).split()).removesuffix(".0")
        code = plain_code(value)
        if code.isdecimal() and spellings.setdefault(code, text) != text:
            notes.append(
                f"Codes with and without zeros before them are the same: {text} and"
                f" {spellings[code]}, for example."
            )
            break
    return tuple(notes)


def compare_parcels(
    parcels: gpd.GeoDataFrame,
    truth: gpd.GeoDataFrame,
    *,
    classes: pd.Series | None = None,
    truth_classes: pd.Series | None = None,
    class_map: Mapping[str, str] | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
    ignore: gpd.GeoDataFrame | None = None,
) -> Comparison:
    """Match parcels with true parcels.

    Areas are measured in the coordinate system of the true parcels; if that is in degrees, in the
    parcels' own or else in a UTM zone.

    Args:
        parcels: The parcels.
        truth: The true parcels.
        classes: Class of each parcel.
        truth_classes: Class of each true parcel.
        class_map: From classes of the true parcels to classes of the parcels; true classes that it
            lacks are unknown.
        declared_only: Whether the true parcels cover part of the land (see the module).
        min_area_ha: Smaller true parcels do not count, and parcels that match them are not
            invented; default 0, or 0.1 with ``declared_only``.
        ignore: Polygons of land that counts for nothing: it is cut from all outlines, and what lies
            mostly on it does not count.

    Raises:
        ParcelsError: If no coordinate system can be found in which areas can be measured, or too
            many outlines overlap.
    """
    if min_area_ha is None:
        min_area_ha = DECLARED_MIN_AREA_HA if declared_only else 0.0
    crs = system_in_metres(parcels, truth)
    outlines_P, outlines_T = (valid_outlines(table.to_crs(crs)) for table in (parcels, truth))
    if too_many_overlaps(outlines_P, outlines_T):
        raise ParcelsError(
            f"The {len(outlines_P):,} parcels and {len(outlines_T):,} true parcels overlap so often"
            " that comparing them would take hours. Check whether their outlines are parcels."
        )
    counts_P, counts_T = np.ones(len(outlines_P), bool), np.ones(len(outlines_T), bool)
    if ignore is not None:
        unsure = valid_outlines(ignore.to_crs(crs))
        outlines_P, counts_P = without_unsure(outlines_P, unsure)
        outlines_T, counts_T = without_unsure(outlines_T, unsure)
    counts_T &= shapely.area(outlines_T) >= min_area_ha * SQUARE_METRES_PER_HECTARE * (1 - 1e-9)
    overlap = Overlap.of(outlines_P, outlines_T)
    comparison = _compare_outlines(overlap, counts_P, counts_T, declared_only)
    if classes is None or truth_classes is None:
        return comparison
    return _compare_classes(
        comparison, _class_names(classes), _class_names(truth_classes, class_map)
    )


def _compare_outlines(
    overlap: Overlap, counts_P: np.ndarray, counts_T: np.ndarray, declared_only: bool
) -> Comparison:
    """Compare without classes. ``counts_P`` and ``counts_T`` (bool): which parcels count."""
    pairs = _matches(overlap, declared_only)
    matched_P, matched_T = np.zeros(len(overlap.area_P), bool), np.zeros(len(overlap.area_T), bool)
    matched_P[[parcel for parcel, _, _ in pairs]] = True
    matched_T[[true for _, true, _ in pairs]] = True
    invented_P = counts_P & ~matched_P
    if declared_only:
        invented_P &= overlap.inside_P > _MOSTLY * overlap.area_P
    counted = tuple(pair for pair in pairs if counts_T[pair[1]])
    missed, invented = np.flatnonzero(counts_T & ~matched_T), np.flatnonzero(invented_P)
    quality = Quality(len(counted), len(missed), len(invented), sum(iou for _, _, iou in counted))
    return Comparison(
        int(counts_P.sum()),
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


def _matches(overlap: Overlap, declared_only: bool) -> tuple[tuple[int, int, float], ...]:
    """Return the pairs with an IoU above one half, best first, each parcel in one pair at most.

    Where outlines of one side overlap, one could match twice; the pair with the higher IoU wins.
    """
    size_P = overlap.inside_P if declared_only else overlap.area_P
    union_X = size_P[overlap.parcel_X] + overlap.area_T[overlap.true_X] - overlap.shared_X
    iou_X = overlap.shared_X / union_X
    used_P: set[int] = set()
    used_T: set[int] = set()
    matches = []
    for pair in np.argsort(-iou_X, kind="stable"):
        parcel, true = int(overlap.parcel_X[pair]), int(overlap.true_X[pair])
        iou = float(iou_X[pair])
        if iou <= _MATCH:
            break
        if parcel not in used_P and true not in used_T:
            used_P.add(parcel)
            used_T.add(true)
            matches.append((parcel, true, iou))
    return tuple(matches)


def _compare_classes(
    comparison: Comparison, class_P: list[str | None], class_T: list[str | None]
) -> Comparison:
    """Add the quality of each class.

    A match of different classes is missed in the class of the true parcel and invented in the
    class of the parcel.
    """
    known = [
        (class_P[p], class_T[t], iou)
        for p, t, iou in comparison.matches
        if class_P[p] and class_T[t]
    ]
    agreement = sum(found == true for found, true, _ in known) / len(known) if known else None
    names = {class_T[t] for t in [*comparison.missed, *(t for _, t, _ in comparison.matches)]}
    names |= {class_P[p] for p in comparison.invented}
    by_class = {}
    for name in sorted(name for name in names if name):
        ious = [iou for found, true, iou in known if found == true == name]
        missed = sum(class_T[t] == name for t in comparison.missed)
        missed += sum(true == name != found for found, true, _ in known)
        invented = sum(class_P[p] == name for p in comparison.invented)
        invented += sum(found == name != true for found, true, _ in known)
        by_class[name] = Quality(len(ious), missed, invented, sum(ious))
    return replace(comparison, class_agreement=agreement, by_class=by_class)


def _class_names(
    classes: pd.Series, class_map: Mapping[str, str] | None = None
) -> list[str | None]:
    """Return classes as comparable text, see ``plain_code``, in small letters; None if unknown."""
    own = None if class_map is None else {plain_code(key): name for key, name in class_map.items()}
    # Few classes, many parcels: each is made comparable once. Lists, which some files hold, count.
    texts = [value if isinstance(value, str | float | int) else str(value) for value in classes]
    known = {text: _class_name(text, own) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]


def _class_name(value: object, class_map: Mapping[str, str] | None) -> str | None:
    code = plain_code(value)
    name = code if class_map is None else plain_code(class_map.get(code))
    return name.casefold() if code and name else None


def _class_column(
    parcels: gpd.GeoDataFrame, named: str | None, path: Path | str, option: str
) -> str | None:
    if named is not None and named not in parcels.columns:
        raise ConfigError(
            f"{path} has no column {named!r}. Set {option} to one of"
            f" {', '.join(map(str, parcels.columns))}."
        )
    return named or next((column for column in _CLASS_COLUMNS if column in parcels.columns), None)


def _read_class_map(path: Path) -> dict[str, str]:
    example = 'Write a JSON object such as {"1110": "soft winter wheat"}.'
    try:
        mapping = json_of(read_text(path, _LARGEST_MAP).text)
    except (PanosegError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({reason_of(error)}). {example}") from error
    if not isinstance(mapping, dict) or not all(
        isinstance(value, str) for value in mapping.values()
    ):
        raise ConfigError(f"{path} holds no object whose values are text. {example}")
    return mapping
