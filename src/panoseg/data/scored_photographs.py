"""Photographs with their truth, for scoring: samples and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from panoseg.data.coco import CocoRecords
from panoseg.data.photographs import Photograph
from panoseg.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class ScoredPhotograph:
    """A photograph and its truth."""

    photograph: Photograph
    """The photograph, without labels."""
    index: int
    """Its position in its set."""
    truth: Panoptic
    """Truth, of the size on disk."""
    crowd_ids: tuple[int, ...]
    """Ids of the segments of the truth that are crowds."""
    things: tuple[dict[str, Any], ...]
    """True objects, rows of COCO's detection form."""

    @property
    def name(self) -> str:
        """Name of the photograph."""
        return self.photograph.name


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Photographs that are scored together; their truth stays in main memory."""

    entries: tuple[ScoredPhotograph, ...]
    """The photographs with their truth, in order."""

    @property
    def photographs(self) -> tuple[Photograph, ...]:
        """The photographs alone."""
        return tuple(entry.photograph for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each photograph."""
        return tuple(entry.photograph.name for entry in self.entries)

    def to(self, device: torch.device | str) -> ScoredBatch:
        """Return the same batch with its images on another device."""
        return self._with_images(lambda image: image.to(device, non_blocking=True))

    def pin_memory(self) -> ScoredBatch:
        """Return the same batch with its images in pinned memory; torch's loader calls it."""
        return self._with_images(Tensor.pin_memory)

    def _with_images(self, function: Callable[[Tensor], Tensor]) -> ScoredBatch:
        return ScoredBatch(
            tuple(
                replace(entry, photograph=entry.photograph.map_tensors(function))
                for entry in self.entries
            )
        )


class ScoredPhotographs(Dataset[ScoredPhotograph]):
    """The photographs of a set with their truth, without augmentation.

    Args:
        dataset: The set.
        count: Number of photographs to take from the start; 0 takes all.
    """

    def __init__(self, dataset: CocoRecords, count: int = 0) -> None:
        self.dataset, self.table = dataset, dataset.table
        self.count = min(count or len(dataset), len(dataset))
        self.unannotated = dataset.unannotated
        self.names = [str(Path(name).with_suffix("")) for name in dataset.file_names[: self.count]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> ScoredPhotograph:
        if not 0 <= index < self.count:
            raise IndexError(index)
        record = self.dataset.record(index)
        photograph = replace(
            record.photograph(self.table, self.dataset.config, None), classes_HW=None, objects=None
        )
        truth = record.truth(self.table)
        return ScoredPhotograph(
            photograph,
            index,
            truth.segmentation,
            truth.crowd_ids,
            tuple(record.detections(self.table)),
        )


def collate_scored(entries: Sequence[ScoredPhotograph]) -> ScoredBatch:
    """Make a batch of scored photographs, for ``make_loader``."""
    return ScoredBatch(tuple(entries))
