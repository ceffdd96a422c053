"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from panoseg.training.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimiser step ``step`` (0 first), of ``epochs * steps_per_epoch`` in all.

    A linear warm-up multiplies whatever the schedule says. Milestones count whole epochs, as in utae-paps @ 987874e
    (train_panoptic.py): with milestone 60, epoch 61 is the first at the lower rate.
    """
    warm_up = min(1.0, (step + 1) / config.warm_up_steps) if config.warm_up_steps else 1.0
    return config.learning_rate * warm_up * _factor(config, step, steps_per_epoch, epochs)


def _factor(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    if config.schedule == "milestones":
        return config.factor ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
    return 1.0
