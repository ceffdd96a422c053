"""What users do with a result: plot it, write it in COCO's format, turn it into polygons."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from affine import Affine

from panoseg.classes import PASTIS
from panoseg.coco.format import CocoAnnotations
from panoseg.errors import OutputError, PanopticFormatError
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import MergeThresholds, merge_things_and_stuff

RASTER = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [0, 0, 0, 3, 3, 3], [4, 4, 4, 3, 3, 3]])
RESULT = Panoptic.from_maps(RASTER, {1: 3, 2: 3, 3: 8, 4: 19}, PASTIS, {1: 0.5, 2: 0.75})
BARE = Panoptic(RESULT.segment_HW, RESULT.segments)


@pytest.fixture(autouse=True)
def no_windows():
    """Draw without a display, and leave no figure open."""
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "agg"}):
        yield
        plt.close("all")


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_a_plot_has_the_colours_and_the_names_of_the_classes():
    axes = RESULT.plot()
    drawn = shown(axes)
    scale = drawn.shape[1] // 6
    assert drawn.shape == (4 * scale, 6 * scale, 3)
    corn, grapevine = (0xFF, 0xBB, 0x78), (0x94, 0x67, 0xBD)
    middle = scale // 2
    assert tuple(drawn[middle, middle]) == corn
    assert tuple(drawn[3 * scale + middle, 5 * scale + middle]) == grapevine
    assert (drawn[middle] == 255).all(axis=-1).any(), "a line between the two fields of corn"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["corn", "grapevine", "void"]


def test_a_plot_shows_the_image_and_draws_on_given_axes():
    import matplotlib.pyplot as plt

    _, (left, right) = plt.subplots(1, 2)
    photograph = np.full((4, 6, 3), 40, np.uint8)
    assert RESULT.plot(photograph, left) is left
    assert RESULT.plot(photograph, right, alpha=0.0) is right
    middle = shown(right).shape[1] // 12
    assert (shown(right)[middle, middle] == 40).all(), "transparent segments show the image"
    assert (shown(left)[middle, middle] != 40).any()


def test_reflectance_is_shown_in_true_colours():
    image = np.zeros((10, 4, 6), np.float32)
    image[2, :, :3] = 3000  # B04 is red; the left half shines in it
    image[0, :, 3:] = 3000  # B02 is blue
    drawn = shown(Panoptic.empty(4, 6).plot(image, table=PASTIS))
    assert drawn[0, 0].tolist() == [255, 0, 0]
    assert drawn[-1, -1].tolist() == [0, 0, 255]


def test_missing_and_constant_reflectance_is_drawn():
    image = np.full((4, 4, 6), np.nan)
    assert not shown(Panoptic.empty(4, 6).plot(image, table=PASTIS)).any()
    image[:, 0, 0] = 500
    assert not shown(Panoptic.empty(4, 6).plot(image, table=PASTIS)).any()


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (10, 6, 4), (4, 6, 4)])
def test_an_image_of_another_form_is_refused(shape):
    with pytest.raises(PanopticFormatError, match="pass uint8 of 4 x 6 x 3, or reflectance"):
        RESULT.plot(np.zeros(shape))


def test_without_names_of_classes_a_table_is_asked_for(tmp_path):
    for method in (
        BARE.plot,
        lambda **more: BARE.to_coco(tmp_path / "coco", **more),
        lambda **more: BARE.to_geodataframe(Affine.identity(), "EPSG:32631", **more),
    ):
        with pytest.raises(PanopticFormatError, match="pass table="):
            method()
        method(table=PASTIS)


def test_parts_of_a_result_know_its_classes():
    parts = (
        RESULT.crop(slice(0, 2), slice(0, 2)),
        RESULT.keep(RESULT.segments.is_thing),
        RESULT.relabel(),
        RESULT.subsample(2),
        RESULT.with_background(PASTIS),
    )
    assert all(part.table is PASTIS for part in parts)


def test_merged_masks_know_their_classes():
    import torch

    merged = merge_things_and_stuff(
        torch.ones((1, 1, 4, 6), dtype=torch.bool),
        torch.ones((1, 1)),
        torch.full((1, 1), 3),
        torch.zeros((1, 4, 6), dtype=torch.int64),
        [0],
        MergeThresholds(),
    )
    [result] = merged.to_panoptics(PASTIS)
    assert result.table is PASTIS


def test_a_written_result_is_read_back(tmp_path):
    path = RESULT.to_coco(tmp_path / "out")
    assert path == tmp_path / "out" / "panoptic.json"
    assert (tmp_path / "out" / "panoptic" / "image.png").is_file()
    [read] = CocoAnnotations.open(path)
    without_void = RESULT.keep(~RESULT.segments.is_void)
    np.testing.assert_array_equal(read.segmentation.segment_HW, without_void.segment_HW)
    assert list(read.segmentation.segments) == list(without_void.segments)
    with pytest.raises(OutputError, match="new or empty folder"):
        RESULT.to_coco(tmp_path / "out")


def test_polygons_have_classes_scores_and_areas():
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    parcels = RESULT.to_geodataframe(transform, "EPSG:32631", tolerance_pixels=0)
    assert list(parcels.columns) == ["id", "class", "name", "score", "area_ha", "geometry"]
    assert parcels["id"].tolist() == [1, 2, 3], "void is no parcel"
    assert parcels["class"].tolist() == [3, 3, 8]
    assert parcels["name"].tolist() == ["corn", "corn", "grapevine"]
    assert parcels["score"].tolist() == [0.5, 0.75, 1.0]
    assert parcels["area_ha"].tolist() == pytest.approx([0.06] * 3)
    assert parcels.total_bounds.tolist() == [500_000, 4_999_960, 500_060, 5_000_000]
    assert parcels.crs == "EPSG:32631"


def test_areas_are_in_hectares_for_any_units_of_the_coordinates():
    # A pixel of a hundredth of a second of arc at the equator, and one of ten feet.
    degrees = Affine(1e-4, 0, 3, 0, -1e-4, 0.0002)
    parcels = RESULT.to_geodataframe(degrees, "EPSG:4326", tolerance_pixels=0)
    pixel_ha = 1e-4 * 111_320 * 1e-4 * 110_574 / 10_000
    assert parcels["area_ha"].tolist() == pytest.approx([6 * pixel_ha] * 3, rel=1e-3)
    feet = RESULT.to_geodataframe(Affine.scale(10), "EPSG:2263", tolerance_pixels=0)
    assert feet["area_ha"].tolist() == pytest.approx([6 * 3.048**2 / 10_000] * 3, rel=1e-4)


def test_a_result_without_things_has_an_empty_table():
    parcels = Panoptic.empty(4, 6).to_geodataframe(Affine.identity(), "EPSG:32631", table=PASTIS)
    assert len(parcels) == 0
    assert "area_ha" in parcels
