"""The attention of a network over the dates of a season: at a pixel, in a parcel or in a patch.

Shape suffixes: G heads, B batch, T dates, H W pixels, X some pixels in a row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.describe import open_labelled, parcels_of
from panoseg.data.samples import Batch, collate
from panoseg.errors import ConfigError
from panoseg.models.network import Network
from panoseg.pictures import check_picture
from panoseg.pictures.comparison import Place, draw_attention
from panoseg.training import TrainConfig
from panoseg.training.evaluate import ShowResult, find_weights, reading_words, scored_split
from panoseg.training.loop import make_fabric


def show_attention(
    folder: Path,
    data: Path,
    patch: str,
    out: Path,
    fold: int | None = None,
    pixel: tuple[int, int] | None = None,
    parcel: int | None = None,
) -> ShowResult:
    """Draw the attention over the dates of a season, for a patch of any fold or a place in it.

    Arguments as of ``panoseg.training.evaluate.show``; the place as in ``find_place``.
    """
    check_picture(out)
    labelled = open_labelled(data)
    labels = labelled.samples[labelled.position(patch)]
    assert labels.classes_HW is not None
    parcels_HW = parcels_of(labels, labelled.classes)
    place = find_place(labels.classes_HW.numpy(), parcels_HW, labelled.classes, pixel, parcel)
    found = next(find_weights(folder, data, fold, every_patch=True))
    split = scored_split(found, data, None, TrainConfig(batch_size=1, workers=0))
    fabric = make_fabric(TrainConfig(accelerator="cpu"))
    network = found.weights.network()
    sample = split.dataset[labelled.position(patch)]
    batch = split.prepare(collate([sample]), fabric)
    attention_GT = attention_in(network_attention(network, batch)[:, 0], place.inside_HW)
    predicted_HW = network.predict(batch)[0].classes_HW(none=network.table.background or 0)
    words = (
        predicted_class(predicted_HW[place.inside_HW], network.table)
        if pixel is not None or parcel is not None
        else ""
    )
    draw_attention(sample, place, attention_GT, words, found.weights.card.reference_date, out)
    return ShowResult(out, f"patch {patch}, {reading_words(found, data)}")


def find_place(
    classes_HW: np.ndarray,
    parcels_HW: np.ndarray,
    table: ClassTable,
    pixel: tuple[int, int] | None,
    parcel: int | None,
) -> Place:
    """Return a pixel, a parcel, or, with neither, the whole patch.

    Args:
        classes_HW: Class of each pixel.
        parcels_HW: Parcel number of each pixel, 0 for none.
        table: The classes.
        pixel: Row and column, from 0.
        parcel: Number of the parcel in the patch.

    Raises:
        ConfigError: The pixel or parcel is not in the patch, or both are given.
    """
    if pixel is not None and parcel is not None:
        raise ConfigError("Pass either --pixel or --parcel, not both.")
    if pixel is not None:
        return _pixel(classes_HW, parcels_HW, table, *pixel)
    if parcel is None:
        return Place(np.ones(classes_HW.shape, bool), "the whole patch")
    inside_HW = parcels_HW == parcel
    numbers = np.unique(parcels_HW[parcels_HW > 0]).tolist()
    if parcel < 1 or not inside_HW.any():
        known = f"choose one of {', '.join(map(str, numbers))}" if numbers else "it has none"
        raise ConfigError(
            f"There is no parcel {parcel} in the patch: {known}, or name a pixel with --pixel ROW"
            " COLUMN."
        )
    return Place(
        inside_HW,
        f"parcel {parcel}: {table[int(classes_HW[inside_HW][0])].name},"
        f" {inside_HW.sum() / 100:.2f} ha",
    )


def _pixel(
    classes_HW: np.ndarray, parcels_HW: np.ndarray, table: ClassTable, row: int, column: int
) -> Place:
    height, width = classes_HW.shape
    if not (0 <= row < height and 0 <= column < width):
        raise ConfigError(
            f"--pixel {row} {column} lies outside of the patch: choose a row from 0 to"
            f" {height - 1} and a column from 0 to {width - 1}."
        )
    inside_HW = np.zeros((height, width), bool)
    inside_HW[row, column] = True
    number = parcels_HW[row, column]
    of = f", parcel {number}" if number > 0 else ""
    return Place(
        inside_HW, f"row {row}, column {column}: {table[int(classes_HW[row, column])].name}{of}"
    )


@torch.no_grad()
def network_attention(network: Network, batch: Batch) -> Tensor:
    """Return the attention of a network, at the size at which it attends.

    Args:
        network: A network for seasons; a panoptic one attends in its backbone.
        batch: Standardised images.

    Returns:
        G x B x T x h x w, float, which sums to 1 over valid dates.

    Raises:
        ConfigError: The network has no attention.
    """
    network.eval()
    attention = network.attention(batch)
    if attention is None:
        raise ConfigError(
            f"{network.config.title} has no attention over dates. Leave --attention out, or take"
            " another network."
        )
    return attention


def predicted_class(classes_X: np.ndarray, table: ClassTable) -> str:
    """The most frequent class of some pixels, in words.

    >>> predicted_class(np.array([1, 3, 3, 3]), PASTIS)
    'predicted: corn (75 % of the pixels)'
    """
    class_ids, counts = np.unique(classes_X, return_counts=True)
    share = (
        f" ({100 * counts.max() / len(classes_X):.0f} % of the pixels)"
        if len(classes_X) > 1
        else ""
    )
    return f"predicted: {table[int(class_ids[counts.argmax()])].name}{share}"


def attention_in(attention_GThw: Tensor, inside_HW: np.ndarray) -> np.ndarray:
    """Return the mean attention of each head over some pixels; the sum over dates is 1.

    Args:
        attention_GThw: Attention of one sample, at any size; it is resampled bilinearly to that of
            ``inside_HW``, as U-TAE does.
        inside_HW: True at the pixels; bool.

    Returns:
        float32, G x T.
    """
    attention_GTHW = F.interpolate(
        attention_GThw.float(), size=inside_HW.shape, mode="bilinear", align_corners=False
    )
    return (
        attention_GTHW[:, :, torch.from_numpy(inside_HW).to(attention_GTHW.device)]
        .mean(-1)
        .cpu()
        .numpy()
    )
