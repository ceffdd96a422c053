"""Tiles that were drawn lately, and how many are drawn at once: memory and processors are bounded whoever browses."""

from __future__ import annotations

import threading
from collections import OrderedDict

from panoseg.app.result_map import ResultMap
from panoseg.app.tiles import Tile, TileRequest, draw_tile
from panoseg.processes import usable_cores

_MIB = 1024**2


class TileCache:
    """Draws tiles, and keeps those that were asked for last."""

    def __init__(self, megabytes: int = 64) -> None:
        self._most, self._bytes = megabytes * _MIB, 0
        self._tiles: OrderedDict[str, Tile] = OrderedDict()
        self._lock = threading.Lock()
        self._drawing = threading.BoundedSemaphore(max(2, usable_cores()))

    def get(self, etag: str, result: ResultMap, request: TileRequest) -> Tile:
        """The tile of an ``etag``. Raises what ``draw_tile`` raises."""
        with self._lock:
            if etag in self._tiles:
                self._tiles.move_to_end(etag)
                return self._tiles[etag]
        with self._drawing:
            tile = draw_tile(result, request)
        with self._lock:
            if etag not in self._tiles:
                self._tiles[etag] = tile
                self._bytes += len(tile.content)
            while self._bytes > self._most:
                self._bytes -= len(self._tiles.popitem(last=False)[1].content)
        return tile
