"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.progress import track
from panoseg.training.checkpoint import (
    Progress,
    applying,
    load_checkpoint,
    load_model,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from panoseg.training.config import OptimiserConfig, TrainConfig
from panoseg.training.log import RunLog, RunningMean
from panoseg.training.splits import Split
from panoseg.training.task import Task, Work, numbers_text
from panoseg.training.transfer import freeze

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Course:
    """How long a training is, and the learning rate of each of its steps.

    optimiser: options as they are used, milestones in steps. steps: in all. steps_per_epoch: of all
    epochs but the last, which may be shorter. batch: samples a step over all processes.
    reference_batch: those for which the options are meant, 0 for any.
    """

    optimiser: OptimiserConfig
    steps: int
    steps_per_epoch: int
    batch: int
    reference_batch: int = 0

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int, processes: int = 1) -> Course:
        """The course of a training.

        Where options are meant for another batch, rates become larger and steps fewer by the
        quotient of the batches, so that the same samples are seen: the linear rule of Goyal et al.
        2017 (1706.02677), section 2.1.

        >>> published = OptimiserConfig(learning_rate=0.12, schedule="milestones", milestones=(15000, 20000))
        >>> course = Course.of(TrainConfig(optimiser=published, steps=22500, batch_size=8, reference_batch=64), 14785)
        >>> course.optimiser.learning_rate, course.optimiser.milestones, course.steps, course.epochs
        (0.015, (120000, 160000), 180000, 13)
        """
        batch, optimiser = config.batch_size * processes, config.optimiser
        scale = batch / config.reference_batch if config.reference_batch else 1.0
        in_steps = [
            step / scale if config.steps else step * steps_per_epoch
            for step in optimiser.milestones
        ]
        used = replace(
            optimiser,
            learning_rate=optimiser.learning_rate * scale,
            warm_up_from=optimiser.warm_up_from * scale,
            warm_up_steps=round(optimiser.warm_up_steps / scale),
            milestones=tuple(map(round, in_steps)),
        )
        steps = (
            max(round(config.steps / scale), 1) if config.steps else config.epochs * steps_per_epoch
        )
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
        """What the linear rule has made of the options, in one line; empty where they are taken as
        they are.

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
            parts.append(
                f"times {used.factor:g} at {' and '.join(f'{step:,}' for step in used.milestones)}"
            )
        parts.append(f"{self.steps:,} steps")
        there = (
            f"options for {self.reference_batch} samples a step, of which there are {self.batch}"
        )
        return f"linear rule: {there}: {', '.join(parts)}"


def learning_rate(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimiser step ``step`` (0 first), of ``epochs * steps_per_epoch`` in
    all.

    A linear warm-up multiplies whatever the schedule says. Milestones count whole epochs, as in
    utae-paps @ 987874e (train_panoptic.py): with milestone 60, epoch 61 is the first at the lower
    rate.
    """
    return (
        config.learning_rate
        * _warm_up(config, step)
        * _factor(config, step, steps_per_epoch, epochs)
    )


def _warm_up(config: OptimiserConfig, step: int) -> float:
    if not config.warm_up_steps:
        return 1.0
    start = config.warm_up_from / config.learning_rate
    # From 0 the first step has its share already; a step at the rate 0 would be none.
    done = min(1.0, (step + (start == 0)) / config.warm_up_steps)
    return start + (1 - start) * done


