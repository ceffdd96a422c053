"""Every named experiment: one entry each. A new row is a new entry, nothing else.

Settings: VSainteuf/utae-paps @ 987874e, train_semantic.py and train_panoptic.py; Many98/Crop2Seg, train.py (defaults: 25
epochs, the rest as train_semantic.py). Scores: utae-paps, README.md; Crop2Seg, data/inference/timeunet_v1_base. Tables 1 and 2
are those of Garnot and Landrieu 2021 (arXiv 2107.07933). A score that none of these states is left out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from panoseg.data.augment_config import AugmentationConfig
from panoseg.errors import ConfigError
from panoseg.models.config import ModelConfig
from panoseg.models.configs.convrnn import ConvRnnConfig
from panoseg.models.configs.fpn import FpnConfig
from panoseg.models.configs.paps import PapsConfig
from panoseg.models.configs.timeunet import TimeUnetConfig
from panoseg.models.configs.uconvlstm import UConvLstmConfig
from panoseg.models.configs.unet3d import UNet3dConfig
from panoseg.models.configs.utae import UtaeConfig
from panoseg.models.configs.wtae import WtaeConfig
from panoseg.training.config import DataConfig, OptimiserConfig, TrainConfig
from panoseg.training.loss_config import PapsLossConfig


@dataclass(frozen=True)
class Experiment:
    """A training with a name.

    config: all its options. data: the dataset it is meant for. published: the published score, empty where there is none at
    hand. source: where it comes from, and the published program's command where there is one.
    """

    config: TrainConfig
    data: str
    published: str
    source: str

    @property
    def model(self) -> str:
        """The network in words."""
        return self.config.model.title


_SEMANTIC = TrainConfig()

_PANOPTIC = TrainConfig(
    model=PapsConfig(),
    optimiser=OptimiserConfig(learning_rate=0.01, schedule="milestones", milestones=(60, 80), factor=0.3),
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
    optimiser=OptimiserConfig(learning_rate=0.003, schedule="cosine", warm_up_steps=100, gradient_clip=10.0),
    # A short training: masks and classes weigh more than published, pixels teach classes too, and the heat starts where
    # centres are rare.
    loss=PapsLossConfig(shape="cross_entropy", shape_weight=2.0, class_weight=2.0, pixel_weight=1.0),
    initialisation="torch",
    initial_heat=0.03,
    epochs=48,
    validate_every=48,
    max_validation_patches=16,
    precision="bf16-mixed",
)


_CROP2SEG = replace(_SEMANTIC, epochs=25)


def _semantic(model: ModelConfig) -> TrainConfig:
    return replace(_SEMANTIC, model=model)


def _panoptic(**options: Any) -> TrainConfig:
    return replace(_PANOPTIC, model=PapsConfig(**options))


def _pastis(config: TrainConfig, published: str, options: str = "") -> Experiment:
    """A row of the tables of Garnot and Landrieu. options: those of the published command."""
    table, command = (1, "train_semantic.py") if config.task == "semantic" else (2, "train_panoptic.py")
    return Experiment(config, "PASTIS", published, f"Table {table}: {command} {options}".strip())


def _crop2seg(model: ModelConfig, published: str, name: str) -> Experiment:
    return Experiment(replace(_CROP2SEG, model=model), "S2TSCzCrop", published, f"Crop2Seg: train.py --model {name}")


EXPERIMENTS: dict[str, Experiment] = {
    "pastis-utae": _pastis(_SEMANTIC, "OA 83.2, mIoU 63.1"),
    "pastis-unet3d": _pastis(_semantic(UNet3dConfig()), "OA 81.3, mIoU 58.4", "--model unet3d"),
    "pastis-uconvlstm": _pastis(_semantic(UConvLstmConfig()), "OA 82.1, mIoU 57.8", "--model uconvlstm"),
    "pastis-fpn": _pastis(_semantic(FpnConfig()), "OA 81.6, mIoU 57.1", "--model fpn"),
    "pastis-buconvlstm": _pastis(_semantic(UConvLstmConfig(hidden=30, directions=2)), "", "--model buconvlstm, as meant"),
    # One direction, which runs on over padded dates: what the released program builds under that name.
    "pastis-buconvlstm-as-released": _pastis(
        _semantic(UConvLstmConfig(hidden=30, runs_over_padding=True)), "", "--model buconvlstm"
    ),
    "pastis-convgru": _pastis(_semantic(ConvRnnConfig(cell="gru", hidden=180)), "", "--model convgru"),
    "pastis-convlstm": _pastis(_semantic(ConvRnnConfig()), "", "--model convlstm"),
    "pastis-utae-mean-attention": _pastis(_semantic(UtaeConfig(aggregation="att_mean")), "", "--agg_mode att_mean"),
    "pastis-utae-skip-mean": _pastis(_semantic(UtaeConfig(aggregation="mean")), "", "--agg_mode mean"),
    "pastis-utae-batch-norm": _pastis(_semantic(UtaeConfig(encoder_norm="batch")), "", "--encoder_norm batch"),
    "pastis-utae-single-date": _pastis(
        replace(_SEMANTIC, data=DataConfig(single_date="2019-08-01")), "", '--mono_date "08-01-2019"'
    ),
    "pastis-utae-paps": _pastis(_PANOPTIC, "SQ 81.5, RQ 53.2, PQ 43.8"),
    "pastis-uconvlstm-paps": _pastis(
        _panoptic(backbone=UConvLstmConfig()), "SQ 80.2, RQ 43.9, PQ 35.6", "--backbone uconvlstm"
    ),
    "pastis-utae-paps-shape24": _pastis(_panoptic(shape_size=24), "", "--shape_size 24"),
    "pastis-utae-paps-no-mask-conv": _pastis(_panoptic(mask_convolution=False), "", "--no_mask_conv"),
    "s2tsczcrop-timeunet": _crop2seg(TimeUnetConfig(classes=15), "OA 91.2, mIoU 73.5", "timeunet"),
    "s2tsczcrop-wtae": _crop2seg(WtaeConfig(classes=15), "", "wtae"),
    "s2tsczcrop-utae": _crop2seg(UtaeConfig(classes=15), "", "utae"),
    "s2tsczcrop-unet3d": _crop2seg(UNet3dConfig(classes=15), "", "unet3d"),
    "simulated-utae-paps": Experiment(_SIMULATED, "simulated", "", "the weights that ship with panoseg"),
}


def experiment(name: str) -> Experiment:
    """The experiment of that name. Raises ``ConfigError`` that lists the names."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.4)
    fix = f"did you mean {close[0]}?" if close else "see panoseg experiments"
    raise ConfigError(f"no experiment {name!r}", f"one of {', '.join(EXPERIMENTS)}", fix)
