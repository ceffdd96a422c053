"""The authors' folders: golden weights in their form load exactly; hostile, damaged, foreign ones
are refused in one line.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.cli import main
from panoseg.data.samples import Normalisation
from panoseg.errors import WeightsError
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
)
from panoseg.models.network import build_network
from panoseg.models.published import import_crop2seg, import_published, model_config
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.training.evaluate import find_weights
from small_networks import AUTHORS_CONFIG, AUTHORS_OPTIONS, authors_folder
from small_pastis import write_small_pastis

NORMALISATION = Normalisation((1.0,) * 10, (2.0,) * 10)
PANOPTIC = {
    "shape_size": 16,
    "mask_conv": True,
    "backbone": "utae",
    "encoder_widths": [64, 64, 64, 128],
    "decoder_widths": [32, 32, 64, 128],
    "out_conv": [32, 20],
    "str_conv_k": 4,
    "str_conv_s": 2,
    "str_conv_p": 1,
    "agg_mode": "att_group",
    "encoder_norm": "group",
    "n_head": 16,
    "d_model": 256,
    "d_k": 4,
    "ref_date": "2018-09-01",
    "num_classes": 20,
    "pad_value": 0,
    "padding_mode": "reflect",
    "min_confidence": 0.2,
    "min_remain": 0.5,
    "mask_threshold": 0.4,
}
SEMANTIC = {
    "encoder_widths": [64, 64, 64, 128],
    "decoder_widths": [32, 32, 64, 128],
    "out_conv": [32, 20],
    "str_conv_k": 4,
    "agg_mode": "att_group",
    "ref_date": "2018-09-01",
    "num_classes": 20,
    "pad_value": 0,
    "padding_mode": "reflect",
    "mono_date": None,
}


TRY_ANOTHER_FOLDER = "Give the authors' folder"
USE_OTHER_WEIGHTS = "Use weights of this network, or the options they were trained with"


def refused(folder: Path, *words: str, fold: int = 1, advice: str = TRY_ANOTHER_FOLDER) -> None:
    """Importing ends in one line that holds all the words, and then says what to do."""
    with pytest.raises(WeightsError) as caught:
        import_published(folder, fold, NORMALISATION)
    message = str(caught.value)
    assert "\n" not in message
    wrong, _, rest = message.partition(advice)
    assert rest.endswith("."), message
    assert [word for word in words if word not in wrong] == [], message


def test_panoptic_weights_load_by_name(golden, golden_state, tmp_path):
    """Golden weights in the authors' form, the threshold in double precision as tuning left it,
    give the golden heat map.
    """
    case = golden / "utae-paps" / "paps"
    overrides = json.loads((golden / "utae-paps" / "cases.json").read_text())["paps"]["overrides"]
    state = golden_state(case.with_suffix(".params.json"), overrides)
    state["min_confidence"] = torch.tensor([0.25], dtype=torch.float64)
    weights = import_published(
        authors_folder(tmp_path / "authors", PANOPTIC, state, fold=4), 4, NORMALISATION
    )
    assert weights.card.model == PapsConfig()
    assert weights.card.trained_on == "PASTIS, fold 4"
    save_weights(tmp_path / "ours", weights)
    model = load_weights(tmp_path / "ours").network()
    assert model.min_confidence.dtype == torch.float32
    assert model.min_confidence.item() == 0.25
    with np.load(case.with_suffix(".npz")) as arrays, torch.no_grad():
        images = torch.from_numpy(arrays["x"])
        output = model(images, torch.from_numpy(arrays["dates"]), (images != 0).flatten(2).any(2))
        assert np.abs(output.heatmap_BHW.numpy() - arrays["heatmap"][:, 0]).max() < 1e-4


@pytest.mark.parametrize(
    ("model", "case", "expected"),
    [
        ("utae", "utae_att_group", UtaeConfig()),
        ("unet3d", "unet3d", UNet3dConfig()),
        ("fpn", "fpn", FpnConfig()),
        ("convlstm", "convlstm", ConvRnnConfig()),
        ("convgru", "convgru", ConvRnnConfig(cell="gru", hidden=180)),
        ("uconvlstm", "uconvlstm", UConvLstmConfig()),
        ("buconvlstm", "buconvlstm_as_released", UConvLstmConfig(hidden=30)),
        ("buconvlstm", "buconvlstm_bidirectional", UConvLstmConfig(hidden=30, directions=2)),
    ],
)
def test_every_semantic_network_loads_and_gives_the_published_scores(
    golden, golden_state, tmp_path, model, case, expected
):
    path = golden / "utae-paps" / case
    state = golden_state(path.with_suffix(".params.json"))
    folder = authors_folder(tmp_path, {**SEMANTIC, "model": model}, state, fold=2)
    weights = import_published(folder, 2, NORMALISATION)
    assert weights.card.model == expected
    with np.load(path.with_suffix(".npz")) as arrays, torch.no_grad():
        images = torch.from_numpy(arrays["x"])
        found = weights.network()(
            images, torch.from_numpy(arrays["dates"]), (images != 0).flatten(2).any(2)
        ).logits_BKHW
        assert np.abs(found.numpy() - arrays["y"]).max() < 1e-4


def test_panoptic_weights_on_uconvlstm_load(golden, golden_state, tmp_path):
    state = golden_state(golden / "utae-paps" / "paps_uconvlstm.params.json")
    folder = authors_folder(tmp_path, {**PANOPTIC, "backbone": "uconvlstm"}, state)
    assert import_published(folder, 1, NORMALISATION).card.model == PapsConfig(
        backbone=UConvLstmConfig()
    )


def test_crop2seg_has_the_same_baselines(golden, golden_state, tmp_path):
    options = {
        "model": "unet3d",
        "num_classes": 15,
        "input_dim": 10,
        "padding_mode": "reflect",
        "pad_value": 0,
    }
    state = golden_state(golden / "crop2seg" / "unet3d.params.json")
    (tmp_path / "conf.json").write_text(json.dumps(options))
    torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    assert import_crop2seg(tmp_path, S2TSCZCROP).card.model == UNet3dConfig(classes=15)


def test_semantic_weights_load_and_text_widths_are_read(tmp_path):
    state = build_network(AUTHORS_CONFIG).state_dict()
    weights = import_published(
        authors_folder(tmp_path, {**AUTHORS_OPTIONS, "ref_date": "2019-09-01"}, state),
        1,
        NORMALISATION,
    )
    assert weights.card.model == replace(AUTHORS_CONFIG, reference_date="2019-09-01")
    assert weights.card.reference_date == "2019-09-01"
    assert weights.card.provenance["options"]["n_head"] == 4
    assert all(torch.equal(value, state[name]) for name, value in weights.state.items())


@pytest.mark.parametrize(
    ("option", "value", "name", "expected"),
    [
        ("agg_mode", "mean", "aggregation", "mean"),
        ("encoder_norm", "batch", "encoder_norm", "batch"),
        ("n_head", 8, "heads", 8),
        ("d_model", 128, "d_model", 128),
        ("d_k", 8, "key_width", 8),
        ("out_conv", [32, 16, 15], "head_widths", (32, 16)),
    ],
)
def test_each_option_of_the_backbone_is_read(option, value, name, expected):
    assert getattr(model_config({**PANOPTIC, option: value}).backbone, name) == expected


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("shape_size", 24, "shape_size"),
        ("mask_conv", False, "mask_convolution"),
        ("min_confidence", 0.3, "min_confidence"),
        ("min_remain", 0.6, "min_remain"),
        ("mask_threshold", 0.3, "mask_threshold"),
    ],
)
def test_each_option_of_the_head_is_read(option, value, name):
    assert getattr(model_config({**PANOPTIC, option: value}), name) == value


@pytest.mark.parametrize("model", ["unet3d", "fpn", "convlstm", "convgru"])
def test_the_number_of_classes_is_read(model):
    assert model_config({"model": model, "num_classes": 7}, bands=4).classes == 7
    assert model_config({"model": model, "num_classes": 7}, bands=4).bands == 4


@pytest.mark.parametrize("model", ["uconvlstm", "buconvlstm"])
def test_uconvlstm_is_built_in_one_way_with_any_options(model):
    options = {
        "model": model,
        "num_classes": 7,
        "out_conv": [8, 7],
        "padding_mode": "reflect",
        "str_conv_k": 2,
    }
    assert model_config(options).classes == 20
    assert model_config(options).head_widths == (32,)


def test_a_network_with_the_options_of_another_is_refused_with_its_entries(
    golden, golden_state, tmp_path
):
    state = golden_state(golden / "utae-paps" / "convgru.params.json")
    refused(
        authors_folder(tmp_path, {**SEMANTIC, "model": "convlstm"}, state),
        "2 missing (convlstm_encoder.cell_list.0.conv.weight",
        "4 unexpected (convgru_encoder.cell_list.0.in_conv.weight",
        "1 of another shape (classification_layer.weight is (20, 180, 3, 3), not (20, 160, 3, 3))",
        advice=USE_OTHER_WEIGHTS,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"backbone": "unet3d"},
            "the network is 'unet3d', and only utae, uconvlstm can be imported",
        ),
        ({"backbone": []}, "conf.json"),
        (
            {"str_conv_k": 2, "str_conv_s": 4, "pad_value": 1},
            "pad_value is 1, and only 0; str_conv_k is 2, and only 4; str_conv_s",
        ),
        ({"str_conv_k": 2}, "str_conv_k is 2, and only 4"),
        ({"padding_mode": "zeros"}, "padding_mode is 'zeros'"),
        (
            {"agg_mode": "median"},
            "aggregation must be one of att_group, att_mean, mean, not 'median'",
        ),
        ({"encoder_widths": "wide"}, "wide"),
        ({"n_head": None}, "conf.json"),
        ({"n_head": float("inf")}, "conf.json"),
        ({"encoder_widths": [64, 64, 64, 10**12]}, "at most 4096"),
    ],
)
def test_options_without_a_counterpart_are_named(tmp_path, options, words):
    refused(authors_folder(tmp_path, {**PANOPTIC, **options}, {}), words)


def test_a_real_checkpoint_of_another_network_is_refused_with_its_entries(real_data):
    refused(
        real_data / "ltae-weights",
        "148 missing (in_conv.conv.conv.0.weight",
        "43 unexpected (spatial_encoder.mlp1.0.lin.weight",
        advice=USE_OTHER_WEIGHTS,
    )


def test_weights_that_do_not_fit_their_options_are_refused(tmp_path):
    state = build_network(AUTHORS_CONFIG).state_dict()
    refused(
        authors_folder(tmp_path, {**AUTHORS_OPTIONS, "d_k": 4}, state),
        "temporal_encoder.attention_heads.Q is (4, 2), not (4, 4)",
        advice=USE_OTHER_WEIGHTS,
    )


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
    folder = authors_folder(tmp_path / "authors", PANOPTIC, {})
    path, mark = folder / "Fold_1" / "model.pth.tar", tmp_path / "ran"
    if zipped:
        torch.save({"state_dict": {"in_conv": Hostile(mark)}}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Hostile(mark)}))
    refused(folder, "damaged or holds more than numbers")
    assert not mark.exists()


def test_missing_and_damaged_files_are_named(tmp_path):
    refused(tmp_path / "nowhere", "conf.json: No such file")
    folder = authors_folder(
        tmp_path / "authors", AUTHORS_OPTIONS, build_network(AUTHORS_CONFIG).state_dict()
    )
    refused(folder, "Fold_2/model.pth.tar: No such file", fold=2)
    path = folder / "Fold_1" / "model.pth.tar"
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        refused(folder, "model.pth.tar is damaged")
    torch.save({"weights": 3}, path)
    refused(folder, "no table of tensors named state_dict")
    torch.save({"state_dict": {"in_conv": "text"}}, path)
    refused(folder, "no table of tensors named state_dict")
    (folder / "conf.json").write_text("{")
    refused(folder, "is not JSON")
    (folder / "conf.json").write_text("[]")
    refused(folder, "holds a list")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_left_out(tmp_path, prefix):
    state = build_network(AUTHORS_CONFIG).state_dict()
    wrapped = {prefix + name: value for name, value in state.items()}
    read = import_published(authors_folder(tmp_path, AUTHORS_OPTIONS, wrapped), 1)
    assert list(read.state) == list(state)


def test_a_bare_state_and_options_with_a_mark_of_their_encoding_are_read(tmp_path):
    state = build_network(AUTHORS_CONFIG).state_dict()
    folder = authors_folder(tmp_path, AUTHORS_OPTIONS, state)
    torch.save(state, folder / "Fold_1" / "model.pth.tar")
    options = folder / "conf.json"
    options.write_text(options.read_text(), encoding="utf-8-sig")
    assert list(import_published(folder, 1).state) == list(state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.to("meta"), "without values"),
        (lambda value: value.to_sparse(), "layout sparse_coo"),
        (lambda value: value.to(torch.complex64), "complex numbers"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "quantised"),
        (lambda value: torch.zeros(1).expand(value.shape), "fewer numbers in the file"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path, capsys, change, words):
    state = build_network(AUTHORS_CONFIG).state_dict()
    name = next(name for name, value in state.items() if value.dim() > 1)
    state[name] = change(state[name])
    folder = authors_folder(tmp_path / "authors", AUTHORS_OPTIONS, state)
    assert main(["weights", "import", str(folder), str(tmp_path / "out"), "--fold", "1"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    state = build_network(AUTHORS_CONFIG).state_dict()
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name] = torch.full_like(state[name], torch.nan)
    folder = authors_folder(tmp_path / "authors", AUTHORS_OPTIONS, state)
    said = f"NaN or infinite in 1 of {len(state)} entries ({name})"
    refused(folder, said, advice="Use weights of an earlier epoch")
    card = WeightsCard(AUTHORS_CONFIG, NORMALISATION, PASTIS)
    save_weights(tmp_path / "ours", Weights(card, state))
    with pytest.raises(WeightsError, match="NaN or infinite in 1"):
        load_weights(tmp_path / "ours")


def test_the_only_fold_of_an_authors_folder_is_taken(tmp_path, capsys):
    state = build_network(AUTHORS_CONFIG).state_dict()
    folder = authors_folder(tmp_path / "W", AUTHORS_OPTIONS, state, fold=3)
    for fold in (1, 2, 4, 5):  # the published program makes them all
        (folder / f"Fold_{fold}").mkdir()
    assert main(["weights", "import", str(folder), str(tmp_path / "out")]) == 0
    assert load_weights(tmp_path / "out").card.trained_on == "PASTIS, fold 3"
    assert main(["weights", "import", str(folder), str(tmp_path / "two"), "--fold", "2"]) == 2
    assert "has weights of fold 3 alone, not of fold 2; pass --fold 3" in capsys.readouterr().err
    shutil.copy(folder / "Fold_3" / "model.pth.tar", folder / "Fold_1")
    assert main(["weights", "import", str(folder), str(tmp_path / "some")]) == 2
    assert "has weights of folds 1, 3 alone; pass --fold 1 or another" in capsys.readouterr().err
    data = write_small_pastis(tmp_path / "data", dict.fromkeys(range(1, 6), (20181001,)))
    (folder / "Fold_1" / "model.pth.tar").unlink()
    [found] = find_weights(folder, data, None, every_patch=False)
    assert (found.fold, found.parts) == (3, (2,))


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    return authors_folder(
        tmp_path_factory.mktemp("authors"),
        AUTHORS_OPTIONS,
        build_network(AUTHORS_CONFIG).state_dict(),
    )


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_ends_in_anything_but_one_line(small_folder, data):
    """Bytes changed in either file: it loads, or it is refused in one line."""
    path = small_folder / data.draw(st.sampled_from(["conf.json", "Fold_1/model.pth.tar"]))
    content = path.read_bytes()
    changed = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        changed[position] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(changed)
        import_published(small_folder, 1, NORMALISATION)
    except WeightsError as error:
        assert "\n" not in str(error)  # noqa: PT017 (loading may also succeed)
    finally:
        path.write_bytes(content)
