"""Who does the work of a map: this process, or the workers of a cluster on any number of machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from panoseg.maps.options import RunOptions
from panoseg.maps.predict import OpenJob
from panoseg.maps.sheets import Sheet, SheetOutlines, draw_sheet
from panoseg.maps.tiles import Block
from panoseg.maps.windows import Save


class Workers(Protocol):
    """Whoever does the work. What is given to them and what they give does not depend on who they are."""

    def predict(self, windows: Sequence[tuple[int, Block]], save: Save) -> Iterator[None]:
        """Predict windows in any order, and give each to ``save`` when it is finished; yields once a tile."""

    def draw(self, sheets: Iterable[Sheet]) -> Iterator[tuple[int, SheetOutlines]]:
        """The outlines of sheets in any order, each with its number; a sheet is taken when there is somebody to draw it."""


class Here:
    """This process."""

    def __init__(self, opened: OpenJob) -> None:
        self.opened = opened

    def predict(self, windows: Sequence[tuple[int, Block]], save: Save) -> Iterator[None]:
        """As in ``Workers``."""
        for number, block in windows:
            steps = self.opened.steps(block)
            while True:
                try:
                    yield from [None] * next(steps)
                except StopIteration as end:
                    save(number, end.value)
                    break

    def draw(self, sheets: Iterable[Sheet]) -> Iterator[tuple[int, SheetOutlines]]:
        """As in ``Workers``."""
        for number, sheet in enumerate(sheets):
            yield number, draw_sheet(sheet)


@contextmanager
def workers_for(running: RunOptions, opened: OpenJob) -> Iterator[Workers]:
    """The workers that were asked for; those of this machine end with the block. Raises ``ClusterError`` without a cluster."""
    if running.local:
        yield Here(opened)
    else:
        from panoseg.maps.cluster import cluster_for  # dask.distributed takes its time

        with cluster_for(running, opened.job) as cluster:
            yield cluster
