"""Count the frames of panoseg between a command's function and the network that computes features.

    python benchmarks/stack_frames.py

Runs ``panoseg train``, ``map`` and ``photo`` on tiny inputs and prints the frames of each at the
moment when the network computes its features: from the function of the command, both included.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import panoseg
from panoseg.cli import main
from panoseg.data.samples import Normalisation
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.photograph import PanopticFpnConfig
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.mask_rcnn import PanopticFpn
from panoseg.models.network import build_network
from panoseg.models.utae import UTAE
from panoseg.models.weights import Weights, WeightsCard, save_weights
from panoseg.simulation.cube import write_cube
from panoseg.simulation.options import SIMULATED_PHOTOGRAPHS, SimulationOptions
from panoseg.simulation.write import write_pastis

ROOT = Path(panoseg.__file__).parent
WIDTHS = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "head_widths": (8,)}
BACKBONE = UtaeConfig(**WIDTHS, heads=4, d_model=8, key_width=2)
DETECTOR: dict[str, Any] = {
    "backbone": "resnet18",
    "norm": "group",
    "weights": "none",
    "group_norm": True,
    "pyramid_width": 16,
    "box_width": 16,
    "mask_widths": (16,),
    "semantic_width": 16,
    "detections": 5,
    "train_proposals": 20,
    "test_proposals": 10,
}


class _Caught(Exception):
    """Ends a command at the moment of interest."""


def own_frames(start: tuple[str, str]) -> list[str]:
    """Return the frames of panoseg from the function ``start`` (file, name) on, outermost first."""
    frames, frame = [], sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT):
            file = str(path.relative_to(ROOT))
            frames.append(f"{file}: {frame.f_code.co_qualname}")
            if (file, frame.f_code.co_name) == start:
                return frames[::-1]
        frame = frame.f_back
    raise RuntimeError(f"{start} is not among {frames}")


def frames_of(words: list[str], start: tuple[str, str], owner: type, name: str) -> list[str]:
    """Return the frames of a command when it calls ``owner.name`` for the first time.

    Args:
        words: The command.
        start: File and name of the command's function.
        owner: A class of network.
        name: The method that computes its features.
    """
    found: list[str] = []
    original: Callable[..., Any] = getattr(owner, name)

    def caught(*given: Any, **named: Any) -> Any:
        found.extend([*own_frames(start), f"{owner.__name__}.{name}"])
        raise _Caught

    setattr(owner, name, caught)
    try:
        main(words)
    except _Caught:
        pass
    finally:
        setattr(owner, name, original)
    return found


def season_weights(folder: Path) -> Path:
    """Write weights of a tiny PaPs with drawn numbers."""
    config = PapsConfig(BACKBONE, shape_size=4)
    normalisation = Normalisation((2000.0,) * 10, (1000.0,) * 10)
    card = WeightsCard(config, normalisation)
    save_weights(folder, Weights(card, build_network(config).state_dict()))
    return folder


def photograph_weights(folder: Path) -> Path:
    """Write weights of a tiny Panoptic FPN with drawn numbers."""
    table = SIMULATED_PHOTOGRAPHS
    counts = {"things": len(table.ids("thing")), "stuff": len(table.ids("stuff"))}
    config = PanopticFpnConfig(**DETECTOR, **counts)
    card = WeightsCard(config, None, table)
    save_weights(folder, Weights(card, build_network(config).state_dict()))
    return folder


def all_frames(folder: Path) -> dict[str, list[str]]:
    """Return the frames of train, map and photo; folder: for tiny inputs."""
    torch.manual_seed(0)
    options = SimulationOptions(dates=(3, 3))
    data = write_pastis(folder / "data", 5, (16, 16), seed=1, options=options, workers=1)
    cube = write_cube(folder / "season", (32, 32), seed=1, options=options) / "cube.nc"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "a.png")
    model = [
        word
        for name, value in {**WIDTHS, "heads": (4,), "d_model": (8,), "key_width": (2,)}.items()
        for word in (f"--model.backbone.{name.replace('_', '-')}", *map(str, value))
    ]
    train = ["train", "pastis-utae-paps", "--data", str(data), "--out", str(folder / "run"), *model]
    train += ["--accelerator", "cpu", "--workers", "0", "--batch-size", "2"]
    weights = str(season_weights(folder / "season-weights"))
    map_ = ["map", str(cube), "--weights", weights, "--out", str(folder / "map"), "--device", "cpu"]
    photo = ["photo", str(folder / "a.png"), "--out", str(folder / "photo"), "--device", "cpu"]
    photo += ["--weights", str(photograph_weights(folder / "photograph-weights"))]
    return {
        "train": frames_of(train, ("cli/training.py", "train"), UTAE, "features"),
        "map": frames_of(map_, ("cli/maps.py", "map_season"), UTAE, "features"),
        "photo": frames_of(photo, ("cli/photo.py", "photo"), PanopticFpn, "padded_outputs"),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for command, frames in all_frames(Path(place)).items():
            print(f"{command}: {len(frames)} frames")
            print("".join(f"  {frame}\n" for frame in frames))
