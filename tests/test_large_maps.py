"""Maps of any size: windows, workers and their order, stops, memory; and outlines."""

from __future__ import annotations

import geopandas as gpd
import pytest
import rasterio
import shapely

from mapping_weights import tiny_weights
from panoseg.errors import ConfigError, OutputError
from panoseg.maps import mapping, predict
from panoseg.maps.mapping import map_cube
from panoseg.maps.options import MapOptions
from stand_in import StandIn, coordinates_cube, landscape

HEIGHT, WIDTH = 150, 210
OPTIONS = MapOptions(tile=48, overlap=16, simplify=0)


@pytest.fixture
def season(tmp_path, monkeypatch):
    """A cube whose landscape the network knows."""
    cube, weights, segment_HW = coordinates_cube(HEIGHT, WIDTH), tiny_weights(), landscape(HEIGHT, WIDTH)
    cube["B04"][:, :30, 100:140] = 0
    cube.to_netcdf(tmp_path / "season.nc")
    monkeypatch.setattr(predict, "Predictor", lambda *_: StandIn(segment_HW, weights.card))
    return tmp_path / "season.nc"


def raster(path):
    with rasterio.open(path) as source:
        return source.read(1)


def test_nothing_is_mapped_outside_of_an_outline(season, tmp_path):
    corner = shapely.box(500_000, 5_600_000 - 800, 500_000 + 900, 5_600_000)
    outline = gpd.GeoSeries([corner], crs="EPSG:32631").to_crs("EPSG:4326").iloc[0]
    whole = map_cube(season, tiny_weights(), tmp_path / "whole", OPTIONS)
    part = map_cube(season, tiny_weights(), tmp_path / "part", OPTIONS, within=outline)
    classes_HW = raster(part.out / "classes.tif")
    assert (classes_HW[:79, :89] != 255).all()
    assert (classes_HW[81:] == 255).all()
    assert (classes_HW[:, 91:] == 255).all()
    assert (classes_HW[10:70, 10:70] == raster(whole.out / "classes.tif")[10:70, 10:70]).all()
    assert part.parcels.total_bounds[2] <= 500_000 + 910


def test_an_outline_elsewhere_and_another_outline_of_an_unfinished_map_are_refused(season, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="outside of the cube"):
        map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(20, 20, 21, 21))
    monkeypatch.setattr(mapping.shutil, "rmtree", lambda *_: None)
    map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(2, 50, 4, 51))
    with pytest.raises(OutputError, match="differs in its outline"):
        map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(2, 49, 4, 51))
