"""A register of parcels and a cube become a dataset: what is drawn, what is counted, what is left
out, and who reads it.
"""

from __future__ import annotations

import itertools
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401
import pandas as pd
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from catalogue_server import RUSTAC, serve
from cubes import LEFT, TOP, make_cube
from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.cli import main
from panoseg.cube.season import Window
from panoseg.data import s2tsczcrop
from panoseg.data.pastis import PastisDataset, compute_normalisation
from panoseg.data.s2tsczcrop import S2TSCzCropDataset
from panoseg.errors import ConfigError, DatasetError, OutputError, PanosegError, ParcelsError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.register import DatasetOptions
from panoseg.register import patches as images
from panoseg.register.dataset import Sources, _blocks, write_dataset
from panoseg.register.parcels import CropCodes, read_crop_codes, read_register
from panoseg.register.patches import ImageWriter, cut_into_pieces
from panoseg.register.plan import ParcelGrid, PlannedPatch, _squares, assign_blocks, assign_folds
from registers import CODES, CZECH_CODES, DATES, field_register, pixels, write_inputs
from tiny_runs import tiny_options

VOID = PASTIS.void
SMALL = DatasetOptions(size=16, min_dates=3)


def grid(size: int = 64) -> GeoBox:
    return GeoBox((size, size), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32631")


def table_of(outlines, codes, crs="EPSG:32631"):
    return gpd.GeoDataFrame({"crop": codes}, geometry=list(outlines), crs=crs)


def read(folder: Path, register: gpd.GeoDataFrame, size: int = 64):
    """The register of a table, by way of a file."""
    parcels, codes, _ = write_inputs(folder, register)
    return read_register(parcels, "crop", read_crop_codes(codes, PASTIS), PASTIS, [grid(size)])


def make(
    folder: Path,
    options: DatasetOptions = SMALL,
    layout: str = "pastis",
    name: str = "out",
    **inputs,
):
    """A dataset in folder/name, and what was found."""
    if layout == "s2tsczcrop":
        inputs = {"codes": CZECH_CODES, **inputs}
    parcels, codes, cube = write_inputs(folder / f"inputs of {name}", **inputs)
    return folder / name, write_dataset(
        Sources(parcels, "crop", codes, (cube,)), folder / name, layout, options
    )


def metadata(folder: Path) -> dict[int, dict]:
    features = json.loads((folder / "metadata.geojson").read_text())["features"]
    return {feature["properties"]["ID_PATCH"]: feature["properties"] for feature in features}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# The table of crop codes


@pytest.mark.parametrize(
    "text",
    [
        "code,class\n0110,2\n200,Corn\n",
        "\ufeffname;code;class\nWinter wheat;110;soft winter wheat\nMaize; 200 ; corn \n",
        "class\tcode\n2\t110\n3\t200\n\t\n",
    ],
)
def test_codes_by_number_or_name_with_any_delimiter(tmp_path, text):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    assert read_crop_codes(tmp_path / "table.csv", PASTIS).classes_of(["110", 200.0, 7]) == [
        2,
        3,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("code,class\n1,wheet\n", "'wheet' is not a class of PASTIS"),
        ("code,class\n1,soybean\n", "Did you mean soybeans?"),
        ("code,class\n1,25\n", "'25' is not a class"),
        ("code,class\n1,2\n01,3\n", "code 01 is corn here and soft winter wheat above"),
        ("name,croptype\nMaize,1200\n", "has the columns name, croptype, and needs code and class"),
        ("code,class\n", "has no line"),
        ("", "has the columns"),
        (f"code,class\n1,{'9' * 5000}\n", "'9{79}…' is not a class"),
    ],
)
def test_a_wrong_table_of_codes_is_one_line(tmp_path, text, said):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ParcelsError, match=said.replace("?", r"\?")):
        read_crop_codes(tmp_path / "table.csv", PASTIS)


