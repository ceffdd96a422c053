"""Every named experiment: one entry each. A new row is a new entry, nothing else.

Published numbers and settings: VSainteuf/utae-paps @ 987874e, README.md, train_semantic.py and train_panoptic.py; tables
1 and 2 are those of Garnot and Landrieu 2021 (arXiv 2107.07933).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from panoseg.data.augment_config import AugmentationConfig
from panoseg.errors import ConfigError
from panoseg.models.configs.paps import PapsConfig
from panoseg.models.configs.utae import UtaeConfig
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


def _utae(**options) -> TrainConfig:
    return replace(_SEMANTIC, model=UtaeConfig(**options))


def _paps(**options) -> TrainConfig:
    return replace(_PANOPTIC, model=PapsConfig(**options))


EXPERIMENTS: dict[str, Experiment] = {
    "pastis-utae": Experiment(_SEMANTIC, "PASTIS", "OA 83.2, mIoU 63.1", "Table 1: train_semantic.py"),
    "pastis-utae-mean-attention": Experiment(
        _utae(aggregation="att_mean"), "PASTIS", "", "Table 1: train_semantic.py --agg_mode att_mean"
    ),
    "pastis-utae-skip-mean": Experiment(_utae(aggregation="mean"), "PASTIS", "", "Table 1: train_semantic.py --agg_mode mean"),
    "pastis-utae-batch-norm": Experiment(
        _utae(encoder_norm="batch"), "PASTIS", "", "Table 1: train_semantic.py --encoder_norm batch"
    ),
    "pastis-utae-single-date": Experiment(
        replace(_SEMANTIC, data=DataConfig(single_date="2019-08-01")),
        "PASTIS",
        "",
        'Table 1: train_semantic.py --mono_date "08-01-2019"',
    ),
    "pastis-utae-paps": Experiment(_PANOPTIC, "PASTIS", "SQ 81.5, RQ 53.2, PQ 43.8", "Table 2: train_panoptic.py"),
    "pastis-utae-paps-shape24": Experiment(_paps(shape_size=24), "PASTIS", "", "Table 2: train_panoptic.py --shape_size 24"),
    "pastis-utae-paps-no-mask-conv": Experiment(
        _paps(mask_convolution=False), "PASTIS", "", "Table 2: train_panoptic.py --no_mask_conv"
    ),
    "simulated-utae-paps": Experiment(_SIMULATED, "simulated", "", "the weights that ship with panoseg"),
}


def experiment(name: str) -> Experiment:
    """The experiment of that name. Raises ``ConfigError`` that lists the names."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.4)
    fix = f"did you mean {close[0]}?" if close else "see panoseg experiments"
    raise ConfigError(f"no experiment {name!r}", f"one of {', '.join(EXPERIMENTS)}", fix)
