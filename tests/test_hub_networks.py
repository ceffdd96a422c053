"""Networks of the Hugging Face Hub: tiny random ones of every class, saved in its layout, are read,
merged by the published rule, scored and trained.
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import panoseg
from hub_checkpoints import FAMILIES, LABELS, save_checkpoint
from panoseg.app import stages
from panoseg.app.settings import AppSettings
from panoseg.classes import SETS, ClassTable, SegmentClass, table_of_labels
from panoseg.cli import main
from panoseg.coco.format import CocoAnnotations
from panoseg.data.photographs import PhotographBatch
from panoseg.errors import ConfigError, DatasetError, WeightsError
from panoseg.models import hub_networks
from panoseg.models.configs import config_from_json, to_json
from panoseg.models.configs.hub import HubNetworkConfig
from panoseg.models.model import Model
from panoseg.models.weights import load_card, load_weights
from panoseg.panoptic.merge import QueryThresholds, merge_queries
from panoseg.simulation.options import SIMULATED_PHOTOGRAPHS
from panoseg.training import run as runs
from panoseg.training.checkpoint import load_checkpoint
from panoseg.training.loop import Training
from panoseg.training.run import resume
from panoseg.training.transfer import fine_tuning
from photograph_networks import photograph
from photograph_runs import simulate_photographs

transformers = pytest.importorskip("transformers")
RESNET18 = {"backbone": "resnet18", "features_only": True, "out_indices": [1, 2, 3, 4]}
NAMES = tuple(entry.name for entry in SIMULATED_PHOTOGRAPHS.classes)
DISC, SQUARE, GRASS, SKY = range(1, 5)
TABLE = ClassTable(
    "four",
    tuple(
        SegmentClass(id_, name, "#808080", "thing" if id_ < GRASS else "stuff")
        for id_, name in enumerate(LABELS, 1)
    ),
)


# Merging


def restated(
    probability_QHW: np.ndarray, score_Q: np.ndarray, class_Q: np.ndarray, rule: QueryThresholds
) -> tuple[np.ndarray, list[int]]:
    """The published rule, query by query: ids of segments from 1, and their classes."""
    kept = [q for q in range(len(score_Q)) if class_Q[q] != -1 and score_Q[q] > rule.score]
    segment_HW = np.zeros(probability_QHW.shape[1:], int)
    classes: list[int] = []
    stuff: dict[int, int] = {}
    if not kept:
        return segment_HW, classes
    winner_HW = (score_Q[kept, None, None] * probability_QHW[kept]).argmax(0)
    for place, q in enumerate(kept):
        own_HW = probability_QHW[q] >= rule.mask
        shown_HW = (winner_HW == place) & own_HW
        if not own_HW.any() or not shown_HW.any():
            continue
        if (winner_HW == place).sum() / own_HW.sum() < 1 - rule.overlap:
            continue
        class_id = int(class_Q[q])
        if class_id >= GRASS and class_id in stuff:
            segment_HW[shown_HW] = stuff[class_id]
            continue
        classes.append(class_id)
        segment_HW[shown_HW] = len(classes)
        if class_id >= GRASS:
            stuff[class_id] = len(classes)
    return segment_HW, classes


def simulated_queries(generator: np.random.Generator):
    """Blobs of random places and sharpness, as masks of queries are."""
    queries, height, width = generator.integers(0, 9), *generator.integers(1, 25, 2)
    rows, columns = np.mgrid[:height, :width]
    y, x, radius, sharp = (
        generator.uniform(low, high, (queries, 1, 1))
        for low, high in ((0, height), (0, width), (1, 14), (0.2, 3))
    )
    distance = np.hypot(rows - y, columns - x)
    logit = np.clip((radius - distance) * sharp, -8, 8).astype(np.float32)
    score = generator.choice([0.79, 0.81, 0.9, 0.99], queries).astype(np.float32)
    return 1 / (1 + np.exp(-logit)), score, generator.integers(-1, 5, queries).clip(-1)


def merged(probability, score, class_, rule=None, table=TABLE):
    masks = torch.from_numpy(probability)
    found = merge_queries(
        lambda query: masks[query],
        torch.from_numpy(score),
        torch.from_numpy(np.asarray(class_)),
        masks.shape[1:],
        table.ids("stuff"),
        rule or QueryThresholds(),
    )
    return found.to_panoptics(table)[0]


def test_merging_is_the_published_rule_to_the_pixel(monkeypatch):
    """Also in chunks of a few queries, and with all of them looked at as on a GPU."""
    generator = np.random.default_rng(1)
    segments = void = 0
    for number in range(1000):
        probability, score, class_ = simulated_queries(generator)
        class_[class_ == 0] = -1
        rule = QueryThresholds() if number % 2 else QueryThresholds(0.5, 0.6, 0.5)
        size = (1, 600, 2**24)[number % 3]
        monkeypatch.setattr("panoseg.panoptic.merge._CHUNK", {"cpu": size, "other": size})
        monkeypatch.setattr(
            "panoseg.panoptic.merge._is_cpu", lambda _, answer=number % 5 > 1: answer
        )
        found = merged(probability, score, class_, rule)
        segment_HW, classes = restated(probability, score, class_, rule)
        assert found.same_up_to_ids(
            panoseg.Panoptic.from_maps(segment_HW, dict(enumerate(classes, 1)), TABLE)
        )
        segments, void = segments + len(classes), void + int((segment_HW == 0).sum())
    assert segments > 900
    assert void > 1000


def test_stripes_of_stuff_and_things_keep_their_own_segments():
    """transformers#23461: the object after a joined segment got an id that is taken."""
    probability = np.zeros((4, 4, 8), np.float32)
    for query in range(4):  # sky, disc, sky, square
        probability[query, :, 2 * query : 2 * query + 2] = 0.9
    found = merged(
        probability, np.array([0.9, 0.95, 0.85, 0.99], np.float32), [SKY, DISC, SKY, SQUARE]
    )
    classes = {row.id: (row.class_id, round(row.score, 2)) for row in found.segments}
    assert [classes[id_] for id_ in found.segment_HW[0, ::2]] == [
        (SKY, 0.9),
        (DISC, 0.95),
        (SKY, 0.9),
        (SQUARE, 0.99),
    ]


