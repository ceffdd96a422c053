"""Every named experiment: one entry each. A new row is a new entry, nothing else.

Settings: VSainteuf/utae-paps @ 987874e, train_semantic.py and train_panoptic.py; Many98/Crop2Seg,
train.py (defaults: 25 epochs, the rest as train_semantic.py). Scores: utae-paps, README.md;
Crop2Seg, data/inference/timeunet_v1_base. Tables 1 and 2 are those of Garnot and Landrieu 2021
(arXiv 2107.07933). A score that none of these states is left out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from panoseg.data import AugmentationConfig, DataConfig, PhotographConfig
from panoseg.errors import ConfigError
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.base import PapsLossConfig
from panoseg.models.configs.parcels import CompositesConfig, FieldsConfig, PapsConfig
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig, PspNetConfig
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)
from panoseg.training import OptimiserConfig, TrainConfig


@dataclass(frozen=True)
class Experiment:
    """A training with a name."""

    config: TrainConfig
    """All options of the training."""
    data: str
    """The dataset that it is meant for."""
    published: str
    """The published score; empty where none is known."""
    source: str
    """Its source, with the published program's command where there is one."""

    @property
    def model(self) -> str:
        """The network in words."""
        return self.config.model.title


_SEMANTIC = TrainConfig()

_PANOPTIC = TrainConfig(
    model=PapsConfig(),
    optimiser=OptimiserConfig(
        learning_rate=0.01, schedule="milestones", milestones=(60, 80), factor=0.3
    ),
    validate_every=5,
    validate_after=65,
    heatmap_only_epochs=5,
)

_SIMULATED = TrainConfig(
    model=PapsConfig(backbone=UtaeConfig(padding_invariant=True)),
    data=DataConfig(
        augmentation=AugmentationConfig(
            crop=64,
            flips=True,
            turns=True,
            min_dates=6,
            max_dates=16,
            day_jitter=2,
            season_shift=8,
            band_gain=0.08,
            band_offset=60.0,
            date_gain=0.04,
            noise=20.0,
        )
    ),
    optimiser=OptimiserConfig(
        learning_rate=0.003, schedule="cosine", warm_up_steps=100, gradient_clip=10.0
    ),
    # A short training: masks and classes weigh more than published, the pixel loss is added, and
    # the heat starts where
    # centres are rare.
    loss=PapsLossConfig(
        shape="cross_entropy", shape_weight=2.0, class_weight=2.0, pixel_weight=1.0
    ),
    initialisation="torch",
    initial_heat=0.03,
    epochs=48,
    validate_every=48,
    max_validation_patches=16,
    precision="bf16-mixed",
)


_SIMULATED_FIELDS = TrainConfig(
    model=FieldsConfig(backbone=CompositesConfig(band_dropout=0.3)),
    data=DataConfig(
        augmentation=AugmentationConfig(
            flips=True,
            turns=True,
            min_dates=2,
            max_dates=61,
            day_jitter=2,
            season_shift=8,
            band_gain=0.05,
            band_offset=30.0,
            date_gain=0.03,
        )
    ),
    optimiser=OptimiserConfig(
        learning_rate=0.002, schedule="cosine", warm_up_steps=50, gradient_clip=5.0
    ),
    initialisation="torch",
    epochs=8,
    validate_every=8,
    max_validation_patches=40,
)


_CROP2SEG = replace(_SEMANTIC, epochs=25)


def _semantic(model: ModelConfig) -> TrainConfig:
    return replace(_SEMANTIC, model=model)


def _panoptic(**options: Any) -> TrainConfig:  # noqa: ANN401
    return replace(_PANOPTIC, model=PapsConfig(**options))


def _pastis(config: TrainConfig, published: str, options: str = "") -> Experiment:
    """Return a row of the tables of Garnot and Landrieu.

    Args:
        config: The training.
        published: The published score.
        options: Options of the published command.
    """
    table, command = (
        (1, "train_semantic.py") if config.model.answers == "semantic" else (2, "train_panoptic.py")
    )
    return Experiment(config, "PASTIS", published, f"Table {table}: {command} {options}".strip())