def test_a_table_that_is_no_text_or_missing(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00code")
    for name in ("table.csv", "none.csv"):
        with pytest.raises(ParcelsError, match="cannot be read"):
            read_crop_codes(tmp_path / name, PASTIS)


# What is wrong with a register


def test_everything_wrong_with_a_register_is_counted(tmp_path):
    field, other = pixels(0, 0, 10, 10), pixels(20, 0, 10, 10)
    bow_tie = shapely.Polygon(
        [(LEFT + 300, TOP), (LEFT + 400, TOP - 100), (LEFT + 400, TOP), (LEFT + 300, TOP - 100)]
    )
    begun_elsewhere = shapely.Polygon(
        list(field.exterior.coords)[2:] + list(field.exterior.coords)[1:3]
    )
    rows = [
        (field, "110"),
        (begun_elsewhere, "110"),  # a duplicate
        (other, "200"),
        (other, "MEA"),  # a contradiction
        (bow_tie, "300"),  # mended
        (pixels(40, 0, 10, 0.8), "110"),  # thin
        (pixels(0, 8, 10, 10), "200"),  # overlaps the first field by 2 x 10 pixels
        (pixels(40, 20, 5, 5), "999"),  # unknown
        (pixels(40, 30, 5, 5), None),  # without a code
        (pixels(40, 40, 5, 5), "999"),
        (shapely.Polygon(), "110"),  # without area
        (pixels(500, 500, 5, 5), "110"),  # elsewhere, and not even read
    ]
    register = read(tmp_path, table_of(*zip(*rows, strict=True)))
    found = register.findings
    assert found.unknown_codes == {"999": 2}
    assert (found.duplicates, found.contradictions, found.mended, found.thin) == (2, 1, 1, 1)
    assert (found.overlaps, found.overlap_ha, found.without_code) == (1, 0.2, 1)
    assert len(register.outlines_N) == 8
    assert register.classes_N.tolist() == [2, VOID, 4, VOID, 3, VOID, VOID, VOID]
    assert shapely.is_valid(register.outlines_N).all()


def test_numbers_name_the_rows_that_were_read(tmp_path):
    rows = [(pixels(0, 0, 4, 4), "110"), (pixels(0, 0, 4, 4), "110"), (pixels(8, 8, 4, 4), "200")]
    assert read(tmp_path, table_of(*zip(*rows, strict=True))).numbers_N.tolist() == [1, 3]


def test_rows_without_area_are_counted(tmp_path):
    parcels = table_of([pixels(0, 0, 4, 4), shapely.Polygon()], ["110", "110"])
    parcels.to_parquet(tmp_path / "register.parquet")
    codes = CropCodes({"110": 2})
    # A row without an outline is nowhere, so that it is met only where the whole file is read.
    found = read_register(tmp_path / "register.parquet", "crop", codes, PASTIS, [grid()]).findings
    assert found.rows == 1 + found.without_area


@pytest.mark.parametrize("format", ["gpkg", "parquet", "geojson"])
def test_only_the_land_of_the_cubes_is_read(tmp_path, format):
    far = [pixels(3000 + 20 * number, 3000, 10, 10) for number in range(50)]
    parcels = table_of([pixels(0, 0, 4, 4), *far], ["110"] * 51).to_crs("EPSG:4326")
    path = tmp_path / f"register.{format}"
    parcels.to_parquet(path) if format == "parquet" else parcels.to_file(path)
    found = read_register(path, "crop", CropCodes({"110": 2}), PASTIS, [grid()]).findings
    assert (found.rows, found.elsewhere) == (1, 0)


def test_a_register_without_the_column_or_elsewhere(tmp_path):
    parcels, codes, _ = write_inputs(tmp_path)
    with pytest.raises(ParcelsError, match=r"no column kind \(but crop\)"):
        read_register(parcels, "kind", read_crop_codes(codes, PASTIS), PASTIS, [grid()])
    far = GeoBox((64, 64), Affine(10, 0, LEFT + 1e5, 0, -10, TOP), "EPSG:32631")
    with pytest.raises(ParcelsError):
        read_register(parcels, "crop", read_crop_codes(codes, PASTIS), PASTIS, [far])


# ParcelWindow


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_parcel_is_on_top_in_any_order(tmp_path, turned):
    rows = [(pixels(0, 0, 6, 6), "110"), (pixels(2, 2, 2, 2), "MEA")]
    register = read(tmp_path, table_of(*zip(*(rows[::-1] if turned else rows), strict=True)))
    canvas = ParcelGrid(register, grid())
    window_parcels = canvas.rasterize(Window(0, 0, 8, 8))
    expected_HW = np.zeros((8, 8), np.uint8)
    expected_HW[:6, :6], expected_HW[2:4, 2:4] = 2, 1
    assert np.array_equal(window_parcels.classes(register.classes_N, VOID, 0.5), expected_HW)
    assert canvas.contested_pixels(Window(0, 0, 8, 8)) == 4
    assert canvas.contested_pixels(Window(8, 8, 8, 8)) == 0
    assert sorted(window_parcels.pixels_P.tolist()) == [4, 32]


def test_a_pixel_belongs_to_the_parcel_that_covers_its_centre(tmp_path):
    register = read(
        tmp_path, table_of([pixels(1.4, 1.6, 2.2, 2.2)], ["110"])
    )  # rows 1.4 to 3.6, columns 1.6 to 3.8
    parcel_HW = ParcelGrid(register, grid()).rasterize(Window(0, 0, 6, 6)).parcel_HW
    assert (parcel_HW == 0).nonzero()[0].tolist() == [1, 1, 2, 2, 3, 3]
    assert sorted(set((parcel_HW == 0).nonzero()[1].tolist())) == [2, 3]


def test_a_parcel_that_lies_mostly_outside_is_void(tmp_path):
    register = read(tmp_path, table_of([pixels(0, 6, 4, 10)], ["110"]))
    left, right = (
        ParcelGrid(register, grid()).rasterize(Window(0, start, 8, 8)) for start in (0, 8)
    )
    assert np.allclose([left.inside_P[0], right.inside_P[0]], [0.2, 0.8])
    classes = [
        set(part.classes(register.classes_N, VOID, 0.5).ravel().tolist()) for part in (left, right)
    ]
    assert classes == [{0, VOID}, {0, 2}]
    assert 2 in left.classes(register.classes_N, VOID, 0.1)


def test_windows_together_draw_what_one_window_draws(tmp_path):
    generator = np.random.default_rng(0)
    outlines = [
        shapely.affinity.rotate(pixels(r, c, 9, 7), a)
        for r, c, a in generator.uniform(0, 56, (30, 3))
    ]
    canvas = ParcelGrid(read(tmp_path, table_of(outlines, ["110"] * 30)), grid())
    whole_HW = canvas.rasterize(Window(0, 0, 64, 64)).parcel_HW
    parts = [
        [canvas.rasterize(Window(top, left, 16, 16)).parcel_HW for left in range(0, 64, 16)]
        for top in range(0, 64, 16)
    ]
    assert np.array_equal(np.block(parts), whole_HW)


# Folds


@given(st.integers(0, 10**6), st.integers(5, 60))
def test_every_fold_gets_land_and_about_its_share(seed, blocks):
    amounts_BK = np.random.default_rng(seed).gamma(0.5, size=(blocks, 4))
    for weights in ((0.2,) * 5, (0.7, 0.15, 0.15)):
        fold_of = assign_folds(amounts_BK, weights)
        assert set(fold_of.tolist()) == set(range(len(weights)))
        if blocks >= 40:
            shares_F = np.bincount(fold_of, amounts_BK.sum(axis=1)) / amounts_BK.sum()
            assert np.abs(shares_F - weights).max() < 0.2


def patches_at(corners_2, size: float = 160.0) -> np.ndarray:
    """Squares by their lower left corners, in metres."""
    return np.array([shapely.box(x, y, x + size, y + size) for x, y in corners_2], dtype=object)


def test_blocks_are_squares_of_land():
    corners_2 = np.array(
        [(x, y) for y in range(0, 1280, 160) for x in range(0, 1280, 160)], float
    )  # 8 x 8 patches
    patches = patches_at(corners_2)
    block_of, side = assign_blocks(patches, (0, 0), 160.0, None, 3)
    assert (side, len(set(block_of.tolist()))) == (2, 16)
    for block in range(16):
        spread = np.ptp(corners_2[block_of == block], axis=0)
        assert (block_of == block).sum() == 4
        assert spread.tolist() == [160, 160]
    assert assign_blocks(patches, (0, 0), 160.0, 4, 3)[1] == 4
    with pytest.raises(DatasetError, match="64 usable patches lie in 1 blocks"):
        assign_blocks(patches, (0, 0), 160.0, 8, 3)
    with pytest.raises(DatasetError, match="0 usable patches lie in 0 blocks"):
        assign_blocks(patches[:0], (0, 0), 160.0, None, 3)


def test_of_patches_that_share_ground_across_blocks_the_first_stays():
    row = [(160.0 * place, 0.0) for place in range(8)]
    shifted = [(x + 80, y) for x, y in row[:4]]
    block_of, side = assign_blocks(patches_at([*row, *shifted]), (0, 0), 160.0, 2, 2)
    assert side == 2
    # The second and fourth of the shifted patches lie across the border of a block; the others in
    # the block of both neighbours.
    assert block_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, -1, 1, -1]
    # What is left out takes no land from others: on bare ground the same patches stay.
    assert (assign_blocks(patches_at([row[0], *shifted[1:]]), (0, 0), 160.0, 2, 1)[0] >= 0).all()


