"""Adapt weights to a season by a few fields that a person drew or corrected.

The network learns these fields on pieces of the season around them. What nobody labelled counts for
nothing. Simulated seasons are repeated in turn, so that nothing is forgotten. First each half of
the fields is held out once: only if the fields are drawn better by weights that learned the other
half, the network learns from all of them and is written. Where other thresholds of the old weights
are better still, only these change.

Shape suffixes: T dates, C bands, H W pixels, N fields.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
from torch import nn

import panoseg
from panoseg.classes import PASTIS as PASTIS_CLASSES
from panoseg.cube.open import reading
from panoseg.cube.season import Season
from panoseg.data import AugmentationConfig
from panoseg.data.augment import augment
from panoseg.data.samples import Batch, Sample, collate
from panoseg.errors import ParcelsError, WeightsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.sentinel2 import PASTIS_BANDS, season_span
from panoseg.maps import MapOptions
from panoseg.maps.inputs import GivenWeights, open_season
from panoseg.maps.read_parcels import check_place, left_out_notes, read_truth
from panoseg.models.configs.parcels import FieldsConfig
from panoseg.models.fields import UNKNOWN_CLASS, Fields
from panoseg.models.model import Model
from panoseg.models.weights import Weights, WeightsCard, check_folder, save_weights
from panoseg.models.weights_list import FOR_FEWER_BANDS, PACKAGE_FOLDER
from panoseg.progress import track
from panoseg.register import AdaptOptions
from panoseg.register.drawn import (
    FEWEST_PIXELS,
    NO_DATA,
    NO_FIELD,
    UNLABELLED,
    Labels,
    Piece,
    Quality,
    match_fields,
    quality_of,
    read_pieces,
)
from panoseg.register.parcels import void_of
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.season import simulate_season
from panoseg.text_files import listed
from panoseg.training.experiments import EXPERIMENTS

_CROP = 128
"""Side in pixels of what is cut out of a piece for a step."""
FEWEST_FIELDS = 4
"""Fewer fields are refused."""
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
_CLIP = 5.0
"""Largest norm of a gradient."""
_Matches = dict[tuple[float, float], np.ndarray]
"""Sums of ``match_fields`` by thresholds: of the extent, and for merging."""


@dataclass(frozen=True)
class _Trial:
    """What became of fields that were held out."""

    before: Quality
    """Drawn by the old weights."""
    after: Quality
    """Drawn in the best way that was found."""
    extent_threshold: float
    """That of the best way."""
    merge_threshold: float
    """That of the best way."""
    learned: bool
    """Whether weights that learned the other fields are best, or the old ones with these
    thresholds.
    """

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds by the names of the network's options."""
        return {name: getattr(self, name) for name in ("extent_threshold", "merge_threshold")}


@dataclass(frozen=True)
class Adapted:
    """What ``adapt`` did."""

    weights: Weights
    """The new weights."""
    fields: int
    """Fields that were learned."""
    before: Quality | None
    """The fields, drawn by the old weights; None where nothing was held out."""
    after: Quality | None
    """The fields, drawn in the best way that was found: each group by weights that learned the
    others, or by the old weights with other thresholds.
    """
    notes: tuple[str, ...]
    """What to know, a sentence each."""