def test_pixels_of_no_sure_query_are_void_and_scores_do_not_lower_masks():
    probability = np.zeros((2, 1, 6), np.float32)
    probability[0, 0, :4] = 0.55  # times the score it is below 0.5, which does not count
    probability[1, 0, 4:] = 0.4
    found = merged(probability, np.array([0.85, 0.99], np.float32), [DISC, SQUARE])
    assert found.segment_HW.tolist() == [[1, 1, 1, 1, 0, 0]]
    assert not len(merged(probability, np.array([0.8, 0.8], np.float32), [DISC, SQUARE]).segments)
    assert not len(merged(probability, np.array([0.9, 0.9], np.float32), [-1, -1]).segments)


# Folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each class."""
    place = tmp_path_factory.mktemp("hub")
    return {family: save_checkpoint(place / family, family, NAMES) for family in FAMILIES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return simulate_photographs(tmp_path_factory.mktemp("photographs"), 6)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(photograph(90, 131).image_CHW.numpy().transpose(1, 2, 0)).save(path)
    return path


ANY = ("--score", "0", "--mask", "0.3", "--overlap", "1")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_segments_photographs(family, folders, scene, tmp_path, capfd):
    out = tmp_path / "out"
    assert (
        main(["photo", str(scene), "--weights", str(folders[family]), "--out", str(out), *ANY]) == 0
    )
    printed = capfd.readouterr()
    assert not printed.err  # nothing of the library either
    annotations = CocoAnnotations.open(out / "panoptic.json", out / "panoptic")
    [image_id] = annotations.image_ids
    drawn = annotations.read(image_id).segmentation
    model = panoseg.load(folders[family])
    model.network.use_thresholds({"score": 0.0, "mask": 0.3, "overlap": 1.0})
    found = model.predict(scene)
    assert found.segment_HW.shape == (90, 131)
    assert found.same_up_to_ids(drawn)
    if family != "detr":  # random masks of DETR are far below one half
        assert len(found.segments)
    # A batch of one and of more agree, each with its own size.
    one, two = photograph(90, 131), photograph(61, 40)
    together = model.network.predict(PhotographBatch((one, two, one)))
    alone = [model.network.predict(PhotographBatch((entry,)))[0] for entry in (one, two)]
    assert together[0].same_up_to_ids(alone[0])
    assert together[1].same_up_to_ids(alone[1])
    assert together[2].same_up_to_ids(alone[0])


def test_a_folder_says_what_it_holds(folders, capsys):
    assert main(["weights", "show", str(folders["maskformer"])]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "network MaskFormer; reads photographs" in printed
    assert "classes 7 things and 3 kinds of stuff of own labels" in printed
    assert main(["map", "nothing.nc", "--weights", str(folders["detr"]), "--out", "x"]) == 2
    assert "reads photographs, not seasons" in capsys.readouterr().err


def test_the_numbers_are_in_memory_once(folders, tmp_path):
    weights = load_weights(folders["mask2former"])
    network = weights.network()
    memory = {name: value.data_ptr() for name, value in network.state_dict().items()}
    assert memory == {name: value.data_ptr() for name, value in weights.state.items()}
    given = load_file(folders["mask2former"] / "model.safetensors")
    for name in ("class_predictor.weight", "class_predictor.bias"):
        assert torch.equal(weights.state[f"network.{name}"], given[name])
    saved = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folders["mask2former"])
    for name, value in saved.state_dict().items():
        assert torch.equal(weights.state[f"network.{name}"], value), name


def test_masks_are_cut_off_at_the_padding(folders, scene):
    """A network that reads a padded photograph gives what its masks show of the photograph."""
    network = Model.load(folders["eomt"]).network
    image = photograph(40, 80).image_CHW
    seen = network._seen(image)
    assert seen.content_HW == (32, 64)
    assert seen.pixels_CHW.shape == (3, 64, 64)
    columns = torch.arange(16.0).expand(1, 7, 16, 16).clone()  # brighter to the right
    columns[:, :, 8:] = -9.0  # the padding below
    logits = torch.full((1, 7, len(NAMES) + 1), -9.0)
    logits[:, 0, 0] = 9.0
    network._queries = lambda pixels, mask: (logits, columns - 7.5)
    [found] = network.predict(PhotographBatch((photograph(40, 80),)))
    assert found.segment_HW[:, :39].max() == 0
    assert found.segment_HW[:, 41:].min() == 1


def test_options_change_what_is_drawn(folders, scene, tmp_path):
    def areas(*options):
        out = tmp_path / "-".join(options).replace("--", "")
        words = ["photo", str(scene), "--weights", str(folders["mask2former"]), "--out", str(out)]
        assert main([*words, *options]) == 0
        return (out / "segments.csv").read_text().splitlines()[1:]

    base = areas("--score", "0", "--mask", "0", "--overlap", "1")
    assert base
    assert areas("--score", "0.99", "--mask", "0", "--overlap", "1") != base
    assert areas("--score", "0", "--mask", "0.5", "--overlap", "1") != base
    assert areas("--score", "0", "--mask", "0", "--overlap", "0") != base
    assert areas("--score", "0", "--mask", "0", "--overlap", "1", "--min-side", "128") != base
    assert areas("--score", "0", "--mask", "0", "--overlap", "1", "--max-side", "70") != base


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("eomt", ("--stuff-area", "9"), "--stuff-area does nothing with EoMT"),
        ("eomt", ("--min-side", "32"), "min_side and max_side do nothing with EoMT"),
        ("mask2former", ("--min-side", "9000"), "min_side must be from 0 to 4096"),
        ("mask2former", ("--min-side", "20"), "Mask2Former cannot read a photograph of 90 x 131"),
    ],
)
def test_options_that_do_nothing_are_refused(
    family, options, message, folders, scene, tmp_path, capsys
):
    words = ["photo", str(scene), "--weights", str(folders[family]), "--out", str(tmp_path / "out")]
    assert main([*words, *options]) == 2
    assert message in capsys.readouterr().err


