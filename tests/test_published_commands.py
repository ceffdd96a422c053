"""docs/published.md names every flag of the published programs, and no option that does not exist
here.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from panoseg.cli import training
from panoseg.cli.training import option_words
from panoseg.training import TrainConfig
from panoseg.training.experiments import EXPERIMENTS

TEXT = (Path(__file__).parents[1] / "docs" / "published.md").read_text(encoding="utf-8")

UTAE = (
    "encoder_widths decoder_widths out_conv str_conv_k str_conv_s str_conv_p agg_mode encoder_norm"
    " n_head d_model d_k"
)
SETUP = (
    "dataset_folder res_dir rdm_seed device display_step cache epochs batch_size lr mono_date"
    " ref_date fold num_classes"
)
COMMON = f"{UTAE} {SETUP} pad_value padding_mode val_every val_after"
PAPS = (
    "shape_size no_mask_conv backbone l_center l_size l_shape l_class beta no_autotune no_supmax"
    " warmup val_metrics_only min_remain mask_threshold min_confidence void_label background_label"
)
CROP2SEG = (
    "input_dim num_queries temporal_dropout augment add_linear add_boundary get_affine dataset test"
    " test_region finetune norm_values_folder weight_folder conv_type use_mbconv add_squeeze"
    " use_doy add_ndvi use_abs_rel_enc seg_model temp_model"
)
FLAGS = {
    "train_semantic.py": f"model {COMMON} num_workers ignore_index",
    "train_panoptic.py": f"{COMMON} num_workers {PAPS}",
    "test_semantic.py": "weight_folder dataset_folder res_dir num_workers fold device display_step",
    "train.py": f"model {COMMON} ignore_index {CROP2SEG}",
}


@pytest.mark.parametrize("program", FLAGS)
def test_every_published_flag_is_named(program):
    missing = [flag for flag in FLAGS[program].split() if not re.search(rf"`--{flag}\b", TEXT)]
    assert not missing
    assert program in TEXT


def test_every_experiment_is_named():
    published = [
        name
        for name, entry in EXPERIMENTS.items()
        if not name.startswith("simulated") and entry.config.model.inputs == "season"
    ]
    missing = [name for name in published if not re.search(rf"\b{name}`", TEXT)]
    assert not missing


def known_options() -> set[str]:
    """All options of train, for any experiment, and of test, each as its flag and as its
    opposite.
    """
    found = {
        "--data",
        "--out",
        "--fold",
        "--resume",
        "--single-date",
        "--start-from",
        "--data.single-date",
    }
    for entry in EXPERIMENTS.values():
        found |= {words[0] for words in option_words(entry.config)}
    found |= {words[0] for words in option_words(TrainConfig())}
    scoring = {entry.name for entry in fields(training.ScoringOptions)}
    found |= {
        f"--{name.replace('_', '-')}"
        for name in {*inspect.signature(training.score).parameters, *scoring} - {"options"}
    }
    found |= {re.sub(r"(^--|\.)no-", r"\1", option) for option in found}
    return found | {re.sub(r"(^--|\.)([\w-]+)$", r"\1no-\2", option) for option in found}


def test_no_option_is_invented():
    """Every option in a right column, and in the text below the tables, is one of the command
    line.
    """
    ours = {
        word
        for row in re.findall(r"^\|(.*)\|$", TEXT, re.M)
        for word in options(row.split(" | ")[-1])
    }
    ours |= {word for word in options(TEXT[TEXT.index("## What differs") :]) if "_" not in word}
    assert len(ours) > 40
    assert sorted(ours - known_options()) == []


def options(text: str) -> list[str]:
    return re.findall(r"--[a-z][\w.-]*[a-z]", text)
