"""Folders of Crop2Seg: golden weights in their form load exactly, ignored options too; damaged and
foreign ones are refused.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.data.samples import Normalisation
from panoseg.errors import WeightsError
from panoseg.models.configs.season import NaiveUnetConfig, TimeUnetConfig, UtaeConfig, WtaeConfig
from panoseg.models.network import build_network
from panoseg.models.published import crop2seg_config, import_crop2seg
from panoseg.models.weights import load_weights, save_weights

DEFAULTS = {
    "model": "utae",
    "encoder_widths": [64, 64, 64, 128],
    "decoder_widths": [32, 32, 64, 128],
    "out_conv": [32, 15],
    "str_conv_k": 4,
    "str_conv_s": 2,
    "str_conv_p": 1,
    "agg_mode": "att_group",
    "encoder_norm": "group",
    "n_head": 16,
    "d_model": 256,
    "d_k": 4,
    "input_dim": 10,
    "num_queries": 1,
    "temporal_dropout": 0.0,
    "add_linear": False,
    "add_boundary_loss": False,
    "dataset": "s2tsczcrop",
    "mono_date": None,
    "ref_date": "2018-09-01",
    "fold": 1,
    "num_classes": 15,
    "ignore_index": -1,
    "pad_value": 0,
    "padding_mode": "reflect",
    "conv_type": "2d",
    "use_mbconv": False,
    "add_squeeze": False,
    "use_doy": False,
    "add_ndvi": False,
    "use_abs_rel_enc": False,
    "seg_model": "unet",
    "temp_model": "ltae",
    "max_temp": None,
}
"""What the program writes where nothing was asked for."""
ASKED = {
    "timeunet_abs_rel_and_doy": {"model": "timeunet", "use_abs_rel_enc": True, "use_doy": True},
    "timeunet_mbconv_option": {"model": "timeunet", "use_mbconv": True, "agg_mode": "mean"},
    "timeunet_boundary_option": {"model": "timeunet", "add_boundary_loss": True},
    "wtae_abs_rel_and_doy": {"model": "wtae", "use_abs_rel_enc": True, "use_doy": True},
    "wtae_boundary": {"model": "wtae", "add_boundary_loss": True},
    "seg_model_unet_temp_model_ltae": {
        "model": "wtae",
        "seg_model": "unet3d",
        "temp_model": "lstm",
    },
    "utae_doy_linear": {"use_doy": True, "add_linear": True},
    "utae_mbconv_20_classes_squeeze": {
        "use_mbconv": True,
        "add_squeeze": True,
        "num_classes": 20,
        "out_conv": [32, 20],
    },
    "unet_naive_max_temp6": {"model": "unet_naive", "max_temp": 6},
}


def crop2seg_folder(path: Path, state: dict, **options) -> Path:
    path.mkdir(parents=True)
    (path / "conf.json").write_text(json.dumps({**DEFAULTS, **options}))
    torch.save(
        {"best_mIoU": 50.0, "epoch": 3, "state_dict": state, "optimizer": {"state": {}}},
        path / "model.pth.tar",
    )
    return path


def refused(folder: Path, table=S2TSCZCROP) -> str:
    """Importing ends in one line, which says what to do after what is wrong; return it."""
    with pytest.raises(WeightsError) as caught:
        import_crop2seg(folder, table)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"[.:] [Gg]ive the |\. Use weights of this network, or the options", message)
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("case", ASKED)
def test_their_weights_give_their_scores(golden, golden_state, tmp_path, case):
    folder = golden / "crop2seg"
    table = PASTIS if ASKED[case].get("num_classes") == 20 or "naive" in case else S2TSCZCROP
    state = golden_state(folder / f"{case}.params.json")
    weights = import_crop2seg(
        crop2seg_folder(tmp_path / "theirs", state, **ASKED[case]), table, trained_on="Czechia 2019"
    )
    save_weights(tmp_path / "ours", weights)
    loaded = load_weights(tmp_path / "ours")
    assert (loaded.card.trained_on, loaded.card.classes) == ("Czechia 2019", table)
    assert loaded.card.provenance["options"]["seg_model"] == ASKED[case].get("seg_model", "unet")
    with (
        np.load(folder / "inputs.npz") as inputs,
        np.load(folder / f"{case}.npz") as arrays,
        torch.no_grad(),
    ):
        images, days = (
            torch.from_numpy(inputs["padded_x"]),
            torch.from_numpy(inputs["padded_relative"]),
        )
        found = loaded.network()(images, days, (images != 0).flatten(2).any(2)).logits_BKHW
        assert np.abs(found.numpy() - arrays["y"]).max() < 1e-4


def test_results_and_normalisation_may_be_given(golden, golden_state, tmp_path):
    """The results folder of a training holds Fold_1; a network with NDVI has one channel more than
    bands.
    """
    state = golden_state(golden / "crop2seg" / "timeunet.params.json")
    crop2seg_folder(tmp_path / "results" / "Fold_1", state, model="timeunet")
    normalisation = Normalisation((1.0,) * 10, (2.0,) * 10)
    card = import_crop2seg(tmp_path / "results", S2TSCZCROP, normalisation).card
    assert card.normalisation == normalisation
    assert card.provenance["imported_from"] == "Fold_1/model.pth.tar"
    state["in_conv.conv.conv.0.weight"] = torch.zeros(64, 11, 3, 3)
    folder = crop2seg_folder(
        tmp_path / "ndvi", state, model="timeunet", input_dim=11, add_ndvi=True
    )
    assert (
        import_crop2seg(
            folder, S2TSCZCROP, Normalisation((1.0,) * 10, (2.0,) * 10, ndvi=True)
        ).card.model.bands
        == 11
    )


def test_several_queries_load(golden, golden_state, tmp_path):
    state = golden_state(golden / "crop2seg" / "wtae_agg_mean_num_queries4.params.json")
    weights = import_crop2seg(
        crop2seg_folder(tmp_path / "theirs", state, model="wtae", num_queries=4), S2TSCZCROP
    )
    assert weights.state["temporal_encoder.attention_heads.Q"].shape == (16, 4, 4)
    assert weights.card.model == WtaeConfig(classes=15, queries=4)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, UtaeConfig(classes=15)),
        ({"use_doy": True}, UtaeConfig(classes=15, dates="day_of_year")),
        ({"use_abs_rel_enc": True}, UtaeConfig(classes=15, dates="both")),
        (
            {"use_abs_rel_enc": True, "use_doy": True},
            UtaeConfig(classes=15, dates="both", relative_as_day_of_year=True),
        ),
        (
            {"use_abs_rel_enc": True, "use_doy": True, "add_linear": True},
            UtaeConfig(classes=15, dates="both", linear_dates=True),
        ),
        (
            {"model": "wtae", "use_abs_rel_enc": True, "use_doy": True},
            WtaeConfig(classes=15, dates="both"),
        ),
        (
            {"agg_mode": "att_mean", "encoder_norm": "batch"},
            UtaeConfig(classes=15, aggregation="att_mean", encoder_norm="batch"),
        ),
        (
            {"conv_type": "depthwise_separable", "add_squeeze": True},
            UtaeConfig(classes=15, convolution="depthwise_separable", squeeze=True),
        ),
        ({"use_mbconv": True, "add_squeeze": True}, UtaeConfig(classes=15, mbconv=True)),
        ({"add_boundary": True, "add_boundary_loss": True}, UtaeConfig(classes=15, boundary=True)),
        (
            {"model": "timeunet", "add_squeeze": True, "use_mbconv": True},
            TimeUnetConfig(classes=15, squeeze=True),
        ),
        (
            {"model": "timeunet", "ref_date": "2020-09-01"},
            TimeUnetConfig(classes=15, reference_date="2020-09-01"),
        ),
        (
            {
                "encoder_widths": "[32,64]",
                "decoder_widths": "[16,64]",
                "out_conv": "[8, 9]",
                "n_head": 8,
                "d_model": 64,
                "d_k": 2,
            },
            UtaeConfig(
                classes=9,
                encoder_widths=(32, 64),
                decoder_widths=(16, 64),
                head_widths=(8,),
                heads=8,
                d_model=64,
                key_width=2,
            ),
        ),
        (
            {"model": "unet_naive", "max_temp": 61, "add_squeeze": True},
            NaiveUnetConfig(squeeze=True),
        ),
    ],
)
def test_each_option_of_theirs_has_its_counterpart(options, config):
    assert crop2seg_config({**DEFAULTS, **options}) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "convnext"}, "the network is 'convnext'.*wtae, timeunet, unet_naive"),
        ({"model": "unet_naive"}, "max_temp is not given"),
        ({"padding_mode": "zeros"}, "padding_mode is 'zeros', and only 'reflect'"),
        ({"conv_type": "3d"}, "convolution must be one of .* not '3d'"),
        ({"out_conv": "[32, x]"}, "conf.json"),
        ({"n_head": None}, "conf.json"),
        ({"n_head": 7}, "heads must divide .* 7 heads"),
        ({"out_conv": [32, 20]}, "has 20 classes, but S2TSCzCrop has 15"),
    ],
)
def test_options_without_a_counterpart_are_refused(tmp_path, options, words):
    assert re.search(words, refused(crop2seg_folder(tmp_path / "theirs", {}, **options)))


def test_every_mismatch_is_listed(tmp_path):
    state = build_network(TimeUnetConfig(classes=15)).state_dict()
    state["in_conv.conv.conv.0.weight"] = torch.zeros(64, 4, 3, 3)
    state["extra"] = torch.zeros(1)
    message = refused(crop2seg_folder(tmp_path / "theirs", state, model="timeunet", use_doy=True))
    assert (
        "2 missing (temporal_encoder.date_encoder.day_of_year.fc.weight,"
        " temporal_encoder.date_encoder.day_of_year.fc.bias" in message
    )
    assert "1 unexpected (extra)" in message
    assert (
        "1 of another shape (in_conv.conv.conv.0.weight is (64, 4, 3, 3), not (64, 10, 3, 3))"
        in message
    )


class Code:
    """Pickles into a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = crop2seg_folder(tmp_path / "theirs", {}, model="timeunet")
    (folder / "model.pth.tar").write_bytes(pickle.dumps({"state_dict": Code()}))
    assert "more than numbers" in refused(folder)
    assert not (tmp_path / "hacked").exists()


def test_missing_files_are_named(tmp_path):
    assert "conf.json: No such file" in refused(tmp_path)
    folder = crop2seg_folder(tmp_path / "theirs", {})
    (folder / "model.pth.tar").unlink()
    assert "model.pth.tar: No such file" in refused(folder)
