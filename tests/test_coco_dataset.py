"""Photographs in COCO's layout become samples: labels follow the picture, crowds are void, bad
files are one line.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoseg.classes import ClassTable
from panoseg.data import PhotographConfig
from panoseg.data.coco import CocoDataset, CocoFiles, check_learnable, find_splits
from panoseg.data.layouts import Reading, find_layout
from panoseg.data.loading import make_loader
from panoseg.data.photographs import VOID, collate_photographs, mask_boxes
from panoseg.data.shards import write_shards
from panoseg.errors import ConfigError, DatasetError, PanopticFormatError, PanosegError
from small_coco import (
    CAT,
    CAT_ID,
    CATEGORIES,
    CLASS_OF,
    CROWD_ID,
    DOG,
    DOG_ID,
    GRASS,
    GRASS_ID,
    HEIGHT,
    SKY,
    SKY_ID,
    WIDTH,
    Scene,
    bomb,
    colours,
    encoded,
    ids,
    instance,
    write_split,
)

IDS = ids()
CLASSES = np.full(IDS.shape, VOID)
for _id in CLASS_OF.keys() - {CROWD_ID}:
    CLASSES[_id == IDS] = CLASS_OF[_id]


def opened(folder, scenes, config=None, **named):
    """The dataset of some scenes."""
    return CocoDataset(
        write_split(folder / "data", scenes, **named), "train", config=config or PhotographConfig()
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A dataset of one photograph without an instances JSON, opened with some options."""
    folder = write_split(tmp_path_factory.mktemp("coco") / "data", [Scene(1)])
    return lambda **options: CocoDataset(folder, "train", config=PhotographConfig(**options))


# What a sample is


def test_a_photograph_worked_by_hand(plain):
    dataset = plain()
    one = dataset[0]
    assert len(dataset) == 1
    assert (one.name, one.image_id, one.size_HW) == ("0001", 1, (HEIGHT, WIDTH))
    assert one.image_CHW.dtype == torch.uint8
    np.testing.assert_array_equal(one.image_CHW.permute(1, 2, 0), colours(IDS))
    np.testing.assert_array_equal(one.classes_HW, CLASSES)
    assert one.objects.class_N.tolist() == [CAT, DOG]  # in the order of their ids
    np.testing.assert_array_equal(one.objects.mask_NHW, np.stack([IDS == CAT_ID, IDS == DOG_ID]))
    assert one.objects.box_N4.tolist() == [[2, 4, 14, 16], [8, 10, 22, 20]]


def test_crowds_are_void_in_samples_and_named_in_the_truth(plain):
    dataset = plain()
    picture, crowd_ids = dataset.truth(0)
    assert crowd_ids == (CROWD_ID,)
    np.testing.assert_array_equal(picture.segment_HW, IDS)
    assert (
        dict(zip(picture.segments.ids.tolist(), picture.segments.class_ids.tolist(), strict=True))
        == CLASS_OF
    )
    assert (dataset[0].classes_HW[torch.from_numpy(IDS == CROWD_ID)] == VOID).all()
    rows = dataset.detections(0)
    assert [(row["category_id"], row["iscrowd"], row["area"]) for row in rows] == [
        (DOG, 1, (IDS == CROWD_ID).sum()),
        (CAT, 0, (IDS == CAT_ID).sum()),
        (DOG, 0, (IDS == DOG_ID).sum()),
    ]


def test_a_photograph_without_any_segment(tmp_path):
    one = opened(tmp_path, [Scene(1, np.zeros((8, 9), np.int32))])[0]
    assert (one.classes_HW == VOID).all()
    assert one.objects.mask_NHW.shape == (0, 8, 9)
    assert one.objects.box_N4.shape == (0, 4)