def _crop2seg(model: ModelConfig, published: str, name: str) -> Experiment:
    return Experiment(
        replace(_CROP2SEG, model=model),
        "S2TSCzCrop",
        published,
        f"Crop2Seg: train.py --model {name}",
    )


_PHOTOGRAPHS = TrainConfig(
    model=PanopticFpnConfig(),
    photographs=PhotographConfig(min_side=800, max_side=1333, scale=(0.8, 1.25), flip=True),
    # For 64 photographs a step; what another batch makes of it is computed and printed.
    reference_batch=64,
    steps=22_500,
    optimiser=OptimiserConfig(
        algorithm="sgd",
        learning_rate=0.12,
        schedule="milestones",
        milestones=(15_000, 20_000),
        factor=0.1,
        warm_up_steps=500,
        warm_up_from=0.0067,
        weight_decay=4e-5,
    ),
    initialisation="torch",
    batch_size=2,
    validate_every=4,
    max_validation_patches=500,
)


def _longer(config: TrainConfig, times: int) -> TrainConfig:
    """Return the same training, ``times`` as long; its warm-up stays."""
    milestones = tuple(times * step for step in config.optimiser.milestones)
    return replace(
        config,
        steps=times * config.steps,
        optimiser=replace(config.optimiser, milestones=milestones),
    )


_PSPNET = replace(
    _PHOTOGRAPHS,
    model=PspNetConfig(norm="batch"),
    photographs=PhotographConfig(
        min_side=512, max_side=1024, scale=(0.5, 2.0), flip=True, crop=473
    ),
    reference_batch=16,
    steps=110_000,
    optimiser=OptimiserConfig(
        algorithm="sgd",
        learning_rate=0.01,
        schedule="cosine",
        warm_up_steps=500,
        warm_up_from=0.001,
        weight_decay=1e-4,
    ),
    batch_size=4,
)

_SIMULATED_PHOTOGRAPHS = TrainConfig(
    model=PanopticFpnConfig(
        backbone="resnet18",
        norm="batch",
        weights="none",
        group_norm=True,
        pyramid_width=64,
        anchor_sizes=(16, 32, 64, 96, 128),
        box_width=256,
        mask_widths=(64, 64),
        semantic_width=64,
        train_proposals=300,
        test_proposals=150,
        boxes_per_image=32,
        detections=50,
        stuff_area=64,
    ),
    photographs=PhotographConfig(flip=True, scale=(0.8, 1.25)),
    optimiser=OptimiserConfig(
        learning_rate=0.001,
        schedule="cosine",
        warm_up_steps=100,
        gradient_clip=10.0,
        weight_decay=1e-4,
    ),
    initialisation="torch",
    epochs=12,
    batch_size=8,
    validate_every=4,
)


def _coco(config: TrainConfig, published: str, source: str) -> Experiment:
    return Experiment(config, "COCO", published, source)


_FPN_SOURCE = "Panoptic FPN (Kirillov et al., 1901.02446)"

