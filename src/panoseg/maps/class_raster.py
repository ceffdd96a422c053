"""A raster of classes, or of class probabilities, read from a GeoTIFF or made from an array.

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
from rasterio.windows import Window

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import RasterError
from panoseg.maps.rasters import NO_CONFIDENCE, NO_DATA_CLASS, TABLE_TAG

_MAX_PIXELS = 150_000_000
"""A scene of Sentinel-2 has 120 million at 10 m; refining so many takes about two gigabytes."""
_STRIP_PIXELS = 2**22
_ROUNDING = 1e-3
"""Probabilities that were stored as whole numbers may pass 1 by so much."""


@dataclass(frozen=True, eq=False)
class ClassRaster:
    """The class of each pixel, and the probability of each class where a network told it.

    classes_HW: uint8, 255 where there are no data. grid: where it lies. table: names and colours of
    the classes.
    probabilities: K arrays of H x W, 0..1, which may be read again and again (a K x H x W array is
    one such thing); None without.
    """

    classes_HW: np.ndarray
    grid: GeoBox
    table: ClassTable
    probabilities: Iterable[np.ndarray] | None = None

    @property
    def crs_wkt(self) -> str:
        """Its coordinate system; raises ``RasterError`` without one."""
        if self.grid.crs is None:
            raise RasterError("a raster without a coordinate system", "one", "assign it")
        return self.grid.crs.to_wkt()

    def with_confidence(self, confidence_HW: np.ndarray, background: int = 0) -> ClassRaster:
        """The same classes with probabilities as far as confidence tells them.

        confidence_HW: 0..1, of the class of each pixel; what is left of 1 is the background's.
        Background has all of its own pixels.
        """
        confidence_HW = np.where(self.classes_HW == background, 1, confidence_HW).astype(np.float32)
        return replace(
            self,
            probabilities=_Confident(self.classes_HW, confidence_HW, self.table.count, background),
        )

    @classmethod
    def from_probabilities(
        cls, bands: Iterable[np.ndarray], grid: GeoBox, table: ClassTable
    ) -> ClassRaster:
        """Each pixel has its likeliest class, the lower of equals; NaN in all bands is no data.

        Raises ``RasterError`` for numbers outside of 0..1, and for pixels with NaN in some bands
        only.
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
                "pixels with NaN in some bands only",
                "NaN in all bands where there are no data",
                "fill them",
            )
        return cls(classes_HW, grid, table, bands)


