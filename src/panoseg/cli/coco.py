"""``panoseg coco``: tools on COCO panoptic files of anyone's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.cli import Verbs, run_verb
from panoseg.errors import PanopticFormatError, PanosegError

_MOST_LINES = 20


def coco(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    run_verb(
        "coco",
        VERBS,
        arguments,
        "Tools on COCO panoptic files.",
        "panoseg coco evaluate --truth panoptic_val2017.json --prediction predictions.json",
    )


def evaluate(
    truth: Path,
    prediction: Path,
    truth_folder: Path | None = None,
    prediction_folder: Path | None = None,
    strict: bool = False,
    json: Path | None = None,
    processes: int | None = None,
) -> None:
    """Panoptic quality of predictions: PQ, SQ and RQ of each class, and over all, things and stuff.

    example: panoseg coco evaluate --truth panoptic_val2017.json --prediction predictions.json

    Equal to cocodataset/panopticapi. An image that cannot be scored is named and left out, with
    exit code 2.

    Args:
        truth: Panoptic JSON of the truth; its categories are those of the scores.
        prediction: Panoptic JSON of the predictions.
        truth_folder: Where the pictures of the truth lie; by default in the folder of the same name
            beside the JSON.
        prediction_folder: The same of the predictions.
        strict: All crowds of a class excuse predictions, instead of the last one listed, and areas
            of the truth are counted instead of believed.
        json: Write the scores to this file too.
        processes: Processes; by default as many as there is work for, at most one a core.
    """
    from panoseg.coco.evaluate import evaluate_coco
    from panoseg.files import check_writable, write_json
    from panoseg.metrics.panoptic_quality import panoptic_quality
    from panoseg.metrics.tables import panoptic_table

    if json is not None:
        check_writable(json)
    result = evaluate_coco(
        truth, prediction, truth_folder, prediction_folder, strict=strict, processes=processes
    )
    if json is not None and result.images:
        write_json(json, result.to_json())
    _say(result.notes, result.failures)
    if result.images:
        print(panoptic_table(panoptic_quality(result.counts)))
    _finish(result.images, result.failures, f"{result.images} images scored")


def merge(
    semantic: Path,
    instances: Path,
    out: Path,
    images: Path | None = None,
    categories: Path | None = None,
    score: float = 0.5,
    overlap: float = 0.5,
    stuff_area: int = 4096,
    processes: int | None = None,
) -> None:
    """Merge semantic and instance predictions into panoptic ones: OUT/panoptic.json and
    OUT/panoptic/.

    example: panoseg coco merge --semantic stuff.json --instances things.json --categories
    categories.json --out MERGED

    Things are painted by falling score, then stuff on what is left (Kirillov et al., 1801.00868).
    Both files are lists of image_id, category_id and segmentation as run lengths, instances with
    score.

    Args:
        semantic: Semantic predictions; classes of things in it are ignored.
        instances: Instance predictions.
        out: Folder to write; new or empty.
        images: JSON with the images that are wanted, their file names and sizes; by default all
            that are predicted.
        categories: JSON with the categories; by default those of the first other file that has any.
            Where none has, the classes of the instances are things and all others stuff.
        score: Instances below this score are left out.
        overlap: Instances of which a larger share is covered by better ones are left out.
        stuff_area: Stuff that has fewer pixels left in an image is left out.
        processes: Processes; by default as many as there is work for, at most one a core.
    """
    from panoseg.coco.merge import merge_coco
    from panoseg.panoptic.merge import MergeThresholds

    thresholds = MergeThresholds(score, overlap, stuff_area)
    written = merge_coco(
        semantic,
        instances,
        out,
        images_json=images,
        categories_json=categories,
        thresholds=thresholds,
        processes=processes,
    )
    _say(written.notes, written.failures)
    _finish(written.images, written.failures, f"{written.images} images in {written.path}")


def convert(
    source: Annotated[Path, tyro.conf.Positional],
    to: Literal["panoptic", "two-channel", "detection", "semantic"],
    out: Path,
    folder: Path | None = None,
    categories: Path | None = None,
    things_only: bool = False,
    things_as: int | None = None,
    colours: bool = False,
    void: int = 0,
    processes: int | None = None,
) -> None:
    """Convert a dataset: panoptic to two-channel, detection or semantic; two-channel or detection
    to panoptic.

    example: panoseg coco convert panoptic_val2017.json --to detection --things-only --out
    DETECTIONS

    example: panoseg coco convert images.json --folder TWO_CHANNEL_PNG --categories categories.json
    --to panoptic --out PANOPTIC

    Args:
        source: A panoptic JSON. To panoptic: a JSON of detections without overlaps, or a JSON of
            images alone, whose pictures have the class in red and the number of the instance in
            green.
        to: The form to write.
        out: Folder to write, new or empty: panoptic.json, two_channel.json, detection.json or
            semantic.json, and a folder of pictures of the same name.
        folder: Where the pictures of the source lie; by default in the folder of the same name
            beside it.
        categories: JSON with the categories; by default those of the source.
        things_only: Of detections, write things alone.
        things_as: In a semantic map, write all things as one class of this id, e.g. 183, called
            other.
        colours: Draw semantic pictures in the colours of the classes instead of their ids.
        void: Class that means void in two channels.
        processes: Processes; by default as many as there is work for, at most one a core.
    """
    from panoseg.coco.convert import ConvertOptions, convert_coco

    options = ConvertOptions(things_only, things_as, colours, void)
    written = convert_coco(
        source,
        to,
        out,
        folder=folder,
        categories_json=categories,
        options=options,
        processes=processes,
    )
    _say(written.notes, written.failures)
    _finish(written.images, written.failures, f"{written.images} images in {written.path}")


def shards(data: Path, out: str, shards: int = 32, processes: int | None = None) -> None:
    """Write a dataset in COCO's layout as tar shards, in a folder or in the cloud; panoseg train
    --data reads them from there.

    example: panoseg coco shards --data COCO --out s3://bucket/coco --shards 32

    Image, panoptic PNG and instances of a photograph lie side by side, in webdataset's form. Each
    photograph is decoded with its annotation first: one that is wrong is named and left out, with
    exit code 2.

    Args:
        data: Folder of the dataset; all its splits are written.
        out: New or empty folder, or a URL of any store that fsspec knows: s3://, gs:// ..
        shards: Shards of the largest split; the others have shards about as large.
        processes: Processes that write, a shard each; by default one a core.
    """
    from panoseg.data.write_shards import write_shards

    written = write_shards(data, out, shards, processes)
    _say((), written.failures)
    _finish(
        written.photographs,
        written.failures,
        f"{written.photographs} photographs in {written.shards} shards in {out}",
    )


VERBS: Verbs = {
    "evaluate": (evaluate, "panoptic quality of predictions"),
    "merge": (merge, "semantic and instance predictions become panoptic ones"),
    "convert": (
        convert,
        "panoptic to and from two-channel and detection form, and to semantic maps",
    ),
    "shards": (shards, "a dataset becomes tar shards, local or in the cloud"),
}


def _say(notes: Sequence[str], failures: Sequence[PanosegError]) -> None:
    """One line for each note and failure, on standard error; of very many failures the first."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for error in failures[:_MOST_LINES]:
        print(error, file=sys.stderr)
    if len(failures) > _MOST_LINES:
        print(f"and {len(failures) - _MOST_LINES} more", file=sys.stderr)


def _finish(done: int, failures: Sequence[PanosegError], summary: str) -> None:
    """Say what was done. Raises ``PanopticFormatError`` where something was left out, so that the
    exit code tells.
    """
    if not failures:
        print(summary)
        return
    raise PanopticFormatError(
        f"{summary}, {len(failures)} left out", "every image", "mend what the lines above name"
    )
