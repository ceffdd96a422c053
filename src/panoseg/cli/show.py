"""``panoseg show``: a patch, its truth and its prediction side by side, or when in the season the
network looked at it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.data.places import place_of
from panoseg.errors import ConfigError


def run(
    run: Annotated[Path, tyro.conf.Positional],
    *,
    data: str,
    patch: str,
    out: Path,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
    attention: bool = False,
    pixel: tuple[int, int] | None = None,
    parcel: int | None = None,
) -> None:
    """Draw the true colour of a patch on a clear date near mid June, its truth and its prediction
    side by side, with a legend.

    With --attention: when in the season did the network look? The attention of each head and their
    mean over the dates, at a pixel, in a parcel or in the whole patch, beside the place's NDVI with
    cloudy dates marked.

    example: panoseg show run --data PASTIS --patch 10000 --out figure.png

    example: panoseg show run --data PASTIS --patch 10000 --attention --pixel 40 97 --out
    attention.png

    Args:
        run: Folder of a run, or of weights.
        data: Folder of the dataset, in PASTIS's, S2TSCzCrop's or COCO's layout; or URL of shards.
        patch: Identifier of the patch; it may be of any fold.
        out: Picture to write: .png, .pdf, .svg or .jpg.
        fold: Which weights to use where there are several. The authors' see the patch normalised by
            the mean over all folds.
        attention: Draw the attention over dates instead; the network must have one.
        pixel: Row and column of the pixel to look at, counted from 0 at the upper left.
        parcel: Number of the parcel to look at; --pixel tells the number of the one it lies in.
    """
    if attention:
        from panoseg.training.attention import show_attention

        show_attention(run, Path(data), patch, out, fold, pixel, parcel)
    elif pixel is not None or parcel is not None:
        raise ConfigError(
            "--pixel or --parcel without --attention", "a place to look at", "add --attention"
        )
    else:
        from panoseg.training.evaluate import show

        show(run, place_of(data), patch, out, fold)
