"""Adapt weights to a season by a few fields that a person drew or corrected.

The network learns these fields on pieces of the season around them. What nobody labelled counts for
nothing. Simulated seasons are repeated in turn, so that nothing is forgotten. A part of the fields,
which lie together, is held out first: only if it is drawn better, the network learns from all
fields and is written.

Shape suffixes: T dates, C bands, H W pixels, N fields.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
from torch import nn

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
from panoseg.models.weights import Weights, save_weights
from panoseg.models.weights_list import FOR_FEWER_BANDS, PACKAGE_FOLDER
from panoseg.progress import track
from panoseg.register import AdaptOptions
from panoseg.register.drawn import (
    FEWEST_PIXELS,
    NO_FIELD,
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


@dataclass(frozen=True)
class Adapted:
    """What ``adapt`` did."""

    weights: Weights
    """The new weights."""
    fields: int
    """Fields that were learned."""
    before: Quality | None
    """The held-out fields, by the old weights; None where nothing was held out."""
    after: Quality | None
    """The same by weights that learned the other fields."""
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
    given = GivenWeights.of(PACKAGE_FOLDER / FOR_FEWER_BANDS if weights is None else weights)
    if not isinstance(given.card.model, FieldsConfig):
        raise WeightsError(
            f"Weights of {given.card.model.title} cannot be adapted: choose weights of a network"
            " that draws fields, such as simulated-fields."
        )
    drawn = read_truth(fields, vector)
    none = None if no_fields is None else read_truth(no_fields, vector)
    choices = {name: getattr(options, name) for name in ("year", "min_clear", "max_dates", "read")}
    cube, season, notes = open_season(cube_path, given.card, MapOptions(**choices))
    grid = cube.odc.geobox
    extent = gpd.GeoSeries([grid.extent.geom], crs=grid.extent.crs.to_wkt())
    check_place(drawn, str(fields), extent, cube_path)
    labels = Labels(drawn, none, class_column, grid, given.card.classes)
    count = len(labels.outlines_N)
    if count < FEWEST_FIELDS:
        raise ParcelsError(
            f"{fields} has {count} fields on the season, and {FEWEST_FIELDS} are needed: draw more."
        )
    notes += (*left_out_notes(drawn, none), *_notes(labels))
    with reading(cube_path):
        pieces = read_pieces(cube, labels, given.card.bands)
    learning = _Learning(given.weights, season, labels, pieces, options)
    every = frozenset(range(1, count + 1))
    held = labels.held_out(options.held_out)
    before = after = None
    if held:
        before = learning.quality(learning.start, held)
        after = learning.quality(learning.fit(every - held, "learning, trial"), held)
        if after.pq <= before.pq:
            raise ParcelsError(
                f"The weights did not get better, so nothing was written. Held-out fields before:"
                f" {before}; after: {after}. Draw more fields, also near those of another kind."
            )
    network = learning.fit(every, "learning")
    provenance = {
        "adapted_from": given.name or FOR_FEWER_BANDS,
        "fields": count,
        "held_out": len(held),
        "steps": options.steps,
        "seed": options.seed,
    }
    scores = {
        f"PQ_held_out_{name}": round(100 * quality.pq, 1)
        for name, quality in (("before", before), ("after", after))
        if quality is not None
    }
    card = replace(
        given.card,
        model=network.tuned_config(),
        trained_on=f"{given.card.trained_on}; adapted by {count} fields of {cube_path.name}",
        provenance=provenance,
        scores=scores,
    )
    return Adapted(Weights(card, network.state_dict()), count, before, after, notes)


def adapt_file(out: Path, *arguments: Any, **options: Any) -> Adapted:  # noqa: ANN401
    """Adapt weights and write them to a folder; other arguments and errors as for ``adapt``."""
    adapted = adapt(*arguments, **options)
    save_weights(out, adapted.weights)
    return adapted


def _notes(labels: Labels) -> list[str]:
    notes = []
    if labels.left_out:
        notes.append(
            f"{labels.left_out} fields lie outside of the season or are smaller than"
            f" {FEWEST_PIXELS} pixels, and were left out."
        )
    if labels.unknown:
        notes.append(
            f"The weights do not know the classes {listed(labels.unknown, 10)}; the outlines of"
            " these fields were learned, and not their class."
        )
    if not labels.none:
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
        void, background = void_of(self.card.classes), self.card.classes.background or 0
        number_HW = piece.number_HW
        field_HW = np.isin(number_HW, list(fields))
        class_HW = self.classes_N[np.maximum(number_HW, 1) - 1]
        none_HW = number_HW == NO_FIELD
        classes_HW = np.where(field_HW, class_HW, np.where(none_HW, background, void))
        instances_HW = np.where(field_HW, number_HW, 0).astype(np.int32)
        images_TCHW = piece.images_TCHW
        missing = [max(self.crop - side, 0) for side in number_HW.shape]
        if any(missing):
            margins = ((0, missing[0]), (0, missing[1]))
            images_TCHW = np.pad(images_TCHW, ((0, 0), (0, 0), *margins), "symmetric")
            classes_HW = np.pad(classes_HW, margins, constant_values=void)
            instances_HW = np.pad(instances_HW, margins)
        return Sample(
            torch.from_numpy(images_TCHW),
            torch.from_numpy(self.days_T),
            "piece",
            torch.from_numpy(classes_HW),
            torch.from_numpy(instances_HW),
        )

    def fit(self, fields: frozenset[int], description: str) -> Fields:
        """Learn some of the fields; return the network with the best thresholds on them."""
        network = copy.deepcopy(self.start).train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # a few pieces of one season are no good statistics
        options, optimiser = self.options, torch.optim.AdamW(network.parameters())
        rng = np.random.default_rng(options.seed)
        own = [piece for piece in self.pieces if piece.own & fields]
        share = np.array([len(piece.own & fields) for piece in own], np.float64)
        with torch.random.fork_rng():
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
        self._choose_thresholds(network, fields)
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

    def quality(self, network: Fields, fields: frozenset[int]) -> Quality:
        """Return how well a network draws some fields."""
        total = np.zeros(4)
        for piece, maps_5HW in self._maps(network, fields):
            total += match_fields(network.regions(maps_5HW), piece.number_HW, piece.own & fields)
        return quality_of(total)

    def _choose_thresholds(self, network: Fields, fields: frozenset[int]) -> None:
        """Give a network the thresholds that draw some fields best; its own ones where equal."""
        totals: dict[tuple[float, float], np.ndarray] = {}
        for piece, maps_5HW in self._maps(network, fields):
            for extent, merge, region_HW in network.regions_by_threshold(maps_5HW):
                found = match_fields(region_HW, piece.number_HW, piece.own & fields)
                totals[extent, merge] = totals.get((extent, merge), 0) + found
        own = (network.config.extent_threshold, network.config.merge_threshold)
        extent, merge = max(
            totals, key=lambda pair: (quality_of(totals[pair]).pq, -math.dist(pair, own))
        )
        network.config = replace(network.config, extent_threshold=extent, merge_threshold=merge)

    def _maps(self, network: Fields, fields: frozenset[int]) -> Iterator[tuple[Piece, np.ndarray]]:
        """Yield the pieces that hold some fields, and the network's maps of them."""
        for piece in self.pieces:
            if piece.own & fields:
                height, width = piece.number_HW.shape
                batch = self.model.batch(piece.images_TCHW[None], self.days_T)
                yield piece, network.probabilities(batch)[0][0][:, :height, :width]


def _rate(share: float) -> float:
    """Return the factor of the learning rate when a share of the steps is done."""
    return min(1.0, (share + 0.001) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
