"""What an evaluation found: the scores of each task, as a summary, as JSON and as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from panoseg.classes import ClassTable, SegmentClass
from panoseg.coco.average_precision import (
    AveragePrecision,
    DetectionMatches,
    Row,
    average_precision,
    match_image,
)
from panoseg.data.pastis import FOLDS
from panoseg.data.photographs import VOID
from panoseg.errors import DatasetError
from panoseg.files import write_json, write_text
from panoseg.metrics.confusion import (
    ConfusionScores,
    Region,
    RegionScores,
    confusion_matrix,
    confusion_scores,
)
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    PanopticQuality,
    coco_patch_counts,
    panoptic_quality,
)
from panoseg.metrics.tables import confusion_table, panoptic_table, percent, render_table
from panoseg.panoptic.panoptic import Panoptic


class Scores(Protocol):
    """What an evaluation found."""

    def summary(self) -> dict[str, float]:
        """The main numbers, in percent."""

    def to_json(self) -> dict:
        """All numbers, JSON-ready, 0..1."""

    def table(self) -> str:
        """A Markdown table for people."""


@dataclass(frozen=True, eq=False)
class SemanticScores:
    """Overall accuracy, mean IoU, and the scores of each class, by region.

    regions: the same pixels, and those at boundaries of classes and inside apart. region: the one
    that ``scores``, the summary and the table are of. edge: scores of a network's boundary head,
    None without one.
    """

    regions: Mapping[Region, RegionScores]
    classes: ClassTable
    region: Region = "all"
    edge: ConfusionScores | None = None

    @property
    def scores(self) -> ConfusionScores:
        """The scores of the chosen region."""
        return self.regions[self.region].scores

    def summary(self) -> dict[str, float]:
        """OA and mIoU of the chosen region in percent."""
        return {"OA": 100 * self.scores.accuracy, "mIoU": 100 * self.scores.mean_iou}

    def to_json(self) -> dict:
        """All numbers of the chosen region; those of the others below "regions"; and the boundary
        head's where there is one.
        """
        regions = {name: self._region_json(region) for name, region in self.regions.items()}
        edge = {} if self.edge is None else {"boundary_head": _means(self.edge)}
        return {"region": self.region, **regions.pop(self.region), **edge, "regions": regions}

    def _region_json(self, region: RegionScores) -> dict:
        """Means; IoU, precision, recall and F1 of each class, null where undefined; pixels by true
        and predicted class.
        """
        scores = region.scores
        columns = {
            "iou": scores.iou_K,
            "precision": scores.precision_K,
            "recall": scores.recall_K,
            "f1": scores.f1_K,
        }
        return {
            **_means(scores),
            "best_two": _means(region.best_two),
            "published_meter": _means(region.published),
            "classes": {
                entry.name: {name: _or_null(values[entry.id]) for name, values in columns.items()}
                for entry in self.classes.classes
                if entry.kind != "void"
            },
            "confusion": {
                "ignored": list(self.classes.ids("void")),
                "matrix": scores.matrix_KK.tolist(),
            },
        }

    def table(self) -> str:
        """A row a class of the chosen region, and below it the means of all regions."""
        means: dict[str, ConfusionScores] = {
            name: region.scores for name, region in self.regions.items()
        }
        if self.edge is not None:
            means["boundary head"] = self.edge
        rows = [
            [name, percent(scores.accuracy), percent(scores.mean_iou), percent(scores.mean_f1)]
            for name, scores in means.items()
        ]
        regions = render_table(["region", "OA", "mIoU", "mean F1"], rows)
        return f"{confusion_table(self.scores, self.classes, ignored=self.classes.ids('void'))}\n\n{regions}"


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality by PASTIS's definition: ``quality`` of each class, ``agnostic`` as if all
    crops were one class.

    pixels: of the classes of pixels, without void; what lies in no predicted segment is background.
    For the picture alone.
    """

    quality: PanopticQuality
    agnostic: PanopticQuality
    pixels: ConfusionScores

    def summary(self) -> dict[str, float]:
        """SQ, RQ and PQ over classes, and PQ whatever the class, in percent."""
        mean = self.quality.all
        return {
            "SQ": 100 * mean.sq,
            "RQ": 100 * mean.rq,
            "PQ": 100 * mean.pq,
            "PQ_any_class": 100 * self.agnostic.all.pq,
        }

    def to_json(self) -> dict:
        """Both qualities; see ``PanopticQuality``."""
        return {"by_class": self.quality.to_json(), "any_class": self.agnostic.to_json()}

    def table(self) -> str:
        """A row a class, and below it the quality whatever the class."""
        any_class = self.agnostic.all
        numbers = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in vars(any_class).items() if name != "n"
        )
        return f"{panoptic_table(self.quality)}\n\nwhatever the class: {numbers.upper()}"


