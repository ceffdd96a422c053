"""Panoptic quality of one file of COCO annotations against another, in several processes.

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
from typing import Any, Literal

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.format import CocoAnnotation, CocoAnnotations, wrong_areas
from panoseg.coco.json import ImageId, about, other_type, shown
from panoseg.coco.masks import decoding, read_colours
from panoseg.errors import PanopticFormatError, PanosegError
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    ScoredClasses,
    coco_table_counts,
    quality_of_counts,
    scored_classes,
)
from panoseg.panoptic.segments import Overlap, overlap_of_colours
from panoseg.processes import over_images
from panoseg.progress import track

Missing = Literal["leave-out", "wrong"]
"""What to do with an image without prediction."""


@dataclass(frozen=True, eq=False)
class CocoEvaluation:
    """The result of an evaluation."""

    counts: PanopticCounts
    """Matches over the images that could be scored."""
    images: int
    """Number of images that could be scored."""
    failures: tuple[PanosegError, ...]
    """One error for each image that could not be scored."""
    notes: tuple[str, ...]
    """What is inconsistent in the files, but does not prevent scoring."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        quality = quality_of_counts(self.counts).to_json()
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
    """Count matches as ``evaluate_coco`` does, in this process.

    The first failure is raised, and notes become warnings.
    """
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
    missing: Missing = "leave-out",
    processes: int | None = None,
) -> CocoEvaluation:
    """Count matches over all annotated images of the truth, under COCO's definition.

    Args:
        true_json: Panoptic JSON of the truth, whose categories are the classes.
        predicted_json: Panoptic JSON of the predictions.
        true_folder: Folder of the truth's PNG files; by default next to the JSON, with its name.
        predicted_folder: The same for the predictions.
        strict: Ignore predictions on all crowds, and count areas in the raster. By default the
            result is as published: predictions are ignored only on the last crowd of a class, and
            the areas stated in the truth are used, with a note if they are wrong.
        missing: What to do with an image without prediction, in the JSON or as a PNG file:
            "leave-out" makes it a failure, "wrong" scores all its segments as missed.
        processes: See ``over_images``.

    Raises:
        PanopticFormatError: A file cannot be read at all.
    """
    true = CocoAnnotations.open(true_json, true_folder)
    predicted = CocoAnnotations.open(predicted_json, predicted_folder, true.table)
    if not len(true):
        raise PanopticFormatError(f"{true_json} has no annotations, so there is nothing to score.")
    failures: list[PanosegError] = [*true.file.problems, *predicted.file.problems]
    jobs = _jobs(true, predicted, missing, failures)
    setting = _Setting(
        true.folder,
        predicted.folder,
        true.table,
        scored_classes(true.table, "coco"),
        strict,
        missing,
    )
    total = PanopticCounts.zero(true.table, "coco")
    images, missed, odd = 0, 0, []
    results = over_images(functools.partial(_score, setting), jobs, len(true), processes)
    for result in track(results, "scoring", len(true)):
        if isinstance(result, PanosegError):
            failures.append(result)
        else:
            images += 1
            missed += result.missed
            total += total.from_array(result.counts_K4)
            odd += [result.note] * bool(result.note)
    notes = [*_notes(true, predicted, odd), *(_nothing_to_score(true) if images else ())]
    if missed:
        notes.append(f"{missed} images have no prediction; all their segments count as missed")
    return CocoEvaluation(total, images, tuple(failures), tuple(notes))


@dataclass(frozen=True)
class _Setting:
    """What the scoring of every image needs."""

    true_folder: Path
    """Folder of the true PNG files."""
    predicted_folder: Path
    """Folder of the predicted PNG files."""
    table: ClassTable
    """The classes."""
    classes: ScoredClasses
    """The classes that are scored."""
    strict: bool
    """See ``evaluate_coco``."""
    missing: Missing
    """See ``evaluate_coco``."""


@dataclass(frozen=True)
class _Job:
    """An image with its annotations."""

    image_id: ImageId
    """Id of the image in the JSON."""
    true: tuple[str, bytes]
    """Name of the JSON file, and the annotation as written there."""
    predicted: tuple[str, bytes | None]
    """The same for the prediction; None where there is none."""


@dataclass(frozen=True)
class _Score:
    """The result of one image."""

    counts_K4: np.ndarray
    """See ``PanopticCounts.to_array``."""
    note: str
    """What is inconsistent, empty if nothing is."""
    missed: bool
    """Whether the image has no prediction."""


def _jobs(
    true: CocoAnnotations,
    predicted: CocoAnnotations,
    missing: Missing,
    failures: list[PanosegError],
) -> Iterator[_Job]:
    """Yield the images with one annotation in both files; others are added to the failures."""
    names = str(true.file.path), str(predicted.file.path)
    found = predicted.file.annotations or {}
    for image_id in true.image_ids:
        try:
            is_missed = missing == "wrong" and image_id not in found
            text = None if is_missed else predicted.text(image_id)
            yield _Job(image_id, (names[0], true.text(image_id)), (names[1], text))
        except PanopticFormatError as error:
            failures.append(error)


