"""Load batches in an order that is a function of seed and epoch, in several processes.

``make_loader`` gives a torch ``DataLoader`` that can be entered at any batch of any epoch; the
augmentation of a sample is a function of (seed, epoch, index), so that the number of workers
changes nothing.

Workers write batches into slots, memory that is used again once a batch is gone: fresh shared
memory costs ten times what copying a batch into memory at hand does, since the system clears and
maps each page. The process that trains hands a free slot out with each request and gets it back
when the last tensor that looks into it is collected, so tensors that are kept never change. Forked
workers inherit the slots.
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from panoseg.data.samples import Batch, Sample, map_leaves
from panoseg.data.samples import collate as collate_seasons
from panoseg.errors import ConfigError, PanosegError
from panoseg.platforms import reader_context

_BYTES = 1 << 30  # of addresses; memory is used only where a batch is written
_ALIGNMENT = 64  # bytes
_PREFETCHED = 2  # batches that each worker prepares ahead


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a slot."""

    offset: int
    """Bytes from the start of the slot."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    dtype: torch.dtype
    """Type of its values."""


@dataclass(frozen=True)
class StoredBatch:
    """A batch in a slot, as it travels between processes."""

    owner: int
    """Number of the ``Slots`` whose slot it is."""
    slot: int
    """Position of the slot."""
    places: Batch
    """The batch, with the place of each tensor instead of the tensor."""
    size: int
    """Bytes that it takes in the slot."""

    def open(self) -> Batch:
        """Return the batch, in the process that owns the slot."""
        return _OWNERS[self.owner].read(self)

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory; torch's loader calls it."""
        return self.open().pin_memory()


class SlotOverflow(Exception):
    """A batch does not fit into a slot."""


