"""Speed and memory of every network on this machine's processor: ``python benchmarks/models.py``.

Times are compared with the machine's own float32 matrix product, measured in the same run, because
a ratio means the same on any machine. Each is the best of several: other work on the machine only
adds time. A training step counts as three forwards.

A network's convolutions alone are its calls of convolutions, of the same shapes and layouts, one
after the other with nothing between them. Where a network stays below two thirds of the share that
they reach, the operations that take its time are named.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from convolutions import Call, alone, recorded
from networks import NETWORKS, Work, best_seconds, matrix_product_rate, parcels
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.losses import PapsLoss
from panoseg.models.network import build_network
from panoseg.models.outputs import FeatureMaps
from panoseg.models.paps import PaPs
from panoseg.panoptic.merge import merge_masks

DATES, SIDE = 43, 128
ENOUGH = 2 / 3
_MIB = 1024  # the system counts kibibytes
_REPEATS = 3


@dataclass(frozen=True)
class Pass:
    """A forward in evaluation, or a training step. seconds: its time. share: its FLOP/s over those
    of the matrix product.

    alone: the share of its convolutions alone. mib: the largest memory of network, images and all
    that lies between, without the libraries. waits_for: the operations other than convolutions that
    take most of its time, where it falls short.
    """

    seconds: float
    share: float
    alone: float
    mib: float
    waits_for: str

    @property
    def falls_short(self) -> bool:
        """Whether it stays below its convolutions by more than a third."""
        return self.share < ENOUGH * self.alone


@dataclass(frozen=True)
class Row:
    """What was measured of a network."""

    name: str
    title: str
    parameters: int
    flop: int
    rate: float
    forward: Pass
    step: Pass


def measure(name: str, size: int, dates: int, threads: int) -> Row:
    """Measure one network; in a process of its own, whose largest memory is the network's."""
    torch.set_num_threads(threads)
    libraries_mib = largest_mib()
    work = Work.of(name, size, dates)

    def forward() -> object:
        with torch.inference_mode():
            return work.forward()

    # Memory first: it only grows, and a forward takes less than a step.
    work.model.eval()
    forward()
    forward_mib = largest_mib() - libraries_mib
    work.model.train()
    work.step()
    step_mib = largest_mib() - libraries_mib
    rate = matrix_product_rate()
    work.model.eval()
    flop = work.flop()
    parameters = sum(parameter.numel() for parameter in work.model.parameters())
    with torch.no_grad(), recorded() as calls:
        work.forward()
    forward_pass = _pass(forward, flop, calls, rate, forward_mib)
    work.model.train()
    with recorded() as calls:
        work.step()
    step_pass = _pass(work.step, flop, calls, rate, step_mib, forwards=3)
    return Row(name, work.model.config.title, parameters, flop, rate, forward_pass, step_pass)


def _pass(
    work: Callable[[], object],
    flop: int,
    calls: Counter[Call],
    rate: float,
    mib: float,
    forwards: int = 1,
) -> Pass:
    seconds = best_seconds(work, _REPEATS)
    own_flop, own_seconds = alone(calls, _REPEATS)
    found = Pass(
        seconds, forwards * flop / seconds / rate, forwards * own_flop / own_seconds / rate, mib, ""
    )
    return (
        Pass(seconds, found.share, found.alone, mib, slowest_operations(work))
        if found.falls_short
        else found
    )


