"""Panoptic quality of a file of COCO annotations against another, one image at a time."""

from __future__ import annotations

from pathlib import Path

from panoseg.metrics.panoptic_quality import PanopticCounts, coco_patch_counts
from panoseg.panoptic.coco import CocoAnnotations, warn_of_stated_areas


def coco_counts(
    true_json: Path | str,
    predicted_json: Path | str,
    true_folder: Path | str | None = None,
    predicted_folder: Path | str | None = None,
    *,
    strict: bool = False,
) -> PanopticCounts:
    """Matches over all images of the truth, under COCO's definition.

    strict: all crowds excuse predictions and areas are counted in the raster; else as published, where the last crowd of a
    class does and the areas of the truth are believed, with a warning where they are wrong. Raises ``PanopticFormatError``.
    """
    true = CocoAnnotations.open(true_json, true_folder)
    predicted = CocoAnnotations.open(predicted_json, predicted_folder, true.table)
    counts = PanopticCounts.zero(true.table, "coco")
    for annotated in true:
        if not strict:
            warn_of_stated_areas(annotated)
        counts += coco_patch_counts(
            annotated.picture,
            predicted.read(annotated.image_id).picture,
            true.table,
            crowd_ids=annotated.crowd_ids,
            true_areas=None if strict else annotated.stated_areas_N,
            strict=strict,
        )
    return counts
