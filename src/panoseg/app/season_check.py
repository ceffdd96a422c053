"""Check of an uploaded season, which reads all of it once.

Neither the sizes in the metadata of an upload nor its chunks can be trusted. The check runs in a
process of bounded memory, before the job itself reads the season.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import dask

from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.errors import LimitError
from panoseg.imagery.bands import PASTIS_BANDS, PIXEL_M

MAX_DATES = 1000
"""Of an uploaded season."""


def check_season(path: Path, max_km2: float) -> None:
    """Read an uploaded season from end to end.

    Args:
        path: The cube.
        max_km2: Largest area in square kilometres.

    Raises:
        CubeError: The file is not a season, or cannot be read.
        LimitError: It covers too large an area, or has too many dates.
    """
    with reading(path):
        cube = check_cube(open_cube(path), PASTIS_BANDS)
        km2, dates = cube.sizes["y"] * cube.sizes["x"] * PIXEL_M**2 / 1e6, cube.sizes["time"]
        if km2 > max_km2:
            raise LimitError(
                f"The season covers {km2:,.0f} km2, of at most {max_km2:g} km2; upload a part of"
                " it."
            )
        if dates > MAX_DATES:
            raise LimitError(
                f"The season has {dates:,} dates, of at most {MAX_DATES}; upload a part of it."
            )
        with dask.config.set(scheduler="synchronous"):
            for variable in cube.data_vars.values():
                for place in product(*map(range, variable.data.numblocks)):
                    variable.data.blocks[place].compute()
