"""A task: a model with what it learns, whatever it looks at; what loop, evaluation and pictures
know of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from panoseg.classes import PASTIS, ClassTable
from panoseg.models.config import ModelConfig
from panoseg.panoptic.panoptic import Panoptic
from panoseg.progress import track
from panoseg.training.scores import Scores
from panoseg.training.splits import Split

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Work:
    """A batch, and whether only its centres are learned.

    No dataclass: Fabric takes those apart to cast their tensors, and cannot rebuild frozen ones.
    """

    def __init__(self, batch: Any, heatmap_only: bool = False) -> None:
        self.batch, self.heatmap_only = batch, heatmap_only


class Task(nn.Module):
    """A model with what it learns.

    Called with ``Work`` it gives named scalar losses, of which "loss" is descended. Batches are
    those of ``Split.prepare``.
    loss_names, metric_names: what training and validation write to the log. score_name: the metric
    by which the best is kept.
    """

    loss_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    score_name: str

    def __init__(self, model: nn.Module, table: ClassTable = PASTIS) -> None:
        super().__init__()
        self.model = model
        self.table = table

    def predict(self, batch: Any) -> list[Panoptic]:
        """One picture a sample."""
        raise NotImplementedError

    def evaluate(self, split: Split, fabric: Fabric) -> Scores:
        """Scores on all samples of a set, each counted once, whatever the number of processes."""
        raise NotImplementedError

    def tune(self, split: Split, fabric: Fabric) -> None:
        """Tune on a set what training does not learn; nothing in most tasks."""

    def tuned_config(self) -> ModelConfig:
        """The model's configuration with what ``tune`` found."""
        config: ModelConfig = self.model.config  # type: ignore[assignment]
        return config


def evaluation_batches(task: Task, split: Split, fabric: Fabric) -> Iterator[Any]:
    """The batches of this process' part of a set, with the task in evaluation mode."""
    task.eval()
    loader = split.loader(fabric)
    return track(split.batches(fabric, loader), "evaluate", total=len(loader))


def sum_over_processes(counts: Any, fabric: Fabric) -> Any:
    """The sum of a tensor or array over all processes."""
    if fabric.world_size == 1:
        return counts
    total: Any = fabric.all_reduce(torch.as_tensor(counts, device=fabric.device), reduce_op="sum")
    return total.cpu().numpy() if isinstance(counts, np.ndarray) else total


def numbers_text(numbers: Mapping[str, float]) -> str:
    """Named numbers on one line.

    >>> numbers_text({"SQ": 81.47, "PQ": 43.8})
    'SQ 81.5, PQ 43.8'
    """
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())