def _means(scores: ConfusionScores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "mean_iou": scores.mean_iou, "mean_f1": scores.mean_f1}


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, eq=False)
class PixelClasses:
    """The classes of pixels that are scored, numbered from 0 without gaps, and behind them void.

    table: their names, by number. number_of_class: int64, by class id plus one, so that ``VOID`` is
    first.
    """

    table: ClassTable
    number_of_class: np.ndarray

    @classmethod
    def of(cls, table: ClassTable, *, things_together: bool = False) -> PixelClasses:
        """Every class of a table; things_together: all things are the first class, before those of
        stuff.
        """
        scored = [entry for entry in table.classes if entry.kind == "stuff" or not things_together]
        scored = [entry for entry in scored if entry.kind != "void"]
        shared = [SegmentClass(0, "things", "#888888", "thing")] if things_together else []
        rows = [*shared, *scored, SegmentClass(0, "void", "#000000", "void")]
        number_of_class = np.full(table.count + 1, len(rows) - 1)
        if things_together:
            number_of_class[np.array(table.ids("thing"), int) + 1] = 0
        for number, entry in enumerate(scored, start=len(shared)):
            number_of_class[entry.id + 1] = number
        numbered = tuple(replace(entry, id=number) for number, entry in enumerate(rows))
        return cls(ClassTable(table.name, numbered), number_of_class)

    @property
    def void(self) -> int:
        """The number of void, which is not scored."""
        return len(self.table.classes) - 1

    def numbers(self, picture: Panoptic) -> np.ndarray:
        """The number of the class of each pixel of a picture: int64, H x W."""
        return self.number_of_class[picture.classes_HW(VOID) + 1]

    def matrix(self, true: Panoptic, predicted_HW: np.ndarray) -> Tensor:
        """Pixels by true and predicted number, those without a true class left out: int64, K x
        K.
        """
        return confusion_matrix(
            self.numbers(true), predicted_HW, len(self.table.classes), [self.void]
        )


@dataclass(frozen=True, eq=False)
class PhotographCounts:
    """What has been counted of some photographs; ``+`` adds those of others. A part that a network
    does not have is None.

    panoptic: matches by COCO's definition. boxes, masks: matches of detections. matrix_KK: pixels
    by true and predicted class.
    """

    panoptic: PanopticCounts | None = None
    boxes: DetectionMatches | None = None
    masks: DetectionMatches | None = None
    matrix_KK: Tensor | None = None

    def __add__(self, other: PhotographCounts) -> PhotographCounts:
        parts = (
            (getattr(self, name), getattr(other, name))
            for name in ("panoptic", "boxes", "masks", "matrix_KK")
        )
        return PhotographCounts(
            *(two if one is None else one if two is None else one + two for one, two in parts)
        )


def count_panoptic(
    true: Panoptic, crowd_ids: tuple[int, ...], predicted: Panoptic, table: ClassTable
) -> PhotographCounts:
    """The segments of a picture that match the truth."""
    return PhotographCounts(panoptic=coco_patch_counts(true, predicted, table, crowd_ids=crowd_ids))


def count_detections(index: int, true: Iterable[Row], predicted: Iterable[Row]) -> PhotographCounts:
    """The detections of a photograph that match true objects, both rows of COCO's form; index:
    which photograph it is.
    """
    true, predicted = list(true), list(predicted)
    return PhotographCounts(
        boxes=match_image(index, true, predicted, "box"),
        masks=match_image(index, true, predicted, "mask"),
    )


def count_pixels(
    true: Panoptic, crowd_ids: tuple[int, ...], predicted_HW: np.ndarray, classes: PixelClasses
) -> PhotographCounts:
    """The pixels of a photograph by true and predicted class; those of crowds are left out."""
    plain = true.keep(~np.isin(true.segments.ids, crowd_ids)) if crowd_ids else true
    return PhotographCounts(matrix_KK=classes.matrix(plain, predicted_HW))


