"""How networks are scored: by name, what a validation and a test compute.

Shape suffixes: B batch, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.coco.scores import (
    DetectionMatches,
    PhotographCounts,
    PhotographScores,
    PixelClasses,
    count_detections,
    count_panoptic,
    count_pixels,
)
from panoseg.data.samples import Batch
from panoseg.data.scored_photographs import ScoredBatch, ScoredPhotograph
from panoseg.errors import ConfigError
from panoseg.metrics import PanopticScores, Scores, SemanticScores
from panoseg.metrics.confusion import (
    REGIONS,
    PixelCounts,
    Region,
    confusion_matrix,
    confusion_scores,
    pixel_counts,
)
from panoseg.metrics.panoptic_quality import PanopticCounts, patch_counts, quality_of_counts
from panoseg.models.configs import ModelConfig
from panoseg.models.network import (
    Details,
    Network,
    PredictOptions,
    classes_as_segments,
    labels_of,
)
from panoseg.models.outputs import SemanticOutput
from panoseg.panoptic import Panoptic
from panoseg.progress import track
from panoseg.training.splits import Split

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Counts = TypeVar("Counts")
"""What a scorer of seasons counts."""


@dataclass(frozen=True)
class ScoreOptions:
    """How a set is scored."""

    tta: int = 1
    """Number of test-time augmentations, where the network supports them."""
    region: Region = "all"
    """Which pixels the table of a semantic network for seasons is of."""


PLAIN = ScoreOptions()
"""No test-time augmentation, all pixels."""


class Scorer(Protocol):
    """Scores networks of one kind."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What a validation writes to the log."""

    @property
    def score_name(self) -> str:
        """The metric by which the best weights are kept."""

    @property
    def has_regions(self) -> bool:
        """Whether scores can be of a region of the pixels."""

    def evaluate(
        self, network: Network, split: Split, fabric: Fabric, options: ScoreOptions = ...
    ) -> Scores:
        """Return scores of all samples of a set, each counted once by all processes together."""

    def truths(self, batch: Any, table: ClassTable) -> list[Panoptic]:  # noqa: ANN401
        """Return the truth of a batch, one segmentation a sample."""


def evaluation_batches(network: Network, split: Split, fabric: Fabric) -> Iterator[Any]:
    """Yield the batches of this process' part of a set, with the network in evaluation mode."""
    network.eval()
    loader = split.loader(fabric)
    return track(split.batches(fabric, loader), "evaluate", total=len(loader))


def sum_over_processes(counts: Any, fabric: Fabric) -> Any:  # noqa: ANN401
    """Return the sum of a tensor or array over all processes."""
    if fabric.world_size == 1:
        return counts
    total: Any = fabric.all_reduce(torch.as_tensor(counts, device=fabric.device), reduce_op="sum")
    return total.cpu().numpy() if isinstance(counts, np.ndarray) else total


class SeasonScorer(Generic[Counts]):
    """What the scorers of seasons share; ``count`` says what is scored."""

    metric_names: ClassVar[tuple[str, ...]]
    score_name: ClassVar[str]
    has_regions = False

    def truths(self, batch: Batch, table: ClassTable) -> list[Panoptic]:
        """Return the truth of a batch; without parcels, all pixels of a class are one segment."""
        classes_BHW = labels_of(batch.classes_BHW)
        if batch.instances_BHW is None:
            return classes_as_segments(classes_BHW, table)
        pairs = zip(batch.instances_BHW.cpu().numpy(), classes_BHW.cpu().numpy(), strict=True)
        return [
            Panoptic.from_maps(instances_HW, classes_HW, table)
            for instances_HW, classes_HW in pairs
        ]

    def evaluate(
        self,
        network: Network,
        split: Split,
        fabric: Fabric,
        options: ScoreOptions = PLAIN,
    ) -> Scores:
        """Return the scores of a set."""
        table = network.table
        counts = self.zero(table, fabric.device)
        for batch in evaluation_batches(network, split, fabric):
            with fabric.autocast():
                details = network.details(batch, PredictOptions(options.tta))
            # One batch after the other: sums of floats depend on their order.
            counts = self.count(counts, batch, details, table)
        return self.scores(counts, fabric, table, options)

    def zero(self, table: ClassTable, device: torch.device) -> Counts:
        """Return the counts of no batch."""
        raise NotImplementedError

    def count(self, counts: Counts, batch: Batch, details: Details, table: ClassTable) -> Counts:
        """Return the counts with those of a batch."""
        raise NotImplementedError

    def scores(
        self, counts: Counts, fabric: Fabric, table: ClassTable, options: ScoreOptions
    ) -> Scores:
        """Return the scores of the counts of all processes together."""
        raise NotImplementedError