def _score(setting: _Setting, job: _Job) -> _Score:
    """Score one image. Raises ``PanopticFormatError``, naming the image and the file at fault."""
    about_true = f"image {shown(job.image_id)} of {job.true[0]}"
    about_predicted = f"image {shown(job.image_id)} of {job.predicted[0]}"
    with decoding():
        with about(about_true):
            true = CocoAnnotation.parse(job.true[1])
            true_3HW = read_colours(setting.true_folder / true.file_name)
        with about(about_predicted):
            predicted, predicted_3HW = _prediction(setting, job, true_3HW)
            if predicted_3HW.shape != true_3HW.shape:
                found, expected = (
                    f"{raster.shape[2]} x {raster.shape[1]}" for raster in (predicted_3HW, true_3HW)
                )
                raise PanopticFormatError(
                    f"the PNG has {found} pixels and that of the truth {expected}."
                )
    shared = overlap_of_colours(true_3HW, predicted_3HW)
    first_P, true_ids, true_areas = _present(shared.first_P, shared.pixels_P)
    second_P, predicted_ids, predicted_areas = _present(shared.second_P, shared.pixels_P)
    with about(about_true):
        true_segments = true.segments(true_ids, true_areas, setting.table)
        areas_N = None if setting.strict else _stated_areas(true, true_segments.areas)
    with about(about_predicted):
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
    return _Score(counts.to_array(), note, predicted is _NOTHING)


_NOTHING = CocoAnnotation(0, "", (), np.zeros(0, np.int32), np.zeros(0, np.int32), ())


def _prediction(
    setting: _Setting, job: _Job, true_3HW: np.ndarray
) -> tuple[CocoAnnotation, np.ndarray]:
    """Return the annotation and the colours of a prediction; ``_NOTHING`` where it is missing."""
    annotation = _NOTHING if job.predicted[1] is None else CocoAnnotation.parse(job.predicted[1])
    path = setting.predicted_folder / annotation.file_name
    if annotation is _NOTHING or (setting.missing == "wrong" and not path.exists()):
        return _NOTHING, np.zeros_like(true_3HW)
    return annotation, read_colours(path)


def _present(ids_P: np.ndarray, pixels_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the ids of pairs into positions.

    Returns:
        Position of each pair's segment (int64, P, from 1; 0 = none), the ids of the segments
        (int32, N, ascending) and their areas (int64, N).
    """
    ids, position_P = np.unique(ids_P, return_inverse=True)
    areas = np.bincount(position_P, pixels_P, minlength=len(ids)).astype(np.int64)
    if ids.size and ids[0] == 0:
        return position_P, ids[1:].astype(np.int32), areas[1:]
    return position_P + 1, ids.astype(np.int32), areas


def _stated_areas(annotation: CocoAnnotation, areas_N: np.ndarray) -> np.ndarray:
    """Return the areas that the file states.

    Raises:
        PanopticFormatError: An area is below one pixel, so that no IoU can be computed.
    """
    stated_N = annotation.stated_areas(areas_N)
    if (stated_N < 1).any():
        wrong = int(np.flatnonzero(stated_N < 1)[0])
        raise PanopticFormatError(
            f"area {stated_N[wrong]:g} of segment {annotation.ids_N[wrong]} is impossible: it has "
            f"{areas_N[wrong]} pixels; correct it, or count pixels with --strict."
        )
    return stated_N


def _nothing_to_score(true: CocoAnnotations) -> Iterator[str]:
    """Yield a note where no class of the truth can be scored."""
    segments, crowds = true.file.used_categories.total(), true.file.crowds.total()
    known = {entry.id for entry in true.table.classes}
    if not segments:
        yield f"{true.file.path} has no segment, so no class is scored"
    elif segments == crowds:
        yield (
            f"all {segments} segments of {true.file.path} are crowds (iscrowd 1), which are not"
            " scored; panoseg coco convert --no-crowds takes crowds for objects"
        )
    elif not known & set(true.file.used_categories):
        yield f"{true.file.path} has no segment of any of its categories"


def _notes(true: CocoAnnotations, predicted: CocoAnnotations, odd: list[str]) -> Iterator[str]:
    """Yield what is inconsistent in the files, one line each."""
    if odd:
        more = f" (and {len(odd) - 1} images more)" if len(odd) > 1 else ""
        yield f"{odd[0]}{more}; the stated areas are used, as published; --strict counts pixels"
    known = true.file.annotations or {}
    extra = [image_id for image_id in predicted.image_ids if image_id not in known]
    if extra:
        yield (
            f"{predicted.file.path} has {len(extra)} images that the truth does not have, the"
            f" first {shown(extra[0])}{other_type(extra[0], known).replace('it has', 'that has')};"
            " they are not scored"
        )
    bare = [image_id for image_id in true.file.images if image_id not in known]
    if bare:
        yield (
            f"{true.file.path} has {len(bare)} images without annotation, the first"
            f" {shown(bare[0])}; they are not scored"
        )
