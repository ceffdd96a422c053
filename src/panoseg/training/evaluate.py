"""Score weights on a dataset, and draw predictions next to the truth.

Weights are those of a run, our own, or those of the published programs, of one fold or of five.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from panoseg.classes import ClassTable
from panoseg.data import DataConfig
from panoseg.data.layouts import Layout, Parts, Policy, Reading, find_layout
from panoseg.data.pastis import FOLDS
from panoseg.data.places import Place
from panoseg.data.seasons import position_of
from panoseg.errors import ConfigError, WeightsError
from panoseg.files import new_folder, write_json, write_text
from panoseg.metrics import Scores, nothing_true
from panoseg.metrics.confusion import Region
from panoseg.models.configs import check_tta
from panoseg.models.hub_folders import is_hub_folder
from panoseg.models.model import WEIGHTS
from panoseg.models.network import Network
from panoseg.models.weights import CARD, Weights, WeightsCard, load_weights
from panoseg.pictures import check_picture
from panoseg.pictures.comparison import DRAW, Comparison
from panoseg.pictures.scores import draw_scores
from panoseg.processes import hold_in_first_process
from panoseg.training import TrainConfig
from panoseg.training.loop import LAST, make_fabric
from panoseg.training.scorers import PLAIN, ScoreOptions, scorer_of
from panoseg.training.splits import (
    METRICS,
    TABLE,
    Split,
    check_inputs,
    read_test_scores,
    unannotated_note,
    write_mean,
)
from panoseg.training.transfer import (
    holds_one_fold,
    is_published,
    published_folds,
    published_weights,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PICTURES = "pictures"


def score(
    weights: Weights, split: Split, fabric: Fabric, options: ScoreOptions = PLAIN
) -> tuple[Network, Scores]:
    """Return the network of some weights on Fabric's device, and its scores on a set."""
    network = weights.network().to(fabric.device)
    return network, scorer_of(network.config).evaluate(network, split, fabric, options)


@dataclass(frozen=True)
class FoldWeights:
    """Weights and what they are scored on."""

    weights: Weights
    """The weights."""
    fold: int | None
    """Their rotation; None where they belong to none."""
    parts: Parts
    """The dataset's folds or sets whose samples are scored."""
    every_patch: bool = False
    """Whether these are all of the dataset."""


def find_weights(
    folder: Path, data: Place, fold: int | None, every_patch: bool
) -> Iterator[FoldWeights]:
    """Find the weights in a folder: of a run, our own of one or several folds, or published ones.

    Args:
        folder: The folder.
        data: The dataset.
        fold: The only rotation to take; None takes all.
        every_patch: Score on all patches of the dataset; the weights have seen none of them.
    """
    layout = find_layout(data)
    if (folder / WEIGHTS / CARD).exists():
        folder = folder / WEIGHTS
    if (folder / CARD).exists() or is_hub_folder(folder):
        weights = load_weights(folder)
        yield _placed(weights, layout, fold or weights.card.provenance.get("fold"), every_patch)
    elif is_published(folder):
        # Whose fold a folder of one is, it does not say.
        only = [1 if len(layout.rotations) == 1 else None]
        several = len(layout.rotations) > 1 and not holds_one_fold(folder)
        every = published_folds(folder) if several and not fold else ()
        for number in [fold] if fold else every or only:
            normalisation = layout.normalisation_of(Path(data), layout.rotation(number or 1)[0])
            yield _placed(
                published_weights(folder, number or 1, normalisation), layout, number, every_patch
            )
    elif any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        for number in [fold] if fold else FOLDS:
            of_fold = folder / f"fold_{number}"
            if not fold and (of_fold / LAST).exists() and not (of_fold / METRICS).exists():
                raise WeightsError(
                    f"{of_fold} has not been trained to its end. Run panoseg train --resume"
                    f" {of_fold} first."
                )
            yield from find_weights(of_fold, data, number, every_patch)
    else:
        raise WeightsError(
            f"{folder} holds no weights. Name a run, a folder with card.json or (of the hub) with"
            " config.json, or the authors'"
            " folder with conf.json and Fold_1 .. Fold_5."
        )


