"""Scores of weights on a dataset: of a run, of our weights, or of the authors' five folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoseg.classes import ClassTable
from panoseg.data.config import PhotographConfig
from panoseg.data.layouts import Layout, Parts, Policy, find_layout
from panoseg.data.pastis import FOLDS
from panoseg.data.places import Place
from panoseg.data.seasons import position_of
from panoseg.errors import ConfigError, WeightsError
from panoseg.files import new_folder, write_json, write_text
from panoseg.metrics.confusion import Region
from panoseg.models.weights import CARD, Weights, WeightsCard, load_weights
from panoseg.panoptic.tta import AUGMENTATIONS
from panoseg.training.config import DataConfig, TrainConfig, task_of_model
from panoseg.training.loop import LAST, make_fabric
from panoseg.training.pictures import (
    check_picture,
    compare,
    draw_comparison,
    draw_photograph,
    draw_predictions,
)
from panoseg.training.score_pictures import draw_scores
from panoseg.training.scores import (
    METRICS,
    TABLE,
    Scores,
    SemanticScores,
    read_test_scores,
    write_mean,
)
from panoseg.training.splits import (
    ScoredPhotograph,
    ScoredPhotographs,
    Split,
    check_kind,
    collate_scored,
    open_parts,
    open_photographs,
    unannotated_note,
)
from panoseg.training.task import Task
from panoseg.training.tasks import task_of
from panoseg.training.transfer import holds_one_fold, is_published, published_weights

if TYPE_CHECKING:
    from lightning.fabric import Fabric

WEIGHTS, PICTURES = "weights", "pictures"


def score(weights: Weights, split: Split, fabric: Fabric, views: int = 1) -> tuple[Task, Scores]:
    """The task of some weights on Fabric's device, and its scores on a set. views: as in
    ``PanopticTask``.
    """
    task = task_of(weights.model(), weights.card.classes, views).to(fabric.device)
    return task, task.evaluate(split, fabric)


@dataclass(frozen=True)
class FoldWeights:
    """Weights and what they are scored on.

    fold: their rotation, None where they belong to none. parts: the dataset's folds or sets whose
    patches are scored.
    """

    weights: Weights
    fold: int | None
    parts: Parts


def find_weights(
    folder: Path, data: Place, fold: int | None, every_patch: bool
) -> Iterator[FoldWeights]:
    """The weights in a folder: a run's, our own, our own of several folds, or the authors'.

    fold: take only this rotation. every_patch: score on all patches of the dataset, none of which
    the weights have seen.
    """
    layout = find_layout(data)
    if (folder / WEIGHTS / CARD).exists():
        folder = folder / WEIGHTS
    if (folder / CARD).exists():
        weights = load_weights(folder)
        yield _placed(weights, layout, fold or weights.card.provenance.get("fold"), every_patch)
    elif is_published(folder):
        only = [
            1 if len(layout.rotations) == 1 else None
        ]  # whose fold a folder of one is, it does not say
        for number in [fold] if fold else only if holds_one_fold(folder) else layout.rotations:
            normalisation = layout.normalisation_of(Path(data), layout.rotation(number or 1)[0])
            yield _placed(
                published_weights(folder, number or 1, normalisation), layout, number, every_patch
            )
    elif any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        for number in [fold] if fold else FOLDS:
            of_fold = folder / f"fold_{number}"
            if not fold and (of_fold / LAST).exists() and not (of_fold / METRICS).exists():
                fix = f"panoseg train --resume {of_fold}"
                raise WeightsError(
                    f"{of_fold} has not been trained to its end", "all five folds", fix
                )
            yield from find_weights(of_fold, data, number, every_patch)
    else:
        raise WeightsError(
            f"{folder} holds no weights",
            "a run, a folder with card.json, or the authors' folder with conf.json and Fold_1 .."
            " Fold_5",
            "check the path",
        )


def _placed(weights: Weights, layout: Layout, fold: int | None, every_patch: bool) -> FoldWeights:
    if every_patch:
        return FoldWeights(weights, fold, layout.parts)
    if layout.of_photographs:
        fold = fold or 1  # there is one official split
    if fold is None:
        raise ConfigError(
            "weights that belong to no fold",
            "the fold to score",
            "add --fold 1, or --every-patch for unseen data",
        )
    return FoldWeights(weights, fold, layout.rotation(fold)[2])


def scored_split(
    found: FoldWeights, data: Place, normalisation: Policy | None, options: TrainConfig
) -> Split:
    """The patches to score, read as the weights expect. normalisation: None follows the weights."""
    card, layout = found.weights.card, find_layout(data)
    check_kind(layout, card.model)
    if layout.of_photographs:
        sides = PhotographConfig(
            *(card.provenance.get(name, 0) for name in ("min_side", "max_side"))
        )
        photographs = ScoredPhotographs(
            open_photographs(layout, data, found.parts, sides, card.classes)
        )
        return Split(
            photographs, None, options.batch_size, workers=options.workers, collate=collate_scored
        )
    _check_classes(card.classes, layout)
    if _policy(card, normalisation) == "published":
        ndvi = card.normalisation is not None and card.normalisation.ndvi
        values = replace(layout.normalisation_of(Path(data), found.parts), ndvi=ndvi)
    else:
        values = card.known_normalisation()
    config = DataConfig(
        reference_date=card.reference_date, single_date=card.provenance.get("single_date")
    )
    dataset = open_parts(data, found.parts, config, task_of_model(card.model))
    return Split(dataset, values, options.batch_size, workers=options.workers)


def _readable(split: Split) -> Split:
    """The set itself, once its first patch could be read."""
    split.dataset[0]
    return split


def _policy(card: WeightsCard, asked: Policy | None) -> Policy:
    return asked or card.provenance.get(
        "normalisation", "published" if "imported_from" in card.provenance else "train"
    )


def normalisation_words(found: FoldWeights, data: Place, asked: Policy | None = None) -> str:
    """How ``scored_split`` reads images, in words; "published" is by the folds that are scored,
    whichever they are.
    """
    if found.weights.card.of_photographs:
        return "of the size that was trained"
    if _policy(found.weights.card, asked) == "published":
        return f"normalised by the mean over {find_layout(data).words(found.parts)}, as published"
    return "normalised as in training"


def _check_classes(known: ClassTable, layout: Layout) -> None:
    if not known.same_classes(layout.classes):
        raise WeightsError(
            f"weights for the {len(known.classes)} classes of {known.name} with a dataset in"
            f" {layout.name}'s layout",
            f"weights for its {len(layout.classes.classes)} classes",
            "use weights that were trained on such a dataset",
        )


def _check_kind(found: Sequence[FoldWeights], region: Region, views: int) -> None:
    """Raise ``ConfigError`` for options of panoptic models with a semantic one, and the other way
    round.
    """
    panoptic = {task_of_model(entry.weights.card.model) == "panoptic" for entry in found}
    if region != "all" and True in panoptic:
        raise ConfigError(
            f"--region {region} with weights of a panoptic model",
            "weights of a semantic model, whose scores are of pixels",
            "leave out --region",
        )
    if not 1 <= views <= AUGMENTATIONS:
        raise ConfigError(f"views {views}", f"1 to {AUGMENTATIONS}", "change --views")
    if views > 1 and False in panoptic:
        raise ConfigError(
            f"--views {views} with weights of a semantic model",
            "weights of a panoptic model, whose masks are joined",
            "leave out --views",
        )


def _check_photographs(
    layout: Layout, every_patch: bool, normalisation: Policy | None, region: Region, views: int
) -> None:
    """Raise ``ConfigError`` for options of seasons with a dataset of photographs."""
    given = {
        "--every-patch": every_patch,
        "--normalisation": normalisation is not None,
        "--region": region != "all",
        "--views": views != 1,
    }
    if layout.of_photographs and any(given.values()):
        option = next(name for name, is_given in given.items() if is_given)
        raise ConfigError(
            f"{option} with photographs",
            "an option of satellite image time series alone",
            f"leave out {option}",
        )


def score_folder(
    folder: Path,
    data: Place,
    out: Path,
    options: TrainConfig,
    *,
    fold: int | None = None,
    every_patch: bool = False,
    normalisation: Policy | None = None,
    region: Region = "all",
    views: int = 1,
    pictures: int = 3,
) -> None:
    """Score the weights in a folder, print the tables, and write metrics.json, metrics.md and
    pictures into a new folder.

    options: batch size, precision, accelerator and workers are taken from it. region: of which
    pixels the tables of a semantic model are. views: as in ``PanopticTask``. pictures: how many
    patches are drawn beside the scores; with 0 nothing is.
    """
    layout = find_layout(data)
    found = list(find_weights(folder, data, fold, every_patch))
    _check_photographs(layout, every_patch, normalisation, region, views)
    _check_kind(found, region, views)
    splits = [_readable(scored_split(entry, data, normalisation, options)) for entry in found]
    new_folder(out)
    fabric = make_fabric(options)
    scores: dict[int | None, Scores] = {}
    for entry, split in zip(found, splits, strict=True):
        task, of_all = score(entry.weights, split, fabric, views)
        scores[entry.fold] = (
            replace(of_all, region=region) if isinstance(of_all, SemanticScores) else of_all
        )
        words = normalisation_words(entry, data, normalisation) + (
            f", seen in {views} views" if views > 1 else ""
        )
        print(
            f"{_scored_words(split, layout, entry.parts, words)}\n\n{scores[entry.fold].table()}\n"
        )
        place = out if len(found) == 1 else out / f"fold_{entry.fold}"
        if pictures:
            draw_predictions(
                task, split, fabric, entry.weights.card.reference_date, place / PICTURES, pictures
            )
            draw_scores(scores[entry.fold], task.table, place / PICTURES)
        about = {
            "fold": entry.fold,
            f"{layout.part}s": entry.parts,
            layout.samples: len(split),
            "views": views,
        }
        write_scores(place, scores[entry.fold], about)
    if len(found) > 1:
        print(
            write_mean(
                out,
                {number: read_test_scores(out / f"fold_{number}") for number in scores if number},
            )
        )


def _scored_words(split: Split, layout: Layout, parts: Parts, how: str) -> str:
    """What is scored, in words. how: as what it is seen."""
    of = layout.words(parts)
    note = unannotated_note({of: len(split.dataset.unannotated)}) if layout.of_photographs else ""  # type: ignore[attr-defined]
    return f"{len(split)} {layout.samples} of {of}, {how}{note}"


def write_scores(folder: Path, scores: Scores, about: Mapping[str, Any]) -> None:
    """Write metrics.json (``about``, then the main numbers as "test", then all as "details") and
    metrics.md.
    """
    write_text(folder / TABLE, scores.table() + "\n")
    write_json(folder / METRICS, {**about, "test": scores.summary(), "details": scores.to_json()})


def show(folder: Path, data: Place, patch: str, out: Path, fold: int | None = None) -> None:
    """Draw image, truth and prediction of one patch of any fold, or of one photograph of any
    set.
    """
    check_picture(out)
    found = next(find_weights(folder, data, fold, every_patch=True))
    options = TrainConfig(batch_size=1, workers=0, accelerator="cpu")
    if found.weights.card.of_photographs:
        split, position = _find_photograph(found, data, patch, options)
    else:
        split = scored_split(found, data, None, options)
        position = position_of(patch, [str(patch_id) for patch_id in split.dataset.ids])  # type: ignore[attr-defined]
    fabric = make_fabric(options)
    task = task_of(found.weights.model(), found.weights.card.classes)
    sample = split.dataset[position]
    if isinstance(sample, ScoredPhotograph):
        draw_photograph(task, split, sample, fabric, out)
        print(f"{out}: photograph {patch}")
        return
    comparison = compare(task, split, sample, fabric)
    draw_comparison(comparison, task.table, found.weights.card.reference_date, out)
    print(f"{out}: patch {patch}, {normalisation_words(found, data)}")


def _find_photograph(
    found: FoldWeights, data: Place, name: str, options: TrainConfig
) -> tuple[Split, int]:
    """The set that holds a photograph, and where in it. Raises ``ConfigError`` where none does."""
    names: list[str] = []
    for part in find_layout(data).parts:
        split = scored_split(replace(found, parts=(part,)), data, None, options)
        if name in split.dataset.names:  # type: ignore[attr-defined]
            return split, split.dataset.names.index(name)  # type: ignore[attr-defined]
        names += split.dataset.names  # type: ignore[attr-defined]
    return split, position_of(name, names)  # which raises, and says what there is