def largest_mib() -> float:
    """The largest memory that this process has held so far."""
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # getrusage starts from the largest memory of the process that began this one
        return (
            next(
                int(line.split()[1])
                for line in status.read_text().splitlines()
                if line.startswith("VmHWM")
            )
            / _MIB
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB


def slowest_operations(work: Callable[[], object], count: int = 3) -> str:
    """The share of the time of ``work`` in convolutions, and the other operations that take most of
    it, one percent or more.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    seconds = Counter(
        {
            event.key.removeprefix("aten::"): event.self_cpu_time_total
            for event in profiled.key_averages()
        }
    )
    total = seconds.total()
    others = Counter({name: time for name, time in seconds.items() if "conv" not in name.lower()})
    slowest = [
        f"{name} {time / total:.0%}"
        for name, time in others.most_common(count)
        if time >= 0.01 * total
    ]
    return ", ".join([*slowest, f"convolutions themselves {1 - others.total() / total:.0%}"])


def networks_table(names: list[str], size: int, dates: int, threads: int) -> None:
    """Print a row for each network, as soon as it is measured."""
    print(
        f"A season of {dates} x 10 x {size} x {size}; shares of the float32 matrix product on"
        f" {threads} threads.\n"
    )
    columns = ("network", "parameters", "GFLOP", "forward", "share", "convolutions alone")
    columns += (
        "step",
        "share",
        "convolutions alone",
        "MiB forward",
        "MiB step",
        "more than a third below",
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its own doings
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    notes, rates = [], []
    with processes:
        for name in names:
            row = processes.submit(measure, name, size, dates, threads).result()
            rates.append(row.rate)
            passes = {"forward": row.forward, "step": row.step}
            short = [
                f"{what}: waits for {found.waits_for}"
                for what, found in passes.items()
                if found.falls_short
            ]
            notes += [f"{row.title}, {line}" for line in short]
            shares = (f"{p.seconds:.2f} s | {p.share:.0%} | {p.alone:.0%}" for p in passes.values())
            memory = f"{row.forward.mib:.0f} | {row.step.mib:.0f}"
            verdict = ", ".join(what for what, found in passes.items() if found.falls_short) or "no"
            numbers = (
                f"{row.parameters:,} | {row.flop / 1e9:.3g} | {' | '.join(shares)} | {memory} |"
                f" {verdict}"
            )
            print(f"| {row.title} (`{name}`) | {numbers} |", flush=True)
    print(f"\nMatrix product: {min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} GFLOP/s.")
    print("\n".join(notes) or "None stays below its own convolutions by more than a third.")


def utae_shares(rate: float) -> list[tuple[str, str, str]]:
    """U-TAE forward and a training step on a patch of PASTIS as shares of ``rate``."""
    work = Work.of("utae", SIDE, DATES)

    def forward() -> object:
        with torch.inference_mode():
            return work.forward()

    training = best_seconds(work.step, 5)
    work.model.eval()
    evaluation, flop = best_seconds(forward, 5), work.flop()
    return [
        (
            "U-TAE forward, share of matrix product",
            f"{flop / evaluation / rate:.0%} ({evaluation:.2f} s)",
            "45 %",
        ),
        (
            "U-TAE training step, same",
            f"{3 * flop / training / rate:.0%} ({training:.2f} s)",
            "50 %",
        ),
    ]


def head_times() -> list[tuple[str, str, str]]:
    """PaPs after its backbone: prediction with merging, and the loss with its gradient; 100 centres
    of boxes near 13 pixels.
    """
    model = build_network(PapsConfig())
    assert isinstance(model, PaPs)
    torch.nn.init.constant_(model.size_mlp[-2].bias, 13.0)
    model.min_confidence.zero_()
    targets, loss = parcels(SIDE), PapsLoss(void=19)
    maps = decoder_maps()

    def predict() -> None:
        with torch.inference_mode():
            output = model.head(maps, targets.zone_BHW)
            merge_masks(model.scored_masks(output), 1)

    def learn() -> None:
        model.zero_grad()
        loss(model.head(maps, targets.zone_BHW), targets).total.backward()

    learning = best_seconds(learn, 20)
    model.eval()
    predicting = best_seconds(predict, 20)
    return [
        ("PaPs head and merging, 100 centres", f"{predicting * 1e3:.1f} ms", "10 ms"),
        ("PaPs head and loss, 100 parcels, with gradient", f"{learning * 1e3:.1f} ms", "30 ms"),
    ]


def decoder_maps() -> FeatureMaps:
    """Noise in the shapes of U-TAE's maps."""
    widths = PapsConfig().backbone.map_widths
    levels: list[Tensor] = [
        torch.randn(1, width, SIDE >> i, SIDE >> i) for i, width in enumerate(widths)
    ]
    return FeatureMaps(
        tuple(level.contiguous(memory_format=torch.channels_last) for level in reversed(levels))
    )


def main() -> None:
    """Print the table of all networks, then, unless some were named, that of what is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=NETWORKS,
        metavar="NAME",
        help=f"some of {', '.join(NETWORKS)}",
    )
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--dates", type=int, default=43)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    networks_table(
        arguments.models or list(NETWORKS), arguments.size, arguments.dates, arguments.threads
    )
    if arguments.models:
        return
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rate = matrix_product_rate()
    rows = [*utae_shares(rate), *head_times()]
    print(
        f"\nOne season of {DATES} x 10 x {SIDE} x {SIDE}; float32 matrix product: {rate / 1e9:.0f}"
        " GFLOP/s.\n"
    )
    print("| what | measured | wanted |\n|---|---|---|")
    for what, measured, wanted in rows:
        print(f"| {what} | {measured} | {wanted} |")


if __name__ == "__main__":
    main()
