"""Panoptic quality of a file of COCO annotations against another: one image at a time, over
processes.

Source: cocodataset/panopticapi @ 7bb4655, panopticapi/evaluation.py.

Shape suffixes: H W pixels, N true segments, P pairs of a true and a predicted segment that share
pixels.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.format import CocoAnnotation, CocoAnnotations, wrong_areas
from panoseg.coco.json import ImageId, about
from panoseg.coco.png import over_images, read_colours
from panoseg.errors import PanopticFormatError, PanosegError
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    ScoredClasses,
    coco_table_counts,
    panoptic_quality,
    scored_classes,
)
from panoseg.panoptic.overlap import Overlap, overlap_of_colours
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class CocoEvaluation:
    """What an evaluation found.

    counts: over the images that could be scored. images: how many those are. failures: one for each
    image that could not.
    notes: what is odd, but scored.
    """

    counts: PanopticCounts
    images: int
    failures: tuple[PanosegError, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        quality = panoptic_quality(self.counts).to_json()
        return {
            "images": self.images,
            "failures": [str(error) for error in self.failures],
            "notes": list(self.notes),
            **quality,
        }


def coco_counts(
    true_json: Path | str,
    predicted_json: Path | str,
    true_folder: Path | str | None = None,
    predicted_folder: Path | str | None = None,
    *,
    strict: bool = False,
) -> PanopticCounts:
    """``evaluate_coco`` in this process: the first failure is raised, notes are warnings."""
    result = evaluate_coco(
        true_json, predicted_json, true_folder, predicted_folder, strict=strict, processes=1
    )
    for error in result.failures:
        raise error
    for note in result.notes:
        warnings.warn(note, stacklevel=2)
    return result.counts


def evaluate_coco(
    true_json: Path | str,
    predicted_json: Path | str,
    true_folder: Path | str | None = None,
    predicted_folder: Path | str | None = None,
    *,
    strict: bool = False,
    processes: int | None = None,
) -> CocoEvaluation:
    """Matches over all annotated images of the truth, under COCO's definition; classes are those of
    the truth.

    strict: all crowds excuse predictions and areas are counted in the raster; else as published,
    where the last crowd of a class does and the areas of the truth are believed, with a note where
    they are wrong. processes: one a core by default. Raises ``PanopticFormatError`` where a file
    cannot be read at all.
    """
    true = CocoAnnotations.open(true_json, true_folder)
    predicted = CocoAnnotations.open(predicted_json, predicted_folder, true.table)
    if not len(true):
        raise PanopticFormatError(
            f"{true_json} without a single annotation", "images to score", "name the right file"
        )
    failures: list[PanosegError] = [*true.file.problems, *predicted.file.problems]
    jobs = _jobs(true, predicted, failures)
    setting = _Setting(
        true.folder, predicted.folder, true.table, scored_classes(true.table, "coco"), strict
    )
    total = PanopticCounts.zero(true.table, "coco")
    images, odd = 0, []
    for result in track(
        over_images(functools.partial(_score, setting), jobs, len(true), processes),
        "scoring",
        len(true),
    ):
        if isinstance(result, PanosegError):
            failures.append(result)
        else:
            images += 1
            total += total.from_array(result.counts_K4)
            odd += [result.note] * bool(result.note)
    return CocoEvaluation(total, images, tuple(failures), tuple(_notes(true, predicted, odd)))


@dataclass(frozen=True)
class _Setting:
    true_folder: Path
    predicted_folder: Path
    table: ClassTable
    classes: ScoredClasses
    strict: bool


@dataclass(frozen=True)
class _Job:
    """An image: its annotations as they stand in the files of these names."""

    image_id: ImageId
    true: tuple[str, bytes]
    predicted: tuple[str, bytes]


@dataclass(frozen=True)
class _Score:
    counts_K4: np.ndarray
    note: str


def _jobs(
    true: CocoAnnotations, predicted: CocoAnnotations, failures: list[PanosegError]
) -> Iterator[_Job]:
    names = str(true.file.path), str(predicted.file.path)
    for image_id in true.image_ids:
        try:
            yield _Job(
                image_id, (names[0], true.text(image_id)), (names[1], predicted.text(image_id))
            )
        except PanopticFormatError as error:
            failures.append(error)


def _score(setting: _Setting, job: _Job) -> _Score:
    with about(f"image {job.image_id} of {job.true[0]}"):
        true = CocoAnnotation.parse(job.true[1])
        true_3HW = read_colours(setting.true_folder / true.file_name)
    with about(f"image {job.image_id} of {job.predicted[0]}"):
        predicted = CocoAnnotation.parse(job.predicted[1])
        predicted_3HW = read_colours(setting.predicted_folder / predicted.file_name)
        if predicted_3HW.shape != true_3HW.shape:
            sizes = [
                f"{raster.shape[2]} x {raster.shape[1]}" for raster in (predicted_3HW, true_3HW)
            ]
            raise PanopticFormatError(
                f"a picture of {sizes[0]} pixels", f"{sizes[1]}, as in the truth", "resize it"
            )
    shared = overlap_of_colours(true_3HW, predicted_3HW)
    first_P, true_ids, true_areas = _present(shared.first_P, shared.pixels_P)
    second_P, predicted_ids, predicted_areas = _present(shared.second_P, shared.pixels_P)
    with about(f"image {job.image_id} of {job.true[0]}"):
        true_segments = true.segments(true_ids, true_areas, setting.table)
        areas_N = None if setting.strict else _believable(true, true_segments.areas)
    with about(f"image {job.image_id} of {job.predicted[0]}"):
        predicted_segments = predicted.segments(predicted_ids, predicted_areas, setting.table)
    counts = coco_table_counts(
        Overlap(first_P, second_P, shared.pixels_P),
        true_segments,
        predicted_segments,
        setting.classes,
        crowd_ids=true.crowd_ids,
        true_areas=areas_N,
        strict=setting.strict,
    )
    note = (
        ""
        if areas_N is None
        else wrong_areas(job.image_id, true_segments.ids, true_segments.areas, areas_N)
    )
    return _Score(counts.to_array(), note)


def _present(ids_P: np.ndarray, pixels_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position of each pair's segment, from 1 and 0 for none; the ids of the segments; their
    areas.
    """
    ids, position_P = np.unique(ids_P, return_inverse=True)
    areas = np.bincount(position_P, pixels_P, minlength=len(ids)).astype(np.int64)
    if ids.size and ids[0] == 0:
        return position_P, ids[1:].astype(np.int32), areas[1:]
    return position_P + 1, ids.astype(np.int32), areas


