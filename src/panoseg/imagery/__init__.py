"""Find and read Sentinel-2 imagery: catalogues, scenes, archives, outlines of areas.

The options of files of outlines are in this file. It imports nothing heavy, so that ``--help``
stays quick.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from panoseg.errors import ConfigError

_OF_TWO = re.compile(r"(?:A=(?P<A>.*?))?(?:(?:^|,)B=(?P<B>.*))?", re.DOTALL)


@dataclass(frozen=True)
class VectorOptions:
    """How files of outlines and parcels are read, where they do not say it themselves."""

    layer: str | None = None
    """Layer of the file, or file in the archive or folder, where there are several."""
    encoding: str | None = None
    """Encoding of text whose file does not state it, e.g. cp1251; for Shapefiles, CSV and the
    like.
    """
    crs: str | None = None
    """Coordinate system of the coordinates where the file states none or a wrong one, e.g.
    EPSG:4326.
    """
    allow_virtual: bool = False
    """Also read files that only refer to other files, even on other machines: GDAL's VRT and GDALG,
    and /vsi paths.
    """

    def of_two(self) -> tuple[VectorOptions, VectorOptions]:
        """Return the options of the first and of the second file, see ``of_two``."""
        layers, encodings, crs = of_two(self.layer), of_two(self.encoding), of_two(self.crs)
        first = VectorOptions(layers[0], encodings[0], crs[0], self.allow_virtual)
        return first, VectorOptions(layers[1], encodings[1], crs[1], self.allow_virtual)


def of_two(text: str | None) -> tuple[str | None, str | None]:
    """Return the value of an option for the first file (A) and for the second (B).

    One value is that of both files.

    >>> of_two("crop"), of_two("A=crop,B=EC_hcat_n"), of_two("B=crop"), of_two(None)
    (('crop', 'crop'), ('crop', 'EC_hcat_n'), (None, 'crop'), (None, None))

    Raises:
        ConfigError: A value is empty.
    """
    if text is None or not text.startswith(("A=", "B=")):
        return text, text
    found = _OF_TWO.fullmatch(text)
    if found is None or "" in found.groups():
        raise ConfigError(
            f"{text[:80]!r} does not name a value for each file; write it as in A=crop,B=code."
        )
    return found["A"], found["B"]