class Slots:
    """Memory for ``count`` batches of up to ``size`` bytes, shared with forked processes."""

    def __init__(self, count: int, size: int = _BYTES) -> None:
        self._memory = [mmap.mmap(-1, size) for _ in range(count)]
        self._free = list(range(count))
        self._requested: set[int] = set()
        self._number = next(_NUMBERS)
        _OWNERS[self._number] = self

    @classmethod
    def for_workers(cls, workers: int, prefetched: int) -> Slots | None:
        """Return as many slots as are in use at once, or None where workers are not forked.

        These are the batches requested ahead, the current one, and the next.
        """
        if not workers or reader_context().get_start_method() != "fork":
            return None
        try:
            return cls(workers * prefetched + 2)
        except OSError:  # a limit on addresses; the loader works without slots
            return None

    def take(self) -> int | None:
        """Take a free slot for a request; None while all are in use."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._requested.add(slot)
        return slot

    def reclaim(self) -> None:
        """Take back slots whose requests were never delivered; none may be under way."""
        self._free.extend(self._requested)
        self._requested.clear()

    def write(self, slot: int, samples: Sequence[Sample]) -> StoredBatch:
        """Collate samples in a slot; raise ``SlotOverflow`` where they do not fit."""
        memory = torch.frombuffer(self._memory[slot], dtype=torch.uint8)
        size = 0

        def new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
            nonlocal size
            start, size = size, size + math.prod(shape) * like.element_size()
            if size > len(memory):
                raise SlotOverflow
            tensor = memory[start:size].view(like.dtype).view(shape)
            size = -(-size // _ALIGNMENT) * _ALIGNMENT
            return tensor

        def place(tensor: Tensor) -> _Place:
            return _Place(tensor.data_ptr() - memory.data_ptr(), tuple(tensor.shape), tensor.dtype)

        places = map_leaves(collate_seasons(samples, new), Tensor, place)
        return StoredBatch(self._number, slot, places, size)

    def read(self, stored: StoredBatch) -> Batch:
        """Return the batch without a copy; its slot is free again when no tensor looks into it."""
        memory = np.frombuffer(
            self._memory[stored.slot], np.uint8, min(stored.size, len(self._memory[stored.slot]))
        )
        self._requested.discard(stored.slot)
        weakref.finalize(memory, self._free.append, stored.slot).atexit = False
        storage = torch.from_numpy(memory)

        def look(place: _Place) -> Tensor:
            end = place.offset + math.prod(place.shape) * place.dtype.itemsize
            return storage[place.offset : end].view(place.dtype).view(place.shape)

        return map_leaves(stored.places, _Place, look)


_NUMBERS = itertools.count()
# A stored batch cannot carry its memory to another process, so it names its owner.
_OWNERS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


Collate = Callable[[Sequence[Any]], Any]
"""Makes a batch of samples."""

Draws = tuple[int, list[int]]
"""An epoch and the indices of the samples of a batch."""


@runtime_checkable
class Chance(Protocol):
    """A dataset with random samples."""

    def draw(self, index: int, generator: np.random.Generator) -> object:
        """Return the sample at ``index``; a generator in the same state gives the same."""


class BatchOrder(Sampler[Draws]):
    """The batches of one epoch, from the one where it is entered.

    The order is shuffled by (seed, epoch) or ascending.

    Args:
        samples: Number of samples of the dataset.
        batch_size: Number of samples in a batch.
        shuffle: Whether to shuffle.
        seed: Of the shuffling.
        drop_last: Leave out an incomplete last batch.
        rank: Number of this process, 0..ranks - 1; it gets every ``ranks``-th sample.
        ranks: Number of processes. A shuffled order is filled up from its start so that all have
            equally many samples; an ascending one gives each sample exactly once.
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
        self.samples, self.batch_size, self.drop_last = samples, batch_size, drop_last
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = self.skip = 0

    def enter(self, epoch: int, skip: int = 0) -> None:
        """Go to ``epoch`` and leave out its first ``skip`` batches, without reading them."""
        self.epoch, self.skip = epoch, skip

    def indices(self) -> list[int]:
        """Return the samples that this process reads in the whole epoch, in order."""
        if not self.shuffle:
            return list(range(self.rank, self.samples, self.ranks))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        shares = -(-self.samples // self.ranks)
        share: list[int] = np.resize(order, shares * self.ranks)[self.rank :: self.ranks].tolist()
        return share

    def _batches(self) -> int:
        """Count the batches of the whole epoch."""
        samples = len(self.indices())
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __len__(self) -> int:
        return max(self._batches() - self.skip, 0)

    def __iter__(self) -> Iterator[Draws]:
        # Copied, in case another epoch is entered during the iteration.
        epoch, indices = self.epoch, self.indices()
        for batch in range(self.skip, self._batches()):
            yield epoch, indices[batch * self.batch_size : (batch + 1) * self.batch_size]


@dataclass(frozen=True)
class _Request:
    """A request to a worker for one batch."""

    draws: Draws
    """The samples."""
    slot: int | None
    """The slot to write into; None where none is free."""


class _Requests(Sampler[_Request]):
    """The requests of an epoch; each takes a slot when it goes out, in the iterating process."""

    def __init__(self, order: BatchOrder, slots: Slots | None) -> None:
        self.order, self.slots = order, slots

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[_Request]:
        if self.slots is not None:
            self.slots.reclaim()  # torch has emptied its queues of an iteration left early
        for draws in self.order:
            yield _Request(draws, None if self.slots is None else self.slots.take())


class _Batches(Dataset[Any]):
    """Answers requests with batches.

    A ``PanosegError`` is an answer too, since torch would make another exception of it.
    """

    def __init__(
        self, dataset: Dataset[Any], seed: int, slots: Slots | None, collate: Collate
    ) -> None:
        self.dataset, self.seed, self.slots, self.collate = dataset, seed, slots, collate

    def __getitem__(self, request: _Request) -> object:
        epoch, indices = request.draws
        try:
            samples: list[Any] = [self._draw(epoch, index) for index in indices]
            if self.slots is not None and request.slot is not None:
                with suppress(SlotOverflow):
                    return self.slots.write(request.slot, samples)
            return self.collate(samples)
        except PanosegError as error:
            return error

    def _draw(self, epoch: int, index: int) -> object:
        if isinstance(self.dataset, Chance):
            return self.dataset.draw(index, np.random.default_rng((self.seed, epoch, index)))
        return self.dataset[index]


def _as_it_is(batch: object) -> object:
    return batch


class BatchLoader(DataLoader[Any]):
    """A torch loader that can be entered at any batch of any epoch.

    It raises the ``PanosegError`` that a worker met.
    """

    def enter(self, epoch: int, skip: int = 0) -> None:
        """Make ``epoch`` the next iteration, from its batch number ``skip`` on."""
        self.sampler.order.enter(epoch, skip)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for answer in super().__iter__():
            if isinstance(answer, PanosegError):
                try:
                    raise answer
                finally:
                    # Its traceback holds this frame: a cycle would keep the workers, and end them
                    # slowly.
                    del answer
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
    """Return a loader of batches whose order is a function of (seed, epoch).

    Args:
        dataset: With a length; where it has ``draw``, its samples are functions of (seed, epoch,
            index).
        batch_size: Number of samples in a batch.
        collate: Makes a batch of samples, by default a ``Batch``.
        shuffle: A new order in each epoch; ascending otherwise.
        seed: Of order and samples, from 0.
        workers: Number of processes that read, each with one torch thread; 0 reads in this one.
        drop_last: Leave out an incomplete last batch.
        epoch: Epoch of the first iteration. ``BatchLoader.enter`` sets that of the next ones, which
            otherwise repeat it.
        skip: Number of batches to leave out at its start.
        rank: Number of this process, see ``BatchOrder``.
        ranks: Number of processes.
        pin_memory: Put batches into pinned memory.

    Raises:
        ConfigError: A number is impossible.
    """
    for name, value, lowest in (
        ("batch size", batch_size, 1),
        ("number of workers", workers, 0),
        ("seed", seed, 0),
    ):
        if value < lowest:
            raise ConfigError(f"The {name} must be at least {lowest}, not {value}.")
    samples = len(dataset)  # type: ignore[arg-type]
    order = BatchOrder(
        samples, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, rank=rank, ranks=ranks
    )
    order.enter(epoch, skip)
    # Slots hold a ``Batch`` and nothing else.
    slots = Slots.for_workers(workers, _PREFETCHED) if collate is collate_seasons else None
    return BatchLoader(
        _Batches(dataset, seed, slots, collate),
        batch_size=None,
        sampler=_Requests(order, slots),
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=reader_context() if workers else None,
        prefetch_factor=_PREFETCHED if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        # Of its own, so that the loader takes nothing from the global generator.
        generator=torch.Generator().manual_seed(seed),
    )
