"""Simulated seasons in the style real: each option does something, and old seasons stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from panoseg.cli import main
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation import SimulationOptions, simulate_cube, simulate_season, write_pastis
from panoseg.simulation.acquisition import CLEAR, CLOUD, MISSING, composite, slide
from panoseg.simulation.countryside import Countryside, make_countryside
from panoseg.simulation.draws import draw_style
from panoseg.simulation.growth import Climate, Farming
from panoseg.simulation.landscape import LandCover, most_common
from panoseg.simulation.layout import ParcelFile
from panoseg.simulation.options import (
    FAR_REGIONS,
    MEADOW,
    REGIONS,
    TRITICALE,
    VOID,
    WHEAT,
    WINTER_BARLEY,
    Material,
)
from panoseg.simulation.phenology import Phenology, fallow, grassland, lawn

INFRARED = PASTIS_BANDS.index("B08")
SMALL = (40, 40)
BARE = {"land": (), "growth": (), "weather": (), "mislabelled": 0.0, "composites": "none"}
STILL = {"registration": 0.0, "far_shifts": 0.0, "band_shift": 0.0, "gain": 0.0}
REAL = SimulationOptions(
    style="real",
    region="lowland-mixed",
    dates=(8, 8),
    cloudy=(0, 0),
    snow=0,
    resampling="nearest",
    fields_share=0.8,
    village_share=0.1,
    **BARE,
    **STILL,
)


def season(seed=3, **changes):
    return simulate_season(SMALL, seed, replace(REAL, **changes))


@pytest.fixture(scope="module")
def plain_real():
    return season()


def land_of(seed=0, size=(80, 80), **changes):
    options = replace(REAL, void=False, **changes)
    region = REGIONS["lowland-mixed"]
    style = draw_style(options, region, np.random.default_rng(seed))
    return make_countryside(size, region, style, options, np.random.default_rng(seed))


def test_a_real_season_is_reproducible_and_true_to_its_types():
    options = SimulationOptions(style="real", dates=(5, 7))
    for seed in range(4):
        one, two = (simulate_season((33, 41), seed, options) for _ in range(2))
        assert np.array_equal(one.images_TCHW, two.images_TCHW)
        assert one.images_TCHW.shape[1:] == (10, 33, 41)
        assert np.array_equal(
            one.images_TCHW == 0, (one.cloud_THW == MISSING)[:, None].repeat(10, 1)
        )
        assert np.array_equal(one.parcels_HW > 0, one.classes_HW > 0)
        assert one.classes_HW.max() <= VOID
        assert set(np.unique(one.cover_HW)) <= set(LandCover)
        for parcel in np.unique(one.parcels_HW[one.parcels_HW > 0]):
            assert np.unique(one.classes_HW[one.parcels_HW == parcel]).size == 1


def test_style_draws_within_its_bounds_and_what_is_given_is_kept():
    region = REGIONS["bocage"]
    drawn = [
        draw_style(SimulationOptions(style="real"), region, np.random.default_rng(s))
        for s in range(60)
    ]
    assert (
        min(style.fields_share for style in drawn)
        < 0.25
        < 0.85
        < max(style.fields_share for style in drawn)
    )
    assert all(0.2 <= style.registration <= 0.45 for style in drawn)
    assert all(style.fields_share + style.village_share <= 1 for style in drawn)
    assert len({style.land for style in drawn}) > 20
    given = draw_style(replace(REAL, gain=0.2), region, np.random.default_rng(0))
    assert (given.gain, given.land, given.fields_share) == (0.2, frozenset(), 0.8)
    off = draw_style(SimulationOptions(), region, np.random.default_rng(0))
    assert (off.land, off.weather, off.gain, off.registration) == (
        frozenset(),
        frozenset(),
        0.0,
        0.15,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"growth": ("grassland", "cereals", "catch-crops")},
        {"growth": ("wet-spots",)},
        {"growth": ("lodging",)},
        {"growth": ("tramlines",)},
        {"growth": ("old-limits",)},
        {"growth": ("neighbours",)},
        {"weather": ("view-angle",)},
        {"gain": 0.1},
        {"band_shift": 0.5},
        {"far_shifts": 1.0},
        {"registration": 0.3},
    ],
)
def test_an_option_changes_the_images_and_not_the_land(plain_real, changes):
    other = season(**changes)
    assert np.array_equal(other.parcels_HW, plain_real.parcels_HW)
    assert not np.array_equal(other.images_TCHW, plain_real.images_TCHW)


@pytest.mark.parametrize("name", ["wet-spots", "lodging", "tramlines", "old-limits"])
def test_a_feature_of_growth_works_alone_in_the_fields_of_variation(name):
    from panoseg.simulation.variation import real_variation

    land = land_of(size=(40, 40))
    without, with_it = (
        real_variation(land, 0.1, frozenset(names), np.random.default_rng(1))
        for names in ((), (name,))
    )
    assert without.shape == (5, 40, 40)
    assert (without != with_it).mean() > 0.002


@pytest.mark.parametrize(
    ("name", "material"),
    [("streams", Material.WATER), ("tree-rows", Material.BROADLEAF)],
)
def test_a_feature_of_the_land_brings_its_material(name, material):
    def share(land):
        drawn = [
            land_of(seed, (48, 48), land=land, fields_share=1.0, village_share=0.0)
            for seed in range(4)
        ]
        return sum((one.material_U[one.units_YX] == material).mean() for one in drawn)

    assert share((name,)) > share(()) + 0.001


@pytest.mark.parametrize(
    ("kind", "material"),
    [
        ("park", Material.BROADLEAF),
        ("sport", Material.LAWN),
        ("farmyards", Material.YARD),
        ("industry", Material.YARD),
        ("pit", Material.GRAVEL),
        ("ponds", Material.WATER),
        ("solar-parks", Material.PANEL),
        ("greenhouses", Material.GLASS),
        ("allotments", Material.GARDEN),
        ("paddocks", Material.LAWN),
    ],
)
def test_grounds_that_are_no_fields_have_their_materials(kind, material):
    land = bare_land()
    land.grounds(kind, np.arange(land.unit_N.size), 0.4)
    drawn = land.landscape(0)
    assert (drawn.material_U[drawn.units_YX] == material).mean() > 0.003
    assert not drawn.parcels_HW.any()
    assert not (drawn.cover_HW == LandCover.FIELD).any()


def bare_land():
    options = replace(REAL, void=False, land=("streams",))
    region = REGIONS["lowland-mixed"]
    style = draw_style(options, region, np.random.default_rng(0))
    return Countryside((24, 24), region, style, options, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("pivots", "_pivot"),
        ("strips", "_strips"),
        ("ribbons", "lots"),
        *(
            (kind, "grounds")
            for kind in (
                "farmyards",
                "paddocks",
                "solar-parks",
                "greenhouses",
                "allotments",
                "ponds",
            )
        ),
    ],
)
def test_a_feature_of_the_land_is_drawn_only_where_it_may_be(monkeypatch, name, method):
    called = []
    monkeypatch.setattr(
        Countryside,
        method,
        lambda self, *arguments: called.append(arguments[0] if method == "grounds" else name),
    )
    if method in ("_pivot", "_strips"):  # what remains of a piece is cut on
        monkeypatch.setattr(
            Countryside, method, lambda self, cells_N, *_: (called.append(name), cells_N)[1]
        )
    for land, expected in (((), False), ((name,), True)):
        called.clear()
        for seed in range(5):
            land_of(seed, (64, 64), land=land, fields_share=0.6, village_share=0.0)
        assert (name in called) == expected


def test_shares_and_sizes_are_those_asked_for():
    def lands(share, village=0.0, median=60.0):
        return [
            land_of(s, (64, 64), fields_share=share, village_share=village, median_field=median)
            for s in range(3)
        ]

    def covers(*arguments):
        return np.mean(
            [np.bincount(land.cover_HW.ravel(), minlength=8) / 64**2 for land in lands(*arguments)],
            axis=0,
        )

    assert covers(0.1)[LandCover.FIELD] < 0.25
    assert covers(0.9)[LandCover.FIELD] > 0.65
    assert covers(0.4, 0.5)[[LandCover.BUILT, LandCover.GARDEN, LandCover.ROAD]].sum() > 0.25
    small, large = (
        np.median(np.concatenate([np.bincount(land.parcels_HW.ravel())[1:] for land in found]))
        for found in (lands(0.9, 0.0, 30.0), lands(0.9, 0.0, 150.0))
    )
    assert 12 < small < 60 < large < 300


def test_fields_of_a_few_pixels_are_void():
    found = season(land=("strips",), median_field=8.0)
    sizes = np.bincount(found.parcels_HW.ravel())
    tiny_HW = (sizes < 6)[found.parcels_HW] & (found.parcels_HW > 0)
    assert tiny_HW.any()
    assert (found.classes_HW[tiny_HW] == VOID).all()


def test_drawn_labels_have_idle_grass_and_split_fields():
    declared, drawn = (
        land_of(2, (96, 96), labels=labels, fields_share=0.5) for labels in ("declared", "drawn")
    )
    assert drawn.parcels_HW.max() > declared.parcels_HW.max()
    idle = declared.material_U[declared.units_YX[1::3, 1::3]] == Material.FALLOW
    assert idle.any()
    assert not declared.parcels_HW[idle].any()
    assert (drawn.classes_HW[drawn.cover_HW == LandCover.IDLE] == MEADOW).any()


def test_unevenness_is_the_deviation_inside_fields():
    def deviation(unevenness):
        found = season(unevenness=unevenness, fields_share=0.9, village_share=0.0)
        log = np.log(found.images_TCHW[:, INFRARED].astype(float))
        return np.median(
            [
                log[:, found.parcels_HW == p].std(1).mean()
                for p in range(1, found.parcels_HW.max())
                if (found.parcels_HW == p).sum() > 40
            ]
        )

    assert deviation(0.0) < 0.75 * deviation(0.2)


def test_mislabelled_fields_have_another_class(plain_real):
    other = season(mislabelled=0.9)
    assert (other.classes_HW != plain_real.classes_HW).mean() > 0.1
    assert np.array_equal(other.parcels_HW, plain_real.parcels_HW)
    assert np.array_equal(other.images_TCHW, plain_real.images_TCHW)


def test_unlabelled_fields_are_background(plain_real):
    other = season(unlabelled=0.5)
    left_out = other.parcels_HW != plain_real.parcels_HW
    assert left_out.mean() > 0.1
    assert not other.parcels_HW[left_out].any()
    assert not other.classes_HW[left_out].any()


def test_weather_steps_dates():
    def changed(name, **more):
        options = {"dates": (60, 60), **more}
        calm = season(weather=(), **options)
        return calm, season(weather=(name,), **options)

    for name in ("haze-steps", "residual-clouds"):
        calm, stepped = changed(name)
        differs_T = [
            not np.array_equal(a, b)
            for a, b in zip(calm.images_TCHW, stepped.images_TCHW, strict=True)
        ]
        assert any(differs_T)
        assert (stepped.cloud_THW == CLEAR).all()
    _, cut = changed("swath-edges")
    assert (cut.cloud_THW == MISSING).any()
    assert not cut.images_TCHW.transpose(0, 2, 3, 1)[cut.cloud_THW == MISSING].any()


def test_composites_are_monthly_and_clear():
    dates = season(dates=(50, 50), cloudy=(0.4, 0.4))
    for kind in ("median", "best"):
        found = season(dates=(50, 50), cloudy=(0.4, 0.4), composites=kind)
        assert len(found.dates) <= 15 < len(dates.dates)
        assert (found.cloud_THW == CLEAR).mean() > (dates.cloud_THW == CLEAR).mean()


def test_a_composite_is_the_median_of_clear_pixels():
    images_TCHW = np.array([100, 200, 900, 5], np.int16).reshape(4, 1, 1, 1)
    cloud_THW = np.array([CLEAR, CLEAR, CLOUD, CLEAR], np.uint8).reshape(4, 1, 1)
    images, clouds, days = composite(images_TCHW, cloud_THW, np.array([1, 9, 20, 40]), best=False)
    assert images.ravel().tolist() == [100, 5]
    assert not clouds.any()
    assert days.tolist() == [15, 40]


def test_a_slide_moves_whole_and_parts_of_pixels():
    image_CHW = np.arange(20, dtype=np.float32).reshape(1, 1, 20) ** 2
    assert slide(image_CHW, 0.0, 1.0)[0, 0, 2:5].tolist() == [1, 4, 9]
    assert slide(image_CHW, 0.0, 0.5)[0, 0, 5:8] == pytest.approx([4.5**2, 5.5**2, 6.5**2])
    assert slide(image_CHW, 0.0, -1.4)[0, 0, 5:8] == pytest.approx([6.4**2, 7.4**2, 8.4**2])


# -- growth
# ------------------------------------------------------------------------------------------


def leaf(material, days, farming, count=60, fields=None):
    material_U = np.full(count, material, np.int16)
    number_U = np.arange(1, count + 1, dtype=np.int32) if fields is None else fields
    grown = Phenology(
        material_U,
        number_U,
        Climate(0.0, 0.3),
        np.random.default_rng(0),
        farming,
        field_U=fields,
    )
    return grown.cover(np.asarray(days, float)).leaf


def test_barley_is_ahead_of_wheat_and_triticale_between():
    farming = Farming(lead=(13.0, 6.0))
    days = np.arange(180, 330)
    ripe = {
        crop: np.median((leaf(crop, days, farming) > 2).cumsum(0).argmax(0))
        for crop in (WHEAT, WINTER_BARLEY, TRITICALE)
    }
    assert 8 <= ripe[WHEAT] - ripe[WINTER_BARLEY] <= 20
    assert ripe[WINTER_BARLEY] < ripe[TRITICALE] < ripe[WHEAT]


def test_neighbours_of_a_crop_differ_more_and_catch_crops_follow_early_harvests():
    one, wide = (leaf(WHEAT, [225], Farming(spread=spread)).std() for spread in (1.0, 2.0))
    assert wide > 1.3 * one
    few, many = (
        (leaf(WHEAT, [400], Farming(catch_crops=catch)) > 1).mean() for catch in (False, True)
    )
    assert many > few + 0.1


def test_second_crops_are_grown_and_harvested():
    days = np.array([372.0, 435.0])
    one, two = (leaf(WINTER_BARLEY, days, Farming(second_crops=s)) for s in (False, True))
    assert np.median(two[0]) > 2 > np.median(one[0])
    assert np.median(two[1]) < 0.5


def test_regions_beyond_europe_are_drawn_in_the_style_real_only():
    options = SimulationOptions(style="real", dates=(1, 1), composites="none")
    names = {simulate_season((8, 8), seed, options).region for seed in range(40)}
    assert names & set(FAR_REGIONS)
    assert names & set(REGIONS)
    assert simulate_season((8, 8), 0, replace(options, region="plains")).region == "plains"


def test_a_field_is_harvested_in_stages():
    fields = np.repeat(np.arange(1, 31), 2).astype(np.int32)
    for crop in (WHEAT, MEADOW):
        staged = leaf(crop, np.arange(240, 350), Farming(staged=True), 60, fields)
        assert (np.abs(staged[:, 0::2] - staged[:, 1::2]) > 0.3).any()
    at_once = leaf(WHEAT, np.arange(240, 350), Farming(), 60, fields)
    assert np.array_equal(at_once[:, 0::2], at_once[:, 1::2])


def test_grass_has_kinds():
    days_T1 = np.arange(0, 426, 3, dtype=float)[:, None]
    rng = np.random.default_rng(0)
    meadows = grassland(200, Climate(0.0, 0.2), rng)(days_T1)
    drops = (np.diff(meadows.leaf, axis=0) < -0.5).sum(0)
    assert (drops == 0).mean() > 0.15
    assert (drops >= 2).mean() > 0.15
    assert (meadows.brown.max(0) > 0.4).any()
    assert (meadows.leaf.min(0) < 0.05).any()
    short = lawn(50, Climate(0.0, 0.0), rng)(days_T1).leaf
    assert short.min() > 0.5
    assert np.abs(np.diff(short, axis=0)).max() < 0.3
    assert (fallow(50, Climate(0.0, 0.0), rng)(days_T1).brown.max(0) > 0.2).any()


# -- on disk
# ------------------------------------------------------------------------------------------


def test_land_cover_is_the_most_common_of_the_cells_of_a_pixel():
    cells = np.full((3, 6), LandCover.FIELD)
    cells[:, :2] = LandCover.ROAD
    assert most_common(cells, 3).tolist() == [[LandCover.ROAD, LandCover.FIELD]]


def test_land_cover_is_written_beside_the_other_targets(tmp_path):
    folder = write_pastis(tmp_path / "real", 2, SMALL, 1, REAL, workers=1)
    cover_HW = np.load(folder / "ANNOTATIONS/LANDCOVER_10001.npy")
    assert (cover_HW.dtype, cover_HW.shape) == (np.uint8, SMALL)
    assert np.array_equal(cover_HW, simulate_season(SMALL, (1, 1), REAL).cover_HW)
    write_pastis(tmp_path / "plain", 1, SMALL, 1, SimulationOptions(dates=(2, 2)), workers=1)
    assert not (tmp_path / "plain/ANNOTATIONS/LANDCOVER_10000.npy").exists()
    asked = SimulationOptions(dates=(2, 2), land_cover=True)
    write_pastis(tmp_path / "asked", 1, SMALL, 1, asked, workers=1)
    assert (np.load(tmp_path / "asked/ANNOTATIONS/LANDCOVER_10000.npy") > 0).all()


def test_a_cube_in_the_style_real_passes_the_check():
    from panoseg.cube.check import check_cube

    cube, parcels = simulate_cube(SMALL, 5, REAL)
    assert cube["land_cover"].dims == ("y", "x")
    assert check_cube(cube, PASTIS_BANDS).sizes["time"] == 8
    assert len(parcels)


def test_a_dataset_of_an_earlier_version_can_be_completed():
    noted = SimulationOptions().contents()
    assert list(noted) == [
        "region", "field_size", "harvest_year", "dates", "cloudy", "snow", "shift_days",
        "heterogeneity", "noise", "registration", "resampling", "void", "crops",
    ]  # fmt: skip
    assert noted["registration"] == 0.15
    assert SimulationOptions(style="real", gain=0.1).contents()["gain"] == 0.1


@pytest.fixture
def fields():
    """Nine fields of 100 m with gaps of 20 m, somewhere in France."""
    import geopandas as gpd
    from shapely import box

    squares = [
        box(x, y, x + 100, y + 100)
        for x in range(850_000, 850_360, 120)
        for y in range(6_500_000, 6_500_360, 120)
    ]
    return gpd.GeoDataFrame(geometry=squares, crs=2154)


def test_real_parcels_are_kept_and_what_lies_between_is_drawn(fields):
    layout = ParcelFile.of(fields).window(SMALL, np.random.default_rng(0))
    sizes = np.bincount(layout.parcels_HW.ravel())[1:]
    assert 85 <= np.median(sizes[sizes > 0]) <= 115
    found = simulate_season(SMALL, 1, replace(REAL, labels="drawn"), layout)
    assert np.array_equal(found.parcels_HW, layout.parcels_HW)
    assert (found.cover_HW[layout.parcels_HW == 0] != LandCover.FIELD).mean() > 0.8
    assert (found.cover_HW[layout.parcels_HW > 0] == LandCover.FIELD).mean() > 0.9
    scaled = ParcelFile.of(fields).window(SMALL, np.random.default_rng(0), 4.0)
    assert np.bincount(scaled.parcels_HW.ravel())[1:].max() > 1.5 * sizes.max()


def test_the_command_takes_a_file_of_parcels(tmp_path, fields, capsys):
    fields.to_crs(4326).to_file(tmp_path / "fields.geojson")
    arguments = ["--size", "32", "--dates", "2", "2", "--parcels", str(tmp_path / "fields.geojson")]
    patches = ["--patches", "2", "--workers", "1"]
    assert main(["simulate", str(tmp_path / "data"), *arguments, *patches]) == 0
    maps = [np.load(tmp_path / f"data/ANNOTATIONS/ParcelIDs_1000{n}.npy") for n in (0, 1)]
    assert all(2 <= np.unique(parcels_HW).size <= 10 for parcels_HW in maps)
    assert not np.array_equal(*maps)
    assert main(["simulate", str(tmp_path / "cube"), *arguments, "--cube"]) == 0
    maps = ["--parcel-maps", str(tmp_path / "data/ANNOTATIONS")]
    assert main(["simulate", str(tmp_path / "two"), *arguments, *patches, *maps]) == 2
    assert "two layouts" in capsys.readouterr().err
    with_layers = tmp_path / "layers.gpkg"
    for layer in ("fields", "grids"):
        fields.to_file(with_layers, layer=layer)
    arguments[-1] = str(with_layers)
    assert main(["simulate", str(tmp_path / "three"), *arguments, *patches]) == 2
    assert (
        main(["simulate", str(tmp_path / "three"), *arguments, *patches, "--layer", "fields"]) == 0
    )
    assert main(["simulate", str(tmp_path / "four"), "--layer", "fields"]) == 2
    assert "need --parcels" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="no parcel"):
        ParcelFile.of(fields[:0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": "true"},
        {"fields_share": 2, "style": "real"},
        {"fields_share": 0.8, "village_share": 0.5, "style": "real"},
        {"median_field": 60},
        {"land": ("castles",), "style": "real"},
        {"growth": ("magic",)},
        {"weather": ("frogs",)},
        {"unevenness": 3, "style": "real"},
        {"labels": "guessed", "style": "real"},
        {"mislabelled": -1},
        {"unlabelled": 2},
        {"far_shifts": 2},
        {"band_shift": 2},
        {"gain": 2},
        {"composites": "weekly"},
    ],
)
def test_impossible_options_are_refused_in_one_line(wrong):
    with pytest.raises(ConfigError) as caught:
        SimulationOptions(**wrong)
    assert any(name.replace("_", "-") in str(caught.value) for name in wrong)
    assert "\n" not in str(caught.value)


def test_the_command_takes_the_style(tmp_path):
    arguments = ["--patches", "1", "--workers", "1", "--size", "32", "--dates", "2", "2"]
    folder = tmp_path / "data"
    more = ["--style", "real", "--land", "streams", "ponds", "--composites", "none"]
    assert main(["simulate", str(folder), *arguments, *more]) == 0
    assert (folder / "ANNOTATIONS/LANDCOVER_10000.npy").exists()


def test_pixels_of_20_m_begin_at_any_row_and_column():
    """With the nearest neighbour, equal pairs begin at even or odd places, which seeds decide."""
    band = PASTIS_BANDS.index("B8A")
    phases = set()
    for seed in range(12):
        image_HW = season(seed).images_TCHW[0, band].astype(int)
        steps = [np.abs(np.diff(image_HW, axis=axis)).mean(1 - axis) for axis in (0, 1)]
        even = [bool(step[::2].max() == 0) for step in steps]
        odd = [bool(step[1::2].max() == 0) for step in steps]
        assert all(one != other for one, other in zip(even, odd, strict=True))
        phases.add(tuple(even))
    assert len(phases) == 4


def test_most_of_the_shift_between_bands_stays_all_season():
    near, far = PASTIS_BANDS.index("B08"), PASTIS_BANDS.index("B8A")
    means, spreads = [], []
    for seed in range(8):
        images = season(seed, band_shift=0.6, resampling="bilinear", noise=0.0).images_TCHW
        found = [
            phase_cross_correlation(image[near], image[far], upsample_factor=20)[0]
            for image in images.astype(float)
        ]
        means.append(np.mean(found, axis=0))
        spreads.append(np.std(found, axis=0))
    assert np.std(means, axis=0).min() > np.mean(spreads) > 0.05
