"""``panoseg show``: a patch, its truth and its prediction side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def run(
    run: Annotated[Path, tyro.conf.Positional],
    *,
    data: Path,
    patch: str,
    out: Path,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
) -> None:
    """Draw the true colour of a patch on a clear date near mid June, its truth and its prediction side by side, with a legend.

    example: panoseg show run --data PASTIS --patch 10000 --out figure.png

    Args:
        run: Folder of a run, or of weights.
        data: Folder of the dataset, in PASTIS's layout.
        patch: Identifier of the patch; it may be of any fold.
        out: Picture to write: .png, .pdf, .svg or .jpg.
        fold: Which weights to use where there are several.
    """
    from panoseg.training.evaluate import show

    show(run, data, patch, out, fold)