EXPERIMENTS: dict[str, Experiment] = {
    "pastis-utae": _pastis(_SEMANTIC, "OA 83.2, mIoU 63.1"),
    "pastis-unet3d": _pastis(_semantic(UNet3dConfig()), "OA 81.3, mIoU 58.4", "--model unet3d"),
    "pastis-uconvlstm": _pastis(
        _semantic(UConvLstmConfig()), "OA 82.1, mIoU 57.8", "--model uconvlstm"
    ),
    "pastis-fpn": _pastis(_semantic(FpnConfig()), "OA 81.6, mIoU 57.1", "--model fpn"),
    "pastis-buconvlstm": _pastis(
        _semantic(UConvLstmConfig(hidden=30, directions=2)), "", "--model buconvlstm, as meant"
    ),
    # One direction, which runs on over padded dates: what the released program builds under that
    # name.
    "pastis-buconvlstm-as-released": _pastis(
        _semantic(UConvLstmConfig(hidden=30, runs_over_padding=True)), "", "--model buconvlstm"
    ),
    "pastis-convgru": _pastis(
        _semantic(ConvRnnConfig(cell="gru", hidden=180)), "", "--model convgru"
    ),
    "pastis-convlstm": _pastis(_semantic(ConvRnnConfig()), "", "--model convlstm"),
    "pastis-utae-mean-attention": _pastis(
        _semantic(UtaeConfig(aggregation="att_mean")), "", "--agg_mode att_mean"
    ),
    "pastis-utae-skip-mean": _pastis(
        _semantic(UtaeConfig(aggregation="mean")), "", "--agg_mode mean"
    ),
    "pastis-utae-batch-norm": _pastis(
        _semantic(UtaeConfig(encoder_norm="batch")), "", "--encoder_norm batch"
    ),
    "pastis-utae-single-date": _pastis(
        replace(_SEMANTIC, data=DataConfig(single_date="2019-08-01")),
        "",
        '--mono_date "08-01-2019"',
    ),
    "pastis-utae-paps": _pastis(_PANOPTIC, "SQ 81.5, RQ 53.2, PQ 43.8"),
    "pastis-uconvlstm-paps": _pastis(
        _panoptic(backbone=UConvLstmConfig()), "SQ 80.2, RQ 43.9, PQ 35.6", "--backbone uconvlstm"
    ),
    "pastis-utae-paps-shape24": _pastis(_panoptic(shape_size=24), "", "--shape_size 24"),
    "pastis-utae-paps-no-mask-conv": _pastis(
        _panoptic(mask_convolution=False), "", "--no_mask_conv"
    ),
    "s2tsczcrop-timeunet": _crop2seg(TimeUnetConfig(classes=15), "OA 91.2, mIoU 73.5", "timeunet"),
    "s2tsczcrop-wtae": _crop2seg(WtaeConfig(classes=15), "", "wtae"),
    "s2tsczcrop-utae": _crop2seg(UtaeConfig(classes=15), "", "utae"),
    "s2tsczcrop-unet3d": _crop2seg(UNet3dConfig(classes=15), "", "unet3d"),
    "simulated-utae-paps": Experiment(
        _SIMULATED, "simulated", "", "the weights that ship with panoseg"
    ),
    "simulated-fields": Experiment(
        _SIMULATED_FIELDS, "simulated", "", "fields of any size, from any bands and dates"
    ),
    "coco-panoptic-fpn-r50-1x": _coco(
        _PHOTOGRAPHS,
        "PQ 39.1, AP 38.2, 34.3",
        f"{_FPN_SOURCE}: PQ 39.14 (things 45.42, stuff 29.65), box AP 38.19, mask AP 34.25",
    ),
    "coco-panoptic-fpn-r50-3x": _coco(
        _longer(_PHOTOGRAPHS, 3),
        "PQ 40.9, AP 40.6, 36.3",
        f"{_FPN_SOURCE}: PQ 40.91 (things 47.68, stuff 30.69), box AP 40.64, mask AP 36.29",
    ),
    "coco-pspnet-r50": _coco(
        _PSPNET, "", "PSPNet (Zhao et al., 1612.01105), for the pixels of the two-model recipe"
    ),
    "coco-maskrcnn-r50": _coco(
        replace(_PHOTOGRAPHS, model=MaskRcnnConfig()),
        "",
        "Mask R-CNN (He et al., 1703.06870), for the objects of the two-model recipe",
    ),
    "simulated-photographs-panoptic-fpn-r18": Experiment(
        _SIMULATED_PHOTOGRAPHS, "simulated", "", "a quick start on simulated photographs"
    ),
}


def experiment(name: str) -> Experiment:
    """Return the experiment of a name.

    Raises:
        ConfigError: There is none; the message lists the names.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"There is no experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}.{hint}"
    )
