"""Rasters of classes or class probabilities, read from a GeoTIFF or made from arrays.

Shape suffixes: K classes, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import rasterio
from matplotlib.colors import to_hex
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import RasterError
from panoseg.imagery.remote import DRIVERS
from panoseg.imagery.vector_forms import VIRTUAL
from panoseg.maps.rasters import NO_CONFIDENCE, NO_DATA_CLASS, TABLE_TAG
from panoseg.text_files import reason_of

_MAX_PIXELS = 150_000_000
"""A Sentinel-2 scene has 120 million pixels of 10 m; refining it takes about 2 GB of memory."""
STRIP_PIXELS = 2**22
"""Pixels that are read at a time."""
_ROUNDING = 1e-3
"""How far a probability may exceed 1 where probabilities were stored as scaled integers."""


@dataclass(frozen=True, eq=False)
class ClassRaster:
    """The class of each pixel, with class probabilities where they are known."""

    classes_HW: np.ndarray
    """uint8: class ids, 255 for no data."""
    grid: GeoBox
    """Where the raster lies."""
    table: ClassTable
    """Names and colours of the classes."""
    probabilities: Iterable[np.ndarray] | None = None
    """K arrays of H x W, 0-1, NaN for no data, that can be iterated several times (such as one
    K x H x W array); None if unknown.
    """

    @property
    def crs_wkt(self) -> str:
        """The coordinate system; raises ``RasterError`` if there is none."""
        if self.grid.crs is None:
            raise RasterError("The raster has no coordinate system. Assign one.")
        return self.grid.crs.to_wkt()

    def with_confidence(self, confidence_HW: np.ndarray, background: int = 0) -> ClassRaster:
        """Return the same classes with probabilities made from the confidence of each pixel.

        A pixel's class gets its confidence and the background the rest; a background pixel is
        background with probability 1.

        Args:
            confidence_HW: Confidence of each pixel's class, 0-1.
            background: Number of the background class.
        """
        confidence_HW = np.where(self.classes_HW == background, 1, confidence_HW).astype(np.float32)
        return replace(
            self,
            probabilities=_ConfidenceBands(
                self.classes_HW, confidence_HW, self.table.count, background
            ),
        )

    @classmethod
    def from_probabilities(
        cls, bands: Iterable[np.ndarray], grid: GeoBox, table: ClassTable
    ) -> ClassRaster:
        """Give each pixel its most probable class, the lower number of equals.

        Args:
            bands: K arrays of H x W, 0-1; NaN in all bands for no data.
            grid: Where the raster lies.
            table: The classes.

        Raises:
            RasterError: For values outside of 0-1, and for pixels with NaN in only some bands.
        """
        best_HW: np.ndarray | None = None
        classes_HW = np.full(grid.shape, NO_DATA_CLASS, np.uint8)
        missing_HW = np.zeros(grid.shape, np.uint8)
        for number, band_HW in enumerate(bands):
            _check_probabilities(band_HW, number)
            if best_HW is None:
                best_HW = np.full(grid.shape, -1, np.result_type(band_HW, np.float32))
            better_HW = band_HW > best_HW
            np.copyto(best_HW, band_HW, where=better_HW)
            classes_HW[better_HW] = number
            missing_HW += np.isnan(band_HW)
        if ((missing_HW > 0) & (classes_HW != NO_DATA_CLASS)).any():
            raise RasterError(
                "Some pixels have NaN in some bands only. Write NaN in all bands where there are no"
                " data, and a probability in all bands elsewhere."
            )
        return cls(classes_HW, grid, table, bands)


def _check_probabilities(band_HW: np.ndarray, number: int) -> None:
    finite = band_HW[~np.isnan(band_HW)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low < 0 or high > 1 + _ROUNDING:
        raise RasterError(
            f"The band of class {number} has values from {low:g} to {high:g}, but probabilities lie"
            " from 0 to 1. If they are stored as integers, set the scale of the band."
        )


def read_class_raster(
    path: Path | str, background: int = 0, *, allow_virtual: bool = False
) -> ClassRaster:
    """Read a raster of classes, or of class probabilities.

    Names and colours of classes come from the file where it has them. Pixels with the file's
    no-data value have no data, unless that value is the background's; in a file of probabilities,
    those that have it in all bands.

    Args:
        path: A GeoTIFF: one band of class ids (integers, 0-254), or K bands of probabilities, the
            first of class 0.
        background: Number of the background class.
        allow_virtual: Also read GDAL's other formats, which may refer to any other file.

    Raises:
        RasterError: If the file cannot be read or used.
    """
    path = Path(path)
    if not path.is_file():
        raise RasterError(
            f"{path} is not a file. Pass a GeoTIFF of classes or of class probabilities."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with _opened(path, allow_virtual) as source:
                return _read(source, path, background, allow_virtual)
    except (RasterioError, MemoryError) as error:
        if not allow_virtual and _is_virtual(path):
            raise RasterError(
                f"{path} only refers to other files. Pass the GeoTIFF that holds the classes, or"
                " --allow-virtual if you trust it."
            ) from error
        raise RasterError(
            f"{path} cannot be read as a GeoTIFF ({reason_of(error)}). Write it as GeoTIFF."
        ) from error


def _is_virtual(path: Path) -> bool:
    with path.open("rb") as file:
        return bool(VIRTUAL.search(file.read(4096)))


def _opened(path: Path, allow_virtual: bool = False) -> DatasetReader:
    """Open a raster of a format that holds its own data, or of any format of GDAL."""
    with rasterio.Env():
        return DatasetReader(str(path), driver=None if allow_virtual else DRIVERS, sharing=False)


def _read(
    source: rasterio.DatasetReader, path: Path, background: int, allow_virtual: bool
) -> ClassRaster:
    if source.crs is None:
        raise RasterError(
            f"{path} has no coordinate system. Assign one, e.g. with gdal_edit -a_srs."
        )
    if source.width * source.height > _MAX_PIXELS:
        raise RasterError(
            f"{path} has {source.width} x {source.height} pixels, more than {_MAX_PIXELS:,}. Cut it"
            " into pieces."
        )
    if source.count > NO_DATA_CLASS:
        raise RasterError(
            f"{path} has {source.count} bands; a raster of class probabilities has at most"
            f" {NO_DATA_CLASS}, one for each class."
        )
    if source.count > 1:
        names = {number: name for number, name in enumerate(source.descriptions) if name}
        table = _table(range(source.count), names, {}, path.name, background)
        return ClassRaster.from_probabilities(
            _FileBands(path, allow_virtual), GeoBox.from_rio(source), table
        )
    if not np.issubdtype(np.dtype(source.dtypes[0]), np.integer):
        raise RasterError(
            f"{path} has one band of {source.dtypes[0]}. Pass a raster of classes (one band of"
            " integers) or of probabilities (one band for each class)."
        )
    return _read_classes(source, path, background)


def _read_classes(source: rasterio.DatasetReader, path: Path, background: int) -> ClassRaster:
    """Read a raster of classes in strips: int64 values would take eight times the memory."""
    classes_HW = np.full(source.shape, NO_DATA_CLASS, np.uint8)
    no_data = None if source.nodata == background else source.nodata
    present: set[int] = set()
    rows = max(1, STRIP_PIXELS // source.width)
    for top in range(0, source.height, rows):
        strip_HW = source.read(
            1, window=Window(0, top, source.width, min(rows, source.height - top))
        )
        data_HW = np.ones(strip_HW.shape, bool) if no_data is None else strip_HW != no_data
        present.update(np.unique(strip_HW[data_HW]).tolist())
        if present and (min(present) < 0 or max(present) >= NO_DATA_CLASS):
            raise RasterError(
                f"{path} has classes {min(present)} to {max(present)}, but classes are numbered"
                " from 0 to 254. Pass a raster of classes."
            )
        np.copyto(classes_HW[top : top + rows], strip_HW, where=data_HW, casting="unsafe")
    tags = source.tags(1)
    # Any number may be a tag, but the largest id sets the number of classes.
    names = {
        int(tag): name
        for tag, name in tags.items()
        if tag.isdecimal() and len(tag) <= 3 and int(tag) < NO_DATA_CLASS
    }
    try:
        colours = {
            id_: "#{:02x}{:02x}{:02x}".format(*colour) for id_, colour in source.colormap(1).items()
        }
    except ValueError:  # there is no colour table
        colours = {}
    table = _table({*present, *names}, names, colours, tags.get(TABLE_TAG, path.name), background)
    return ClassRaster(classes_HW, GeoBox.from_rio(source), table)


def _table(
    ids: Iterable[int],
    names: Mapping[int, str],
    colours: Mapping[int, str],
    name: str,
    background: int,
) -> ClassTable:
    """Return a table of these classes and the background, with default names and colours."""
    shades = matplotlib.colormaps["tab20"]
    return ClassTable(
        name,
        tuple(
            SegmentClass(
                id_,
                names.get(id_, "background" if id_ == background else f"class {id_}"),
                colours.get(
                    id_, "#000000" if id_ == background else to_hex(shades(id_ % shades.N))
                ),
                "stuff" if id_ == background else "thing",
            )
            for id_ in sorted({*ids, background})
        ),
    )


def read_confidence(path: Path, raster: ClassRaster, background: int = 0) -> ClassRaster:
    """Add probabilities to the class raster of a map, from the map's confidence.tif.

    Raises:
        RasterError: If the file cannot be read or has another shape.
    """
    try:
        with _opened(path) as source:
            if source.shape != raster.classes_HW.shape or source.count != 1:
                raise RasterError(
                    f"{path} does not have the same pixels as classes.tif. Make the map again."
                )
            percent_HW = source.read(1)
    except RasterioError as error:
        raise RasterError(f"{path} cannot be read ({error}). Make the map again.") from error
    return raster.with_confidence(
        np.where(percent_HW == NO_CONFIDENCE, 0, percent_HW).astype(np.float32) / 100, background
    )


@dataclass(frozen=True, eq=False)
class _ConfidenceBands:
    """Class probabilities made from the confidence of each pixel, one band in memory at a time."""

    classes_HW: np.ndarray
    """uint8: class ids, 255 for no data."""
    confidence_HW: np.ndarray
    """float32: confidence of the pixel's class, 0-1."""
    count: int
    """Number of classes."""
    background: int
    """Number of the background class."""

    def __iter__(self) -> Iterator[np.ndarray]:
        missing_HW = self.classes_HW == NO_DATA_CLASS
        for class_id in range(self.count):
            rest_HW = 1 - self.confidence_HW if class_id == self.background else np.float32(0)
            band_HW = np.where(self.classes_HW == class_id, self.confidence_HW, rest_HW)
            band_HW[missing_HW] = np.nan
            yield band_HW


@dataclass(frozen=True)
class _FileBands:
    """The bands of a file as float32, scaled, NaN for no data; one in memory at a time."""

    path: Path
    """The file."""
    allow_virtual: bool
    """Whether it may refer to other files."""

    def __iter__(self) -> Iterator[np.ndarray]:
        with _opened(self.path, self.allow_virtual) as source:
            # True where all bands have the no-data value.
            missing_HW = ~source.dataset_mask().astype(bool)
            for number, (scale, offset) in enumerate(
                zip(source.scales, source.offsets, strict=True), 1
            ):
                band_HW = source.read(number, out_dtype=np.float32)
                band_HW = band_HW * np.float32(scale) + np.float32(offset)
                band_HW[missing_HW] = np.nan
                yield band_HW