def adapt(
    cube_path: Path,
    fields: Path | str,
    weights: Weights | Path | str | None = None,
    no_fields: Path | str | None = None,
    class_column: str | None = None,
    options: AdaptOptions | None = None,
    vector: VectorOptions | None = None,
) -> Adapted:
    """Adapt weights to a season.

    Args:
        cube_path: The season, in any form that ``panoseg.map`` reads.
        fields: File of polygons, each the whole outline of a field. Its class, a name of a class
            of the weights, may be missing. Where the class is "no field", there is none.
        weights: A folder or name of weights whose network is ``Fields``; by default those in the
            package.
        no_fields: File of polygons without any field.
        class_column: Column of the classes; by default "class", if there is one.
        options: How they are adapted.
        vector: How the files of polygons are read.

    Raises:
        ParcelsError: There are too few fields, or the weights did not get better.
        WeightsError: The network is another.
        CubeError: The season cannot be read.
    """
    options = options or AdaptOptions()
    given = _weights_to_adapt(weights)
    readings = (None, None) if vector is None else vector.of_two()
    drawn = read_truth(fields, readings[0])
    none = None if no_fields is None else read_truth(no_fields, readings[1])
    choices = {name: getattr(options, name) for name in ("year", "min_clear", "max_dates", "read")}
    cube, season, notes = open_season(cube_path, given.card, MapOptions(**choices))
    grid = cube.odc.geobox
    extent = gpd.GeoSeries([grid.extent.geom], crs=grid.extent.crs.to_wkt())
    check_place(drawn, str(fields), extent, cube_path)
    if none is not None:
        check_place(none, str(no_fields), extent, cube_path)
    labels = Labels(drawn, none, class_column, grid, given.card.classes)
    with reading(cube_path):
        pieces = read_pieces(cube, labels, given.card.bands)
    every = frozenset[int]().union(*(piece.own for piece in pieces))
    if len(every) < FEWEST_FIELDS:
        raise ParcelsError(
            f"{fields} has {len(every)} fields of at least {FEWEST_PIXELS} pixels on the season,"
            f" and {FEWEST_FIELDS} are needed: draw more."
        )
    notes = (*given.notes, *notes, *left_out_notes(drawn, none), *_notes(labels, len(every)))
    learning = _Learning(given.weights, season, labels, pieces, options)
    trial = learning.trial(labels.groups(every, options.groups)) if options.groups > 1 else None
    if trial is not None and trial.after.pq <= trial.before.pq:
        raise ParcelsError(
            "The weights did not get better, so nothing was written. Fields that were held out"
            f" before: {trial.before}; after: {trial.after}. Draw more fields, also where the map"
            " is wrong."
        )
    learned = trial is None or trial.learned
    network = learning.fit(every, "learning") if learned else learning.start
    if not learned:
        notes += ("Other thresholds alone draw your fields best; the network learned nothing.",)
    card = _card(given, network, trial, len(every), cube_path.name, options)
    before, after = (None, None) if trial is None else (trial.before, trial.after)
    return Adapted(Weights(card, network.state_dict()), len(every), before, after, notes)


def _card(
    given: GivenWeights,
    network: Fields,
    trial: _Trial | None,
    fields: int,
    season: str,
    options: AdaptOptions,
) -> WeightsCard:
    """Return the card of adapted weights."""
    config = network.config if trial is None else replace(network.config, **trial.thresholds())
    provenance = {
        "adapted_from": given.name,
        "fields": fields,
        "groups": options.groups,
        "steps": options.steps if trial is None or trial.learned else 0,
        "seed": options.seed,
    }
    scores = {}
    if trial is not None:
        scores["PQ_held_out_before"] = round(100 * trial.before.pq, 1)
        scores["PQ_held_out_after"] = round(100 * trial.after.pq, 1)
    return replace(
        given.card,
        # Days of other seasons are counted as in the training.
        model=config.fitted(reference_date=given.card.reference_date),
        trained_on=f"{given.card.trained_on}; adapted by {fields} fields of {season}",
        provenance={**given.card.provenance, **provenance},
        scores=scores,
        version=panoseg.__version__,
    )


def _weights_to_adapt(weights: Weights | Path | str | None) -> GivenWeights:
    """Return weights whose network draws fields and knows void.

    Raises:
        WeightsError: They are others.
    """
    given = GivenWeights.of(PACKAGE_FOLDER / FOR_FEWER_BANDS if weights is None else weights)
    if not isinstance(given.card.model, FieldsConfig):
        raise WeightsError(
            f"Weights of {given.card.model.title} cannot be adapted: choose weights of a network"
            " that draws fields, such as simulated-fields."
        )
    foreign = sorted(set(given.card.bands) - set(PASTIS_BANDS))
    if foreign or given.card.classes.void is None:
        reason = (
            f"the bands {', '.join(foreign)} are not simulated" if foreign else "no class is void"
        )
        raise WeightsError(
            f"These weights cannot be adapted, because {reason}: train them instead."
        )
    return given if weights is not None else replace(given, name=FOR_FEWER_BANDS)