def read_class_raster(path: Path | str, background: int = 0) -> ClassRaster:
    """Read a raster of classes (one band of whole numbers) or of class probabilities (K bands, the
    first of class 0).

    Names and colours come from the file where it has them. Pixels of the file's no-data value have
    no data, unless that value is the background's; among probabilities, those which have it in all
    bands. Raises ``RasterError``.
    """
    path = Path(path)
    if not path.is_file():
        raise RasterError(
            f"{path} is no file", "a GeoTIFF of classes or of their probabilities", "check the path"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                return _read(source, path, background)
    except (RasterioError, MemoryError) as error:
        raise RasterError(
            f"{path} cannot be read ({error})", "a whole GeoTIFF", "write it again"
        ) from error


def read_confidence(path: Path, raster: ClassRaster, background: int = 0) -> ClassRaster:
    """The raster with the probabilities that the confidence.tif of its map tells. Raises
    ``RasterError``.
    """
    try:
        with rasterio.open(path) as source:
            if source.shape != raster.classes_HW.shape or source.count != 1:
                raise RasterError(
                    f"{path} covers other pixels than the map",
                    "those of its classes.tif",
                    "make the map again",
                )
            percent_HW = source.read(1)
    except RasterioError as error:
        raise RasterError(
            f"{path} cannot be read ({error})", "a whole GeoTIFF", "make the map again"
        ) from error
    return raster.with_confidence(
        np.where(percent_HW == NO_CONFIDENCE, 0, percent_HW).astype(np.float32) / 100, background
    )


def _read(source: rasterio.DatasetReader, path: Path, background: int) -> ClassRaster:
    if source.crs is None:
        raise RasterError(
            f"{path} has no coordinate system",
            "one, in the file",
            "assign it, e.g. by gdal_edit -a_srs",
        )
    if source.width * source.height > _MAX_PIXELS:
        raise RasterError(
            f"{path} has {source.width} x {source.height} pixels",
            f"at most {_MAX_PIXELS}",
            "cut it to pieces",
        )
    if source.count > NO_DATA_CLASS:
        raise RasterError(
            f"{path} has {source.count} bands",
            f"a class each, at most {NO_DATA_CLASS}",
            "choose another file",
        )
    if source.count > 1:
        names = {number: name for number, name in enumerate(source.descriptions) if name}
        table = _table(range(source.count), names, {}, path.name, background)
        return ClassRaster.from_probabilities(_Bands(path), GeoBox.from_rio(source), table)
    if not np.issubdtype(np.dtype(source.dtypes[0]), np.integer):
        raise RasterError(
            f"{path} has one band of {source.dtypes[0]}",
            "whole numbers, or a band for each class",
            "choose another file",
        )
    return _read_classes(source, path, background)


def _read_classes(source: rasterio.DatasetReader, path: Path, background: int) -> ClassRaster:
    """A raster of classes, strip by strip: its whole numbers may take eight times the bytes that
    the classes do.
    """
    classes_HW = np.full(source.shape, NO_DATA_CLASS, np.uint8)
    no_data = None if source.nodata == background else source.nodata
    present: set[int] = set()
    rows = max(1, _STRIP_PIXELS // source.width)
    for top in range(0, source.height, rows):
        strip_HW = source.read(
            1, window=Window(0, top, source.width, min(rows, source.height - top))
        )
        data_HW = np.ones(strip_HW.shape, bool) if no_data is None else strip_HW != no_data
        present.update(np.unique(strip_HW[data_HW]).tolist())
        if present and (min(present) < 0 or max(present) >= NO_DATA_CLASS):
            raise RasterError(
                f"{path} has classes {min(present)} to {max(present)}",
                "0 to 254",
                "choose a raster of classes",
            )
        np.copyto(classes_HW[top : top + rows], strip_HW, where=data_HW, casting="unsafe")
    tags, colours = source.tags(1), _colours(source)
    # A tag may be any number, and the largest id says how many classes there are.
    names = {
        int(tag): name
        for tag, name in tags.items()
        if tag.isdecimal() and len(tag) <= 3 and int(tag) < NO_DATA_CLASS
    }
    table = _table({*present, *names}, names, colours, tags.get(TABLE_TAG, path.name), background)
    return ClassRaster(classes_HW, GeoBox.from_rio(source), table)


def _table(
    ids: Iterable[int],
    names: Mapping[int, str],
    colours: Mapping[int, str],
    name: str,
    background: int,
) -> ClassTable:
    """A table of these classes and the background; what has no name or colour gets one."""
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


def _colours(source: rasterio.DatasetReader) -> dict[int, str]:
    try:
        return {
            id_: "#{:02x}{:02x}{:02x}".format(*colour) for id_, colour in source.colormap(1).items()
        }
    except ValueError:
        return {}


@dataclass(frozen=True, eq=False)
class _Confident:
    """Probabilities of each class by what is known of one, made one at a time."""

    classes_HW: np.ndarray
    confidence_HW: np.ndarray
    count: int
    background: int

    def __iter__(self) -> Iterator[np.ndarray]:
        missing_HW = self.classes_HW == NO_DATA_CLASS
        for class_id in range(self.count):
            rest_HW = 1 - self.confidence_HW if class_id == self.background else np.float32(0)
            band_HW = np.where(self.classes_HW == class_id, self.confidence_HW, rest_HW)
            band_HW[missing_HW] = np.nan
            yield band_HW


@dataclass(frozen=True)
class _Bands:
    """The bands of a file, one after the other, so that memory holds one at a time."""

    path: Path

    def __iter__(self) -> Iterator[np.ndarray]:
        with rasterio.open(self.path) as source:
            missing_HW = ~source.dataset_mask().astype(
                bool
            )  # where all bands have the no-data value
            for number, (scale, offset) in enumerate(
                zip(source.scales, source.offsets, strict=True), 1
            ):
                band_HW = source.read(number, out_dtype=np.float32) * np.float32(
                    scale
                ) + np.float32(offset)
                band_HW[missing_HW] = np.nan
                yield band_HW


def _check_probabilities(band_HW: np.ndarray, number: int) -> None:
    finite = band_HW[~np.isnan(band_HW)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low < 0 or high > 1 + _ROUNDING:
        raise RasterError(
            f"the band of class {number} has {low:g} to {high:g}",
            "probabilities from 0 to 1",
            "write probabilities, with the scale of the band where they are whole numbers",
        )
