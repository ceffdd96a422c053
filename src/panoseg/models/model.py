"""Weights that are ready to use: a network on a device, with all that its inputs need.

Shape suffixes: B batch, T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from panoseg.classes import ClassTable
from panoseg.data import PhotographConfig
from panoseg.data.samples import Batch, Normalisation
from panoseg.errors import ConfigError, CubeError
from panoseg.models.configs import check_tta
from panoseg.models.network import PLAIN, Network, PredictOptions
from panoseg.models.weights import CARD, Weights, load_weights
from panoseg.models.weights_list import PACKAGE_WEIGHTS
from panoseg.panoptic import Panoptic

if TYPE_CHECKING:
    from PIL import Image

    Photo = Path | str | Image.Image | np.ndarray

PUBLISHED = "coco"
"""The name of torchvision's Mask R-CNN."""
WEIGHTS = "weights"
"""Folder of a run that holds its best weights."""
_GPU_TILES = 8


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a GPU where there is one.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {name!r} is not available. Choose auto, cpu, cuda or mps with --device."
        ) from error


def find_weights(source: Weights | Path | str | None) -> Weights | Path | str:
    """Return where weights lie: those of the package for None, the best ones of a run.

    Weights that are known by name are fetched where they are not on this machine, see ``locate``.
    """
    if source is None:
        return PACKAGE_WEIGHTS
    if isinstance(source, Weights) or str(source) == PUBLISHED:
        return source
    # Workers that get their weights as numbers never fetch any, and need no requests.
    from panoseg.models.weights_by_name import locate

    folder = locate(source)
    return folder / WEIGHTS if (folder / WEIGHTS / CARD).exists() else folder


