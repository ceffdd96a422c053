"""Training steps of every network on a GPU: ``python benchmarks/gpu.py``. Without a GPU it says so
and ends.

Plain is an eager step in float32, without and with TensorFloat-32 in convolutions and products
(torch allows it in convolutions by default). With everything on is bfloat16 by autocast, compiled,
weights with channels last, a fused optimiser. A step is loss, gradients and Adam on a batch of
noise; its time is the median of several after a few that do not count. A step counts as three
forwards; the chip's bfloat16 rate is that of a matrix product, measured in the same run.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from networks import NETWORKS, Work, matrix_product_rate
from panoseg.models.paps import PaPs
from panoseg.panoptic.merge import merge_masks

WARM_UP = 5
"""Runs before those that are measured."""
_GIB = 1024**3


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, and the largest memory of the device in bytes."""

    seconds: float
    peak: int


def synchronise(device: str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """The median of ``repeats`` runs after a few that do not count."""
    times = []
    for _ in range(WARM_UP + repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def allow_tensorfloat(allowed: bool) -> None:
    """Whether float32 convolutions and products may round their inputs to TensorFloat-32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def plain(work: Work, device: str, repeats: int) -> Speed:
    """An eager step in float32."""
    return _speed(work, torch.optim.Adam(work.model.parameters()), device, repeats, reduced=False)


def everything_on(work: Work, device: str, repeats: int, compiled: bool) -> Speed:
    """A step in bfloat16, compiled, with channels last."""
    for module in (
        work.model.modules()
    ):  # not the whole network: weights in three dimensions have another such layout
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)
    if compiled:
        work.model.compile()
    return _speed(
        work, torch.optim.Adam(work.model.parameters(), fused=True), device, repeats, reduced=True
    )


def _speed(
    work: Work, optimiser: torch.optim.Optimizer, device: str, repeats: int, reduced: bool
) -> Speed:
    kind = torch.device(device).type

    def step() -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=reduced):
            loss = work.loss()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(step, device, repeats)
    return Speed(seconds, torch.cuda.max_memory_allocated() if kind == "cuda" else 0)


def release() -> None:
    """Give back what the last network held, compiled code included."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def largest_batch(name: str, arguments: argparse.Namespace) -> int:
    """The batch that was asked for, halved until a float32 step fits."""
    batch = arguments.batch
    while True:
        try:
            Work.of(
                name, arguments.size, arguments.dates, batch, arguments.device
            ).loss().backward()
            return batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        finally:
            release()


def steps_row(name: str, arguments: argparse.Namespace, rate: float) -> str:
    """A network's line of the table."""

    def fresh() -> Work:
        release()
        return Work.of(name, arguments.size, arguments.dates, batch, arguments.device)

    device, repeats = arguments.device, arguments.repeats
    batch = largest_batch(name, arguments)
    title, flop = NETWORKS[name].title, fresh().flop()
    allow_tensorfloat(False)
    strict = plain(fresh(), device, repeats)
    allow_tensorfloat(True)
    rounded = plain(fresh(), device, repeats)
    fast = everything_on(fresh(), device, repeats, not arguments.no_compile)
    columns = [
        f"{title} (`{name}`)",
        str(batch),
        *(f"{1e3 * speed.seconds:.1f}" for speed in (strict, rounded, fast)),
        f"{strict.seconds / fast.seconds:.1f}",
        f"{batch / fast.seconds:.1f}",
        f"{3 * flop / fast.seconds / rate:.1%}",
        *(f"{speed.peak / _GIB:.1f}" for speed in (strict, fast)),
    ]
    return f"| {' | '.join(columns)} |"


@torch.inference_mode()
def head_line(arguments: argparse.Namespace, reduced: bool) -> str:
    """PaPs after its backbone, and merging, against the backbone; one season, eager."""
    work = Work.of("utae-paps", arguments.size, arguments.dates, 1, arguments.device)
    model, device = work.model.eval(), arguments.device
    assert isinstance(model, PaPs)
    model.min_confidence.zero_()
    seasons = work.images_BTCHW, work.days_BT, work.valid_BT
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=reduced):
        maps = model.encoder.features(*seasons)
        encoder = median_seconds(
            lambda: model.encoder.features(*seasons), device, arguments.repeats
        )
        head = median_seconds(
            lambda: merge_masks(model.scored_masks(model.head(maps, work.targets.zone_BHW)), 1),
            device,
            arguments.repeats,
        )
    precision = "bfloat16" if reduced else "float32"
    centres = int(work.targets.zone_BHW.amax())
    return (
        f"PaPs head and merging, {centres} centres, {precision}: {1e3 * head:.1f} ms; its encoder"
        f" {1e3 * encoder:.1f} ms: {head / encoder:.2f} of it (wanted: 0.5)"
    )


def main() -> None:
    """Print the table, a network a line."""
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
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--dates", type=int, default=43)
    parser.add_argument(
        "--batch", type=int, default=4, help="seasons in a step; halved until they fit"
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--device", default="cuda", help="cpu tries the script, its numbers mean little"
    )
    arguments = parser.parse_args()
    on_gpu = torch.device(arguments.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        return
    torch.backends.cudnn.benchmark = True
    rate = matrix_product_rate(8192 if on_gpu else 512, torch.bfloat16, arguments.device)
    chip = torch.cuda.get_device_name() if on_gpu else "processor"
    print(f"{chip}, torch {torch.__version__}: bfloat16 matrix product {rate / 1e12:.2f} TFLOP/s.")
    print(
        f"Seasons of {arguments.dates} x 10 x {arguments.size} x {arguments.size}; milliseconds a"
        " step.\n"
    )
    columns = [
        "network",
        "batch",
        "float32",
        "TensorFloat-32",
        "everything on",
        "times faster",
        "patches/s",
        "of bfloat16 rate",
    ]
    columns += ["GiB float32", "GiB everything on"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    failed = []
    for name in arguments.models or NETWORKS:
        try:
            print(steps_row(name, arguments, rate), flush=True)
        # A network that does not fit or compile must not cost the rows of the others.
        except Exception as error:  # noqa: BLE001
            failed.append(name)
            print(f"| `{name}` | failed: {' '.join(str(error).split())[:200]} |", flush=True)
    release()
    print()
    for reduced in (False, True):
        print(head_line(arguments, reduced), flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