def test_instances_may_overlap(tmp_path):
    """The instances JSON holds whole animals, also what the panoptic picture gives to another;
    polygons are drawn.
    """
    cat, dog = np.zeros((2, HEIGHT, WIDTH), bool)
    cat[4:16, 2:14], dog[10:20, 8:22] = True, True
    polygon = {
        "category_id": CAT,
        "segmentation": [[20.0, 4.0, 24.0, 4.0, 24.0, 9.0, 20.0, 9.0]],
        "area": 20.0,
        "iscrowd": 0,
    }
    rows = [
        instance(dog, DOG),
        instance(cat, CAT),
        instance(IDS == CROWD_ID, DOG, crowd=True),
        polygon,
    ]
    dataset = opened(tmp_path, [Scene(1, instances=rows), Scene(2, instances=[])])
    objects = dataset[0].objects
    assert objects.class_N.tolist() == [DOG, CAT, CAT]
    np.testing.assert_array_equal(objects.mask_NHW[:2], np.stack([dog, cat]))
    assert (objects.mask_NHW[0] & objects.mask_NHW[1]).sum() == 6 * 6
    assert objects.box_N4[2].tolist() == [20, 4, 24, 9]
    np.testing.assert_array_equal(dataset[0].classes_HW, CLASSES)
    assert [row["iscrowd"] for row in dataset.detections(0)] == [0, 0, 1, 0]
    assert dataset.detections(0)[3]["area"] == 20.0
    assert len(dataset[1].objects) == 0
    assert dataset.detections(1) == []


def test_areas_of_detections_are_those_that_the_file_states(tmp_path):
    """COCO's own are of polygons before they were drawn, and published scores tell sizes by
    them.
    """
    row = {**instance(IDS == CAT_ID, CAT), "area": 77.25}
    assert opened(tmp_path, [Scene(1, instances=[row])]).detections(0)[0]["area"] == 77.25


@pytest.mark.parametrize(
    "stated",
    [{"bbox": ["a", 0, 1, 1]}, {"bbox": [1, 2]}, {"bbox": {"x": 1}}, {"area": "7"}, {"area": []}],
)
def test_areas_and_boxes_that_are_none_are_one_line(tmp_path, stated):
    row = {**instance(IDS == CAT_ID, CAT), **stated}
    dataset = opened(tmp_path, [Scene(1, instances=[row])])
    with pytest.raises(
        PanopticFormatError,
        match=r"instances_train2017\.json: annotation \d+ of 0001\.png: (area or )?bbox .*",
    ) as error:
        dataset.detections(0)
    assert "\n" not in str(error.value)


def test_a_photograph_that_would_become_huge_is_one_line(tmp_path):
    dataset = opened(tmp_path, [Scene(1)], PhotographConfig(min_side=8192, scale=(2, 2)))
    with pytest.raises(DatasetError, match=r"0001\.png of 24 x 32 pixels, resized to 8192 x 10923"):
        dataset[0]


def test_an_image_without_annotation_is_left_out(tmp_path):
    dataset = opened(tmp_path, [Scene(1, annotated=False), Scene(2), Scene(3, annotated=False)])
    assert dataset.image_ids == [2]
    assert dataset.unannotated == [1, 3]
    assert dataset[0].image_id == 2
    with pytest.raises(DatasetError, match="annotates no image"):
        opened(tmp_path / "none", [Scene(1, annotated=False)])


def test_classes_are_those_of_the_categories_or_of_a_table(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1)])
    table = CocoDataset(folder, "train").table
    assert [(entry.id, entry.name, entry.kind) for entry in table.classes] == [
        (CAT, "cat", "thing"),
        (DOG, "dog", "thing"),
        (GRASS, "grass", "stuff"),
        (SKY, "sky", "stuff"),
    ]
    renamed = ClassTable("mine", tuple(replace(entry, colour="#010203") for entry in table.classes))
    assert CocoDataset(folder, "train", renamed).table is renamed
    fewer = ClassTable("three classes", table.classes[:3])
    with pytest.raises(
        DatasetError,
        match=r"other classes than the 3 of three classes, the first difference is 21 \(sky\)",
    ):
        CocoDataset(folder, "train", fewer)


