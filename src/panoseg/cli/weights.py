"""The commands for trained networks: weights, show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.cli import Verbs, run_verb
from panoseg.cli.output import Output
from panoseg.data.places import place_of
from panoseg.errors import ConfigError


def weights(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    run_verb(
        "weights",
        WEIGHTS_VERBS,
        arguments,
        "Import published weights of utae-paps or Crop2Seg. Files are read as plain numbers; code"
        " in them is never run.",
        "panoseg weights import UTAE_PAPs weights --data PASTIS",
    )


def import_weights(
    folder: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional, Output.FOLDER],
    *,
    data: Path | None = None,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
) -> None:
    """Convert published weights to the format of panoseg.

    Writes OUT/fold_1 .. OUT/fold_5, or OUT itself for a single split or with --fold.

    example: panoseg weights import UTAE_PAPs weights --data PASTIS

    Args:
        folder: The published folder: conf.json and Fold_1 .. Fold_5 (utae-paps), or conf.json and
            model.pth.tar (Crop2Seg).
        out: Folder to write; must be new or empty.
        data: Folder with NORM_S2_patch.json, the normalisation that belongs to the weights; by
            default FOLDER. Without it the weights can be scored on their dataset, but not used for
            maps.
        fold: Import only this fold.
    """
    from panoseg.training.transfer import import_folds

    for path in import_folds(folder, out, data, fold):
        print(path)


WEIGHTS_VERBS: Verbs = {
    "import": (import_weights, "conf.json and model.pth.tar become safetensors + json"),
}


def show(
    run: Annotated[Path, tyro.conf.Positional],
    *,
    data: str,
    patch: str,
    out: Annotated[Path, Output.FILE],
    fold: Literal[1, 2, 3, 4, 5] | None = None,
    attention: bool = False,
    pixel: tuple[int, int] | None = None,
    parcel: int | None = None,
) -> None:
    """Draw image, truth and prediction of a patch side by side, or the attention over dates.

    The image is the true colour of a clear date near the middle of June. With --attention: the
    temporal attention of each head and their mean over the dates, at a pixel, in a parcel or in the
    whole patch, with the NDVI of the place; cloudy dates are marked.

    example: panoseg show run --data PASTIS --patch 10000 --out figure.png

    example: panoseg show run --data PASTIS --patch 10000 --attention --pixel 40 97 --out
    attention.png

    Args:
        run: Folder of a run, or of weights.
        data: Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards.
        patch: Identifier of the patch, of any fold.
        out: File to write: .png, .pdf, .svg or .jpg.
        fold: Weights to use where there are several. Published weights see the patch normalised by
            the mean over all folds.
        attention: Draw the attention over dates instead; the network must have temporal attention.
        pixel: With --attention: row and column of a pixel, counted from 0 at the upper left.
        parcel: With --attention: number of a parcel; --pixel prints the number of the parcel that
            the pixel is in.
    """
    if attention:
        from panoseg.training.attention import show_attention

        result = show_attention(run, Path(data), patch, out, fold, pixel, parcel)
    elif pixel is not None or parcel is not None:
        raise ConfigError("--pixel and --parcel need --attention; add it or leave them out.")
    else:
        from panoseg.training.evaluate import show

        result = show(run, place_of(data), patch, out, fold)
    print(result.table())