def _placed(weights: Weights, layout: Layout, fold: int | None, every_patch: bool) -> FoldWeights:
    if every_patch:
        return FoldWeights(weights, fold, layout.parts, every_patch)
    if not layout.standardised:
        fold = fold or 1  # photographs have one official split
    if fold is None:
        raise ConfigError(
            "These weights belong to no fold. Add --fold 1 for the fold to score, or --every-patch"
            " for unseen data."
        )
    return FoldWeights(weights, fold, layout.rotation(fold)[2])


def scored_split(
    found: FoldWeights, data: Place, normalisation: Policy | None, options: TrainConfig
) -> Split:
    """Open the samples to score, read as the weights expect.

    Args:
        found: The weights.
        data: The dataset.
        normalisation: "published" takes the statistics of the scored parts; None follows the
            weights.
        options: Batch size and workers.
    """
    card = found.weights.card
    layout = find_layout(data, _own_classes(card))
    check_inputs(layout, card.model)
    seasons = DataConfig(
        reference_date=card.reference_date, single_date=card.provenance.get("single_date")
    )
    reading = Reading(card.model.answers, seasons, card.sides)
    dataset = layout.open_scored(data, found.parts, reading, card.classes)
    if layout.standardised and _policy(card, normalisation) == "published":
        values = layout.normalisation_of(Path(data), found.parts)
        ndvi = card.normalisation is not None and card.normalisation.ndvi
        values = values and replace(values, ndvi=ndvi)
    else:
        values = card.input_normalisation()
    return Split(
        dataset, values, options.batch_size, workers=options.workers, collate=layout.collate_scored
    )


def _own_classes(card: WeightsCard) -> ClassTable | None:
    """Return the classes of weights that were trained on an own dataset in PASTIS's layout."""
    return card.classes if card.provenance.get("own_classes") else None


def _policy(card: WeightsCard, asked: Policy | None) -> Policy:
    default = "published" if "imported_from" in card.provenance else "train"
    policy: Policy = asked or card.provenance.get("normalisation", default)
    return policy


def reading_words(found: FoldWeights, data: Place, asked: Policy | None = None) -> str:
    """Return how ``scored_split`` reads images, in words.

    "published" is by the folds that are scored, whichever they are.
    """
    layout = find_layout(data)
    if not layout.standardised:
        return "of the size that was trained"
    if _policy(found.weights.card, asked) == "published":
        return f"normalised by the mean over {layout.words(found.parts)}, as published"
    return "normalised as in training"


@dataclass(frozen=True)
class EvaluationOptions:
    """What is scored by ``score_folder``, and how."""

    fold: int | None = None
    """Take only this rotation; None takes that of the weights."""
    every_patch: bool = False
    """Score on all samples of the dataset, none of which the weights have seen."""
    normalisation: Policy | None = None
    """As in ``scored_split``."""
    region: Region = "all"
    """Which pixels the tables of a semantic network for seasons are of."""
    tta: int = 1
    """Number of test-time augmentations."""
    pictures: int = 3
    """Number of samples that are drawn in addition to the scores; 0 draws none."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of the weights in a folder."""

    folder: Path
    """Where metrics.json, metrics.md and figures are."""
    scores: Mapping[int | None, Scores]
    """By fold; None for weights that belong to none."""
    lines: Mapping[int | None, str]
    """What was scored, in words; by fold."""
    mean: str = ""
    """Tables of the mean of several folds; empty for one."""
    notes: tuple[str, ...] = field(default=())
    """What to know of the scores, one sentence each."""

    def table(self) -> str:
        """Return the tables of all folds, and of their mean."""
        parts = [
            f"{self.lines[fold]}\n\n{scores.table()}\n" for fold, scores in self.scores.items()
        ]
        return "\n".join([*parts, *([self.mean] if self.mean else [])])