def test_splits_are_found_by_the_beginning_of_their_names(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1)])
    write_split(folder, [Scene(2), Scene(3)], "val2017")
    assert find_splits(folder) == ("train2017", "val2017")
    assert CocoDataset(folder, "val").image_ids == [2, 3]
    layout = find_layout(folder)
    assert (layout.name, layout.rotation(1)) == (
        "COCO",
        (("train2017",), ("val2017",), ("val2017",)),
    )
    assert layout.classes.ids("thing") == (CAT, DOG)
    write_split(folder, [Scene(4)], "train2014")
    for split, found in (
        ("train", "train2014 and train2017"),
        ("test", "no annotations/panoptic_test.json"),
    ):
        with pytest.raises(
            DatasetError, match=f"{found}, so not one split {split} in COCO's layout"
        ):
            CocoDataset(folder, split)
    assert CocoDataset(folder, "train2017").image_ids == [1]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train2017", "val2017"), ("train2017", "val2017")),
        (("test2017", "train2017"), ("train2017", "test2017")),
        (("only",), ("only", "only")),
    ],
)
def test_a_set_is_not_scored_on_what_it_was_trained_on_where_there_is_another(
    tmp_path, names, parts
):
    for name in names:
        write_split(tmp_path, [Scene(1)], name)
    assert find_layout(tmp_path).rotation(1) == ((parts[0],), (parts[1],), (parts[1],))


def test_a_zip_that_was_not_unpacked_is_said(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1)])
    (folder / "train2017").rename(tmp_path / "elsewhere")
    (folder / "train2017.zip").touch()
    with pytest.raises(
        DatasetError, match=r"train2017, .* does not exist; unpack train2017\.zip where it lies"
    ):
        CocoDataset(folder, "train")


def test_the_real_sample(real_data):
    """Two annotated images of COCO, with crowds and 133 classes; the sample's files lie where they
    were published.
    """
    sample = real_data / "coco-sample"
    files = CocoFiles(
        sample / "input_images", sample / "panoptic_examples.json", sample / "panoptic_examples"
    )
    dataset = CocoDataset(sample, "", files=files)
    assert len(dataset.table.classes) == 133
    for number in range(len(dataset)):
        one, (truth, crowds) = dataset[number], dataset.truth(number)
        assert one.image_CHW.shape[1:] == one.size_HW == truth.segment_HW.shape
        labelled = truth.segments.areas[~np.isin(truth.segments.ids, crowds)].sum()
        assert (one.classes_HW != VOID).sum() == labelled
        things = truth.segments.is_thing & ~np.isin(truth.segments.ids, crowds)
        assert one.objects.mask_NHW.sum() == truth.segments.areas[things].sum()


# Sizes and chance


