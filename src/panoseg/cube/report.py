"""Read what a cube that panoseg made says about itself: its dates, scenes and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from panoseg.text_files import json_of

RECORD = "panoseg"
"""Name of the attribute in which a cube that panoseg made says what it was made of."""
OPENED = "panoseg_opened"
"""Name of the attribute in which a folder of scenes says, while it is open, what was left out."""
_NAMED = 10  # scenes in the notes of a map


@dataclass(frozen=True)
class CubeReport:
    """What a cube on disk was made of."""

    path: Path
    """The cube."""
    dates: tuple[str, ...]
    """Dates in ISO format, ascending."""
    clear: tuple[float, ...]
    """Share 0..1 of the area that each date shows."""
    scenes: Mapping[str, Sequence[str]]
    """Date -> ids of its scenes."""
    left_out_dates: Mapping[str, str]
    """Date -> reason."""
    left_out_scenes: Mapping[str, str]
    """Id of a scene -> reason."""
    notes: tuple[str, ...]
    """A sentence each."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        number = sum(map(len, self.scenes.values()))
        head = (
            f"{len(self.dates)} dates of {number} scenes, {np.mean(self.clear):.0%} clear on"
            " average"
        )
        dates = [
            f"  {day}  {share:4.0%} clear"
            for day, share in zip(self.dates, self.clear, strict=True)
        ]
        left = [f"  {day}  left out: {reason}" for day, reason in self.left_out_dates.items()]
        scenes = [
            f"left out: scene {scene}: {reason}" for scene, reason in self.left_out_scenes.items()
        ]
        return [head, *sorted(dates + left), *scenes, *(f"note: {note}" for note in self.notes)]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the reader of a map should know of its cube."""
        named = [
            f"Scene {scene} was left out: {reason}."
            for scene, reason in self.left_out_scenes.items()
        ]
        more = [f"{len(named) - _NAMED} more scenes were left out."] if len(named) > _NAMED else []
        return (*self.notes, *named[:_NAMED], *more)


def report_of(cube: xr.Dataset, path: Path | str = "") -> CubeReport | None:
    """Return the report in the attributes of a cube that panoseg made; None of another cube."""
    try:
        record = json_of(cube.attrs[RECORD])
        clear = tuple(record["clear"][day] for day in record["scenes"])
        left_out = record["left_out_dates"], record["left_out_scenes"]
        return CubeReport(
            Path(path),
            tuple(record["scenes"]),
            clear,
            record["scenes"],
            *left_out,
            tuple(record["notes"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