@st.composite
def overlapping_cubes(draw) -> tuple[GeoBox, ...]:
    """Grids of several sizes at any place on the same land, each in one of two neighbouring
    zones.
    """
    corner, grids = grid(), []
    for _ in range(draw(st.integers(1, 4))):
        zone = draw(st.sampled_from(["EPSG:32631", "EPSG:32632"]))
        left, _, _, top = corner.extent.to_crs(zone).boundingbox
        x, y = (
            10 * draw(st.integers(-60, 60)) + draw(st.sampled_from([0, 0, 3.7])) for _ in range(2)
        )
        height, width = (draw(st.integers(16, 90)) for _ in range(2))
        grids.append(GeoBox((height, width), Affine(10, 0, left + x, 0, -10, top + y), zone))
    return tuple(grids)


@settings(deadline=None, max_examples=60)
@given(overlapping_cubes(), st.sampled_from([None, 1, 2, 3]), st.integers(1, 3))
def test_no_ground_is_in_two_folds(grids, side, folds):
    nothing = np.empty(0, np.int64)
    patches = [
        PlannedPatch(number, cube, window, nothing, nothing, 1.0)
        for number, (cube, window) in enumerate(
            (cube, window) for cube, own in enumerate(grids) for window in _squares(own, 16)
        )
    ]
    crs, options = grids[0].crs.to_wkt(), DatasetOptions(size=16, block=side)
    try:
        block_of, _ = _blocks(patches, grids, crs, options, folds)
    except DatasetError:
        return
    fold_of = np.append(assign_folds(np.ones((block_of.max() + 1, 1)), (1 / folds,) * folds), -1)[
        block_of
    ]
    windows = [grids[own.cube][own.window.rows, own.window.columns] for own in patches]
    extents = [window.extent.to_crs(crs, resolution=40).geom for window in windows]
    lands = [
        shapely.union_all([own for own, of in zip(extents, fold_of, strict=True) if of == fold])
        for fold in range(folds)
    ]
    for one, other in itertools.combinations(lands, 2):
        assert shapely.area(shapely.intersection(one, other)) < 1  # of 100 m2 a pixel
    # None is left out without a reason.
    stays = shapely.union_all(
        [own for own, block in zip(extents, block_of, strict=True) if block >= 0]
    )
    for own, block in zip(extents, block_of, strict=True):
        assert block >= 0 or shapely.area(shapely.intersection(own, stays)) > 0.9
    assert (block_of >= 0).all() or len(grids) > 1