def _believable(annotation: CocoAnnotation, areas_N: np.ndarray) -> np.ndarray:
    """Areas that the file states. Raises ``PanopticFormatError`` for one below a pixel, with which
    no IoU can be computed.
    """
    stated_N = annotation.stated_areas(areas_N)
    if (stated_N < 1).any():
        wrong = int(np.flatnonzero(stated_N < 1)[0])
        raise PanopticFormatError(
            f"area {stated_N[wrong]:g} of segment {annotation.ids_N[wrong]}",
            f"its {areas_N[wrong]} pixels",
            "correct it, or count pixels with --strict",
        )
    return stated_N


def _notes(true: CocoAnnotations, predicted: CocoAnnotations, odd: list[str]) -> Iterator[str]:
    """What is odd about the files, each in one line."""
    if odd:
        more = f" (and {len(odd) - 1} images more)" if len(odd) > 1 else ""
        yield f"{odd[0]}{more}; they are believed, as published; strict counts pixels"
    known = true.file.annotations or {}
    extra = [image_id for image_id in predicted.image_ids if image_id not in known]
    if extra:
        yield (
            f"{predicted.file.path} has {len(extra)} images that the truth has not, the first"
            f" {extra[0]}; they are not scored"
        )
    bare = [image_id for image_id in true.file.images if image_id not in known]
    if bare:
        yield (
            f"{true.file.path} has {len(bare)} images without annotation, the first {bare[0]}; they"
            " are not scored"
        )