@dataclass(frozen=True, eq=False)
class PhotographScores:
    """Scores of photographs; a part that a network does not have is None.

    quality: panoptic quality by COCO's definition. boxes, masks: average precision of candidates,
    before they are merged.
    pixels: of the classes of pixels, ``pixel_classes``; a pixel without a predicted class is
    missed.
    """

    classes: ClassTable
    pixel_classes: PixelClasses
    quality: PanopticQuality | None = None
    boxes: AveragePrecision | None = None
    masks: AveragePrecision | None = None
    pixels: ConfusionScores | None = None

    @classmethod
    def of(
        cls, counts: PhotographCounts, table: ClassTable, pixel_classes: PixelClasses
    ) -> PhotographScores:
        """Scores of what has been counted."""
        quality = None if counts.panoptic is None else panoptic_quality(counts.panoptic)
        pixels = (
            None
            if counts.matrix_KK is None
            else confusion_scores(counts.matrix_KK, [pixel_classes.void])
        )
        things = table.ids("thing")
        boxes, masks = (
            None if part is None else average_precision(part, things)
            for part in (counts.boxes, counts.masks)
        )
        return cls(table, pixel_classes, quality, boxes, masks, pixels)

    def summary(self) -> dict[str, float]:
        """PQ, SQ and RQ, PQ of things and of stuff, average precision and mean IoU in percent, as
        far as there are any; 0 where the truth has nothing to find.
        """
        numbers: dict[str, float] = {}
        if self.quality is not None:
            mean = self.quality.all
            numbers |= {"PQ": mean.pq, "SQ": mean.sq, "RQ": mean.rq}
            numbers |= {"PQ_things": self.quality.things.pq, "PQ_stuff": self.quality.stuff.pq}
        for name, part in (("box_AP", self.boxes), ("mask_AP", self.masks)):
            if part is not None:
                numbers[name] = part.ap
        if self.pixels is not None:
            numbers |= {"mIoU": self.pixels.mean_iou, "OA": self.pixels.accuracy}
        return {name: 0.0 if np.isnan(value) else 100 * value for name, value in numbers.items()}

    def to_json(self) -> dict:
        """All numbers, 0..1; null where undefined."""
        found: dict[str, Any] = {}
        if self.quality is not None:
            found["panoptic"] = self.quality.to_json()
        for name, part in (("boxes", self.boxes), ("masks", self.masks)):
            if part is not None:
                sizes = {
                    f"ap_{size}": _or_null(value)
                    for size, value in part.by_size.items()
                    if size != "all"
                }
                classes = {
                    self.classes[class_id].name: _or_null(value)
                    for class_id, value in part.by_class.items()
                }
                whole = {
                    "ap": _or_null(part.ap),
                    "ap50": _or_null(part.ap50),
                    "ap75": _or_null(part.ap75),
                }
                found[name] = {**whole, **sizes, "classes": classes}
        if self.pixels is not None:
            iou = {
                entry.name: _or_null(self.pixels.iou_K[entry.id]) for entry in self._pixel_rows()
            }
            found["pixels"] = {
                "accuracy": self.pixels.accuracy,
                "mean_iou": self.pixels.mean_iou,
                "iou": iou,
            }
        return found

    def table(self) -> str:
        """Panoptic quality by class where there is any; below it the rest by class, and all summed
        up in a line.
        """
        parts = [] if self.quality is None else [panoptic_table(self.quality)]
        columns = self._columns()
        names = dict.fromkeys(name for values, _ in columns.values() for name in values)
        rows = [
            [name, *(percent(values.get(name, np.nan)) for values, _ in columns.values())]
            for name in names
        ]
        rows.append(["mean", *(percent(mean) for _, mean in columns.values())])
        parts.append(render_table(["class", *columns], rows))
        parts.append(
            ", ".join(
                f"{name.replace('_', ' ')} {value:.1f}" for name, value in self.summary().items()
            )
        )
        return "\n\n".join(parts)

    def _columns(self) -> dict[str, tuple[dict[str, float], float]]:
        """What is not panoptic: of each number its values by name of the class, and their mean."""
        columns = {}
        for name, part in (("box AP", self.boxes), ("mask AP", self.masks)):
            if part is not None:
                columns[name] = (
                    {
                        self.classes[class_id].name: value
                        for class_id, value in part.by_class.items()
                    },
                    part.ap,
                )
        if self.pixels is not None:
            iou = {entry.name: float(self.pixels.iou_K[entry.id]) for entry in self._pixel_rows()}
            columns["IoU"] = (iou, self.pixels.mean_iou)
        return columns

    def _pixel_rows(self) -> tuple[SegmentClass, ...]:
        return self.pixel_classes.table.classes[: self.pixel_classes.void]


METRICS, TABLE = "metrics.json", "metrics.md"
_SHARES = {
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "sq": "SQ",
    "rq": "RQ",
    "pq": "PQ",
}


@dataclass(frozen=True)
class FoldScores:
    """The test scores of one fold.

    summary: the main numbers, in percent. classes: of each class its numbers by name, 0..1, None
    where undefined because the fold has no such pixel or parcel. confusion: pixels by true and
    predicted class with the ids that are ignored, or None.
    """

    summary: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    confusion: Mapping[str, Any] | None = None


def read_test_scores(folder: Path) -> FoldScores:
    """The test scores of a run or of a test. Raises ``DatasetError`` that names the file where they
    are missing.
    """
    path = folder / METRICS
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        details = written["details"]
        classes = details.get("by_class", details)["classes"]
        shares = {
            name: {key: value for key, value in numbers.items() if key in _SHARES}
            for name, numbers in classes.items()
        }
        return FoldScores(dict(written["test"]), shares, details.get("confusion"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} is missing or damaged", "the scores of all five folds", "resume the run"
        ) from error


