"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from panoseg.training.config import OptimiserConfig, TrainConfig


@dataclass(frozen=True)
class Course:
    """How long a training is, and the learning rate of each of its steps.

    optimiser: options as they are used, milestones in steps. steps: in all. steps_per_epoch: of all epochs but the last, which
    may be shorter. batch: samples a step over all processes. reference_batch: those for which the options are meant, 0 for any.
    """

    optimiser: OptimiserConfig
    steps: int
    steps_per_epoch: int
    batch: int
    reference_batch: int = 0

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int, processes: int = 1) -> Course:
        """The course of a training.

        Where options are meant for another batch, rates become larger and steps fewer by the quotient of the batches, so that
        the same samples are seen: the linear rule of Goyal et al. 2017 (1706.02677), section 2.1.

        >>> published = OptimiserConfig(learning_rate=0.12, schedule="milestones", milestones=(15000, 20000))
        >>> course = Course.of(TrainConfig(optimiser=published, steps=22500, batch_size=8, reference_batch=64), 14785)
        >>> course.optimiser.learning_rate, course.optimiser.milestones, course.steps, course.epochs
        (0.015, (120000, 160000), 180000, 13)
        """
        batch, optimiser = config.batch_size * processes, config.optimiser
        scale = batch / config.reference_batch if config.reference_batch else 1.0
        in_steps = [step / scale if config.steps else step * steps_per_epoch for step in optimiser.milestones]
        used = replace(
            optimiser,
            learning_rate=optimiser.learning_rate * scale,
            warm_up_from=optimiser.warm_up_from * scale,
            warm_up_steps=round(optimiser.warm_up_steps / scale),
            milestones=tuple(map(round, in_steps)),
        )
        steps = max(round(config.steps / scale), 1) if config.steps else config.epochs * steps_per_epoch
        return cls(used, steps, steps_per_epoch, batch, config.reference_batch)

    @property
    def epochs(self) -> int:
        """Epochs, of which the last may be shorter."""
        return -(-self.steps // self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """Steps of epoch ``epoch``, 0 first."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, 0 first."""
        return learning_rate(self.optimiser, step, 1, self.steps)

    def text(self) -> str:
        """What the linear rule has made of the options, in one line; empty where they are taken as they are.

        >>> Course.of(TrainConfig(steps=1000, batch_size=2, reference_batch=8), 100, processes=2).text()
        'linear rule: options for 8 samples a step, of which there are 4: learning rate 0.0005, 2,000 steps'
        """
        if not self.reference_batch:
            return ""
        used = self.optimiser
        parts = [f"learning rate {used.learning_rate:.4g}"]
        if used.warm_up_steps:
            parts[0] += f" after {used.warm_up_steps:,} steps from {used.warm_up_from:.4g}"
        if used.schedule == "milestones":
            parts.append(f"times {used.factor:g} at {' and '.join(f'{step:,}' for step in used.milestones)}")
        parts.append(f"{self.steps:,} steps")
        there = f"options for {self.reference_batch} samples a step, of which there are {self.batch}"
        return f"linear rule: {there}: {', '.join(parts)}"


def learning_rate(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimiser step ``step`` (0 first), of ``epochs * steps_per_epoch`` in all.

    A linear warm-up multiplies whatever the schedule says. Milestones count whole epochs, as in utae-paps @ 987874e
    (train_panoptic.py): with milestone 60, epoch 61 is the first at the lower rate.
    """
    return config.learning_rate * _warm_up(config, step) * _factor(config, step, steps_per_epoch, epochs)


def _warm_up(config: OptimiserConfig, step: int) -> float:
    if not config.warm_up_steps:
        return 1.0
    start = config.warm_up_from / config.learning_rate
    # From 0 the first step has its share already; a step at the rate 0 would be none.
    done = min(1.0, (step + (start == 0)) / config.warm_up_steps)
    return start + (1 - start) * done


def _factor(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    if config.schedule == "milestones":
        return config.factor ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
    return 1.0
