"""Simulated seasons: reproducible, in range, true to their own truth, and shaped by every
option.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import numpy as np
import pytest

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.cli import main
from panoseg.data.s2tsczcrop import S2TSCzCropDataset, compute_normalisation
from panoseg.errors import ConfigError, DatasetError, OutputError, PanosegError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation import (
    Layout,
    SimulationOptions,
    simulate_cube,
    simulate_season,
    write_pastis,
    write_s2tsczcrop,
)
from panoseg.simulation.acquisition import (
    CLEAR,
    CLOUD,
    SHADOW,
    SNOW,
    Sky,
    apply_sky,
    footprints,
    interpolate,
    pool,
    repeat,
    shift,
    sun_elevation,
)
from panoseg.simulation.draws import fractal_noise, smooth_noise
from panoseg.simulation.landscape import Landscape, make_landscape
from panoseg.simulation.options import CORN, MEADOW, RAPESEED, REGIONS, VOID, WHEAT, Material
from panoseg.simulation.phenology import Climate, Phenology, first_of_parcel
from panoseg.simulation.scene import make_surfaces
from panoseg.simulation.season import acquisition_days
from panoseg.simulation.write import CZECH_CLASS, set_of

RED, BLUE, INFRARED = (PASTIS_BANDS.index(band) for band in ("B04", "B02", "B08"))
SMALL = (32, 32)
QUICK = SimulationOptions(dates=(6, 8))


def ndvi(reflectance, axis):
    red, infrared = np.take(reflectance, RED, axis), np.take(reflectance, INFRARED, axis)
    return (infrared - red) / (infrared + red)


def crop_ndvi(material, day, count=40):
    """NDVI of many parcels of one cover on one day of a mean season."""
    rng = np.random.default_rng(0)
    material_U, parcel_U = (
        np.full(count, material, np.int16),
        np.arange(1, count + 1, dtype=np.int32),
    )
    phenology = Phenology(material_U, parcel_U, Climate(0.0, 0.3), rng)
    surfaces = make_surfaces(material_U, parcel_U, (1.0, 1.0), rng)
    reflectance_TUC = surfaces.reflectance(
        phenology.cover(np.array([day])), np.zeros(1, np.float32)
    )
    return float(np.median(ndvi(reflectance_TUC[0], 1)))


# -- the season
# -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_season_and_another_gives_another():
    first, again, other = (simulate_season(SMALL, seed, QUICK) for seed in (7, 7, 8))
    assert np.array_equal(first.images_TCHW, again.images_TCHW)
    assert np.array_equal(first.parcels_HW, again.parcels_HW)
    assert np.array_equal(first.cloud_THW, again.cloud_THW)
    assert first.dates == again.dates
    assert first.images_TCHW.shape != other.images_TCHW.shape or not np.array_equal(
        first.images_TCHW, other.images_TCHW
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 41), (8, 64)])
def test_a_season_has_the_types_shapes_and_ranges_it_states(size):
    season = simulate_season(size, 3, QUICK)
    days = len(season.dates)
    assert 6 <= days <= 8
    assert list(season.dates) == sorted(set(season.dates))
    assert (
        datetime.date(2018, 9, 1)
        <= season.dates[0]
        <= season.dates[-1]
        <= datetime.date(2019, 10, 31)
    )
    assert season.images_TCHW.dtype == np.int16
    assert season.images_TCHW.shape == (days, 10, *size)
    assert season.images_TCHW.min() >= 1
    assert season.classes_HW.dtype == np.uint8
    assert season.classes_HW.max() <= VOID
    assert season.parcels_HW.dtype == np.int32
    assert np.array_equal(season.parcels_HW > 0, season.classes_HW > 0)
    assert season.cloud_THW.shape == (days, *size)


def test_a_parcel_has_one_class():
    season = simulate_season((64, 64), 5, QUICK)
    for parcel in np.unique(season.parcels_HW[season.parcels_HW > 0]):
        assert np.unique(season.classes_HW[season.parcels_HW == parcel]).size == 1


def test_every_class_occurs_over_some_seeds():
    found = set()
    for seed in range(28):
        rng = np.random.default_rng(seed)
        region = list(REGIONS.values())[seed % len(REGIONS)]
        found |= set(
            np.unique(
                make_landscape((64, 64), region, SimulationOptions(), rng).classes_HW
            ).tolist()
        )
    assert found == set(range(20))


def test_wheat_is_green_in_april_and_corn_is_not_and_in_august_the_other_way_round():
    april, august = 235, 345
    assert crop_ndvi(WHEAT, april) > 0.7
    assert crop_ndvi(CORN, april) < 0.35
    assert crop_ndvi(WHEAT, august) < 0.4
    assert crop_ndvi(CORN, august) > 0.75
    assert crop_ndvi(MEADOW, april) > 0.6


def test_rapeseed_flowers_yellow():
    rng = np.random.default_rng(1)
    crop_U, parcel_U = np.full(20, RAPESEED, np.int16), np.arange(1, 21, dtype=np.int32)
    phenology, surfaces = (
        Phenology(crop_U, parcel_U, Climate(0, 0), rng),
        make_surfaces(crop_U, parcel_U, (1, 1), rng),
    )
    reflectance_TUC = surfaces.reflectance(
        phenology.cover(np.array([190, 226])), np.zeros(2, np.float32)
    )
    before, flowering = np.median(reflectance_TUC[:, :, RED] / reflectance_TUC[:, :, BLUE], axis=1)
    assert flowering > 1.3 * before


def test_parts_of_a_parcel_share_its_crop():
    parcel_U = np.array([0, 4, 0, 4, 9], np.int32)
    assert first_of_parcel(parcel_U).tolist() == [0, 1, 2, 1, 4]
    crop_U = np.array([Material.GRASS, WHEAT, Material.GRASS, WHEAT, WHEAT], np.int16)
    leaf_TU = (
        Phenology(crop_U, parcel_U, Climate(0, 0), np.random.default_rng(2))
        .cover(np.array([270.0]))
        .leaf
    )
    assert leaf_TU[0, 3] == pytest.approx(leaf_TU[0, 1], rel=0.2)


# -- the sky
# ----------------------------------------------------------------------------------------------------------------


def test_clouds_brighten_and_shadows_darken():
    changes, truths = [], []
    for seed in range(6):
        image_CHW = np.full((10, 64, 64), 1000, np.float32)
        truths.append(
            apply_sky(
                image_CHW, Sky(0.4, 0, 0, 0), 300, np.zeros((64, 64)), np.random.default_rng(seed)
            )
        )
        changes.append(image_CHW[BLUE] - 1000)
    truth, change = np.stack(truths), np.stack(changes)
    assert {CLEAR, CLOUD, SHADOW} == set(np.unique(truth).tolist())
    assert (change[truth == CLOUD] > 0).mean() > 0.9
    assert (change[truth == SHADOW] < 0).mean() > 0.6
    assert np.abs(change[truth == CLEAR]).mean() < 0.1 * change[truth == CLOUD].mean()
    assert (truth == CLOUD).mean() == pytest.approx(0.4, abs=0.2)


def test_a_clear_sky_changes_nothing_and_a_covered_one_everything():
    image_CHW = np.full((10, 32, 32), 1000, np.float32)
    rng = np.random.default_rng(0)
    assert not apply_sky(image_CHW, Sky(0, 0, 0, 0), 100, np.zeros((32, 32)), rng).any()
    assert (image_CHW == 1000).all()
    assert (apply_sky(image_CHW, Sky(1, 0, 0, 0), 100, np.zeros((32, 32)), rng) == CLOUD).all()


def test_snow_is_white_in_the_visible_and_dark_in_the_short_wave_infrared():
    image_CHW = np.full((10, 32, 32), 1500, np.float32)
    truth_HW = apply_sky(
        image_CHW, Sky(0, 0, 0, 1.0), 130, np.zeros((32, 32)), np.random.default_rng(0)
    )
    assert (truth_HW == SNOW).mean() > 0.8
    assert (
        image_CHW[BLUE, truth_HW == SNOW].mean()
        > 4000
        > 1500
        > image_CHW[8, truth_HW == SNOW].mean()
    )


def test_the_sun_stands_high_in_june_and_low_in_december():
    assert sun_elevation(293) == pytest.approx(60.5, abs=2.5)
    assert sun_elevation(111) == pytest.approx(16.5, abs=2.5)


# -- the calendar, the sensor, noise
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 38, 61, 85, 140])
def test_acquisitions_are_as_many_as_asked_within_the_season(count):
    days_T = acquisition_days(np.random.default_rng(count), count, 426)
    assert days_T.size == count
    assert (np.diff(days_T) > 0).all()
    assert 0 <= days_T[0] <= days_T[-1] < 426


@pytest.mark.parametrize("shape", [(8, 8), (9, 11)])
def test_footprints_share_out_all_light(shape):
    units_YX = (
        np.random.default_rng(0).integers(0, 5, (shape[0] * 3, shape[1] * 3)).astype(np.int32)
    )
    seen = footprints(units_YX, 5)
    for matrix, pixels in ((seen.fine_PU, 8 * 8), (seen.coarse_QU, 4 * 4)):
        assert np.asarray(matrix.sum(1)).ravel() == pytest.approx(
            np.ones(matrix.shape[0]), abs=1e-5
        )
        assert matrix.shape[0] == pixels or shape != (8, 8)


def test_coarse_pixels_are_means_of_four_and_come_back_repeated_or_interpolated():
    values = np.array([[1.0, 3, 5], [5, 7, 9]])
    assert pool(values).tolist() == [[4, 7]]
    assert repeat(pool(values), (2, 3)).tolist() == [[4, 4, 7], [4, 4, 7]]
    assert interpolate(np.array([[0.0, 4, 8]]), (1, 6)).tolist() == [[0, 1, 3, 5, 7, 8]]


def test_a_whole_pixel_of_shift_moves_the_image_by_one():
    image_CHW = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert shift(image_CHW, 1.0, 0.0)[0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert shift(image_CHW, 0.0, -0.5)[0, 0].tolist() == [0.5, 1.5, 2.5, 3.0]


def test_noise_is_standardised_and_its_length_smooths():
    rough, smooth = (
        smooth_noise(np.random.default_rng(0), (64, 64), length) for length in (1.0, 8.0)
    )
    assert rough.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()
    assert fractal_noise(np.random.default_rng(0), (40, 50), 1.8, 100).shape == (40, 50)


# -- layouts
# ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parcel_map():
    parcels_HW = np.zeros((32, 32), np.int32)
    parcels_HW[2:14, 3:30] = 5389792
    parcels_HW[15:30, 3:16] = 77
    parcels_HW[15:30, 16:31] = 1103071
    return parcels_HW


def test_a_layout_is_kept_exactly(parcel_map):
    season = simulate_season(SMALL, 0, QUICK, parcel_map)
    assert np.array_equal(season.parcels_HW, parcel_map)
    assert np.array_equal(season.classes_HW > 0, parcel_map > 0)


def test_classes_of_a_layout_are_kept_and_seen(parcel_map):
    classes_HW = np.select([parcel_map == 77, parcel_map > 0], [CORN, WHEAT], 0)
    options = SimulationOptions(dates=(40, 40), cloudy=(0, 0), snow=0)
    season = simulate_season(SMALL, 0, options, Layout(parcel_map, classes_HW))
    assert np.array_equal(season.classes_HW, classes_HW)
    day_T = np.array([(date - datetime.date(2018, 9, 1)).days for date in season.dates])
    april = season.images_TCHW[np.abs(day_T - 240).argmin()].astype(float)
    wheat, corn = (np.median(ndvi(april, 0)[classes_HW == crop]) for crop in (WHEAT, CORN))
    assert wheat > corn + 0.2


def test_a_map_of_the_genuine_dataset_is_kept(real_data):
    parcels_HW = np.load(real_data / "pastis-annotations/ANNOTATIONS/ParcelIDs_10002.npy")
    season = simulate_season(parcels_HW.shape, 0, SimulationOptions(dates=(1, 1)), parcels_HW)
    assert np.array_equal(season.parcels_HW, parcels_HW)


@pytest.mark.parametrize(
    "layout",
    [
        np.zeros((31, 32), np.int32),
        np.zeros((32, 32)),
        np.full((32, 32), -1),
        np.full((32, 32), 2**40),
        Layout(np.ones((32, 32), int), np.full((32, 32), 20)),
        Layout(np.ones((32, 32), int), np.zeros((3, 3), int)),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout):
    with pytest.raises(DatasetError):
        simulate_season(SMALL, 0, QUICK, layout)


# -- options
# ----------------------------------------------------------------------------------------------------------------

CALM = SimulationOptions(
    dates=(20, 20), cloudy=(0, 0), snow=0, resampling="nearest", region="lowland-mixed"
)


def season_of(**changes):
    return simulate_season(SMALL, 11, replace(CALM, **changes))


@pytest.fixture(scope="module")
def calm():
    return season_of()


def test_option_region_changes_the_land(calm):
    assert season_of(region="open-cereals").region == "open-cereals"
    assert not np.array_equal(season_of(region="open-cereals").parcels_HW, calm.parcels_HW)


def test_option_field_size_makes_fewer_parcels():
    def count(factor):
        options = SimulationOptions(field_size=factor, void=False)
        return sum(
            make_landscape(
                (64, 64), REGIONS["bocage"], options, np.random.default_rng(s)
            ).parcels_HW.max()
            for s in range(4)
        )

    assert count(4.0) < 0.6 * count(1.0)


def test_option_harvest_year_moves_the_dates(calm):
    assert [date.year for date in season_of(harvest_year=2022).dates] == [
        date.year + 3 for date in calm.dates
    ]


def test_option_dates_sets_their_number(calm):
    assert len(calm.dates) == 20
    assert len(season_of(dates=(9, 9)).dates) == 9


def test_option_cloudy_brings_clouds(calm):
    assert not calm.cloud_THW.any()
    assert season_of(cloudy=(1, 1)).cloud_THW.any()


def test_option_snow_brings_snow(calm):
    snowy = [
        simulate_season(SMALL, seed, replace(CALM, snow=1.0, dates=(60, 60))) for seed in range(3)
    ]
    assert any((season.cloud_THW == SNOW).any() for season in snowy)


def test_option_shift_days_moves_growth(calm):
    assert not np.array_equal(season_of(shift_days=0).images_TCHW, calm.images_TCHW)


def deviation_inside(**changes):
    """Mean deviation in the near infrared inside one large parcel, away from its border."""
    parcels_HW = np.zeros(SMALL, np.int32)
    parcels_HW[2:30, 2:30] = 1
    images_TCHW = simulate_season(SMALL, 11, replace(CALM, **changes), parcels_HW).images_TCHW
    return images_TCHW[:, INFRARED, 6:26, 6:26].std((1, 2)).mean()


def test_option_heterogeneity_varies_parcels_inside():
    assert deviation_inside(heterogeneity=0) < 0.6 * deviation_inside(heterogeneity=1)


def test_option_noise_adds_noise():
    assert deviation_inside(noise=0, heterogeneity=0) < 0.2 * deviation_inside(
        noise=1, heterogeneity=0
    )


def test_option_registration_moves_dates(calm):
    assert not np.array_equal(season_of(registration=0).images_TCHW, calm.images_TCHW)


def test_option_resampling_repeats_coarse_pixels():
    still = {"noise": 0, "heterogeneity": 0, "registration": 0}
    coarse = season_of(**still).images_TCHW[:, PASTIS_BANDS.index("B8A")].astype(int)
    smooth = (
        season_of(**still, resampling="bilinear")
        .images_TCHW[:, PASTIS_BANDS.index("B8A")]
        .astype(int)
    )
    pairs = np.abs(coarse[:, :, 0::2] - coarse[:, :, 1::2])
    assert np.median(pairs) <= 1
    assert np.abs(smooth[:, :, 0::2] - smooth[:, :, 1::2]).mean() > pairs.mean()


def test_option_void_marks_parcels_that_lie_outside():
    options = SimulationOptions(region="strip-fields")
    land: list[Landscape] = [
        make_landscape(
            SMALL, REGIONS["strip-fields"], replace(options, void=v), np.random.default_rng(3)
        )
        for v in (True, False)
    ]
    assert (land[0].classes_HW == VOID).any()
    assert not (land[1].classes_HW == VOID).any()


def test_option_crops_limits_classes():
    found = set(np.unique(season_of(crops=(2, 3), void=False).classes_HW).tolist())
    assert found <= {0, 2, 3}
    assert found & {2, 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "moon"},
        {"field_size": 0},
        {"harvest_year": 1900},
        {"dates": (9, 3)},
        {"dates": (0, 3)},
        {"cloudy": (0.5, 0.1)},
        {"cloudy": (0, 2)},
        {"snow": -1},
        {"shift_days": 400},
        {"heterogeneity": -1},
        {"noise": 99},
        {"registration": 3},
        {"resampling": "cubic"},
        {"crops": ()},
        {"crops": (0, 1)},
    ],
)
def test_impossible_options_are_refused_in_one_line(wrong):
    with pytest.raises(ConfigError) as caught:
        SimulationOptions(**wrong)
    assert next(iter(wrong)).replace("_", "-") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_small_an_area_is_refused():
    with pytest.raises(PanosegError, match="8 x 8"):
        simulate_season((4, 32), 0, QUICK)


# -- on disk
# ----------------------------------------------------------------------------------------------------------------


def arrays_of(folder):
    return {
        path.relative_to(folder).as_posix(): np.load(path) for path in sorted(folder.rglob("*.npy"))
    }


def test_the_dataset_on_disk_agrees_with_itself_and_its_reader(tmp_path):
    from panoseg.data.pastis import PastisDataset, fold_normalisation

    folder = write_pastis(tmp_path / "data", 6, SMALL, 1, QUICK, workers=1)
    features = json.loads((folder / "metadata.geojson").read_text())["features"]
    assert [feature["properties"]["Fold"] for feature in features] == [1, 2, 3, 4, 5, 1]
    for index, feature in enumerate(features):
        patch = feature["properties"]["ID_PATCH"]
        images_TCHW, target, parcels_HW = (
            np.load(folder / f)
            for f in (
                f"DATA_S2/S2_{patch}.npy",
                f"ANNOTATIONS/TARGET_{patch}.npy",
                f"ANNOTATIONS/ParcelIDs_{patch}.npy",
            )
        )
        season = simulate_season(SMALL, (1, index), QUICK)
        assert np.array_equal(images_TCHW, season.images_TCHW)
        assert np.array_equal(target[0], season.classes_HW)
        assert (target.dtype, target.shape) == (np.uint8, (3, *SMALL))
        assert np.array_equal(parcels_HW, season.parcels_HW)
        assert len(feature["properties"]["dates-S2"]) == len(images_TCHW)
        assert feature["properties"]["N_Parcel"] == np.unique(parcels_HW[parcels_HW > 0]).size
    first = [
        np.load(folder / f"DATA_S2/S2_{patch}.npy").transpose(1, 0, 2, 3).reshape(10, -1)
        for patch in (10_000, 10_005)
    ]
    stated = fold_normalisation(folder, [1])
    assert stated.mean == pytest.approx(np.concatenate(first, 1).mean(1), rel=1e-4)
    assert stated.std == pytest.approx(np.concatenate(first, 1).std(1), rel=1e-4)
    assert len(PastisDataset(folder, target="panoptic")) == 6
    assert PastisDataset(folder, target="panoptic")[0].images_TCHW.shape[1:] == (10, *SMALL)


def test_an_interrupted_dataset_is_completed_and_an_existing_patch_is_kept(tmp_path):
    whole = arrays_of(write_pastis(tmp_path / "whole", 3, SMALL, 2, QUICK, workers=1))
    folder = write_pastis(tmp_path / "parts", 2, SMALL, 2, QUICK, workers=1)
    kept = folder / "DATA_S2/S2_10000.npy"
    before = kept.stat().st_mtime_ns
    (folder / ".simulation/10001.json").unlink()
    (folder / "DATA_S2/S2_10001.npy").unlink()
    resumed = arrays_of(write_pastis(folder, 3, SMALL, 2, QUICK, workers=1))
    assert kept.stat().st_mtime_ns == before
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"size": (40, 32)}, {"options": CALM}, {"centres": True}]
)
def test_another_simulation_is_not_mixed_in(tmp_path, change):
    arguments = {"patches": 1, "size": SMALL, "seed": 2, "options": QUICK, "workers": 1}
    write_pastis(tmp_path, **arguments)
    with pytest.raises(OutputError, match=next(iter(change))):
        write_pastis(tmp_path, **{**arguments, **change})


def test_layouts_are_not_mixed(tmp_path):
    write_pastis(tmp_path / "pastis", 1, SMALL, 2, QUICK, workers=1)
    write_s2tsczcrop(tmp_path / "czech", 1, SMALL, 2, QUICK, workers=1)
    for write, folder in ((write_pastis, "czech"), (write_s2tsczcrop, "pastis")):
        with pytest.raises(OutputError, match="layout"):
            write(tmp_path / folder, 1, SMALL, 2, QUICK, workers=1)


def test_seasons_in_the_czech_layout_are_those_of_pastis_with_other_names(tmp_path):
    folder = write_s2tsczcrop(tmp_path / "data", 4, SMALL, 1, QUICK, workers=1)
    dataset = S2TSCzCropDataset(folder, target="semantic")
    assert [patch.set for patch in dataset.metadata] == ["train", "val", "test", "train"]
    for index, patch in enumerate(dataset.metadata):
        season, sample = simulate_season(SMALL, (1, index), QUICK), dataset[index]
        assert np.array_equal(sample.images_TCHW, season.images_TCHW)
        assert np.array_equal(
            sample.classes_HW,
            [[CZECH_CLASS[int(class_id)] for class_id in row] for row in season.classes_HW],
        )
        assert dataset.dates(index) == season.dates
        assert (patch.affine[2], patch.affine[5], patch.epsg) == (*season.origin, season.epsg)
    stated, computed = (
        json.loads((folder / "NORM_S2_patch.json").read_text()),
        compute_normalisation(folder),
    )
    assert stated["train"]["mean"] == pytest.approx(computed["train"]["mean"])
    assert stated["train"]["std"] == pytest.approx(computed["train"]["std"])


def test_every_class_of_pastis_has_one_of_s2tsczcrop():
    """Crops become crops, background and void stay what they are."""
    assert sorted(CZECH_CLASS) == [entry.id for entry in PASTIS.classes]
    assert all(PASTIS[old].kind == S2TSCZCROP[new].kind for old, new in CZECH_CLASS.items())
    named = {PASTIS[old].name: S2TSCZCROP[new].name for old, new in CZECH_CLASS.items()}
    assert (named["corn"], named["grapevine"], named["spring barley"]) == (
        "maize",
        "vineyards",
        "summer cereals",
    )
    assert {entry.name for entry in S2TSCZCROP.classes} - set(named.values()) == {
        "flax and hemp",
        "hopyards",
    }


def test_an_interrupted_czech_dataset_is_completed(tmp_path):
    def files(folder):
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.glob("[ADNm]*/*")
        } | {name: (folder / name).read_bytes() for name in ("metadata.json", "NORM_S2_patch.json")}

    whole = files(write_s2tsczcrop(tmp_path / "whole", 3, SMALL, 2, QUICK, workers=1))
    folder = write_s2tsczcrop(tmp_path / "parts", 2, SMALL, 2, QUICK, workers=1)
    (folder / ".simulation/10001.json").unlink()
    (folder / "DATA_S2/S2_10001").unlink()
    before = (folder / "DATA_S2/S2_10000").stat().st_mtime_ns
    assert files(write_s2tsczcrop(folder, 3, SMALL, 2, QUICK, workers=1)) == whole
    assert (folder / "DATA_S2/S2_10000").stat().st_mtime_ns == before
    assert len(whole) == 8


def test_of_twenty_patches_fourteen_train():
    sets = [set_of(number) for number in range(40)]
    assert [sets.count(name) for name in ("train", "val", "test")] == [28, 6, 6]


def test_several_processes_write_the_same_dataset(tmp_path):
    one, two = (
        arrays_of(write_pastis(tmp_path / str(n), 2, SMALL, 4, QUICK, workers=n)) for n in (1, 2)
    )
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_centres_are_written_on_request(tmp_path):
    folder = write_pastis(tmp_path, 1, SMALL, 1, QUICK, workers=1, centres=True)
    heatmap_HW = np.load(folder / "INSTANCE_ANNOTATIONS/HEATMAP_10000.npy")
    zones_HW = np.load(folder / "INSTANCE_ANNOTATIONS/ZONES_10000.npy")
    instances_HW = np.load(folder / "INSTANCE_ANNOTATIONS/INSTANCES_10000.npy")
    assert heatmap_HW.max() == 1
    assert set(np.unique(zones_HW)) == set(np.unique(instances_HW)) - {0}


def test_given_maps_are_used_in_turn(tmp_path, parcel_map):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/ParcelIDs_1.npy", parcel_map)
    folder = write_pastis(
        tmp_path / "data", 2, SMALL, 0, QUICK, workers=1, parcel_maps=tmp_path / "maps"
    )
    for patch in (10_000, 10_001):
        written = np.load(folder / f"ANNOTATIONS/ParcelIDs_{patch}.npy")
        turned = [
            np.rot90(flipped, turns)
            for flipped in (parcel_map, parcel_map[::-1])
            for turns in range(4)
        ]
        assert any(np.array_equal(written, candidate) for candidate in turned)


def test_a_failure_in_another_process_is_told_as_in_this_one(tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/ParcelIDs_1.npy", np.full(SMALL, -1))
    with pytest.raises(DatasetError, match="must hold numbers from 0"):
        write_pastis(
            tmp_path / "data", 2, SMALL, 0, QUICK, workers=2, parcel_maps=tmp_path / "maps"
        )


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no array", b"\x93NUMPY\x01\x00", np.ones((31, 40), int), np.ones(1024, int)],
)
def test_maps_that_cannot_be_read_are_refused(tmp_path, content):
    maps = tmp_path / "maps"
    maps.mkdir()
    if isinstance(content, np.ndarray):
        np.save(maps / "ParcelIDs_1.npy", content)
    elif content is not None:
        (maps / "ParcelIDs_1.npy").write_bytes(content)
    with pytest.raises(DatasetError):
        write_pastis(tmp_path / "data", 1, SMALL, 0, QUICK, workers=1, parcel_maps=maps)
    assert not (tmp_path / "data").exists()


def test_a_cube_has_coordinates_and_its_parcels_lie_on_it():
    from panoseg.cube.check import check_cube

    cube, parcels = simulate_cube((32, 48), 6, QUICK)
    assert dict(cube.sizes) == {"time": cube.sizes["time"], "y": 32, "x": 48}
    assert all(cube[band].dtype == np.uint16 for band in PASTIS_BANDS)
    assert cube.odc.geobox.crs.to_epsg() == parcels.crs.to_epsg() == 32631
    assert check_cube(cube, PASTIS_BANDS).sizes == cube.sizes
    truth = simulate_season((32, 48), 6, replace(QUICK, void=False))
    assert len(parcels) == np.unique(truth.parcels_HW[truth.parcels_HW > 0]).size
    assert parcels.area.sum() == pytest.approx((truth.parcels_HW > 0).sum() * 100)
    assert parcels.area_ha.sum() == pytest.approx((truth.parcels_HW > 0).sum() / 100)
    left, bottom, right, top = cube.odc.geobox.extent.boundingbox
    inside = parcels.total_bounds
    assert left <= inside[0] <= inside[2] <= right
    assert bottom <= inside[1] <= inside[3] <= top
    assert set(np.unique(cube.SCL)) <= {3, 4, 5, 6, 9, 10, 11}


def test_the_command_writes_a_dataset_or_a_cube(tmp_path, capsys):
    quick = ["--size", "32", "--dates", "3", "3"]
    assert (
        main(["simulate", str(tmp_path / "data"), "--patches", "1", "--workers", "1", *quick]) == 0
    )
    assert len(np.load(tmp_path / "data/DATA_S2/S2_10000.npy")) == 3
    assert (
        main(
            [
                "simulate",
                str(tmp_path / "czech"),
                "--layout",
                "s2tsczcrop",
                "--patches",
                "1",
                "--workers",
                "1",
                *quick,
            ]
        )
        == 0
    )
    assert len(S2TSCzCropDataset(tmp_path / "czech", target="semantic")) == 1
    assert main(["simulate", str(tmp_path / "cube"), "--cube", *quick]) == 0
    assert {path.name for path in (tmp_path / "cube").iterdir()} == {"cube.nc", "parcels.gpkg"}
    assert "cube.nc" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--patches", "0"],
        ["--size", "4"],
        ["--snow", "7"],
        ["--parcel-maps", "nowhere"],
        ["--cube", "--size", "4"],
        ["--cube", "--centres"],
        ["--layout", "s2tsczcrop", "--centres"],
        ["--layout", "s2tsczcrop", "--cube"],
        ["--cube", "--workers", "2"],
    ],
)
def test_the_command_ends_in_one_line_for_wrong_options(tmp_path, capsys, wrong):
    assert main(["simulate", str(tmp_path / "data"), "--patches", "1", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