class Pixels(SeasonScorer[PixelCounts]):
    """Accuracy and IoU of the classes of a season's pixels, by region.

    Void pixels are left out, and pixels predicted as void are missed (strict).
    """

    metric_names = ("OA", "mIoU")
    score_name = "mIoU"
    has_regions = True

    def zero(self, table: ClassTable, device: torch.device) -> PixelCounts:
        """Return the counts of no batch."""
        return PixelCounts.zero(table.count, device)

    def count(
        self, counts: PixelCounts, batch: Batch, details: Details, table: ClassTable
    ) -> PixelCounts:
        """Return the counts with those of a batch."""
        output = details.pixels or _certain(details, table, counts.matrix_RCKK.device)
        return counts + pixel_counts(
            output.logits_BKHW, output.boundary_B2HW, labels_of(batch.classes_BHW)
        )

    def scores(
        self, counts: PixelCounts, fabric: Fabric, table: ClassTable, options: ScoreOptions
    ) -> SemanticScores:
        """Return the scores of the counts of all processes together."""
        whole = PixelCounts(
            *(sum_over_processes(part, fabric) for part in (counts.matrix_RCKK, counts.edge_22))
        )
        void = table.ids("void")
        return SemanticScores(
            {region: whole.scores(region, void) for region in REGIONS},
            table,
            options.region,
            edge=whole.edge_scores(),
        )


def _certain(details: Details, table: ClassTable, device: torch.device) -> SemanticOutput:
    """Return class scores of a network that predicts only segmentations."""
    classes_BHW = np.stack(
        [one.classes_HW(table.background or 0) for one in details.panoptics or ()]
    )
    classes = torch.from_numpy(classes_BHW.astype(np.int64)).to(device)
    return SemanticOutput(F.one_hot(classes, table.count).movedim(-1, 1).float())


@dataclass(frozen=True)
class ParcelCounts:
    """What ``Parcels`` counts."""

    by_class: PanopticCounts
    """Matches of parcels of one class."""
    any_class: PanopticCounts
    """Matches of parcels of any class."""
    matrix_KK: Tensor
    """int64, K x K: confusion matrix of the pixels."""


class Parcels(SeasonScorer[ParcelCounts]):
    """Panoptic quality by PASTIS's definition, and the classes of the pixels.

    Pixels of no segment are background.
    """

    metric_names = ("SQ", "RQ", "PQ", "PQ_any_class")
    score_name = "PQ"

    def zero(self, table: ClassTable, device: torch.device) -> ParcelCounts:
        """Return the counts of no batch."""
        return ParcelCounts(
            PanopticCounts.zero(table),
            PanopticCounts.zero(table, class_agnostic=True),
            torch.zeros((table.count, table.count), dtype=torch.int64),
        )

    def count(
        self, counts: ParcelCounts, batch: Batch, details: Details, table: ClassTable
    ) -> ParcelCounts:
        """Return the counts with those of a batch."""
        by_class, any_class = counts.by_class, counts.any_class
        predictions = details.panoptics or ()
        for true, predicted in zip(self.truths(batch, table), predictions, strict=True):
            by_class += patch_counts(true, predicted, table)
            any_class += patch_counts(true, predicted, table, class_agnostic=True)
        predicted_BHW = np.stack([one.classes_HW(table.background or 0) for one in predictions])
        matrix_KK = confusion_matrix(
            labels_of(batch.classes_BHW).cpu(), predicted_BHW, table.count, table.ids("void")
        )
        return ParcelCounts(by_class, any_class, counts.matrix_KK + matrix_KK)

    def scores(
        self, counts: ParcelCounts, fabric: Fabric, table: ClassTable, options: ScoreOptions
    ) -> PanopticScores:
        """Return the scores of the counts of all processes together."""
        quality, agnostic = (
            quality_of_counts(part.from_array(sum_over_processes(part.to_array(), fabric)))
            for part in (counts.by_class, counts.any_class)
        )
        matrix_KK = sum_over_processes(counts.matrix_KK, fabric)
        return PanopticScores(quality, agnostic, confusion_scores(matrix_KK, table.ids("void")))


