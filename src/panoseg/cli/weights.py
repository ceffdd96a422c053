"""``panoseg weights``: import published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.errors import ConfigError

USAGE = """Import published weights of utae-paps or Crop2Seg: conf.json and model.pth.tar become safetensors + json.

usage: panoseg weights import FOLDER OUT [--data DIR] [--fold 1..5]

Files are read as numbers alone; none can run code. panoseg weights import --help lists the options.

example: panoseg weights import UTAE_PAPs weights --data PASTIS
"""


def main(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
    elif arguments[0] == "import":
        tyro.cli(import_weights, prog="panoseg weights import", args=arguments[1:])
    else:
        raise ConfigError(
            f"panoseg weights {arguments[0]}",
            "panoseg weights import",
            "see panoseg weights --help",
        )


def import_weights(
    folder: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    data: Path | None = None,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
) -> None:
    """Write published weights in panoseg's form: OUT/fold_1 .. OUT/fold_5, or OUT itself with
    --fold and for a single split.

    example: panoseg weights import UTAE_PAPs weights --data PASTIS

    Args:
        folder: The authors' folder: conf.json and Fold_1 .. Fold_5 (utae-paps), or conf.json and
            model.pth.tar (Crop2Seg).
        out: Folder to write; new or empty.
        data: Folder with NORM_S2_patch.json, the normalisation that belongs to the weights;
            otherwise FOLDER. Without it the weights can be scored on their dataset, but not used
            for maps.
        fold: Import only this fold.
    """
    from panoseg.training.transfer import import_folds

    for path in import_folds(folder, out, data, fold):
        print(path)
