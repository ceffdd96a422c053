"""Tiles that were drawn lately, and how many are drawn at once: memory and processors are bounded whoever browses."""

from __future__ import annotations

import threading

from panoseg.app.bounded_cache import BoundedCache
from panoseg.app.result_map import ResultMap
from panoseg.app.tiles import Tile, TileRequest, draw_tile
from panoseg.processes import usable_cores

_MIB = 1024**2


class TileCache:
    """Draws tiles, each once however many ask for it at once, and keeps those that were asked for last."""

    def __init__(self, megabytes: int = 16) -> None:
        self.tiles = BoundedCache[Tile](megabytes * _MIB, lambda tile: len(tile.content))
        self._drawing = threading.BoundedSemaphore(max(2, usable_cores()))

    def get(self, etag: str, result: ResultMap, request: TileRequest) -> Tile:
        """The tile of an ``etag``. Raises what ``draw_tile`` raises."""
        return self.tiles.get(etag, lambda: self._draw(result, request))

    def _draw(self, result: ResultMap, request: TileRequest) -> Tile:
        with self._drawing:
            return draw_tile(result, request)
