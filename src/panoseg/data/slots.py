"""Slots: memory that workers write batches into and that is used again once the batch is gone.

Fresh shared memory costs ten times what copying a batch into memory at hand does (the system clears and maps each page), so a
loader keeps a few slots. The process that trains hands a free one out with each request, and gets it back when the last tensor
that looks into it is collected; tensors that are kept therefore never change. Slots are inherited by forked workers.
"""

from __future__ import annotations

import itertools
import math
import mmap
import multiprocessing
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panoseg.data.samples import Batch, Sample, collate, map_leaves

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
    """A batch in a slot, as it travels between processes: whose slot, a ``Batch`` of places, and how many bytes it takes."""

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
        self._memory = [mmap.mmap(-1, size) for _ in range(count)]  # anonymous and shared with forked processes
        self._free = list(range(count))
        self._requested: set[int] = set()
        self._number = next(_NUMBERS)
        _OWNERS[self._number] = self

    @classmethod
    def for_workers(cls, workers: int, prefetched: int) -> Slots | None:
        """As many as are in use at once: batches requested ahead, the one in hand, the next. None where workers do not fork."""
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
        """Take back slots whose requests were never delivered, when no request is under way any more."""
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

        return StoredBatch(self._number, slot, map_leaves(collate(samples, new), Tensor, place), size)

    def read(self, stored: StoredBatch) -> Batch:
        """The batch, without a copy; its slot is free again when no tensor looks into it."""
        memory = np.frombuffer(self._memory[stored.slot], np.uint8, min(stored.size, len(self._memory[stored.slot])))
        self._requested.discard(stored.slot)
        weakref.finalize(memory, self._free.append, stored.slot).atexit = False
        storage = torch.from_numpy(memory)

        def look(place: _Place) -> Tensor:
            end = place.offset + math.prod(place.shape) * place.dtype.itemsize
            return storage[place.offset : end].view(place.dtype).view(place.shape)

        return map_leaves(stored.places, _Place, look)


_NUMBERS = itertools.count()
_OWNERS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()  # a stored batch cannot carry its memory