# Datasets


def test_images_and_labels_are_those_of_the_cube_and_the_register(tmp_path):
    folder, report = make(tmp_path)
    dataset = PastisDataset(folder, target="panoptic")
    assert dataset.ids == tuple(range(10_000, 10_016))
    assert report.patches == 16
    cube = xr.open_dataset(tmp_path / "inputs of out" / "cube.nc")
    for number in (0, 5, 15):
        rows, columns = (slice(16 * place, 16 * place + 16) for place in divmod(number, 4))
        sample = dataset[number]
        for channel, band in enumerate(PASTIS_BANDS):
            assert np.array_equal(
                sample.images_TCHW[:, channel], cube[band].values[:, rows, columns]
            )
        assert [str(day) for day in dataset.dates(number)] == list(DATES)
        expected_HW = np.zeros((16, 16))
        expected_HW[2:14, 2:14] = (2, 3, 1)[number % 3]
        assert np.array_equal(sample.classes_HW, expected_HW)
        assert np.array_equal(sample.instances_HW, expected_HW > 0)
        assert (
            np.load(folder / "ANNOTATIONS" / f"ParcelIDs_{10_000 + number}.npy")
            == (expected_HW > 0) * (number + 1)
        ).all()


@pytest.mark.parametrize("layout", ["pastis", "s2tsczcrop"])
def test_the_statistics_are_those_of_the_published_programs(tmp_path, layout):
    folder, _ = make(tmp_path, layout=layout)
    compute = compute_normalisation if layout == "pastis" else s2tsczcrop.compute_normalisation
    written, computed = json.loads((folder / "NORM_S2_patch.json").read_text()), compute(folder)
    assert written.keys() == computed.keys()
    for part in computed:
        for key in ("mean", "std"):
            np.testing.assert_allclose(written[part][key], computed[part][key], rtol=1e-12)


