"""The training loop, with the schedule of its learning rate, its optimiser and its devices.

The learning rate is a function of the step and needs no state.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.metrics import numbers_text
from panoseg.models.network import Network
from panoseg.progress import track
from panoseg.training import OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import (
    Progress,
    RunLog,
    RunningMean,
    applying,
    load_checkpoint,
    load_model,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from panoseg.training.scorers import evaluation_batches, scorer_of, sum_over_processes
from panoseg.training.splits import Split
from panoseg.training.transfer import freeze

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class LearningRateSchedule:
    """The length of a training, and the learning rate of each of its steps."""

    optimiser: OptimiserConfig
    """Options as they are used, milestones in steps."""
    steps: int
    """Steps of the whole training."""
    steps_per_epoch: int
    """Steps of each epoch but the last, which may be shorter."""
    batch: int
    """Samples of a step, over all processes."""
    reference_batch: int = 0
    """Samples of a step for which the options are meant; 0 for any."""

    @classmethod
    def of(
        cls, config: TrainConfig, steps_per_epoch: int, processes: int = 1
    ) -> LearningRateSchedule:
        """Return the schedule of a training.

        Where options are meant for another batch, rates become larger and steps fewer by the
        quotient of the batches, so that the same samples are seen: the linear rule of Goyal et al.
        2017 (1706.02677), section 2.1.

        >>> published = OptimiserConfig(
        ...     learning_rate=0.12, schedule="milestones", milestones=(15000, 20000)
        ... )
        >>> config = TrainConfig(optimiser=published, steps=22500, batch_size=8, reference_batch=64)
        >>> schedule = LearningRateSchedule.of(config, 14785)
        >>> schedule.optimiser.learning_rate, schedule.optimiser.milestones
        (0.015, (120000, 160000))
        >>> schedule.steps, schedule.epochs
        (180000, 13)
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
        """Describe the options after the linear rule, in one line; empty where they are unchanged.

        >>> config = TrainConfig(steps=1000, batch_size=2, reference_batch=8)
        >>> for part in LearningRateSchedule.of(config, 100, processes=2).text().split(": "):
        ...     print(part)
        linear rule
        options for 8 samples a step, of which there are 4
        learning rate 0.0005, 2,000 steps
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
    """Return the learning rate of an optimiser step.

    A linear warm-up multiplies the rate of the schedule. Milestones count whole epochs, as in
    utae-paps @ 987874e (train_panoptic.py): with milestone 60, epoch 61 is the first at the lower
    rate.

    Args:
        config: Options of the optimiser.
        step: Number of the step, from 0.
        steps_per_epoch: Steps of an epoch.
        epochs: Number of epochs.
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
"""Called with epoch and scores after a validation that is the best so far, in the first process."""
Report = Callable[[str], None]
"""Called with each line about the progress of a training."""


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric with the devices, machines and precision of a configuration; processes are started."""
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning_fabric", "lightning.fabric"):  # Fabric logs through either
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
            f"--devices must be at most {cores}, the cores of this machine, not {config.devices}."
        )
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
            # A batch without centres, and the epochs that learn only centres, leave parameters
            # without a gradient.
            strategy="ddp_find_unused_parameters_true" if several else "auto",
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--accelerator {config.accelerator} with --devices {config.devices} cannot be used"
            f" here ({str(error).splitlines()[0]}). Pass e.g. --accelerator auto --devices 1."
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


class TrainingStep(nn.Module):
    """A network whose ``forward`` gives its losses.

    Fabric and DistributedDataParallel hook into ``forward``. In checkpoints the names of the
    network's entries begin with "model.".
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network

    def forward(self, batch: Callable[[], Any], heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            batch: Returns the batch; Fabric would take the batch itself apart to cast it.
            heatmap_only: Compute only the loss of the heatmap.
        """
        return self.model.losses(batch(), heatmap_only)


class Training:
    """One training, from its first step or from a checkpoint, to its last epoch.

    Args:
        fabric: Launched.
        config: Its options.
        network: With its initial weights.
        train: The training set.
        validation: The validation set.
        folder: Folder of the run.
        keep_best: Called after a validation that is the best so far, in the first process alone.
        report: Called with each line about a validation, in the first process alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        network: Network,
        train: Split,
        validation: Split,
        folder: Path,
        keep_best: KeepBest,
        report: Report = lambda line: None,
    ) -> None:
        self.fabric, self.config, self.folder = fabric, config, folder
        self.keep_best, self.report = keep_best, report
        self.network, self.train, self.validation = network, train, validation
        self.scorer = scorer_of(network.config)
        self.progress = Progress()
        self.log: RunLog | None = None
        freeze(network, config.freeze)
        self.step = TrainingStep(network)
        learned = [parameter for parameter in self.step.parameters() if parameter.requires_grad]
        self.module: nn.Module
        self.module, self.optimiser = fabric.setup(
            self.step, make_optimiser(learned, config.optimiser)
        )
        # Processes start from the same parameters, then draw different dropout.
        seed_all(config.seed + fabric.global_rank)
        if config.compile:
            network.compile_features()
        self.loader = train.loader(fabric)
        steps_per_epoch = len(self.loader)
        if config.max_steps_per_epoch:
            steps_per_epoch = min(steps_per_epoch, config.max_steps_per_epoch)
        self.schedule = LearningRateSchedule.of(config, steps_per_epoch, fabric.world_size)

    def resume(self) -> None:
        """Continue from the folder's last checkpoint; without one, from the start."""
        path = self.folder / LAST
        if not path.exists():
            return
        checkpoint = load_checkpoint(path)
        processes = len(checkpoint.random_states)
        if processes != self.fabric.world_size:
            raise ConfigError(
                f"{path} is of {processes} processes, but {self.fabric.world_size} resume it."
                " Resume on as many devices as the run was started on."
            )
        load_model(self.step, checkpoint.model, path)
        with applying(path):
            self.optimiser.load_state_dict(checkpoint.optimiser)
            restore_random_state(checkpoint.random_states[self.fabric.global_rank])
        self.progress = checkpoint.progress

    def run(self) -> None:
        """Train to the last epoch."""
        progress, config = self.progress, self.config
        position = (progress.log_size, progress.total_steps) if progress.log_size else None
        columns = (*self.network.loss_names, *self.scorer.metric_names)
        self.log = RunLog(self.folder, columns, position) if self.fabric.is_global_zero else None
        with self.log or nullcontext():
            while progress.epoch < self.schedule.epochs:
                self.module.train()
                freeze(self.network, config.freeze)
                means, clock = RunningMean(), _Clock()
                for batch in self._batches():
                    self._set_learning_rate()
                    losses = self.module(
                        lambda batch=batch: batch, progress.epoch < config.heatmap_only_epochs
                    )
                    self._descend(losses["loss"])
                    means.add(losses)
                    clock.samples += len(batch.names) * self.fabric.world_size
                    progress.step += 1
                    progress.total_steps += 1
                    last = progress.step == self.schedule.steps_of(progress.epoch)
                    if last or progress.step % config.log_every == 0:
                        self._log_step(means, clock, last)
                if config.validates(progress.epoch + 1, self.schedule.epochs):
                    self._validate()
                progress.epoch, progress.step = progress.epoch + 1, 0
                self._checkpoint()

    def _batches(self) -> Iterator[Any]:
        """Return the rest of the epoch's batches, with progress."""
        progress = self.progress
        self.loader.enter(progress.epoch, progress.step)
        left = self.schedule.steps_of(progress.epoch) - progress.step
        title = f"epoch {progress.epoch + 1} of {self.schedule.epochs}"
        return track(self.train.batches(self.fabric, self.loader, left), title, total=left)

    def _set_learning_rate(self) -> None:
        rate = self.schedule.rate(self.progress.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _descend(self, loss: Tensor) -> None:
        """Take one step of the optimiser."""
        config = self.config.optimiser
        if not loss.requires_grad:
            raise ConfigError(
                f"--freeze {' '.join(self.config.freeze)} freezes all that is learned at first."
                " Freeze fewer parts."
            )
        self.fabric.backward(loss)
        if config.gradient_clip:
            self.fabric.clip_gradients(
                self.module, self.optimiser, max_norm=config.gradient_clip, error_if_nonfinite=False
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _log_step(self, means: RunningMean, clock: _Clock, last: bool) -> None:
        """Write the mean losses since the last row, and a checkpoint where it is time for one."""
        mean_losses = _mean_over_processes(means.take(), self.fabric)
        _check_finite(mean_losses["loss"], self.progress, self.fabric)
        self._write("train", mean_losses, self.optimiser.param_groups[0]["lr"])
        if self.log:
            self.log.scalar("patches_per_s", clock.speed(), self.progress.total_steps)
        # One process' clock decides, or checkpoints, which all take part in, would wait for each
        # other.
        if last or self.fabric.broadcast(clock.since_save() >= 60 * self.config.checkpoint_minutes):
            self._checkpoint()
            clock.saved = time.monotonic()

    def _validate(self) -> None:
        progress = self.progress
        self.module.eval()
        if self.config.tune_threshold:
            with self.fabric.autocast():
                self.network.tune(
                    evaluation_batches(self.network, self.validation, self.fabric),
                    partial(sum_over_processes, fabric=self.fabric),
                )
        metrics = self.scorer.evaluate(self.network, self.validation, self.fabric).summary()
        self._write("validation", metrics)
        score = metrics[self.scorer.score_name]
        best = progress.best_score is None or score > progress.best_score
        if self.fabric.is_global_zero:
            self.report(
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
                self.step.state_dict(),
                self.optimiser.state_dict(),
                self.progress,
                states,
            )

    def _write(self, split: str, numbers: dict[str, float], rate: float | None = None) -> None:
        if self.log:
            self.log.write(self.progress.epoch + 1, self.progress.total_steps, split, numbers, rate)


class _Clock:
    """Times of an epoch: of its checkpoints, and the speed since the last row of the log."""

    def __init__(self) -> None:
        self.saved = self._since = time.monotonic()
        self.samples = 0
        """Samples since the last call of ``speed``, of all processes."""

    def speed(self) -> float:
        """Return samples a second since the last call."""
        now = time.monotonic()
        speed = self.samples / (now - self._since)
        self._since, self.samples = now, 0
        return speed

    def since_save(self) -> float:
        """Return seconds since the last checkpoint, as of the last call of ``speed``."""
        return self._since - self.saved


def _mean_over_processes(losses: dict[str, float], fabric: Fabric) -> dict[str, float]:
    """Return the mean of the losses over all processes, the same in each.

    Thus all stop together where one has diverged, and none waits for another.
    """
    if fabric.world_size == 1:
        return losses
    mean: Any = fabric.all_reduce(
        torch.tensor(list(losses.values()), device=fabric.device), reduce_op="mean"
    )
    return dict(zip(losses, mean.tolist(), strict=True))


def _check_finite(loss: float, progress: Progress, fabric: Fabric) -> None:
    """Stop a training that has diverged.

    Raises:
        ConfigError: The loss is not finite; in the first process. All others exit silently.
    """
    if math.isfinite(loss):
        return
    if not fabric.is_global_zero:
        raise SystemExit(2)
    raise ConfigError(
        f"The loss is {loss} at step {progress.total_steps}. Start again with a lower"
        " --optimiser.learning-rate, or with --optimiser.gradient-clip 1."
    )