def _factor(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    if config.schedule == "milestones":
        return config.factor ** sum(
            step >= milestone * steps_per_epoch for milestone in config.milestones
        )
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
    return 1.0


LAST = "last.ckpt"
KeepBest = Callable[[int, dict[str, float]], None]


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric with the devices, machines and precision of a configuration; processes are started."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning.fabric", "lightning.pytorch"):  # Fabric speaks through either
        logging.getLogger(name).setLevel(logging.WARNING)
    if config.threads:
        torch.set_num_threads(config.threads)
    several = config.devices != 1 or config.nodes != 1
    on_processor = config.accelerator == "cpu" or (
        config.accelerator == "auto" and not torch.accelerator.is_available()
    )
    cores = os.cpu_count() or 1
    if on_processor and config.devices > cores:  # each would be a process, until memory is full
        raise ConfigError(
            f"devices {config.devices}",
            f"at most {cores}, the cores of this machine",
            "pass fewer --devices",
        )
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
            # A batch without centres, and the epochs that learn centres alone, leave parameters
            # without a gradient.
            strategy="ddp_find_unused_parameters_true" if several else "auto",
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"accelerator {config.accelerator}, devices {config.devices}"
            f" ({str(error).splitlines()[0]})",
            "devices that this machine has",
            "pass e.g. --accelerator auto --devices 1",
        ) from error
    fabric.launch()
    return fabric


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the one that other people's code draws from
    torch.manual_seed(seed)


def make_optimiser(
    parameters: Iterable[nn.Parameter], config: OptimiserConfig
) -> torch.optim.Optimizer:
    """The optimiser of a configuration; its learning rate is set before each step."""
    if config.algorithm == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    kind = torch.optim.AdamW if config.weight_decay else torch.optim.Adam
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