def adapt_file(out: Path, *arguments: Any, **options: Any) -> Adapted:  # noqa: ANN401
    """Adapt weights and write them to a folder; other arguments and errors as for ``adapt``."""
    check_folder(out)
    adapted = adapt(*arguments, **options)
    save_weights(out, adapted.weights)
    return adapted


def _notes(labels: Labels, fields: int) -> list[str]:
    notes = []
    if labels.rows > fields:
        notes.append(
            f"{labels.rows - fields} fields are hidden by others, smaller than {FEWEST_PIXELS}"
            " pixels, or without data, and were left out."
        )
    if labels.unknown:
        notes.append(
            f"The weights do not know the classes {listed(labels.unknown, 10)}; the outlines of"
            " these fields were learned, and not their class."
        )
    if not len(labels.bare):
        notes.append(
            'No polygon says where there is no field (class "no field", or --no-fields); with a'
            " few of them, gardens and yards are less often taken for fields."
        )
    return notes


class _Learning:
    """Trainings on the pieces of a season, each from the same weights."""

    def __init__(
        self,
        weights: Weights,
        season: Season,
        labels: Labels,
        pieces: Sequence[Piece],
        options: AdaptOptions,
    ) -> None:
        self.card, self.pieces, self.options = weights.card, pieces, options
        self.days_T = season.days_T
        self.classes_N = labels.classes_N
        self.model = Model.of(weights, device=options.device, reference_date=season.reference)
        assert isinstance(self.model.network, Fields)
        self.start = self.model.network
        self.own = (self.start.config.extent_threshold, self.start.config.merge_threshold)
        stride = self.start.config.stride
        sides = [side for piece in pieces for side in piece.number_HW.shape]
        self.crop = max(min(_CROP, *sides) // stride, 2) * stride
        self.simulated = self._simulate()

    def _simulate(self) -> list[Sample]:
        """Simulate the seasons that are repeated."""
        table = self.card.classes
        order = [PASTIS_BANDS.index(band) for band in self.card.bands]
        options = SimulationOptions(style="real")
        start = np.datetime64(season_span(options.harvest_year)[0])
        samples = []
        for number in track(range(self.options.simulated), "simulating seasons"):
            season = simulate_season((self.crop, self.crop), (self.options.seed, number), options)
            classes_HW = season.classes_HW.astype(np.int64)
            if not table.same_classes(PASTIS_CLASSES):
                classes_HW = np.where(season.parcels_HW > 0, UNKNOWN_CLASS, table.background or 0)
            samples.append(
                Sample(
                    torch.from_numpy(season.images_TCHW[:, order]),
                    torch.from_numpy((np.array(season.dates, "M8[D]") - start).astype(np.int64)),
                    f"simulated {number}",
                    torch.from_numpy(classes_HW),
                    torch.from_numpy(season.parcels_HW),
                )
            )
        return samples

    def sample(self, piece: Piece, fields: frozenset[int]) -> Sample:
        """Return a piece with the labels of some fields; the others are void."""
        void, background = void_of(self.card.classes), self.card.classes.background
        number_HW = piece.number_HW
        field_HW = np.isin(number_HW, list(fields))
        class_HW = self.classes_N[np.maximum(number_HW, 1) - 1]
        # Without a class of background, bare land teaches as void does: not at all.
        bare = void if background is None else background
        classes_HW = np.select(
            [field_HW, number_HW == NO_FIELD, number_HW == NO_DATA],
            [class_HW, bare, UNKNOWN_CLASS],
            void,
        )
        instances_HW = np.where(field_HW, number_HW, 0).astype(np.int32)
        images_TCHW = piece.images_TCHW
        missing = [max(self.crop - side, 0) for side in number_HW.shape]
        if any(missing):
            margins = ((0, missing[0]), (0, missing[1]))
            images_TCHW = np.pad(images_TCHW, ((0, 0), (0, 0), *margins), "symmetric")
            classes_HW = np.pad(classes_HW, margins, constant_values=UNKNOWN_CLASS)
            instances_HW = np.pad(instances_HW, margins)
        return Sample(
            torch.from_numpy(images_TCHW),
            torch.from_numpy(self.days_T),
            "piece",
            torch.from_numpy(classes_HW),
            torch.from_numpy(instances_HW),
        )

    def fit(self, fields: frozenset[int], description: str) -> Fields:
        """Learn some of the fields."""
        network = copy.deepcopy(self.start).train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # a few pieces of one season are no good statistics
        options, optimiser = self.options, torch.optim.AdamW(network.parameters())
        rng = np.random.default_rng(options.seed)
        # Pieces of bare land, which have no fields, count as one field.
        own = [piece for piece in self.pieces if piece.own & fields or not piece.own]
        share = np.array([max(len(piece.own & fields), 1) for piece in own], np.float64)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(options.seed)  # bands are dropped
            for step in track(range(options.steps), description):
                for group in optimiser.param_groups:
                    group["lr"] = options.learning_rate * _rate(step / options.steps)
                optimiser.zero_grad()
                piece = own[int(rng.choice(len(own), p=share / share.sum()))]
                for sample in (
                    self.sample(piece, fields),
                    self.simulated[step % len(self.simulated)],
                ):
                    network.losses(self._batch(augment(sample, self._changes, rng)))[
                        "loss"
                    ].backward()
                nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
                optimiser.step()
        network.eval()
        return network

    @property
    def _changes(self) -> AugmentationConfig:
        """How samples are changed: as when the weights were trained, and cut to one size."""
        return replace(EXPERIMENTS["simulated-fields"].config.data.augmentation, crop=self.crop)

    def _batch(self, sample: Sample) -> Batch:
        """Return a sample alone in a batch on the device, standardised."""
        batch = collate([sample]).to(self.model.device)
        images = self.card.known_normalisation()(batch.images_BTCHW, batch.valid_BT)
        return replace(batch, images_BTCHW=images)

    def trial(self, groups: Sequence[frozenset[int]]) -> _Trial:
        """Hold each group of fields out once, and find what draws all of them best."""
        every = frozenset[int]().union(*groups)
        start = self._matches(self.start, every)
        after: _Matches = {}
        for number, held in enumerate(groups, 1):
            network = self.fit(every - held, f"learning, trial {number} of {len(groups)}")
            self._matches(network, held, after)
        best = {new: _best(totals, self.own) for new, totals in ((True, after), (False, start))}
        found = {True: quality_of(after[best[True]]), False: quality_of(start[best[False]])}
        learned = found[True].pq > found[False].pq
        return _Trial(quality_of(start[self.own]), found[learned], *best[learned], learned)

    def _matches(
        self, network: Fields, fields: frozenset[int], totals: _Matches | None = None
    ) -> _Matches:
        """Match what a network draws with some fields; bare land, which it learns, is left out.

        Args:
            network: The network.
            fields: The fields that count.
            totals: Sums to add to.

        Returns:
            The sums of ``match_fields`` for each pair of thresholds.
        """
        totals = {} if totals is None else totals
        for piece in self.pieces:
            if not piece.own & fields:
                continue
            height, width = piece.number_HW.shape
            batch = self.model.batch(piece.images_TCHW[None], self.days_T)
            maps_5HW = network.probabilities(batch)[0][0][:, :height, :width]
            number_HW = np.where(piece.number_HW == NO_FIELD, UNLABELLED, piece.number_HW)
            drawn = {(e, m): found_HW for e, m, found_HW in network.regions_by_threshold(maps_5HW)}
            drawn[self.own] = network.regions(maps_5HW)
            for pair, region_HW in drawn.items():
                found = match_fields(region_HW, number_HW, piece.own & fields)
                totals[pair] = totals.get(pair, np.zeros(4)) + found
        return totals


def _best(totals: _Matches, own: tuple[float, float]) -> tuple[float, float]:
    """Return the best thresholds; the nearest to ``own`` where several are."""
    return max(totals, key=lambda pair: (quality_of(totals[pair]).pq, -math.dist(pair, own)))


def _rate(share: float) -> float:
    """Return the factor of the learning rate when a share of the steps is done."""
    return min(1.0, (share + 0.001) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