def agree(one):
    """Whether all parts of a sample show the same view: the image's flat colours tell the segment
    of each pixel.
    """
    image_HW3, classes_HW = one.image_CHW.permute(1, 2, 0).numpy(), one.classes_HW.numpy()
    flat_HW = np.zeros(classes_HW.shape, bool)
    for id_ in (*CLASS_OF, 0):
        is_pure_HW = (image_HW3 == colours(np.full((1, 1), id_))).all(2)
        flat_HW |= is_pure_HW
        expected = VOID if id_ in (0, CROWD_ID) else CLASS_OF[id_]
        assert (classes_HW[is_pure_HW] == expected).all(), id_
        for wanted, class_id in ((CAT_ID, CAT), (DOG_ID, DOG)):
            for mask_HW in one.objects.mask_NHW[one.objects.class_N == class_id].numpy():
                assert (mask_HW[is_pure_HW] == (id_ == wanted)).all()
    assert torch.equal(one.objects.box_N4, mask_boxes(one.objects.mask_NHW))
    assert (one.objects.mask_NHW.flatten(1).any(1)).all()
    return flat_HW.mean()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(0, 0), (48, 0), (0, 20), (40, 44), (16, 0)]),
    st.sampled_from([(1.0, 1.0), (0.8, 1.25), (0.5, 2.0)]),
    st.booleans(),
    st.sampled_from([0, 12, 25]),
)
def test_image_classes_masks_and_boxes_move_together(plain, seed, sides, scale, flip, crop):
    dataset = plain(min_side=sides[0], max_side=sides[1], scale=scale, flip=flip, crop=crop)
    one = dataset.draw(0, np.random.default_rng(seed))
    assert one.image_CHW.shape[1:] == one.classes_HW.shape == one.objects.mask_NHW.shape[1:]
    assert one.size_HW == (HEIGHT, WIDTH)
    share = agree(one)
    assert share > (0.2 if min(one.classes_HW.shape) < 20 else 0.5)
    again = dataset.draw(0, np.random.default_rng(seed))
    assert all(
        torch.equal(first, second)
        for first, second in zip(one.tensors(), again.tensors(), strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_instances_move_with_their_image(seed):
    """Overlapping masks of the instances JSON, in a view that is scaled, cropped and mirrored."""
    from panoseg.data.photographs import choose_view

    config = PhotographConfig(min_side=40, scale=(0.7, 1.5), flip=True, crop=30)
    view = choose_view((HEIGHT, WIDTH), config, np.random.default_rng(seed))
    image_HW3 = view.image(Image.fromarray(colours(IDS)))
    mask_HW = view.labels(IDS == DOG_ID)
    pure_HW = (image_HW3 == colours(np.full((1, 1), DOG_ID))).all(2)
    assert mask_HW[pure_HW].all()
    assert mask_HW.shape == image_HW3.shape[:2] == view.window_HW


def drawn(dataset, count=40):
    return [dataset.draw(0, np.random.default_rng(seed)) for seed in range(count)]


def sizes(samples):
    return {tuple(one.image_CHW.shape[1:]) for one in samples}


def test_without_options_chance_changes_nothing(plain):
    dataset = plain()
    for one in drawn(dataset, 3):
        assert all(
            torch.equal(first, second)
            for first, second in zip(one.tensors(), dataset[0].tensors(), strict=True)
        )


def test_min_side_resizes_the_shorter_side(plain):
    assert sizes([plain(min_side=48)[0], *drawn(plain(min_side=48), 2)]) == {(48, 64)}


def test_max_side_bounds_the_longer_side(plain):
    assert sizes([plain(min_side=48, max_side=56)[0]]) == {(42, 56)}
    assert sizes([plain(max_side=16)[0]]) == {(12, 16)}
    assert sizes([plain(max_side=100)[0]]) == {(HEIGHT, WIDTH)}


def test_scale_draws_sizes_of_training_samples_alone(plain):
    dataset = plain(scale=(0.5, 2.0))
    heights = np.array([one.image_CHW.shape[1] for one in drawn(dataset, 200)])
    assert heights.min() >= 12
    assert heights.max() <= 48
    assert abs(heights.mean() - 30) < 3  # uniform: 24 x 1.25
    assert sizes([dataset[0]]) == {(HEIGHT, WIDTH)}


def test_flip_mirrors_half_of_the_training_samples(plain):
    dataset, whole = plain(flip=True), plain()[0]
    mirrored = [torch.equal(one.image_CHW, whole.image_CHW.flip(2)) for one in drawn(dataset, 60)]
    assert all(
        mirror or torch.equal(one.image_CHW, whole.image_CHW)
        for mirror, one in zip(mirrored, drawn(dataset, 60), strict=True)
    )
    assert 18 <= sum(mirrored) <= 42
    assert torch.equal(dataset[0].image_CHW, whole.image_CHW)
    flipped = dataset.draw(0, np.random.default_rng(mirrored.index(True)))
    assert torch.equal(flipped.classes_HW, whole.classes_HW.flip(1))
    assert flipped.objects.box_N4.tolist() == [
        [WIDTH - 14, 4, WIDTH - 2, 16],
        [WIDTH - 22, 10, WIDTH - 8, 20],
    ]


def test_crop_is_a_window_anywhere(plain):
    dataset, whole = plain(crop=10), plain()[0]
    corners = set()
    for one in drawn(dataset, 120):
        assert one.image_CHW.shape == (3, 10, 10)
        found = [
            (top, left)
            for top in range(HEIGHT - 9)
            for left in range(WIDTH - 9)
            if torch.equal(one.image_CHW, whole.image_CHW[:, top : top + 10, left : left + 10])
        ]
        assert found
        corners.add(found[0])
        assert len(one.objects) == sum(
            bool(
                (
                    whole.objects.mask_NHW[
                        number, found[0][0] : found[0][0] + 10, found[0][1] : found[0][1] + 10
                    ]
                ).any()
            )
            for number in range(2)
        )
    assert len(corners) > 20
    assert sizes(drawn(plain(crop=28), 2)) == {(24, 28)}  # as much as there is
    assert sizes([dataset[0]]) == {(HEIGHT, WIDTH)}


def test_objects_that_left_the_window_are_gone(plain):
    counts = {len(one.objects) for one in drawn(plain(crop=6), 100)}
    assert counts == {0, 1, 2}


def test_truth_is_of_the_size_on_disk(plain):
    dataset = plain(min_side=100)
    assert dataset[0].image_CHW.shape[1] == 100
    assert dataset[0].size_HW == dataset.truth(0)[0].segment_HW.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_side": -1}, "Photographs min_side must lie between 0 and 8192 pixels, not be -1"),
        ({"max_side": 10_000}, "between 0 and 8192"),
        ({"crop": -4}, "Photographs crop must lie between 0 and 8192 pixels, not be -4"),
        ({"min_side": 100, "max_side": 50}, "min_side 100 must not exceed max_side 50"),
        ({"scale": (1.2, 0.8)}, "two ascending factors"),
        ({"scale": (0.0, 1.0)}, "not 0.0 1.0"),
        ({"scale": (float("nan"), 1.0)}, "not nan"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        PhotographConfig(**options)
    assert message in str(error.value)


# Batches


def test_batches_are_the_same_with_any_reader(tmp_path):
    scenes = [Scene(1), Scene(2, IDS[:20]), Scene(3, np.zeros((9, 7), np.int32))]
    dataset = opened(tmp_path, scenes, PhotographConfig(flip=True, scale=(0.5, 1.5), crop=16))
    batches = [
        list(
            make_loader(
                dataset,
                2,
                collate=collate_photographs,
                shuffle=True,
                seed=3,
                workers=workers,
                epoch=1,
            )
        )
        for workers in (0, 1)
    ]
    assert [batch.names for batch in batches[0]] == [batch.names for batch in batches[1]]
    assert sorted(name for batch in batches[0] for name in batch.names) == ["0001", "0002", "0003"]
    for one, other in zip(*batches, strict=True):
        for first, second in zip(one.photographs, other.photographs, strict=True):
            assert all(
                torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True)
            )
    moved = batches[1][0].to("cpu")
    assert moved.names == batches[1][0].names
    assert len(moved) == 2


# Pictures of any camera


@pytest.mark.parametrize(
    "kind", ["grey", "grey of 16 bits", "CMYK", "turned by EXIF", "with opacity", "palette"]
)
def test_pictures_of_any_kind_are_red_green_and_blue(tmp_path, kind):
    flat = colours(IDS)
    grey = flat[..., 0]
    exif = Image.Exif()
    exif[0x112] = 6  # the first row of the file is the right side of the picture
    image, name = {
        "grey": (encoded(grey), "a.png"),
        "grey of 16 bits": (encoded(grey.astype(np.uint16) * 257), "a.png"),
        "CMYK": (encoded(flat, "JPEG", "CMYK", quality=100, subsampling=0), "a.jpg"),
        "turned by EXIF": (encoded(np.rot90(flat).copy(), "PNG", exif=exif), "a.png"),
        "with opacity": (encoded(flat, "PNG", "RGBA"), "a.png"),
        "palette": (encoded(flat, "PNG", "P"), "a.png"),
    }[kind]
    expected = np.repeat(grey[..., None], 3, 2) if kind.startswith("grey") else flat
    one = opened(tmp_path, [Scene(1, image=image, name=name)])[0]
    tolerance = 60 if kind == "CMYK" else 0  # JPEG rings at the edges of flat colours
    difference = np.abs(one.image_CHW.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= tolerance
    assert np.median(difference) <= 2
    np.testing.assert_array_equal(one.classes_HW, CLASSES)


# Files of strangers


def row(id_, class_id, **more):
    return {"id": id_, "category_id": class_id, "area": 1, "iscrowd": 0, **more}


ROWS = Scene(1).segments
MASK = IDS == CAT_ID
_EXIF = Image.Exif()
_EXIF[0x112] = 6

# What is wrong with the second of three photographs, and what the line says.
DAMAGES = {
    "a truncated JPEG": (
        {"name": "0002.jpg", "image": encoded(colours(IDS), "JPEG")[:-200]},
        r"0002\.jpg .*runcated",
    ),
    "an image that is none": ({"image": b"hello"}, r"0002\.png .*it is not an image"),
    "a decompression bomb": (
        {"image": bomb()},
        r"0002\.png: .*60000 x 60000 pixels|more than 67108864 pixels",
    ),
    "a bomb of ids": ({"png": bomb()}, r"0002\.png: an image of 60000 x 60000 pixels"),
    "a cut PNG of ids": ({"png": encoded(colours(IDS))[:60]}, r"0002\.png: it is cut"),
    "ids that the JSON does not have": ({"segments": ROWS[1:]}, rf"{CROWD_ID}"),
    "ids that the PNG does not have": ({"segments": [*ROWS, row(12345, CAT)]}, "12345"),
    "an id twice": ({"segments": [*ROWS, ROWS[0]]}, f"id {CROWD_ID} is listed twice"),
    "an unknown category": (
        {"segments": [{**ROWS[0], "category_id": 99}, *ROWS[1:]]},
        f"segment {CROWD_ID} has the unknown category 99",
    ),
    "an image of another size": (
        {"image": encoded(colours(IDS)[:-1])},
        "has 23 x 32 pixels .*, but is annotated with 24 x 32",
    ),
    "a picture that its EXIF turns, annotated as it lies": (
        {"image": encoded(colours(IDS), exif=_EXIF)},
        "has 32 x 24 pixels .*, but is annotated with 24 x 32; .*as its EXIF turns it",
    ),
    "run lengths of another size": (
        {"instances": [instance(MASK[:-1], CAT)]},
        r"instances_train2017\.json: annotation \d+ of 0002\.png: run lengths of size \[23, 32\]",
    ),
    "run lengths that say nothing": (
        {
            "instances": [
                {**instance(MASK, CAT), "segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~"}}
            ]
        },
        "counts are not compressed run lengths",
    ),
    "an instance of stuff": (
        {"instances": [instance(MASK, SKY)]},
        f"category {SKY} is not a thing",
    ),
    "an instance of an unknown category": (
        {"instances": [instance(MASK, 99)]},
        "category 99 is not a thing",
    ),
    "an instance without a mask": ({"instances": [{"category_id": CAT}]}, "no 'segmentation'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_one_photograph_is_one_line_and_the_others_are_read(tmp_path, damage):
    options, message = DAMAGES[damage]
    others = {"instances": [instance(MASK, CAT)]} if "instances" in options else {}
    dataset = opened(tmp_path, [Scene(1, **others), Scene(2, **options), Scene(3, **others)])
    with pytest.raises(PanosegError, match=message) as error:
        dataset[1]
    assert isinstance(error.value, DatasetError | PanopticFormatError)
    assert "\n" not in str(error.value)
    assert "0002" in str(error.value) or "image 2" in str(error.value)
    for number in (0, 2):
        np.testing.assert_array_equal(dataset[number].classes_HW, CLASSES)


def test_a_loader_raises_the_line_of_its_worker(tmp_path):
    dataset = opened(tmp_path, [Scene(1), Scene(2, image=b"hello")])
    loader = make_loader(dataset, 1, collate=collate_photographs, workers=1)
    batches = iter(loader)
    assert next(batches).names == ("0001",)
    with pytest.raises(DatasetError, match=r"0002\.png .*it is not an image"):
        next(batches)


@pytest.mark.parametrize(
    "name",
    [
        "../0002.png",
        "/etc/hostname",
        "a/../../0002.png",
        "..\\0002.png",
        "C:\\0002.png",
        "",
        7,
        None,
    ],
)
def test_names_that_leave_the_folder_are_refused_when_the_dataset_is_opened(tmp_path, name):
    folder = write_split(tmp_path / "data", [Scene(1), Scene(2)])
    path = folder / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(
        PanopticFormatError,
        match=r"image 2 of .*file name .* is not the name of a file inside its folder",
    ):
        CocoDataset(folder, "train")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/hostname", "a/../../x.png"])
def test_pictures_of_ids_stay_in_their_folder(tmp_path, name):
    folder = write_split(tmp_path / "data", [Scene(1), Scene(2)])
    path = folder / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["file_name"] = name
    path.write_text(json.dumps(content))
    (folder / "secret.png").write_bytes(Scene(2).png)
    dataset = CocoDataset(folder, "train")
    with pytest.raises(PanopticFormatError, match="is not the name of a file inside its folder"):
        dataset[1]
    with pytest.raises(PanopticFormatError, match="is not the name of a file inside its folder"):
        dataset.truth(1)
    assert dataset[0].name == "0001"


def edited(folder, change):
    """The dataset whose JSON a function has changed."""
    path = folder / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return CocoDataset(folder, "train")


def _repeat(key, number=0):
    return lambda content: content[key].append(content[key][number])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_repeat("categories"), f"category {SKY} is listed 2 times; list it once"),
        (lambda content: content.pop("categories"), "has no categories"),
        (lambda content: content["categories"].append({"name": "nameless"}), "category 4: no 'id'"),
        (
            lambda content: content["categories"].append({"id": -1, "name": "below"}),
            "category 4: id -1",
        ),
        (lambda content: content["images"].pop(), "image 2 has an annotation but no entry"),
        (lambda content: content["images"][0].pop("id"), "row 0 of the images has no id"),
        (
            lambda content: content["annotations"][0].pop("image_id"),
            "row 0 of the annotations has no image_id",
        ),
        (_repeat("images"), "2 entries of image 1 among the images"),
        (lambda content: content.pop("annotations"), "has no annotations"),
        (lambda content: content["annotations"].clear(), "annotates no image"),
        (lambda content: content["images"][0].update(file_name="gone.png"), r"lacks gone\.png"),
        (lambda content: content["images"][0].update(file_name="x" * 300 + ".png"), "file name 'x"),
    ],
)
def test_what_is_wrong_with_the_whole_file_is_said_when_it_is_opened(tmp_path, change, message):
    folder = write_split(tmp_path / "data", [Scene(1), Scene(2)])
    with pytest.raises(PanosegError, match=message) as error:
        edited(folder, change)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_an_image_that_is_annotated_twice_is_one_line(tmp_path):
    dataset = edited(write_split(tmp_path / "data", [Scene(1), Scene(2)]), _repeat("annotations"))
    with pytest.raises(PanopticFormatError, match="2 annotations of image 1"):
        dataset[0]
    assert dataset[1].name == "0002"


def test_a_json_that_is_cut_is_one_line(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1)])
    path = folder / "annotations" / "panoptic_train2017.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(
        PanopticFormatError, match=r"panoptic_train2017\.json: .*; it cannot be read as a JSON file"
    ):
        CocoDataset(folder, "train")