# Hostile folders


def changed(folder: Path, out: Path, **values) -> Path:
    """A copy of a folder with other options."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    config = json.loads((out / "config.json").read_text())
    config.update(values)
    (out / "config.json").write_text(json.dumps(config))
    return out


HUGE = {"num_queries": 10**9}
WRONG = [
    (
        "mask2former",
        {"model_type": "bert"},
        "is of a network 'bert', which segments no photographs",
    ),
    ("mask2former", {"num_queries": 10**12}, "num_queries is 1000000000000; at most 100000"),
    ("mask2former", {"num_queries": 5000}, "num_queries must be at most 2048"),
    ("mask2former", {"hidden_dim": 65536}, "parameters or more is too large: at most"),
    ("mask2former", {"decoder_layers": 90000}, "parameters or more is too large: at most"),
    ("mask2former", {"hidden_dim": 33}, "config.json: "),
    ("mask2former", {"hidden_dim": "wide"}, "config.json: "),
    ("mask2former", {"id2label": {"0": "a", "2": "b"}}, "id2label does not name the labels"),
    ("mask2former", {"id2label": [1]}, "id2label is not a table"),
    ("mask2former", {"backbone_config": {"model_type": "code"}}, "unknown model_type 'code'"),
    ("mask2former", {"backbone_config": None, "backbone": "x/y"}, "Its backbone is a name"),
    ("mask2former", {"feature_strides": list(range(9999))}, "has 9999 entries; at most 4096"),
    (
        "detr",
        {"backbone_config": None, "backbone": "hf-hub:a/b", "use_timm_backbone": True},
        "Its backbone 'hf-hub:a/b' of timm is not a ResNet",
    ),
    ("oneformer", {"task_seq_len": 10**6}, "task_seq_len is not a length from 8 to 1024"),
    ("eomt", {"num_hidden_layers": 4}, "entries are missing"),
    ("eomt", {"hidden_size": 32}, "too large|of another shape"),
]


@pytest.mark.parametrize(("family", "values", "message"), WRONG)
def test_options_of_others_end_in_one_line(family, values, message, folders, tmp_path):
    folder = changed(folders[family], tmp_path / "changed", **values)
    with pytest.raises(WeightsError) as error:
        load_weights(folder)
    assert any(part in str(error.value) for part in message.split("|")), str(error.value)
    assert "\n" not in str(error.value)


def test_code_and_other_places_are_never_used(folders, tmp_path, monkeypatch):
    class Code:
        def __reduce__(self):
            return (print, ("run",))

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    folder = changed(
        folders["eomt"],
        tmp_path / "code",
        auto_map={"AutoModel": "evil.Model"},
        attn_implementation="somebody/else",
        _attn_implementation="somebody/else",
        return_dict=False,
        output_attentions=True,
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        _name_or_path="../../../etc",
    )
    (folder / "evil.py").write_text("raise SystemExit('run')")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    assert load_card(folder).provenance == {"imported_from": "../../../etc"}
    assert load_weights(folder).card.model.family == "eomt"
    assert Model.load(folder).predict(np.zeros((64, 64, 3), np.uint8)).segment_HW.shape == (64, 64)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin could hold code and is not read"):
        load_weights(folder)


def test_damaged_files_end_in_one_line(folders, tmp_path):
    def refuses(folder, message):
        with pytest.raises(WeightsError, match=message):
            load_weights(folder)

    folder = changed(folders["eomt"], tmp_path / "eomt")
    numbers, processor = folder / "model.safetensors", folder / "preprocessor_config.json"
    whole, options = numbers.read_bytes(), processor.read_text()
    numbers.write_bytes(whole[:-100])
    refuses(folder, "is not a whole safetensors file")
    state = load_file(folders["eomt"] / "model.safetensors")
    save_file({**state, "class_predictor.bias": state["class_predictor.bias"] * np.nan}, numbers)
    refuses(folder, "NaN or infinite")
    numbers.unlink()
    for name in ("../model.safetensors", "model.bin", 7):
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": name}})
        )
        refuses(folder, "does not name .safetensors files of this folder")
    save_file({k: v for k, v in state.items() if k < "l"}, folder / "one.safetensors")
    save_file({k: v for k, v in state.items() if k >= "l"}, folder / "two.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    assert torch.equal(
        load_weights(folder).state["network.class_predictor.bias"], state["class_predictor.bias"]
    )
    for text, message in (
        ("[]", "is not a table of options"),
        ("{", "is not JSON"),
        (json.dumps({"size": {"height": 10**5, "width": 2}}), "size of its image processor"),
        (json.dumps({"size": {"height": "x"}}), "image processor cannot be used"),
        (json.dumps({**json.loads(options), "do_split_image": True}), "Use a panoptic checkpoint"),
    ):
        processor.write_text(text)
        refuses(folder, message)
    processor.unlink()
    refuses(folder, r"preprocessor_config\.json: No such file")
    (folder / "config.json").write_text('{"experiment": "mine"}')
    refuses(folder, r"card\.json: No such file")


def test_a_photograph_without_end_is_refused(folders, tmp_path):
    folder = changed(folders["detr"], tmp_path / "detr")
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 800}}')
    network = Model.load(folder).network
    with pytest.raises(DatasetError, match="1 x 60000 pixels: this photograph does not fit"):
        network._seen(torch.zeros(3, 1, 60_000, dtype=torch.uint8))


def test_the_extra_is_named_where_it_is_missing(folders, monkeypatch):
    hub_networks.library.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the extra 'hub': pip install 'panoseg\[hub\]'"):
        load_weights(folders["eomt"])
    monkeypatch.undo()
    hub_networks.library.cache_clear()


def test_the_backbone_of_published_detrs_is_one_of_timm(tmp_path, monkeypatch):
    """Their options name it, and ask for its weights, which are in the checkpoint."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    place = tmp_path / "detr"
    save_checkpoint(place, "detr", backbone_config={"model_type": "timm_backbone", **RESNET18})
    named = {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": True}
    folder = changed(place, tmp_path / "published", backbone_config=None, **named)
    one, two = (load_weights(path).state for path in (place, folder))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("family", ["mask2former", "maskformer", "oneformer"])
def test_entries_that_are_computed_or_not_used_may_be_missing(family, folders, tmp_path):
    """Published checkpoints are older than the library, and have entries of other networks, too."""
    folder = changed(folders[family], tmp_path / family, is_training=True)
    state = load_file(folder / "model.safetensors")
    computed = (
        "criterion.",
        "relative_position_index",
        "encoder.swin.layernorm",
        "model.layernorm",
    )
    kept = {
        name: value for name, value in state.items() if not any(part in name for part in computed)
    }
    assert len(kept) < len(state)
    save_file({**kept, "text_mapper.weight": torch.zeros(2)}, folder / "model.safetensors")
    found, given = load_weights(folder), load_weights(folders[family])
    assert found.state.keys() == given.state.keys()
    assert all(torch.equal(value, given.state[name]) for name, value in found.state.items())
    found.network().predict(PhotographBatch((photograph(64, 64),)))


PUBLISHED_PROCESSORS = [
    (
        "detr",
        {"feature_extractor_type": "DetrFeatureExtractor", "size": 800, "max_size": 1333},
        (800, 1199),
    ),
    (
        "mask2former",
        {
            "_max_size": 1333,
            "image_processor_type": "MaskFormerImageProcessor",
            "size": {"height": 384, "width": 384},
        },
        (384, 384),
    ),
    ("maskformer", {"size": 640, "max_size": 2560, "size_divisibility": 32}, (640, 960)),
    (
        "oneformer",
        {
            "image_processor_type": "OneFormerImageProcessor",
            "class_info_file": "coco_panoptic.json",
            "repo_path": "shi-labs/oneformer_demo",
            "num_text": 134,
            "size": {"longest_edge": 1333, "shortest_edge": 800},
        },
        (800, 1199),
    ),
    ("eomt", {"do_pad": True, "size": {"longest_edge": 640, "shortest_edge": 640}}, (427, 640)),
]


@pytest.mark.parametrize(("family", "options", "content_HW"), PUBLISHED_PROCESSORS)
def test_files_of_image_processors_of_all_ages_are_read(
    family, options, content_HW, folders, tmp_path, monkeypatch
):
    """As they are in the published repositories; nothing that they name is fetched."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    folder = changed(folders[family], tmp_path / family)
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    seen = load_weights(folder).network()._seen(photograph(427, 640).image_CHW)
    assert seen.content_HW == content_HW
    assert seen.pixels_CHW.shape[2] == (640 if family == "eomt" else content_HW[1])
    assert -3 < seen.pixels_CHW.min() < 0 < seen.pixels_CHW.max() < 3


def test_the_decoder_of_published_maskformers_names_a_backbone_that_is_not_built(folders, tmp_path):
    config = json.loads((folders["maskformer"] / "config.json").read_text())
    decoder = {**config["decoder_config"], "backbone": "resnet50", "use_timm_backbone": True}
    decoder |= {"model_type": "detr", "backbone_config": None}
    folder = changed(folders["maskformer"], tmp_path / "old", decoder_config=decoder)
    assert load_weights(folder).state.keys() == load_weights(folders["maskformer"]).state.keys()


# Labels


def test_labels_are_matched_by_name_and_kind():
    assert {name: len(entries) for name, entries in SETS.items()} == {
        "COCO": 133,
        "ADE20K": 150,
        "Cityscapes": 19,
        "Mapillary Vistas": 65,
    }
    for name, entries in SETS.items():
        labels = [entry.name for entry in entries]
        table, places = table_of_labels(labels)
        assert (table.name, places) == (name, tuple(range(len(entries))))
        assert [entry.kind for entry in table.classes] == [entry.kind for entry in entries]
        unnamed, places = table_of_labels([f"LABEL_{number}" for number in range(len(labels))])
        assert unnamed == table
    # DETR's labels are COCO's ids.
    coco = {entry.id: entry.name for entry in SETS["COCO"]}
    table, places = table_of_labels([coco.get(id_, "N/A") for id_ in range(250)])
    assert len(table.classes) == 133
    assert [table.classes[place].id for place in places if place >= 0] == list(coco)
    assert places[0] == -1
    # The first of several names, as people write it, and fewer classes than the dataset has.
    table, places = table_of_labels([entry.name.upper() for entry in SETS["COCO"]][:80])
    assert (len(table.classes), table.classes[79].id, table.ids("stuff")) == (80, 90, ())
    synonyms = [f"{entry.name}, and so on" for entry in SETS["ADE20K"]]
    assert table_of_labels(synonyms)[0].name == "ADE20K"
    own, places = table_of_labels(["weed", "weed", "sky", "crop"])
    assert [(entry.id, entry.name, entry.kind) for entry in own.classes] == [
        (1, "weed", "thing"),
        (2, "weed (2)", "thing"),
        (3, "sky", "stuff"),
        (4, "crop", "thing"),
    ]
    assert len(table_of_labels(["LABEL_0", "LABEL_1"])[0].classes) == 2


def test_a_card_holds_the_whole_network(folders):
    config = load_card(folders["oneformer"]).model
    assert config_from_json(json.loads(json.dumps(to_json(config)))) == config
    assert config.fitted(things=config.things, stuff=config.stuff, classes=99) == config
    for values in (
        {"things": -1},
        {"things": 250},
        {"labels": (133,)},
        {"score": 2.0},
        {"architecture": "[]"},
        {"architecture": '{"a": NaN}'},
        {"task_tokens": (-1,)},
        {"min_side": 9, "max_side": 8},
    ):
        with pytest.raises(ConfigError):
            HubNetworkConfig(**values)


# Datasets


def test_a_checkpoint_of_coco_is_scored_on_coco(data, tmp_path, capsys):
    """Its 133 labels are matched by name; a dataset may lack some."""
    coco = {entry.name: entry.id for entry in SETS["COCO"]}
    names = ("sports ball", "suitcase", "frisbee", "potted plant", "donut", "kite")
    names += ("sky-other-merged", "grass-merged", "water-other", "wall-brick")
    ids = {
        entry.id: coco[name]
        for entry, name in zip(SIMULATED_PHOTOGRAPHS.classes, names, strict=True)
    }
    by_id = {id_: name for name, id_ in coco.items()}
    for file in (data / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for row in content["categories"]:
            row["id"] = ids[row["id"]]
            row["name"] = by_id[row["id"]]
        for row in content["annotations"]:
            for segment in row.get("segments_info", [row]):
                segment["category_id"] = ids[segment["category_id"]]
        other = tmp_path / "coco" / "annotations" / file.name
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(json.dumps(content))
    for folder in ("train", "val", "annotations/panoptic_train", "annotations/panoptic_val"):
        (tmp_path / "coco" / folder).symlink_to(data / folder)
    folder = save_checkpoint(tmp_path / "hub", "eomt", tuple(coco))
    words = ["--weights", str(folder), "--data", str(tmp_path / "coco"), "--workers", "0"]
    assert main(["test", *words, "--out", str(tmp_path / "out"), "--pictures", "0"]) == 0
    assert "PQ 0.0" in capsys.readouterr().out
    wrong = ["--weights", str(folder), "--data", str(data), "--out", str(tmp_path / "no")]
    assert main(["test", *wrong]) == 2
    assert "has other classes than the 133 of COCO" in capsys.readouterr().err
    figure = tmp_path / "figure.png"
    show = ["show", str(folder), "--data", str(tmp_path / "coco"), "--patch", "000000000001"]
    assert main([*show, "--out", str(figure)]) == 0
    assert figure.stat().st_size > 1000


@pytest.fixture
def plain(monkeypatch):
    """Trainings draw no figures."""
    for name in ("draw_curves", "draw_predictions", "draw_scores"):
        monkeypatch.setattr(runs, name, lambda *_: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_trains_and_resumes_exactly(
    family, folders, data, tmp_path, plain, monkeypatch
):
    config = replace(
        fine_tuning(folders[family]),
        epochs=2,
        max_validation_patches=1,
        max_steps_per_epoch=2,
        accelerator="cpu",
        workers=0,
        log_every=1,
        checkpoint_minutes=0,
    )
    whole = runs.start("mine", config, data, 1, tmp_path / "whole")
    state = load_checkpoint(tmp_path / "whole" / "last.ckpt").model
    first = {name: value.clone() for name, value in load_weights(folders[family]).state.items()}
    assert any(not torch.equal(state[f"model.{name}"], first[name]) for name in first)

    descend, steps = Training._descend, iter(range(3))

    def interrupted(*arguments):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return descend(*arguments)

    monkeypatch.setattr(Training, "_descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.start("mine", config, data, 1, tmp_path / "killed")
    monkeypatch.setattr(Training, "_descend", descend)
    resumed = resume(tmp_path / "killed")
    again = load_checkpoint(tmp_path / "killed" / "last.ckpt").model
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert resumed.scores.summary() == whole.scores.summary()
    # What was trained is a folder of weights like any other, in memory once.
    weights = load_weights(tmp_path / "whole" / "weights")
    assert weights.card.classes.same_classes(SIMULATED_PHOTOGRAPHS)
    assert weights.card.provenance["started_from"] == str(folders[family].resolve())
    network = weights.network()
    memory = {name: value.data_ptr() for name, value in network.state_dict().items()}
    assert memory == {name: value.data_ptr() for name, value in weights.state.items()}


def test_a_network_is_fine_tuned_under_any_name(data, tmp_path, plain, capsys):
    """Classes of the same name keep their scores; the others are drawn."""
    folder = save_checkpoint(tmp_path / "hub", "mask2former", ("sky", "cow", "ball"))
    out = tmp_path / "run"
    words = ["train", "my-photos", "--model", str(folder), "--data", str(data), "--workers", "0"]
    words += ["--steps", "1", "--accelerator", "cpu", "--model.score", "0.3"]
    assert main([*words, "--out", str(out), "--optimiser.learning-rate", "1e-12"]) == 0
    assert "2 of 10 classes have the scores of a class of their name" in capsys.readouterr().out
    weights, given = load_weights(out / "weights"), load_file(folder / "model.safetensors")
    assert weights.card.model.score == 0.3
    own, rows = weights.state["network.class_predictor.weight"], given["class_predictor.weight"]
    for name, row in (("sky", 0), ("ball", 2), ("none", 3)):
        place = [*NAMES, "none"].index(name)
        torch.testing.assert_close(own[place], rows[row], atol=1e-6, rtol=0)
    assert not torch.allclose(own[NAMES.index("crate")], rows[1], atol=1e-4)
    result = panoseg.train(
        "again", data, tmp_path / "again", model=out, steps=1, accelerator="cpu", workers=0
    )
    assert result.best_epoch == 1
    assert main(["train", "coco-pspnet-r50", *words[2:], "--out", str(tmp_path / "no")]) == 2
    assert "is an experiment with a network of its own" in capsys.readouterr().err
    assert main(["train", "mine", "--model", str(tmp_path), "--data", ".", "--out", "x"]) == 2
    assert "card.json: No such file" in capsys.readouterr().err


def test_losses_know_things_and_stuff(folders):
    """Things one by one, stuff once a class; void pixels in no mask; a photograph without segments
    is left out.
    """
    network = Model.load(save := folders["mask2former"]).network
    assert save.exists()
    table = ClassTable(
        "four",
        tuple(
            SegmentClass(id_, name, "#808080", kind)
            for id_, name, kind in (
                (2, "ball", "thing"),
                (3, "grass", "stuff"),
                (7, "kite", "thing"),
                (9, "sky", "stuff"),
            )
        ),
    )
    network.config = network.config.fitted(things=2, stuff=2)
    network.prepare(table)
    one = photograph(64, 64)
    labels, masks = network._truth(one, network._seen(one.image_CHW))
    assert labels.tolist() == [0, 2, 1, 3]
    assert not masks[:, -4:].any()
    assert (masks.sum(0) <= 1).all()
    empty = replace(
        one,
        classes_HW=torch.full((64, 64), -1),
        objects=one.objects.of_masks(
            torch.zeros(0, 64, 64, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
        ),
    )
    network.eval()
    torch.manual_seed(0)
    alone = network.losses(PhotographBatch((one,)))["loss"]
    torch.manual_seed(0)
    assert network.losses(PhotographBatch((empty, one)))["loss"] == alone
    nothing = network.losses(PhotographBatch((empty,)))["loss"]
    nothing.backward()
    assert nothing.item() == 0


def test_the_application_segments_with_it(folders, scene, tmp_path):
    """The stage behind its page of photographs, with the weights that the page names."""
    settings = AppSettings(tmp_path / "app", photo_weights=(folders["mask2former"],))
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "photo.png").write_bytes(scene.read_bytes())
    lines: list[str] = []
    job = SimpleNamespace(
        folder=tmp_path,
        settings=settings,
        request=SimpleNamespace(weights="mask2former", name="scene.png"),
        write=lines.append,
    )
    stages._segment(job)
    assert (tmp_path / "photo" / "panoptic.json").stat().st_size > 100
    assert lines[0].startswith("segmented in")