class PhotographScorer:
    """What the scorers of photographs share; ``count`` says what is scored."""

    metric_names: ClassVar[tuple[str, ...]]
    score_name: ClassVar[str]
    has_regions = False

    def truths(self, batch: ScoredBatch, table: ClassTable) -> list[Panoptic]:
        """Return the truth of a batch, of the sizes on disk."""
        return [entry.truth for entry in batch.entries]

    def evaluate(
        self,
        network: Network,
        split: Split,
        fabric: Fabric,
        options: ScoreOptions = PLAIN,
    ) -> PhotographScores:
        """Return the scores of a set."""
        classes, counts = self.pixel_classes(network), PhotographCounts()
        for batch in evaluation_batches(network, split, fabric):
            with fabric.autocast():
                details = network.details(batch, PredictOptions(options.tta))
            # One photograph after the other: sums of floats depend on their order.
            counts = self.count(counts, batch.entries, details, network.table, classes)
        whole = _over_processes(self.complete(counts, network.table, classes), fabric)
        return PhotographScores.of(whole, network.table, classes)

    def pixel_classes(self, network: Network) -> PixelClasses:
        """Return the classes of pixels that are scored."""
        return PixelClasses.of(network.table)

    def complete(
        self, counts: PhotographCounts, table: ClassTable, classes: PixelClasses
    ) -> PhotographCounts:
        """Return counts of which no part is missing in a process without photographs."""
        return counts

    def count(
        self,
        counts: PhotographCounts,
        entries: tuple[ScoredPhotograph, ...],
        details: Details,
        table: ClassTable,
        classes: PixelClasses,
    ) -> PhotographCounts:
        """Return the counts with those of a batch."""
        raise NotImplementedError


class CocoPanoptic(PhotographScorer):
    """Panoptic quality by COCO's definition.

    Also the average precision of the candidates before they are merged, where the network gives
    them, and the classes of the pixels.
    """

    metric_names = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "box_AP", "mask_AP", "mIoU", "OA")
    score_name = "PQ"

    def complete(
        self, counts: PhotographCounts, table: ClassTable, classes: PixelClasses
    ) -> PhotographCounts:
        """Return the counts with zeros for the parts that every panoptic network has."""
        return counts + PhotographCounts(
            PanopticCounts.zero(table, "coco"), matrix_KK=_no_pixels(classes)
        )

    def count(
        self,
        counts: PhotographCounts,
        entries: tuple[ScoredPhotograph, ...],
        details: Details,
        table: ClassTable,
        classes: PixelClasses,
    ) -> PhotographCounts:
        """Return the counts with those of a batch."""
        for place, (entry, found) in enumerate(zip(entries, details.panoptics or (), strict=True)):
            counts += count_panoptic(entry.truth, entry.crowd_ids, found, table)
            if details.detections is not None:
                counts += count_detections(entry.index, entry.things, details.detections[place])
            counts += count_pixels(entry.truth, entry.crowd_ids, classes.numbers(found), classes)
        return counts


