"""Loaders of batches: their order follows from a seed and an epoch alone, and may be entered anywhere.

A loader tells its workers the epoch with the indices, so that what chance does to a sample depends neither on the number of
workers nor on where an epoch was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from panoseg.data.samples import collate as collate_seasons
from panoseg.data.slots import SlotOverflow, Slots, StoredBatch
from panoseg.errors import ConfigError, PanosegError

_PREFETCHED = 2  # batches that each worker prepares ahead

Collate = Callable[[Sequence[Any]], Any]
"""Makes a batch of samples."""

Draws = tuple[int, list[int]]
"""An epoch and the indices of a batch: which samples, and which of their chances."""


@runtime_checkable
class Chance(Protocol):
    """A dataset whose samples depend on chance: ``draw`` makes the same sample of the same generator."""

    def draw(self, index: int, generator: np.random.Generator) -> Any:
        """The sample at ``index``."""


class BatchOrder(Sampler[Draws]):
    """The batches of one epoch, from the one where it is entered.

    Shuffled by (seed, epoch) or ascending. ``rank`` of ``ranks`` processes gets every ``ranks``-th sample; a shuffled order is
    filled up from its start so that all have equally many, an ascending one gives each sample exactly once.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.samples, self.batch_size, self.shuffle, self.seed, self.drop_last = samples, batch_size, shuffle, seed, drop_last
        self.rank, self.ranks = rank, ranks
        self.epoch = self.skip = 0

    def enter(self, epoch: int, skip: int = 0) -> None:
        """Go to ``epoch`` and leave out its first ``skip`` batches, without reading them."""
        self.epoch, self.skip = epoch, skip

    def indices(self) -> list[int]:
        """What this process reads in the whole epoch, in order."""
        if not self.shuffle:
            return list(range(self.rank, self.samples, self.ranks))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        shares = -(-self.samples // self.ranks)
        return np.resize(order, shares * self.ranks)[self.rank :: self.ranks].tolist()

    def _batches(self) -> int:
        """Number of batches in the whole epoch."""
        samples = len(self.indices())
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __len__(self) -> int:
        return max(self._batches() - self.skip, 0)

    def __iter__(self) -> Iterator[Draws]:
        epoch, indices = self.epoch, self.indices()  # of now, should another epoch be entered meanwhile
        for batch in range(self.skip, self._batches()):
            yield epoch, indices[batch * self.batch_size : (batch + 1) * self.batch_size]


@dataclass(frozen=True)
class _Request:
    """What a worker is asked for: the batch of ``draws``, in a slot where one is free."""

    draws: Draws
    slot: int | None


class _Requests(Sampler[_Request]):
    """The requests of an epoch. A slot is taken when the request goes out, in the process that iterates."""

    def __init__(self, order: BatchOrder, slots: Slots | None) -> None:
        self.order, self.slots = order, slots

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[_Request]:
        if self.slots is not None:
            self.slots.reclaim()  # torch has emptied its queues of an iteration that was left early
        for draws in self.order:
            yield _Request(draws, None if self.slots is None else self.slots.take())


class _Batches(Dataset[Any]):
    """Answers requests; a user's mistake is an answer too, since torch would make another exception of it."""

    def __init__(self, dataset: Dataset[Any], seed: int, slots: Slots | None, collate: Collate) -> None:
        self.dataset, self.seed, self.slots, self.collate = dataset, seed, slots, collate

    def __getitem__(self, request: _Request) -> Any:
        epoch, indices = request.draws
        try:
            samples = [self._draw(epoch, index) for index in indices]
            if self.slots is not None and request.slot is not None:
                with suppress(SlotOverflow):
                    return self.slots.write(request.slot, samples)
            return self.collate(samples)
        except PanosegError as error:
            return error

    def _draw(self, epoch: int, index: int) -> Any:
        if isinstance(self.dataset, Chance):
            return self.dataset.draw(index, np.random.default_rng((self.seed, epoch, index)))
        return self.dataset[index]


def _as_it_is(value: Any) -> Any:
    """Batches are made by ``_Batches``."""
    return value


class BatchLoader(DataLoader):
    """A torch loader of batches: raises what its workers met, and can be entered at any batch of any epoch."""

    def enter(self, epoch: int, skip: int = 0) -> None:
        """The next iteration is ``epoch``, from its batch number ``skip`` on."""
        self.sampler.order.enter(epoch, skip)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for answer in super().__iter__():
            if isinstance(answer, PanosegError):
                try:
                    raise answer
                finally:
                    del answer  # its traceback holds this frame: a cycle would keep the workers, and end them slowly
            yield answer.open() if isinstance(answer, StoredBatch) else answer


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    collate: Collate = collate_seasons,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    epoch: int = 0,
    skip: int = 0,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """A loader of batches whose order is a function of (seed, epoch).

    collate: makes a batch of samples, by default a ``Batch``. shuffle: a new order each epoch; ascending otherwise. workers:
    processes that read (each with one torch thread), 0 reads in this one. drop_last: leave out an incomplete last batch.
    epoch, skip: where the first iteration starts; ``BatchLoader.enter`` sets it for the next ones, which otherwise repeat.
    rank, ranks: this process and their number.
    """
    for name, value, lowest in (("batch size", batch_size, 1), ("workers", workers, 0), ("seed", seed, 0)):
        if value < lowest:
            raise ConfigError(f"{name} {value}", f"a number from {lowest}", "correct the option")
    samples = len(dataset)  # type: ignore[arg-type]
    order = BatchOrder(samples, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, rank=rank, ranks=ranks)
    order.enter(epoch, skip)
    slots = Slots.for_workers(workers, _PREFETCHED) if collate is collate_seasons else None  # slots hold a ``Batch``
    return BatchLoader(
        _Batches(dataset, seed, slots, collate),
        batch_size=None,
        sampler=_Requests(order, slots),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=_PREFETCHED if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # the loader takes nothing from the global generator
    )