def test_a_picture_of_ids_that_is_missing_is_one_line(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1), Scene(2)])
    (folder / "annotations" / "panoptic_train2017" / "0002.png").unlink()
    dataset = CocoDataset(folder, "train")
    with pytest.raises(DatasetError, match=r"0002\.png does not exist"):
        dataset.truth(1)
    assert dataset.truth(0)[1] == (CROWD_ID,)


def test_names_keep_their_folders_and_dots(tmp_path):
    folder = write_split(tmp_path / "data", [Scene(1), Scene(2, name="field.one.png")])
    assert [CocoDataset(folder, "train")[number].name for number in (0, 1)] == ["0001", "field.one"]


def test_isthing_decides_what_is_an_object(tmp_path):
    categories = [{**entry, "isthing": 1} for entry in CATEGORIES]
    one = opened(tmp_path, [Scene(1)], categories=categories)[0]
    assert sorted(one.objects.class_N.tolist()) == [CAT, DOG, GRASS, SKY]
    assert (IDS == GRASS_ID).sum() in one.objects.mask_NHW.sum((1, 2)).tolist()
    assert (IDS == SKY_ID).sum() in one.objects.mask_NHW.sum((1, 2)).tolist()


# What cannot teach, and sets that list fewer classes


def crowded(only_things: bool) -> Scene:
    scene = Scene(1)
    for row in scene.segments:
        if not only_things or row["category_id"] in (CAT, DOG):
            row["iscrowd"] = 1
    return scene