class CocoPixels(PhotographScorer):
    """The classes of the pixels of photographs."""

    metric_names = ("mIoU", "OA")
    score_name = "mIoU"

    def pixel_classes(self, network: Network) -> PixelClasses:
        """Return the classes of pixels; their numbers are the network's labels."""
        together = getattr(network, "scope", "all") == "stuff"
        return PixelClasses.of(network.table, things_together=together)

    def complete(
        self, counts: PhotographCounts, table: ClassTable, classes: PixelClasses
    ) -> PhotographCounts:
        """Return the counts with zeros where there are none."""
        return counts + PhotographCounts(matrix_KK=_no_pixels(classes))

    def count(
        self,
        counts: PhotographCounts,
        entries: tuple[ScoredPhotograph, ...],
        details: Details,
        table: ClassTable,
        classes: PixelClasses,
    ) -> PhotographCounts:
        """Return the counts with those of a batch."""
        labels = details.labels
        if labels is None:
            labels = [classes.numbers(found) for found in details.panoptics or ()]
        for entry, label_HW in zip(entries, labels, strict=True):
            counts += count_pixels(entry.truth, entry.crowd_ids, label_HW, classes)
        return counts


class CocoInstances(PhotographScorer):
    """Average precision of the objects of photographs."""

    metric_names = ("box_AP", "mask_AP")
    score_name = "mask_AP"

    def complete(
        self, counts: PhotographCounts, table: ClassTable, classes: PixelClasses
    ) -> PhotographCounts:
        """Return the counts with no matches where there are none."""
        nothing = DetectionMatches("box", {}), DetectionMatches("mask", {})
        return counts + PhotographCounts(None, *nothing)

    def count(
        self,
        counts: PhotographCounts,
        entries: tuple[ScoredPhotograph, ...],
        details: Details,
        table: ClassTable,
        classes: PixelClasses,
    ) -> PhotographCounts:
        """Return the counts with those of a batch."""
        for entry, rows in zip(entries, details.detections or (), strict=True):
            counts += count_detections(entry.index, entry.things, rows)
        return counts


SCORERS: dict[str, Scorer] = {
    "parcels": Parcels(),
    "pixels": Pixels(),
    "coco_panoptic": CocoPanoptic(),
    "coco_pixels": CocoPixels(),
    "coco_instances": CocoInstances(),
}
"""How networks are scored, by the name that their configuration declares."""


def scorer_of(config: ModelConfig) -> Scorer:
    """Return the scorer that a network's configuration declares.

    Raises:
        ConfigError: There is none of that name.
    """
    if config.scorer not in SCORERS:
        raise ConfigError(
            f"{config.title} declares the scorer {config.scorer!r}, which is none of"
            f" {', '.join(SCORERS)}."
        )
    return SCORERS[config.scorer]


def _over_processes(counts: PhotographCounts, fabric: Fabric) -> PhotographCounts:
    """Return the counts of all processes together."""
    if fabric.world_size == 1:
        return counts
    panoptic, matrix_KK = counts.panoptic, counts.matrix_KK
    if panoptic is not None:
        panoptic = panoptic.from_array(sum_over_processes(panoptic.to_array(), fabric))
    if matrix_KK is not None:
        matrix_KK = sum_over_processes(matrix_KK, fabric)
    matches = [_gathered(counts.boxes), _gathered(counts.masks)]
    return replace(
        counts, panoptic=panoptic, boxes=matches[0], masks=matches[1], matrix_KK=matrix_KK
    )


def _gathered(matches: DetectionMatches | None) -> DetectionMatches | None:
    """Return the matches of all processes, whose photographs are different ones."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, matches)
    known = [part for part in parts if part is not None]
    if not known:
        return None
    images = {index: record for part in known for index, record in part.images.items()}
    return DetectionMatches(known[0].kind, images)


def _no_pixels(classes: PixelClasses) -> Tensor:
    return torch.zeros((classes.void + 1, classes.void + 1), dtype=torch.int64)
