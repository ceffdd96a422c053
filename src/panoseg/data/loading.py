"""Slots: memory that workers write batches into and that is used again once the batch is gone.

Fresh shared memory costs ten times what copying a batch into memory at hand does (the system clears
and maps each page), so a loader keeps a few slots. The process that trains hands a free one out
with each request, and gets it back when the last tensor that looks into it is collected; tensors
that are kept therefore never change. Slots are inherited by forked workers.
"""

from __future__ import annotations

import itertools
import math
import mmap
import multiprocessing
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from panoseg.data.samples import Batch, Sample, collate, map_leaves
from panoseg.data.samples import collate as collate_seasons
from panoseg.errors import ConfigError, PanosegError

_BYTES = 1 << 30  # of addresses; memory is used only where a batch is written
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a slot: bytes from its start, shape, type."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredBatch:
    """A batch in a slot, as it travels between processes: whose slot, a ``Batch`` of places, and
    how many bytes it takes.
    """

    owner: int
    slot: int
    places: Batch
    size: int

    def open(self) -> Batch:
        """The batch, in the process that owns the slot."""
        return _OWNERS[self.owner].read(self)

    def pin_memory(self) -> Batch:
        """A copy in pinned memory; called by torch's loader."""
        return self.open().pin_memory()


class SlotOverflow(Exception):
    """A batch does not fit into a slot."""


class Slots:
    """Some slots, and which of them are free."""

    def __init__(self, count: int, size: int = _BYTES) -> None:
        self._memory = [
            mmap.mmap(-1, size) for _ in range(count)
        ]  # anonymous and shared with forked processes
        self._free = list(range(count))
        self._requested: set[int] = set()
        self._number = next(_NUMBERS)
        _OWNERS[self._number] = self

    @classmethod
    def for_workers(cls, workers: int, prefetched: int) -> Slots | None:
        """As many as are in use at once: batches requested ahead, the one in hand, the next. None
        where workers do not fork.
        """
        if not workers or multiprocessing.get_start_method() != "fork":
            return None
        try:
            return cls(workers * prefetched + 2)
        except OSError:  # a limit on addresses; the loader works without slots
            return None

    def take(self) -> int | None:
        """A free slot for a request; None while all are in use."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._requested.add(slot)
        return slot

    def reclaim(self) -> None:
        """Take back slots whose requests were never delivered, when no request is under way any
        more.
        """
        self._free.extend(self._requested)
        self._requested.clear()

    def write(self, slot: int, samples: Sequence[Sample]) -> StoredBatch:
        """Collate samples in a slot. Raises ``SlotOverflow``."""
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

        return StoredBatch(
            self._number, slot, map_leaves(collate(samples, new), Tensor, place), size
        )

    def read(self, stored: StoredBatch) -> Batch:
        """The batch, without a copy; its slot is free again when no tensor looks into it."""
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
_OWNERS: weakref.WeakValueDictionary[int, Slots] = (
    weakref.WeakValueDictionary()
)  # a stored batch cannot carry its memory


_PREFETCHED = 2  # batches that each worker prepares ahead

Collate = Callable[[Sequence[Any]], Any]
"""Makes a batch of samples."""

Draws = tuple[int, list[int]]
"""An epoch and the indices of a batch: which samples, and which of their chances."""


@runtime_checkable
class Chance(Protocol):
    """A dataset whose samples depend on chance: ``draw`` makes the same sample of the same
    generator.
    """

    def draw(self, index: int, generator: np.random.Generator) -> Any:
        """The sample at ``index``."""


class BatchOrder(Sampler[Draws]):
    """The batches of one epoch, from the one where it is entered.

    Shuffled by (seed, epoch) or ascending. ``rank`` of ``ranks`` processes gets every ``ranks``-th
    sample; a shuffled order is filled up from its start so that all have equally many, an ascending
    one gives each sample exactly once.
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
        self.samples, self.batch_size, self.shuffle, self.seed, self.drop_last = (
            samples,
            batch_size,
            shuffle,
            seed,
            drop_last,
        )
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
        epoch, indices = (
            self.epoch,
            self.indices(),
        )  # of now, should another epoch be entered meanwhile
        for batch in range(self.skip, self._batches()):
            yield epoch, indices[batch * self.batch_size : (batch + 1) * self.batch_size]


@dataclass(frozen=True)
class _Request:
    """What a worker is asked for: the batch of ``draws``, in a slot where one is free."""

    draws: Draws
    slot: int | None


class _Requests(Sampler[_Request]):
    """The requests of an epoch. A slot is taken when the request goes out, in the process that
    iterates.
    """

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
    """Answers requests; a user's mistake is an answer too, since torch would make another exception
    of it.
    """

    def __init__(
        self, dataset: Dataset[Any], seed: int, slots: Slots | None, collate: Collate
    ) -> None:
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
    """A torch loader of batches: raises what its workers met, and can be entered at any batch of
    any epoch.
    """

    def enter(self, epoch: int, skip: int = 0) -> None:
        """The next iteration is ``epoch``, from its batch number ``skip`` on."""
        self.sampler.order.enter(epoch, skip)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for answer in super().__iter__():
            if isinstance(answer, PanosegError):
                try:
                    raise answer
                finally:
                    # its traceback holds this frame: a cycle would keep the workers, and end them
                    # slowly
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
    """A loader of batches whose order is a function of (seed, epoch).

    collate: makes a batch of samples, by default a ``Batch``. shuffle: a new order each epoch;
    ascending otherwise. workers: processes that read (each with one torch thread), 0 reads in this
    one. drop_last: leave out an incomplete last batch.
    epoch, skip: where the first iteration starts; ``BatchLoader.enter`` sets it for the next ones,
    which otherwise repeat.
    rank, ranks: this process and their number.
    """
    for name, value, lowest in (
        ("batch size", batch_size, 1),
        ("workers", workers, 0),
        ("seed", seed, 0),
    ):
        if value < lowest:
            raise ConfigError(f"{name} {value}", f"a number from {lowest}", "correct the option")
    samples = len(dataset)  # type: ignore[arg-type]
    order = BatchOrder(
        samples, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, rank=rank, ranks=ranks
    )
    order.enter(epoch, skip)
    slots = (
        Slots.for_workers(workers, _PREFETCHED) if collate is collate_seasons else None
    )  # slots hold a ``Batch``
    return BatchLoader(
        _Batches(dataset, seed, slots, collate),
        batch_size=None,
        sampler=_Requests(order, slots),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=_PREFETCHED if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(
            seed
        ),  # the loader takes nothing from the global generator
    )