@pytest.mark.parametrize(
    ("scene", "answers", "refused", "said"),
    [
        (Scene(1), "panoptic", False, ""),
        (crowded(True), "panoptic", False, "All 3 objects of"),
        (crowded(True), "semantic", False, ""),
        (crowded(True), "instances", True, "All 3 objects of"),
        (crowded(False), "semantic", True, "All 5 segments of"),
        (crowded(False), "panoptic", True, "crowds (iscrowd 1), which teach nothing"),
        (Scene(1, ids_HW=np.zeros((8, 8), np.int32)), "panoptic", True, "has no objects"),
        (
            Scene(1, instances=[instance(IDS == CAT_ID, CAT, crowd=True)]),
            "instances",
            True,
            "All 1 objects of",
        ),
        (
            Scene(1, instances=[{**instance(IDS == CAT_ID, CAT), "category_id": 99}]),
            "instances",
            True,
            "1 annotations of category 99, which is not among",
        ),
    ],
)
def test_a_set_that_cannot_teach_is_noticed(tmp_path, scene, answers, refused, said):
    dataset = opened(tmp_path, [scene])
    if refused:
        with pytest.raises(DatasetError) as error:
            check_learnable(dataset, answers)
        assert said in str(error.value)
    else:
        note = check_learnable(dataset, answers)
        assert said in note
        assert bool(said) == bool(note)


@pytest.mark.parametrize("fewer", ["train2017", "val2017"])
def test_a_set_may_list_fewer_classes_than_the_other(tmp_path, fewer):
    few = [row for row in CATEGORIES if row["id"] != SKY]
    without_sky = np.where(ids() == SKY_ID, GRASS_ID, ids())
    for name in ("train2017", "val2017"):
        options = {"ids_HW": without_sky} if name == fewer else {}
        write_split(tmp_path, [Scene(1, **options)], name, few if name == fewer else CATEGORIES)
    layout = find_layout(tmp_path)
    assert {entry.id for entry in layout.classes.classes} == {CAT, DOG, GRASS, SKY}
    reading = Reading()
    train = layout.open_train(tmp_path, ("train2017",), reading)
    scored = layout.open_scored(tmp_path, ("val2017",), reading)
    assert train.table.same_classes(scored.table)
    assert write_shards(tmp_path, str(tmp_path / "shards"), 1, 1).photographs == 2
    assert find_layout(tmp_path / "shards").classes.same_classes(layout.classes)
