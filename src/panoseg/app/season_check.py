"""A season that was uploaded, read once from end to end by a process of bounded memory, before the
job reads it.

What its metadata say of its size, and what its chunks unpack to, are whatever a stranger wrote.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import dask

from panoseg.cube.check import PIXEL_M, check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.errors import LimitError
from panoseg.imagery.bands import PASTIS_BANDS

_MOST_DATES = 1000


def check_season(path: Path, most_km2: float) -> None:
    """Raise ``CubeError`` for what is no season, or cannot be read, ``LimitError`` for too much
    land or too many dates.
    """
    with reading(path):
        cube = check_cube(open_cube(path), PASTIS_BANDS)
        km2, dates = cube.sizes["y"] * cube.sizes["x"] * PIXEL_M**2 / 1e6, cube.sizes["time"]
        if km2 > most_km2:
            raise LimitError(
                f"a season of {km2:,.0f} km2", f"at most {most_km2:g} km2", "upload a part of it"
            )
        if dates > _MOST_DATES:
            raise LimitError(
                f"a season of {dates:,} dates", f"at most {_MOST_DATES}", "upload a part of it"
            )
        with dask.config.set(scheduler="synchronous"):
            for variable in cube.data_vars.values():
                for place in product(*map(range, variable.data.numblocks)):
                    variable.data.blocks[place].compute()