def write_mean(folder: Path, scores: Mapping[int, FoldScores]) -> str:
    """Write ``metrics.json`` and ``metrics.md`` of five folds; returns the tables."""
    tables, summary = mean_of_folds(scores)
    write_text(folder / TABLE, tables + "\n")
    write_json(folder / METRICS, summary)
    return tables


def mean_of_folds(scores: Mapping[int, FoldScores]) -> tuple[str, dict[str, Any]]:
    """Markdown tables of five folds with mean and sample deviation, overall and by class, and the
    same JSON-ready.

    Raises ``DatasetError`` that names the folds that are missing. Where confusion matrices are
    known, the scores of all five test sets taken together follow, as utae-paps @ 987874e
    (train_semantic.py, ``overall_performance``) reports them.

    >>> print(mean_of_folds({fold: FoldScores({"PQ": 40.0 + fold}) for fold in range(1, 6)})[0])
    | fold      |   PQ |
    |:----------|-----:|
    | 1         | 41.0 |
    | 2         | 42.0 |
    | 3         | 43.0 |
    | 4         | 44.0 |
    | 5         | 45.0 |
    | mean      | 43.0 |
    | deviation |  1.6 |
    """
    missing = sorted(FOLDS.keys() - scores.keys())
    if missing:
        words = ", ".join(map(str, missing))
        raise DatasetError(
            f"no scores of fold {words}",
            "those of all five folds",
            f"train or test fold {words} too",
        )
    folds = {fold: scores[fold].summary for fold in FOLDS}
    names = list(folds[1])
    columns = {name: [numbers[name] for numbers in folds.values()] for name in names}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    deviation = {name: statistics.stdev(values) for name, values in columns.items()}
    pooled = _together([scores[fold].confusion for fold in FOLDS])
    together = {name: pooled[name] for name in names if name in pooled}
    classes = _means_by_class([scores[fold].classes for fold in FOLDS])
    rows = {
        **{str(fold): numbers for fold, numbers in folds.items()},
        "mean": mean,
        "deviation": deviation,
    }
    rows |= {"together": together} if together else {}
    cells = [
        [label, *(f"{row[name]:.1f}" if name in row else "" for name in names)]
        for label, row in rows.items()
    ]
    table = render_table(["fold", *names], cells)
    numbers = {
        "folds": {str(fold): dict(row) for fold, row in folds.items()},
        "mean": mean,
        "deviation": deviation,
    }
    numbers |= {"together": together} if together else {}
    return "\n\n".join([table, *([_class_table(classes)] if classes else [])]), {
        **numbers,
        "classes": classes,
    }


def _together(confusions: Sequence[Mapping[str, Any] | None]) -> dict[str, float]:
    """OA and mIoU in percent of the sum of the folds' confusion matrices; empty without them."""
    known = [confusion for confusion in confusions if confusion is not None]
    if len(known) < len(confusions):
        return {}
    matrix_KK = np.sum([confusion["matrix"] for confusion in known], axis=0)
    scores = confusion_scores(matrix_KK, known[0]["ignored"])
    return {"OA": 100 * scores.accuracy, "mIoU": 100 * scores.mean_iou}


def _means_by_class(
    folds: Sequence[Mapping[str, Mapping[str, float | None]]],
) -> dict[str, dict[str, Any]]:
    """Of each class and number: mean and deviation in percent over the folds where it is defined,
    and how many they are.
    """
    return {
        name: {
            key: _mean([100 * fold[name][key] for fold in folds if fold[name][key] is not None])
            for key in folds[0][name]
        }  # type: ignore[operator]
        for name in folds[0]
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "folds": len(values),
    }


def _class_table(classes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A row a class: in how many folds it is defined, and mean ± deviation of each number."""
    keys = list(next(iter(classes.values())))
    rows = [
        [
            name,
            str(max(numbers[key]["folds"] for key in keys)),
            *(_spread(numbers[key]) for key in keys),
        ]
        for name, numbers in classes.items()
    ]
    return render_table(["class", "folds", *(_SHARES[key] for key in keys)], rows)


def _spread(number: Mapping[str, Any]) -> str:
    """
    >>> _spread({"mean": 43.21, "deviation": 1.58, "folds": 5}), _spread({"mean": None, "deviation": None, "folds": 0})
    ('43.2 ± 1.6', '–')
    """
    if number["mean"] is None:
        return "–"
    return f"{number['mean']:.1f}" + (
        f" ± {number['deviation']:.1f}" if number["deviation"] is not None else ""
    )