def _check_options(
    found: Sequence[FoldWeights], layout: Layout, options: EvaluationOptions
) -> None:
    """Raise ``ConfigError`` for options that do nothing with these samples or networks."""
    for name in ("every_patch", "normalisation", "region", "tta"):
        given = getattr(options, name) != getattr(EvaluationOptions(), name)
        if given and name not in layout.scoring_options:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no meaning for {layout.samples}. Leave it out.")
    for model in (entry.weights.card.model for entry in found):
        if options.region != "all" and not scorer_of(model).has_regions:
            raise ConfigError(
                f"--region {options.region} is for semantic models, but these weights are of a"
                f" {model.answers} model. Leave it out."
            )
        check_tta(model, options.tta)


def score_folder(
    folder: Path,
    data: Place,
    out: Path,
    train: TrainConfig,
    *,
    fold: int | None = None,
    every_patch: bool = False,
    normalisation: Policy | None = None,
    region: Region = "all",
    tta: int = 1,
    pictures: int = 3,
) -> Evaluation:
    """Score the weights in a folder, and write metrics.json, metrics.md and figures.

    Args:
        folder: A run, our weights, or the authors' folder.
        data: The dataset.
        out: New or empty.
        train: Batch size, precision, accelerator and workers are taken from it.
        fold: As in ``EvaluationOptions``, like the arguments that follow.
        every_patch: Likewise.
        normalisation: Likewise.
        region: Likewise.
        tta: Likewise.
        pictures: Likewise.
    """
    layout = find_layout(data)
    options = EvaluationOptions(fold, every_patch, normalisation, region, tta, pictures)
    found = list(find_weights(folder, data, options.fold, options.every_patch))
    _check_options(found, layout, options)
    splits = [scored_split(entry, data, options.normalisation, train) for entry in found]
    for split in splits:
        split.dataset[0]  # so that a broken dataset is found before a folder is made
    with hold_in_first_process(out):
        return _score_all(found, splits, layout, data, new_folder(out), make_fabric(train), options)


def _score_all(
    found: Sequence[FoldWeights],
    splits: Sequence[Split],
    layout: Layout,
    data: Place,
    out: Path,
    fabric: Fabric,
    options: EvaluationOptions,
) -> Evaluation:
    """Score the weights of each fold on its split, and write the results into a held folder."""
    scores: dict[int | None, Scores] = {}
    lines: dict[int | None, str] = {}
    notes: dict[str, None] = {}
    for entry, split in zip(found, splits, strict=True):
        asked = ScoreOptions(options.tta, options.region)
        network, scores[entry.fold] = score(entry.weights, split, fabric, asked)
        own = () if entry.every_patch else layout.notes(entry.fold or 1)
        empty = nothing_true(scores[entry.fold], layout.words(entry.parts))
        own += empty
        notes |= dict.fromkeys(own)
        lines[entry.fold] = _scored_words(entry, split, layout, data, options)
        place = out if len(found) == 1 else out / f"fold_{entry.fold}"
        if options.pictures:
            date = entry.weights.card.reference_date
            draw_predictions(network, split, fabric, date, place / PICTURES, options.pictures)
            if not empty:
                draw_scores(scores[entry.fold], network.table, place / PICTURES)
        about = {
            "fold": entry.fold,
            f"{layout.part}s": entry.parts,
            layout.samples: len(split),
            "views": options.tta,
            **({"notes": list(own)} if own else {}),
        }
        write_scores(place, scores[entry.fold], about)
    mean = ""
    if len(found) > 1:
        folds = [number for number in scores if number]
        mean = write_mean(
            out, {number: read_test_scores(out / f"fold_{number}") for number in folds}
        )
    return Evaluation(out, scores, lines, mean, tuple(notes))