@dataclass(frozen=True, eq=False)
class Model:
    """A network on its device, ready to predict; made once by ``load`` or ``of``."""

    network: Network
    """The network, in evaluation mode."""
    device: torch.device
    """Where it computes."""
    normalisation: Normalisation | None = None
    """Mean and deviation of the bands of seasons; None for photographs."""
    season_start: tuple[int, int] = (9, 1)
    """Month and day of day 0 of a season."""
    sides: PhotographConfig | None = None
    """Sizes to which photographs are resized; None where the network does it, and for seasons."""
    options: PredictOptions = PLAIN
    """How samples are predicted."""
    reduced: bool = False
    """Whether the network computes in bfloat16."""

    @classmethod
    def load(
        cls,
        source: Weights | Path | str | None = None,
        *,
        device: str = "auto",
        precision: Literal["float32", "bfloat16"] = "float32",
        tta: int = 1,
        thresholds: Mapping[str, float] | None = None,
    ) -> Self:
        """Load weights.

        Args:
            source: A folder of weights, a run, a name of panoseg weights list, hf:OWNER/NAME,
                zenodo:RECORD, an https address, "coco" for the Mask R-CNN that torchvision
                publishes, or None for the weights of the package.
            device: auto, cpu, cuda, cuda:1, mps.
            precision: Arithmetic of the network.
            tta: Number of test-time augmentations.
            thresholds: Other thresholds than those of the weights: score, mask, overlap (0..1) and
                stuff_area (pixels).

        Raises:
            WeightsError: The weights cannot be read.
            ConfigError: The device is not there, or an option does nothing with this network.
        """
        found = find_weights(source)
        if isinstance(found, Weights):
            weights = found
        elif str(found) == PUBLISHED:
            from panoseg.models.initial_weights import published_mask_rcnn

            weights = published_mask_rcnn(thresholds)
        else:
            weights = load_weights(found, thresholds)
        return cls.of(weights, device=device, precision=precision, tta=tta)

    @classmethod
    def of(
        cls,
        weights: Weights,
        *,
        device: str = "auto",
        precision: Literal["float32", "bfloat16"] = "float32",
        tta: int = 1,
        reference_date: date | None = None,
    ) -> Self:
        """Put weights that are in memory onto a device.

        Args:
            weights: The weights.
            device: As in ``load``.
            precision: As in ``load``.
            tta: As in ``load``.
            reference_date: Day 0 of the seasons that follow; None for that of the training.
        """
        card = weights.card
        check_tta(card.model, tta)
        season = card.model.inputs == "season"
        chosen = find_device(device)
        return cls(
            weights.network(reference_date).to(chosen),
            chosen,
            card.input_normalisation(),
            card.season_start,
            None if season else card.sides,
            PredictOptions(tta=tta, independent=True),
            precision == "bfloat16",
        )

    @property
    def table(self) -> ClassTable:
        """The classes of its segmentations."""
        return self.network.table

    def predict(self, images: Any, dates: np.ndarray | Sequence[Any] | None = None) -> Panoptic:  # noqa: ANN401
        """Segment one season or one photograph.

        Args:
            images: A season: T x C x H x W, reflectance x 10 000, bands in the order of
                ``normalisation.bands``, of any size; NaN and 0 are gaps, which are filled from the
                dates before and after. Or a photograph: a path, a PIL image, or an array
                H x W x 3, uint8.
            dates: Dates of a season, T, anything that becomes datetime64; in any order.

        Returns:
            The segmentation, of the size of the input. Pixels without data on any date have no
            segment.

        Raises:
            ConfigError: Dates are missing, or given for a photograph.
            CubeError: The images of a season have other bands or dates.
            DatasetError: A photograph cannot be read, or does not fit into memory.
        """
        if (dates is None) == (self.network.inputs == "season"):
            wanted = "a season needs dates" if dates is None else "a photograph has no dates"
            raise ConfigError(
                f"{self.network.config.title} reads {self.network.inputs}s: {wanted}."
            )
        data_HW: np.ndarray | None = None
        if dates is None:
            batch = self._photograph(images)
            height, width = batch.photographs[0].size_HW
        else:
            images_TCHW, days_T, data_HW = self._season(np.asarray(images), dates)
            batch, (height, width) = self.batch(images_TCHW[None], days_T), data_HW.shape
        try:
            with self.computing():
                [found] = self.network.predict(batch, self.options)
        except torch.OutOfMemoryError as error:
            if dates is not None:
                raise
            from panoseg.models.two_models import too_large

            raise too_large(
                f"{height} x {width} pixels need more memory than {self.device} has"
            ) from error
        if found.segment_HW.shape != (height, width):
            found = found.crop(slice(height), slice(width))
        return found if data_HW is None or data_HW.all() else _inside(found, data_HW)

    def predict_tiles(
        self,
        tiles: Sequence[np.ndarray],
        days_T: np.ndarray,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Panoptic]:
        """Segment tiles of one size and season, each independently of the others.

        On a GPU the backbone sees several tiles at once; on a CPU nothing is gained by that.

        Args:
            tiles: float32 T x C x H x W each, reflectance x 10 000 without gaps.
            days_T: int64, days since the network's reference date.
            progress: Called with the number of tiles that are done, after each batch.
        """
        size = _GPU_TILES if self.device.type == "cuda" else 1
        panoptics = []
        for start in range(0, len(tiles), size):
            images_BTCHW = np.stack(tiles[start : start + size])
            height, width = images_BTCHW.shape[-2:]
            with self.computing():
                found = self.network.predict(self.batch(images_BTCHW, days_T), self.options)
            panoptics += [one.crop(slice(height), slice(width)) for one in found]
            progress(len(found))
        return panoptics

    def batch(self, images_BTCHW: np.ndarray, days_T: np.ndarray) -> Batch:
        """Return standardised seasons on the device, mirrored up to the network's stride.

        Args:
            images_BTCHW: float32, reflectance x 10 000.
            days_T: int64, days since the network's reference date.
        """
        assert self.normalisation is not None, "a network for seasons"
        count, height, width = len(images_BTCHW), *images_BTCHW.shape[-2:]
        stride = self.network.config.stride
        margins = ((0, 0), (0, 0), (0, 0), (0, -height % stride), (0, -width % stride))
        images = torch.from_numpy(np.pad(images_BTCHW, margins, mode="symmetric")).to(self.device)
        days_BT = torch.from_numpy(days_T[None]).to(self.device).expand(count, -1)
        valid_BT = torch.ones_like(days_BT, dtype=torch.bool)
        names = tuple(map(str, range(count)))
        return Batch(self.normalisation(images, valid_BT), days_BT, valid_BT, names)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, in the chosen precision."""
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced),
        ):
            yield

    def _season(
        self, images_TCHW: np.ndarray, dates: np.ndarray | Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images without gaps in the order of their dates, the days, and where data are."""
        from panoseg.cube.season import fill_gaps, infer_harvest_year

        assert self.normalisation is not None, "a network for seasons"
        bands, dates_T = self.normalisation.bands, np.asarray(dates, "datetime64[D]")
        if images_TCHW.ndim != 4 or images_TCHW.shape[1] != len(bands):
            raise CubeError(
                f"The images have the shape {images_TCHW.shape}, and should be T x {len(bands)} x H"
                f" x W with the bands {', '.join(bands)}."
            )
        if len(dates_T) != len(images_TCHW) or not len(dates_T) or np.isnat(dates_T).any():
            raise CubeError(
                f"There are {len(images_TCHW)} images and {len(dates_T)} dates; give one date an"
                " image."
            )
        order = np.argsort(dates_T, kind="stable")
        dates_T = dates_T[order]
        day0 = date(infer_harvest_year(dates_T, self.season_start) - 1, *self.season_start)
        self.network.count_days_from(day0)
        days_T = (dates_T - np.datetime64(day0)).astype(np.int64)
        missing_C = ~(np.abs(images_TCHW) > 0).any(axis=(0, 2, 3))
        missing_C &= not missing_C.all()  # then no pixel has data, and nothing is found
        fewest = self.network.config.fewest_bands or len(bands)
        if missing_C.any() and len(bands) - missing_C.sum() < fewest:
            names = ", ".join(np.array(bands)[missing_C])
            raise CubeError(f"The bands {names} have no data, and {fewest} bands are needed.")
        filled_TCHW, data_HW = images_TCHW[order].astype(np.float32), np.array(True)
        filled_TCHW[:, missing_C] = np.nan
        for band in np.flatnonzero(~missing_C):
            filled_TCHW[:, band], band_data_HW = fill_gaps(filled_TCHW[:, band], days_T)
            data_HW = data_HW & band_data_HW
        return filled_TCHW, days_T, data_HW

    def _photograph(self, image: Photo) -> Any:  # noqa: ANN401
        """Return a photograph as a batch on the device."""
        from PIL import Image

        from panoseg.data.photograph_files import decode_photograph, read_bytes, upright_rgb
        from panoseg.data.photographs import Photograph, PhotographBatch
        from panoseg.models.two_models import resized

        if isinstance(image, Path | str):
            image = decode_photograph(read_bytes(Path(image)), image)
        elif isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ConfigError(
                    f"The photograph is an array {image.dtype} of the shape {image.shape}, and"
                    " should be uint8, H x W x 3."
                )
            image = Image.fromarray(image)
        elif image.mode != "RGB":
            image = upright_rgb(image)
        sides = self.sides or PhotographConfig()
        image_CHW = (
            torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
            if self.sides is None
            else resized(image, sides)
        )
        size_HW = (image.height, image.width)
        return PhotographBatch((Photograph(image_CHW.to(self.device), "photograph", 1, size_HW),))


def _inside(found: Panoptic, data_HW: np.ndarray) -> Panoptic:
    """Return a segmentation without the pixels that have no data."""
    from panoseg.panoptic.segments import present_segments

    segment_HW = np.where(data_HW, found.segment_HW, 0).astype(found.segment_HW.dtype)
    ids, areas = present_segments(segment_HW)
    kept = found.segments.take(np.isin(found.segments.ids, ids))
    return Panoptic(segment_HW, replace(kept, areas=areas))