def test_the_czech_layout(tmp_path):
    folder, report = make(tmp_path, layout="s2tsczcrop")
    sets = {
        name: S2TSCzCropDataset(folder, [name], target="semantic")
        for name in ("train", "val", "test")
    }
    assert {name: len(dataset) for name, dataset in sets.items()} == {
        n: of["patches"] for n, of in report.parts.items()
    }
    assert len(sets["train"]) > len(sets["val"]) >= 1
    sample = sets["train"].draw(0, np.random.default_rng(0)).in_order()
    number = sets["train"].ids[0] - 10_000
    rows, columns = (slice(16 * place, 16 * place + 16) for place in divmod(number, 4))
    cube = xr.open_dataset(tmp_path / "inputs of out" / "cube.nc")
    assert np.array_equal(sample.images_TCHW[:, 6], cube[PASTIS_BANDS[6]].values[:, rows, columns])
    assert (
        S2TSCZCROP[int(sample.classes_HW.max())].name
        == ("winter cereals", "maize", "permanent grassland")[number % 3]
    )
    patch = sets["train"].metadata[0]
    assert patch.epsg == 32631
    assert patch.affine == (10, 0, LEFT + 160 * (number % 4), 0, -10, TOP - 160 * (number // 4))


def test_no_parcel_is_in_two_folds(tmp_path):
    register = table_of(
        [pixels(3 + 7 * r, 3 + 9 * c, 6, 8) for r in range(8) for c in range(6)], ["110"] * 48
    )
    folder, report = make(tmp_path, replace(SMALL, min_inside=0.0), register=register)
    fold_of = {patch: row["Fold"] for patch, row in metadata(folder).items()}
    seen: dict[int, set[int]] = {}
    for patch, fold in fold_of.items():
        for parcel in np.unique(np.load(folder / "ANNOTATIONS" / f"ParcelIDs_{patch}.npy")):
            seen.setdefault(int(parcel), set()).add(fold)
    seen.pop(0)
    assert len(seen) == 48
    assert all(len(folds) == 1 for folds in seen.values())
    assert report.divided > 5
    # What a parcel of another fold covers is void, not background.
    canvas = ParcelGrid(read(tmp_path / "again", register), grid())
    for patch in fold_of:
        top, left = (16 * place for place in divmod(patch - 10_000, 4))
        covered_HW = canvas.rasterize(Window(top, left, 16, 16)).parcel_HW >= 0
        classes_HW = np.load(folder / "ANNOTATIONS" / f"TARGET_{patch}.npy")[0]
        assert ((classes_HW > 0) == covered_HW).all()


def test_a_register_in_degrees_draws_the_same(tmp_path):
    one, _ = make(tmp_path / "metres")
    two, _ = make(tmp_path / "degrees", register=field_register().to_crs("EPSG:4326"))
    assert everything(one / "ANNOTATIONS") == everything(two / "ANNOTATIONS")


def test_pixels_that_are_never_seen_are_void(tmp_path):
    cube = make_cube(64, DATES)
    for band in PASTIS_BANDS:
        cube[band].values[:, 4:6, 4:6] = 0
        cube[band].values[3, 10, 10] = 0
    folder, _ = make(tmp_path, cube=cube)
    classes_HW = np.load(folder / "ANNOTATIONS" / "TARGET_10000.npy")[0]
    assert (classes_HW[4:6, 4:6] == VOID).all()
    assert (classes_HW == VOID).sum() == 4
    images_TCHW = np.load(folder / "DATA_S2" / "S2_10000.npy")
    between = cube["B04"].values[[2, 4], 10, 10].astype(float).mean()  # dates are 30 days apart
    assert images_TCHW[3, 2, 10, 10] == np.rint(between)


def cloudy_cube() -> xr.Dataset:
    """A cube whose first patch is clear on three dates, and its second half clear on the others."""
    cube = make_cube(64, DATES, scl=True)
    cube["SCL"].values[3:, :16, :16] = 9
    cube["SCL"].values[3:, :16, 16:24] = 9
    return cube


def test_clouds_decide_which_dates_a_patch_has(tmp_path):
    folder, report = make(tmp_path, replace(SMALL, min_clear=0.4), cube=cloudy_cube())
    counts = {patch: len(row["dates-S2"]) for patch, row in metadata(folder).items()}
    assert (counts[10_000], counts[10_001]) == (3, 12)
    assert report.dim == 0
    folder, _ = make(tmp_path, replace(SMALL, min_clear=0.6), name="clearer", cube=cloudy_cube())
    assert len(metadata(folder)[10_001]["dates-S2"]) == 3


def test_patches_with_few_dates_or_little_cover_are_left_out(tmp_path):
    folder, report = make(tmp_path, replace(SMALL, min_dates=4), cube=cloudy_cube())
    assert report.dim == 1
    assert 10_000 not in metadata(folder)
    assert not (folder / "DATA_S2" / "S2_10000.npy").exists()
    register = field_register()
    register.geometry = [pixels(2, 2, 4, 12), *register.geometry[1:]]
    _, report = make(tmp_path, replace(SMALL, min_cover=0.3), name="covered", register=register)
    assert (report.bare, report.patches) == (1, 15)


def test_options_of_dates_and_labels(tmp_path):
    folder, _ = make(tmp_path, replace(SMALL, max_dates=5, centres=True))
    assert {len(row["dates-S2"]) for row in metadata(folder).values()} == {5}
    assert (folder / "INSTANCE_ANNOTATIONS" / "HEATMAP_10003.npy").exists()
    with pytest.raises(PanosegError, match="No date of the cube lies in the season of 2021"):
        make(tmp_path, replace(SMALL, season=2021), name="late")
    with pytest.raises(ConfigError, match="--centres needs a layout with parcels"):
        make(tmp_path, replace(SMALL, centres=True), "s2tsczcrop", "czech")


def test_the_year_chooses_the_season(tmp_path):
    dates = (*DATES, "2020-03-01", "2020-05-01", "2020-07-01")
    folder, report = make(tmp_path, replace(SMALL, season=2020), cube=make_cube(64, dates))
    assert report.cubes[0][1] == 2020
    assert list(metadata(folder)[10_000]["dates-S2"].values())[-1] == 20200701


def test_size_and_block(tmp_path):
    folder, report = make(tmp_path, replace(SMALL, size=32, min_inside=0.0), "s2tsczcrop")
    assert report.patches == 4
    assert report.block_m == 320
    with pytest.raises(DatasetError, match="too few for 5 folds"):
        make(tmp_path, replace(SMALL, size=32), name="few")
    folder, report = make(tmp_path, replace(SMALL, block=2), "s2tsczcrop", "blocks")
    rows = {
        patch.id - 10_000: patch.set for patch in S2TSCzCropDataset(folder, target=None).metadata
    }
    for top in (0, 2):
        for left in (0, 2):
            assert len({rows[4 * (top + i) + left + j] for i in (0, 1) for j in (0, 1)}) == 1
    assert report.block_m == 320


@pytest.mark.parametrize(
    "wrong", [{"size": 20}, {"min_clear": 2}, {"max_dates": 2}, {"block": 0}, {"season": 1}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError):
        replace(SMALL, **wrong)


def test_the_report_is_printed_and_written(tmp_path):
    register = pd.concat(
        [field_register(), table_of([pixels(5, 5, 3, 3)], ["999"])], ignore_index=True
    )
    folder, report = make(tmp_path, register=register)
    written = json.loads((folder / "report.json").read_text())
    assert written["findings"]["unknown_codes"] == {"999": 1}
    assert written["contested"] == 9
    text = "\n".join(report.lines())
    assert "1 parcels whose code the table lacks, void: code 999 (1)" in text
    assert "1 pairs of parcels that overlap, on 0.09 ha" in text
    assert "without a code" not in text
    pixels_of = [sum(part["pixels"].values()) for part in written["parts"].values()]
    assert sum(pixels_of) == 16 * 144 - 9


# Several cubes


def test_several_cubes_share_folds_where_they_overlap(tmp_path):
    """The second cube is in the next zone and overlaps the first; parcels on both stay in one
    fold.
    """
    parcels, codes, cube = write_inputs(tmp_path, field_register(112))
    box = grid().extent.to_crs("EPSG:32632").boundingbox
    other = make_cube(64, DATES, seed=1, crs="EPSG:32632")
    other = other.assign_coords(x=other.x + box.left - LEFT + 400, y=other.y + box.top - TOP - 40)
    other.to_netcdf(tmp_path / "other.nc")
    report = write_dataset(
        Sources(parcels, "crop", codes, (cube, tmp_path / "other.nc")),
        tmp_path / "out",
        "pastis",
        replace(SMALL, min_inside=0),
    )
    assert report.patches > 16
    assert [year for _, year in report.cubes] == [2019, 2019]
    seen: dict[int, set[int]] = {}
    for patch, row in metadata(tmp_path / "out").items():
        for parcel in np.unique(
            np.load(tmp_path / "out" / "ANNOTATIONS" / f"ParcelIDs_{patch}.npy")
        ):
            seen.setdefault(int(parcel), set()).add(row["Fold"])
    assert all(len(folds) == 1 for parcel, folds in seen.items() if parcel)
    assert report.shared > 0
    assert f"{report.shared} of them on ground that several cubes show" in "\n".join(report.lines())
    assert report.patches + report.bare + report.shared == report.squares
    dataset = PastisDataset(tmp_path / "out", target="panoptic")
    assert dataset[len(dataset) - 1].instances_HW.max() > 0


# Stopping and going on


def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_WINDOW", 32)
    parcels, codes, cube = write_inputs(tmp_path)
    sources = Sources(parcels, "crop", codes, (cube,))
    write_dataset(sources, tmp_path / "whole", "pastis", SMALL)
    calls, original = [], images._around

    def until_the_third(window):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(window)
        return original(window)

    monkeypatch.setattr(images, "_around", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(sources, tmp_path / "stopped", "pastis", SMALL)
    assert not (tmp_path / "stopped" / "metadata.geojson").exists()
    monkeypatch.setattr(images, "_around", original)
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "DATA_S2").iterdir()
    }
    write_dataset(sources, tmp_path / "stopped", "pastis", SMALL)
    assert before
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")
    with pytest.raises(OutputError, match="holds a dataset that differs in options"):
        write_dataset(sources, tmp_path / "stopped", "pastis", replace(SMALL, min_cover=0.2))
    changed = xr.open_dataset(cube).load()
    changed["B04"] += 1
    changed.to_netcdf(tmp_path / "changed.nc")
    (tmp_path / "changed.nc").replace(cube)
    with pytest.raises(OutputError, match="holds a dataset that differs in cubes"):
        write_dataset(sources, tmp_path / "stopped", "pastis", SMALL)


def test_several_processes_write_the_same(tmp_path, monkeypatch):
    parcels, codes, cube = write_inputs(tmp_path)
    sources = Sources(parcels, "crop", codes, (cube,))
    write_dataset(sources, tmp_path / "one", "pastis", SMALL)
    monkeypatch.setattr(images, "LARGEST_WINDOW", 32)
    write_dataset(sources, tmp_path / "two", "pastis", SMALL, workers=2)
    one, two = everything(tmp_path / "one"), everything(tmp_path / "two")
    records = [name for name in {**one, **two} if name.startswith(".dataset")]
    for name in records:
        one.pop(name, None), two.pop(name, None)
    assert one == two
    assert len(records) == 4


# Memory


def lazy_cube(size: int, dates: int = 4) -> xr.Dataset:
    """A season that exists only where it is looked at."""
    coords = {
        "time": np.array(DATES[:dates], "datetime64[ns]"),
        "y": TOP - 5 - 10.0 * np.arange(size),
        "x": LEFT + 5 + 10.0 * np.arange(size),
    }
    values_TYX = da.full((dates, size, size), 1000, dtype=np.uint16, chunks=(1, 512, 512))
    cube = xr.Dataset(dict.fromkeys(PASTIS_BANDS, (("time", "y", "x"), values_TYX)), coords)
    return cube.odc.assign_crs("EPSG:32631")


def test_memory_is_bounded_by_the_window(tmp_path, monkeypatch):
    """Images of 512 x 512 pixels and four dates take 20 MiB, whether the land is one such window or
    a whole tile of 10,980.
    """
    options, peaks = replace(SMALL, size=128), []
    for size in (512, 10_980):
        cube = lazy_cube(size)
        monkeypatch.setattr(images, "open_season", lambda path, year, read, cube=cube: (cube, 2019))
        corner = size - size % 512 - 512
        windows = [
            Window(corner + 128 * i, corner + 128 * j, 128, 128) for i in range(4) for j in range(4)
        ]
        nothing = np.empty(0, np.int64)
        plan = [
            PlannedPatch(number, 0, window, nothing, nothing, 1.0)
            for number, window in enumerate(windows)
        ]
        pieces = cut_into_pieces(plan, [4], options)
        assert len(pieces) == 1
        writer = ImageWriter(
            (tmp_path,), tuple(pieces), options, lambda folder, patch, images_TCHW: None
        )
        tracemalloc.start()
        try:
            assert len(writer.write(tmp_path, 0)["patches"]) == 16
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    window_bytes = 4 * 10 * 512**2 * 2
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 3 * window_bytes


# Commands


@pytest.mark.parametrize(
    ("layout", "experiment"), [("pastis", "pastis-utae-paps"), ("s2tsczcrop", "s2tsczcrop-utae")]
)
def test_a_dataset_is_described_trained_on_and_tested(tmp_path, capsys, layout, experiment):
    """From a register to a score, by the commands alone, with a tiny network."""
    table = CODES if layout == "pastis" else CZECH_CODES
    parcels, codes, cube = write_inputs(
        tmp_path, field_register(48), make_cube(48, DATES[::4]), table
    )
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    words = [
        "--parcels",
        str(parcels),
        "--class-column",
        "crop",
        "--classes",
        str(codes),
        "--cube",
        str(cube),
        "--out",
        data,
    ]
    assert main(["dataset", *words, "--layout", layout, "--size", "16", "--min-dates", "3"]) == 0
    assert "9 patches of 16 x 16 pixels" in capsys.readouterr().out
    assert main(["describe", data]) == 0
    assert "patches  9; 16 x 16 pixels" in capsys.readouterr().out
    options = tiny_options(experiment)
    assert main(["train", experiment, "--data", data, "--out", run, "--epochs", "1", *options]) == 0
    assert main(["test", run, "--data", data, "--out", str(tmp_path / "scores")]) == 0


def test_several_cubes_are_named_one_by_one(tmp_path, capsys):
    parcels, codes, cube = write_inputs(tmp_path)
    words = [
        "--parcels",
        str(parcels),
        "--class-column",
        "crop",
        "--classes",
        str(codes),
        "--out",
        str(tmp_path / "out"),
    ]
    two = ["--cube", str(cube), "--cube", str(cube)]
    assert main(["dataset", *words, *two, "--size", "16", "--min-dates", "3"]) == 0
    assert "32 patches" in capsys.readouterr().out
    assert (
        main(["dataset", *words[:-1], str(tmp_path / "none"), "--cube", str(tmp_path / "no.nc")])
        == 2
    )
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def flanders_codes(folder: Path, flanders: Path) -> Path:
    """A table of codes for the crops of the real register that PASTIS knows."""
    rows = [line.split(",") for line in (flanders / "crop_codes.csv").read_text().splitlines()[1:]]
    known = {
        "Winter wheat": "soft winter wheat",
        "Maize": "corn",
        "Barley": "winter barley",
        "Winter barley": "winter barley",
    }
    lines = [f"{row[1]},{known[row[0]]}" for row in rows if row[0] in known]
    path = folder / "table.csv"
    path.write_text("\n".join(["code,class", *lines, "9120,meadow"]))
    return path


@pytest.mark.skipif(RUSTAC is None, reason="rustac is not installed")
def test_a_season_is_fetched_from_a_catalogue(tmp_path, real_data, capsys):
    flanders, out = real_data / "flanders-2019", tmp_path / "out"
    words = [
        "dataset",
        "--parcels",
        str(flanders / "parcels.gpkg"),
        "--class-column",
        "crop_code",
        "--out",
        str(out),
    ]
    words += [
        "--classes",
        str(flanders_codes(tmp_path, flanders)),
        "--size",
        "16",
        "--min-dates",
        "3",
        "--min-inside",
        "0.2",
    ]
    fetch = [
        "--season",
        "2019",
        "--fetch.max-dates",
        "4",
        "--fetch.threads",
        "2",
        "--fetch.margin-m",
        "0",
    ]
    with serve(flanders / "stac", tmp_path) as server:
        assert main([*words, "--catalog", server.url, *fetch]) == 0
    assert "4 dates of 4 scenes" in capsys.readouterr().out
    dataset = PastisDataset(out, target="panoptic")
    assert len(dataset.dates(0)) == 4
    assert (tmp_path / "out.area.geojson").exists()
    cube = xr.open_dataset(flanders / "cube.nc")
    row = metadata(out)[dataset.ids[0]]
    # The box around the parcels is the cube's land, so that patches are those of the cube.
    fetched = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    left, top = (round((float(fetched[d][0]) - float(cube[d][0])) / 10) for d in ("x", "y"))
    times = [np.datetime64(day) for day in dataset.dates(0)]
    window = Window(
        *(16 * place for place in divmod(row["ID_PATCH"] - 10_000, fetched.sizes["x"] // 16)),
        16,
        16,
    )
    rows = slice(window.top - top, window.top - top + 16)
    columns = slice(window.left + left, window.left + left + 16)
    expected_THW = cube["B04"].sel(time=times).values[:, rows, columns]
    assert np.array_equal(dataset[0].images_TCHW[:, 2], expected_THW)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ([], "Pass either --cube or --catalog with --season"),
        (
            ["--cube", "a.nc", "--catalog", "earth-search"],
            "Pass either --cube or --catalog with --season",
        ),
        (["--cube", "a.nc", "--area", "b.geojson"], "options need --catalog"),
        (
            ["--cube", "a.nc", "--fetch.max-dates", "3"],
            "options need --catalog",
        ),
        (["--catalog", "earth-search"], "--catalog needs a harvest year"),
    ],
)
def test_options_of_the_command_that_contradict_each_other(tmp_path, capsys, extra, said):
    words = [
        "--parcels",
        "r.gpkg",
        "--class-column",
        "crop",
        "--classes",
        "c.csv",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["dataset", *words, *extra]) == 2
    assert said in capsys.readouterr().err


def test_the_real_register_of_flanders(tmp_path, real_data, capsys):
    flanders = real_data / "flanders-2019"
    words = [
        "--parcels",
        str(flanders / "parcels.gpkg"),
        "--class-column",
        "crop_code",
        "--cube",
        str(flanders / "cube.nc"),
    ]
    words += [
        "--classes",
        str(flanders_codes(tmp_path, flanders)),
        "--size",
        "16",
        "--min-inside",
        "0.2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["dataset", *words]) == 0
    assert "parcels whose code the table lacks, void: code" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["findings"]["unknown_codes"] == {"5100": 1, "8100": 1}
    dataset = PastisDataset(tmp_path / "out", target="panoptic")
    cube = xr.open_dataset(flanders / "cube.nc")
    first = dataset.ids[0] - 10_000
    rows_, columns = (slice(16 * place, 16 * place + 16) for place in divmod(first, 4))
    sample = dataset[0]
    used = np.isin(
        cube["time"].values.astype("datetime64[D]"), np.array(dataset.dates(0), "datetime64[D]")
    )
    red_THW = cube["B04"].values[used][:, rows_, columns]
    seen_THW = np.isfinite(red_THW) & (red_THW != 0)
    assert np.array_equal(sample.images_TCHW[:, 2].numpy()[seen_THW], np.rint(red_THW[seen_THW]))