def _scored_words(
    entry: FoldWeights, split: Split, layout: Layout, data: Place, options: EvaluationOptions
) -> str:
    """Return what is scored, in words."""
    how = reading_words(entry, data, options.normalisation)
    if options.tta > 1:
        how += f", seen in {options.tta} views"
    of = layout.words(entry.parts)
    note = unannotated_note({of: layout.left_out(split.dataset)})
    return f"{len(split)} {layout.samples} of {of}, {how}{note}"


def write_scores(folder: Path, scores: Scores, about: Mapping[str, Any]) -> None:
    """Write metrics.json and metrics.md.

    The JSON holds ``about``, then the main numbers as "test", then all as "details".
    """
    write_text(folder / TABLE, scores.table() + "\n")
    write_json(folder / METRICS, {**about, "test": scores.summary(), "details": scores.to_json()})


@torch.no_grad()
def compare(network: Network, split: Split, sample: object, fabric: Fabric) -> Comparison:
    """Return a sample of a set with its truth and its prediction."""
    network.eval()
    batch = split.prepare(split.collate([sample]), fabric)
    with fabric.autocast():
        [prediction] = network.predict(batch)
    [truth] = scorer_of(network.config).truths(batch, network.table)
    return Comparison(sample, truth, prediction)


def draw_predictions(
    network: Network,
    split: Split,
    fabric: Fabric,
    reference_date: str,
    folder: Path,
    count: int = 3,
) -> None:
    """Write a comparison of some samples of a set, spread over it.

    Files are ``folder``/patch-<name>.png, or photograph-<name>.png.
    """
    positions = sorted({round(position) for position in np.linspace(0, len(split) - 1, count)})
    for position in positions:
        sample = split.dataset[position]
        comparison = compare(network, split, sample, fabric)
        kind = {"season": "patch", "photograph": "photograph"}[network.inputs]
        path = folder / f"{kind}-{sample.name.replace('/', '-')}.png"
        DRAW[network.inputs](comparison, network.table, reference_date, path)


@dataclass(frozen=True)
class ShowResult:
    """A figure of one sample."""

    path: Path
    """Its file."""
    words: str
    """What it shows."""
    notes: tuple[str, ...] = ()
    """What to know of it, one sentence each."""

    def table(self) -> str:
        """Return file and contents, in a line."""
        return f"{self.path}: {self.words}"


def show(folder: Path, data: Place, patch: str, out: Path, fold: int | None = None) -> ShowResult:
    """Draw image, truth and prediction of one patch of any fold, or of one photograph of any set.

    Args:
        folder: A run, or weights.
        data: The dataset.
        patch: Name of the patch or photograph.
        out: File of the figure.
        fold: Which weights to use where there are several.
    """
    check_picture(out)
    found = next(find_weights(folder, data, fold, every_patch=True))
    options = TrainConfig(batch_size=1, workers=0, accelerator="cpu")
    split, position = _find_sample(found, data, patch, options)
    fabric = make_fabric(options)
    network = found.weights.network()
    comparison = compare(network, split, split.dataset[position], fabric)
    DRAW[network.inputs](comparison, network.table, found.weights.card.reference_date, out)
    kind = {"season": "patch", "photograph": "photograph"}[network.inputs]
    how = f", {reading_words(found, data)}" if split.normalisation is not None else ""
    return ShowResult(out, f"{kind} {patch}{how}")


def _find_sample(
    found: FoldWeights, data: Place, name: str, options: TrainConfig
) -> tuple[Split, int]:
    """Return the set that holds a sample, and its position there.

    Raises:
        ConfigError: No set has a sample of that name.
    """
    layout = find_layout(data)
    names: list[str] = []
    for parts in layout.openable:
        split = scored_split(replace(found, parts=parts), data, None, options)
        own = layout.names(split.dataset)
        if name in own:
            return split, own.index(name)
        names += own
    return split, position_of(name, names)  # which raises, and lists the names