class Training:
    """One training, from its first step or from a checkpoint, to its last epoch.

    keep_best(epoch, scores) is called after a validation that is the best so far, in the first
    process alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        task: Task,
        train: Split,
        validation: Split,
        folder: Path,
        keep_best: KeepBest,
    ) -> None:
        self.fabric, self.config, self.folder, self.keep_best = fabric, config, folder, keep_best
        self.task, self.train, self.validation = task, train, validation
        self.progress = Progress()
        freeze(task.model, config.freeze)
        learned = [parameter for parameter in task.parameters() if parameter.requires_grad]
        self.module: nn.Module
        self.module, self.optimiser = fabric.setup(task, make_optimiser(learned, config.optimiser))
        # Processes start from the same parameters, then draw different dropout.
        seed_all(config.seed + fabric.global_rank)
        if config.compile:
            task.model.compile()
        self.loader = train.loader(fabric)
        steps_per_epoch = len(self.loader)
        if config.max_steps_per_epoch:
            steps_per_epoch = min(steps_per_epoch, config.max_steps_per_epoch)
        self.course = Course.of(config, steps_per_epoch, fabric.world_size)

    def resume(self) -> None:
        """Continue from the folder's last checkpoint; without one, from the start."""
        path = self.folder / LAST
        if not path.exists():
            return
        checkpoint = load_checkpoint(path)
        processes = len(checkpoint.random_states)
        if processes != self.fabric.world_size:
            raise ConfigError(
                f"{path} of {processes} processes, resumed with {self.fabric.world_size}",
                f"{processes} processes",
                "resume on as many devices as the run was started on",
            )
        load_model(self.task, checkpoint.model, path)
        with applying(path):
            self.optimiser.load_state_dict(checkpoint.optimiser)
            restore_random_state(checkpoint.random_states[self.fabric.global_rank])
        self.progress = checkpoint.progress

    def run(self) -> None:
        """Train to the last epoch."""
        progress = self.progress
        position = (progress.log_size, progress.total_steps) if progress.log_size else None
        columns = (*self.task.loss_names, *self.task.metric_names)
        self.log = RunLog(self.folder, columns, position) if self.fabric.is_global_zero else None
        with self.log or nullcontext():
            while progress.epoch < self.course.epochs:
                self._train_epoch()
                if self.config.validates(progress.epoch + 1, self.course.epochs):
                    self._validate()
                progress.epoch, progress.step = progress.epoch + 1, 0
                self._checkpoint()

    def _train_epoch(self) -> None:
        progress, means = self.progress, RunningMean()
        self.module.train()
        freeze(self.task.model, self.config.freeze)
        self.loader.enter(progress.epoch, progress.step)
        steps = self.course.steps_of(progress.epoch)
        left = steps - progress.step
        batches = self.train.batches(self.fabric, self.loader, left)
        title = f"epoch {progress.epoch + 1} of {self.course.epochs}"
        saved = since = time.monotonic()
        patches = 0
        for batch in track(batches, title, total=left):
            rate, losses = self._step(Work(batch, progress.epoch < self.config.heatmap_only_epochs))
            means.add(losses)
            patches += len(batch.names) * self.fabric.world_size
            progress.step += 1
            progress.total_steps += 1
            last = progress.step == steps
            if last or progress.step % self.config.log_every == 0:
                mean_losses = _mean_over_processes(means.take(), self.fabric)
                _check_finite(mean_losses["loss"], progress, self.fabric)
                self._write("train", mean_losses, rate)
                now = time.monotonic()
                self._write_speed(patches / (now - since))
                since, patches = now, 0
                # One process' clock decides, or checkpoints, which all take part in, would wait for
                # each other.
                if last or self.fabric.broadcast(
                    now - saved >= 60 * self.config.checkpoint_minutes
                ):
                    self._checkpoint()
                    saved = time.monotonic()

    def _step(self, work: Work) -> tuple[float, dict[str, Tensor]]:
        """One step of the optimiser: the learning rate it had, and the losses before it."""
        config = self.config.optimiser
        rate = self.course.rate(self.progress.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self.module(work)
        if not losses["loss"].requires_grad:
            frozen = " ".join(self.config.freeze)
            raise ConfigError(
                f"freeze {frozen}, all that is learned at first",
                "a part that learns",
                "freeze fewer parts",
            )
        self.fabric.backward(losses["loss"])
        if config.gradient_clip:
            self.fabric.clip_gradients(
                self.module, self.optimiser, max_norm=config.gradient_clip, error_if_nonfinite=False
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return rate, losses

    def _validate(self) -> None:
        progress = self.progress
        self.module.eval()
        if self.config.tune_threshold:
            self.task.tune(self.validation, self.fabric)
        metrics = self.task.evaluate(self.validation, self.fabric).summary()
        self._write("validation", metrics)
        score = metrics[self.task.score_name]
        best = progress.best_score is None or score > progress.best_score
        self.fabric.print(
            f"epoch {progress.epoch + 1}:"
            f" {numbers_text(metrics)}{', the best so far' if best else ''}"
        )
        if best:
            progress.best_score, progress.best_epoch = score, progress.epoch + 1
            if self.fabric.is_global_zero:
                self.keep_best(progress.best_epoch, metrics)

    def _checkpoint(self) -> None:
        states = [random_state()] * self.fabric.world_size
        if len(states) > 1:
            torch.distributed.all_gather_object(states, random_state())
        if self.log:
            self.progress.log_size = self.log.size
            save_checkpoint(
                self.folder / LAST,
                self.task.state_dict(),
                self.optimiser.state_dict(),
                self.progress,
                states,
            )

    def _write(self, split: str, numbers: dict[str, float], rate: float | None = None) -> None:
        if self.log:
            self.log.write(self.progress.epoch + 1, self.progress.total_steps, split, numbers, rate)

    def _write_speed(self, patches_per_s: float) -> None:
        if self.log:
            self.log.scalar("patches_per_s", patches_per_s, self.progress.total_steps)


def _mean_over_processes(losses: dict[str, float], fabric: Fabric) -> dict[str, float]:
    """The same numbers in all processes, so that where one has diverged they stop together and none
    waits for the other.
    """
    if fabric.world_size == 1:
        return losses
    mean: Any = fabric.all_reduce(
        torch.tensor(list(losses.values()), device=fabric.device), reduce_op="mean"
    )
    return dict(zip(losses, mean.tolist(), strict=True))


def _check_finite(loss: float, progress: Progress, fabric: Fabric) -> None:
    """Stop a training that has diverged: the first process raises ``ConfigError``, all others leave
    without a word.
    """
    if math.isfinite(loss):
        return
    if not fabric.is_global_zero:
        raise SystemExit(2)
    raise ConfigError(
        f"loss {loss} at step {progress.total_steps}",
        "a finite number",
        "start again with a lower --optimiser.learning-rate, or with --optimiser.gradient-clip 1",
    )
