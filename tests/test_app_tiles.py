"""What tiles are made of: pieces of rasters, sheets of outlines, bounded caches, and whose turn it
is.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer

from panoseg.app.limits import BoundedCache, RequestQueue
from panoseg.app.tile_sources import SIZE, read_outlines, read_tile
from panoseg.app.tiles import TileRequest

CRS = "EPSG:32631"
TRANSFORM = Affine(
    10, 0, 400_000, 0, -10, 5_200_000
)  # a degree and a half from the middle of its zone, so turned by a degree
HEIGHT, WIDTH = 600, 700


@pytest.fixture
def values():
    """Numbers from 1 on, so that 0 stands for what is not there."""
    return np.random.default_rng(0).integers(1, 256, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def raster(tmp_path, values):
    return write(tmp_path / "raster.tif", values)


def write(path, values):
    profile = {
        "driver": "GTiff",
        "height": HEIGHT,
        "width": WIDTH,
        "count": 1,
        "dtype": "uint8",
        "crs": CRS,
        "nodata": 0,
    }
    with rasterio.open(
        path, "w", transform=TRANSFORM, tiled=True, blockxsize=256, blockysize=256, **profile
    ) as target:
        target.write(values, 1)
        target.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    return path


def tile_over(column, row, zoom):
    """The tile that holds a pixel of the raster."""
    longitude, latitude = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(
        *(TRANSFORM * (column, row))
    )
    x = (np.radians(longitude) / np.pi + 1) / 2 * 2**zoom
    y = (1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * 2**zoom
    return TileRequest("parcels", zoom, int(x), int(y))


def laid(path, request):
    return read_tile(path, request.box)[0]


def exact(values, request):
    """Each pixel of a tile looked up by itself."""
    left, bottom, right, top = request.box
    steps = (np.arange(SIZE) + 0.5) / SIZE
    x_HW, y_HW = np.meshgrid(left + steps * (right - left), top - steps * (top - bottom))
    x_HW, y_HW = ~TRANSFORM * Transformer.from_crs("EPSG:3857", CRS, always_xy=True).transform(
        x_HW, y_HW
    )
    inside = (x_HW >= 0) & (y_HW >= 0) & (x_HW < WIDTH) & (y_HW < HEIGHT)
    columns, rows = x_HW.clip(0, WIDTH - 1).astype(int), y_HW.clip(0, HEIGHT - 1).astype(int)
    return np.where(inside, values[rows, columns], 0)


@pytest.mark.parametrize(
    ("column", "row", "zoom"),
    [(350, 300, 13), (515, 510, 14), (5, 5, 14), (500, 300, 16), (350, 300, 18)],
)
def test_a_raster_lies_in_a_tile_where_its_pixels_are(raster, values, column, row, zoom):
    """Random neighbours: half a pixel off, and one in 256 would be right. At pixels' borders both
    roundings are right.
    """
    request = tile_over(column, row, zoom)
    assert (laid(raster, request) == exact(values, request)).mean() > 0.97


def test_from_afar_little_is_read(raster):
    """Of a tile the raster's own share alone is warped: the world in pixels of ten metres would not
    end here.
    """
    for zoom in (0, 3, 8, 11):
        found = read_tile(raster, tile_over(350, 300, zoom).box)
        assert zoom < 8 or (found > 0).any(), "smaller than a pixel it may lie between two"
    assert read_tile(raster, TileRequest("parcels", 12, 0, 0).box) is None


def test_smooth_is_of_neighbours(raster):
    box = tile_over(350, 300, 16).box
    steps = [
        np.abs(np.diff(read_tile(raster, box, smooth=smooth)[0].astype(int))).max()
        for smooth in (True, False)
    ]
    assert steps[0] < steps[1] / 2


def test_what_has_no_data_is_filled(raster):
    assert (read_tile(raster, tile_over(5, 5, 14).box, fill=77)[0] == 77).any()


def test_outlines_are_read_by_the_sheet(tmp_path):
    outer = shapely.box(402_000, 5_197_000, 402_400, 5_197_400)
    ring = outer.difference(shapely.box(402_100, 5_197_100, 402_200, 5_197_200))
    twins = shapely.union(
        shapely.box(402_500, 5_197_000, 402_600, 5_197_100),
        shapely.box(402_700, 5_197_000, 402_800, 5_197_100),
    )
    far = shapely.box(500_000, 5_100_000, 500_100, 5_100_100)
    path = tmp_path / "parcels.gpkg"
    gpd.GeoDataFrame({"id": ["1", "2", "3"]}, geometry=[ring, twins, far], crs=CRS).to_file(
        path, engine="pyogrio"
    )
    box = tile_over(225, 285, 12).box
    sheet = read_outlines(path, CRS, box, ("id",))
    assert sheet.columns["id"].tolist() == ["1", "2"]
    assert [[len(rings) for rings in sheet.polygons(number)] for number in (0, 1)] == [[2], [1, 1]]
    [[shell, hole]] = sheet.polygons(0)
    expected = gpd.GeoSeries([ring], crs=CRS).to_crs("EPSG:3857").iloc[0]
    assert shapely.Polygon(shell, [hole]).symmetric_difference(expected).area < 1e-6 * expected.area
    left, bottom, right, top = expected.bounds
    assert sheet.within((left - 9, bottom, left - 1, top)).tolist() == []
    assert sheet.within((left, bottom, right, top)).tolist() == [0]
    assert read_outlines(path, CRS, box, ("id",)) is sheet
    os.utime(path, ns=(1, 1))
    assert read_outlines(path, CRS, box, ("id",)) is not sheet


def test_outlines_where_there_are_none(tmp_path):
    path = tmp_path / "parcels.gpkg"
    gpd.GeoDataFrame({"id": ["1"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=CRS).to_file(
        path, engine="pyogrio"
    )
    sheet = read_outlines(path, CRS, tile_over(225, 285, 12).box, ("id",))
    assert sheet.within((-1e9, -1e9, 1e9, 1e9)).tolist() == []


def test_a_cache_forgets_what_was_asked_for_longest_ago():
    cache, made = BoundedCache[str](3 * 1000, lambda value: 500), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abcab"] == list("ABCAB")
    assert made == list("abc")
    assert cache.bytes == 3000
    get("d")  # c goes
    assert [get(key) for key in "abdc"] == list("ABDC")
    assert made == list("abcdc")
    assert cache.bytes <= 3000


def test_a_value_larger_than_the_cache_is_given_and_not_kept():
    cache = BoundedCache[bytes](1000, len)
    assert len(cache.get("a", lambda: bytes(5000))) == 5000
    assert cache.bytes == 0


def test_what_many_ask_for_at_once_is_made_once():
    cache, made, go = BoundedCache[int](1000, lambda value: 1), [], threading.Event()

    def make():
        made.append(1)
        go.wait(30)
        return 7

    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(cache.get, "key", make) for _ in range(8)]
        assert pool.submit(cache.get, "other", lambda: 8).result(30) == 8
        go.set()
        assert [answer.result(30) for answer in answers] == [7] * 8
    assert len(made) == 1


def test_what_fails_is_tried_again():
    cache = BoundedCache[int](1000, lambda value: 1)

    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.get("key", fail)
    assert cache.get("key", lambda: 3) == 3


def test_nobody_waits_for_all_that_one_person_asks():
    async def ask():
        queue, running, most, order = (
            RequestQueue(2),
            dict.fromkeys("ab", 0),
            dict.fromkeys("ab", 0),
            [],
        )

        async def request(person):
            async with queue.slot(person):
                running[person] += 1
                most[person] = max(most[person], running[person])
                await asyncio.sleep(0.01)
                running[person] -= 1
                order.append(person)

        await asyncio.gather(*(request(person) for person in "aaaaaaaab"))
        gc.collect()
        return most, order, len(queue._semaphores)

    most, order, left = asyncio.run(ask())
    assert most == {"a": 2, "b": 1}
    assert order.index("b") <= 2
    assert left == 0
