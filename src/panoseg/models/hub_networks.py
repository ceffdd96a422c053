"""Mask transformers of the transformers package: Mask2Former, MaskFormer, OneFormer, DETR and EoMT.

The network, its losses and its image processor are the library's; class tables and merging are ours
(``panoptic.merge``), because the library's own merging gives the segment after a joined one
an id that is taken, and has no void. The library is imported when a network is built.

Shape suffixes: Q queries, K labels, N segments, C colours, h w pixels of a map, H W pixels.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.coco.masks import MOST_PIXELS
from panoseg.data.photographs import Photograph, PhotographBatch
from panoseg.errors import ConfigError, DatasetError, require
from panoseg.models.configs.hub import (
    FAMILIES,
    LARGEST_IMAGE,
    PROCESSORS,
    HubNetworkConfig,
    read_options,
)
from panoseg.models.network import PLAIN, Network, PredictOptions
from panoseg.models.outputs import spread
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import NO_CLASS, QueryThresholds, merge_queries

_PREFIX = "network."
"""Beginning of the names of all entries of the library's network."""
_CODE = re.compile(
    r"^_|^auto_map$|_implementation$|^use_kernels$|^kernel_config$|^quantization_config$"
)
_TIMM = re.compile(r"(wide_)?resnet[0-9]{2,3}[a-z0-9_]{0,20}")
"""Backbones of the package timm that may be built: those of published DETRs."""


@cache
def library() -> Any:  # noqa: ANN401
    """Import the transformers package, which then prints nothing.

    Raises:
        ConfigError: It is not installed.
    """
    require("hub", "A network of the Hugging Face Hub")
    with quiet():
        module: Any = import_module("transformers")
        module.logging.set_verbosity_error()
        module.logging.disable_progress_bar()
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the library's warnings in a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what the library raises for impossible options into one ``ConfigError``."""
    try:
        with quiet():
            yield
    except ConfigError:
        raise
    except Exception as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        raise ConfigError(f"{what} cannot be used ({lines[0][:200].rstrip('.')}).") from error


def library_config(config: HubNetworkConfig) -> Any:  # noqa: ANN401
    """Return the library's configuration of a network."""
    family, module = FAMILIES[config.family], library()
    values = _checked_parts(read_options("architecture", config.architecture), module)
    with refused(f"The configuration of {family.title}"):
        found = getattr(module, family.config).from_dict(values)
        found.num_labels = config.label_count
        # What this module reads of the outputs, whatever a file of others says.
        found.return_dict, found.output_attentions, found.output_hidden_states = True, False, False
        if config.family == "oneformer":
            found.is_training = False  # else it needs a text for each photograph
    return found


def _checked_parts(values: Mapping[str, Any], module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return options whose backbone has a configuration, and is not fetched.

    Raises:
        ConfigError: A part is not in the library, or only its name is known.
    """
    found = _plain(values)
    timm = found.pop("use_timm_backbone", found.get("model_type") == "detr")
    backbone, kind = found.get("backbone_config"), found.get("model_type")
    if timm and not backbone and kind == "detr":
        # As the library's own for checkpoints that only name a backbone of timm.
        layers = {"features_only": True, "out_indices": [1, 2, 3, 4]}
        name = found.pop("backbone", None) or "resnet50"
        found["backbone_config"] = {"model_type": "timm_backbone", "backbone": name, **layers}
    elif found.get("backbone") and not backbone and "eomt" not in str(kind):
        raise ConfigError("Its backbone is a name, not a configuration: use another checkpoint.")
    for name in ("backbone_config", "decoder_config"):
        part = found.get(name)
        if part is None:
            continue
        of_part = part.get("model_type") if isinstance(part, dict) else None
        if of_part not in module.CONFIG_MAPPING:
            raise ConfigError(f"{name} has the unknown model_type {of_part!r}.")
        found[name] = {**part, "use_pretrained_backbone": False}
        if of_part == "timm_backbone" and not _TIMM.fullmatch(str(part.get("backbone"))):
            # Other names of timm are places from which it fetches, or are no backbones here.
            raise ConfigError(f"Its backbone {part.get('backbone')!r} of timm is not a ResNet.")
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that name code, which the library would fetch, or how to run."""
    return {
        name: _plain(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not _CODE.search(name)
    }


def library_processor(config: HubNetworkConfig) -> Any:  # noqa: ANN401
    """Return the library's image processor of a network."""
    values = read_options("processor", config.processor)
    kind = str(values.get("image_processor_type") or "").removesuffix("Fast")
    if kind not in PROCESSORS:
        kind = FAMILIES[config.family].processor
    with refused("The configuration of its image processor"):
        # A file of class names would be fetched, and none is needed.
        processor = getattr(library(), kind).from_dict({**values, "class_info_file": None})
        size = dict(processor.size)
    if config.min_side or config.max_side:
        # The library resizes by both sides.
        size = {
            "shortest_edge": config.min_side or LARGEST_IMAGE,
            "longest_edge": config.max_side or LARGEST_IMAGE,
        }
        processor.size = type(processor.size)(**size)
    if not all(value is None or 1 <= value <= LARGEST_IMAGE for value in size.values()):
        raise ConfigError(f"The size of its image processor must be from 1 to {LARGEST_IMAGE}.")
    if getattr(processor, "do_split_image", False):
        raise ConfigError(
            "It looks at windows of photographs, which networks for classes of pixels do. Use"
            " a panoptic checkpoint."
        )
    return processor


@dataclass(frozen=True, eq=False)
class _Seen:
    """A photograph as a network reads it."""

    pixels_CHW: Tensor
    """float32, standardised; padding below and to the right."""
    mask_HW: Tensor
    """int64, 1 where the image processor has not padded."""
    content_HW: tuple[int, int]
    """Rows and columns of the photograph itself."""


class HubNetwork(Network):
    """Queries, each with a class and a mask, merged into one segmentation.

    Args:
        config: The options.
        network: The library's network, if it is there already.
    """

    config: HubNetworkConfig
    class_K: Tensor

    def __init__(self, config: HubNetworkConfig, network: Any = None) -> None:  # noqa: ANN401
        super().__init__(config)
        self.processor = library_processor(config)
        if network is None:
            options = library_config(config)
            with refused(f"The configuration of {config.title}"):
                network = getattr(library(), FAMILIES[config.family].network)(options)
        self.network = network
        self.thresholds = QueryThresholds(config.score, config.mask, config.overlap)

    def prepare(self, table: ClassTable, loss: Any = None) -> Self:  # noqa: ANN401
        """Say what the classes mean."""
        super().prepare(table, loss)
        ids = [entry.id for entry in table.classes if entry.kind != "void"]
        places = self.config.labels or tuple(range(len(ids)))
        # One more label, none.
        classes = [NO_CLASS if place < 0 else ids[place] for place in places] + [NO_CLASS]
        self.register_buffer("class_K", torch.tensor(classes), persistent=False)
        self._label_of = {
            class_id: label for label, class_id in reversed([*enumerate(classes)]) if class_id >= 0
        }
        return self

    def use_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Merge with other thresholds; arguments as in ``Network``."""
        if "stuff_area" in thresholds:
            raise ConfigError(f"--stuff-area does nothing with {self.config.title}. Leave it out.")
        self.thresholds = replace(self.thresholds, **thresholds)

    def use_sides(self, min_side: int, max_side: int) -> None:
        """Resize photographs to other sides than the image processor says, 0 for no limit.

        Raises:
            ConfigError: The network reads photographs of one size.
        """
        self.config = replace(self.config, min_side=min_side, max_side=max_side)
        self.processor = library_processor(self.config)

    def draw_weights(
        self,
        scheme: Literal["published", "torch"],
        heat: float = 0.0,
        taken: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Keep what the library drew."""
        return ""

    def compile_features(self) -> None:
        """Compile the library's network."""
        self.network.compile()

    def losses(self, batch: PhotographBatch, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the library's loss of a batch.

        Photographs without a segment teach nothing and are left out. Pixels of no class count as
        pixels of no mask.
        """
        seen = [self._seen(photograph.image_CHW) for photograph in batch.photographs]
        truths = [self._truth(*pair) for pair in zip(batch.photographs, seen, strict=True)]
        kept = [place for place, (label_N, _) in enumerate(truths) if len(label_N)] or [0]
        height, width = (
            max(seen[place].pixels_CHW.shape[axis] for place in kept) for axis in (1, 2)
        )
        pixels_BCHW = torch.stack(
            [_padded(seen[place].pixels_CHW, height, width) for place in kept]
        )
        mask_BHW = torch.stack([_padded(seen[place].mask_HW, height, width) for place in kept])
        if not len(truths[kept[0]][0]):
            logits, masks = self._queries(pixels_BCHW, mask_BHW)
            return {"loss": 0.0 * (logits.sum() + masks.sum())}
        labels = [(truths[place][0], _padded(truths[place][1], height, width)) for place in kept]
        output = self._run(pixels_BCHW, mask_BHW, labels)
        return {"loss": output.loss.reshape(-1).sum().float()}

    @torch.no_grad()
    def predict(self, batch: PhotographBatch, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return one segmentation a photograph, of its size on disk; one photograph at a time."""
        return [
            self._segmented(photograph.image_CHW, photograph.size_HW)
            for photograph in batch.photographs
        ]

    def _segmented(self, image_CHW: Tensor, size_HW: tuple[int, int]) -> Panoptic:
        seen = self._seen(image_CHW)
        try:
            logits_BQK, masks_BQhw = self._queries(seen.pixels_CHW[None], seen.mask_HW[None])
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError) as error:  # for example a map of a single pixel
            raise self._impossible(image_CHW, error) from error
        padded_HW, map_hw = seen.pixels_CHW.shape[1:], masks_BQhw.shape[2:]
        # Padding is cut off: only these rows and columns of the masks show the photograph.
        reach_hw = [
            map_side * content / padded
            for map_side, content, padded in zip(map_hw, seen.content_HW, padded_HW, strict=True)
        ]
        masks_BQhw = masks_BQhw[:, :, : math.ceil(reach_hw[0]), : math.ceil(reach_hw[1])]
        score_Q, label_Q = logits_BQK[0].float().softmax(-1).max(-1)

        def draw(query_C: Tensor) -> Tensor:
            return spread(masks_BQhw[:, query_C].float(), reach_hw, size_HW)[0].sigmoid_()

        merged = merge_queries(
            draw,
            score_Q,
            self.class_K[label_Q],
            size_HW,
            self.table.ids("stuff"),
            self.thresholds,
        )
        [found] = merged.to_panoptics(self.table)
        return found

    def _queries(self, pixels_BCHW: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of labels B x Q x K and of masks B x Q x h x w."""
        output = self._run(pixels_BCHW, mask_BHW)
        if self.config.family == "detr":
            return output.logits, output.pred_masks
        return output.class_queries_logits, output.masks_queries_logits

    def _run(
        self,
        pixels_BCHW: Tensor,
        mask_BHW: Tensor,
        labels: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run the library's network; with labels of segments and their masks, also its losses."""
        family, given = self.config.family, {"pixel_values": pixels_BCHW}
        if not family.startswith("eomt"):
            given["pixel_mask"] = mask_BHW
        if family == "oneformer":
            tokens = torch.tensor([self.config.task_tokens], device=pixels_BCHW.device)
            given["task_inputs"] = tokens.expand(len(pixels_BCHW), -1)
        if labels is not None and family == "detr":
            targets: Any = [
                {"class_labels": label_N, "masks": mask_NHW.float(), "boxes": _boxes(mask_NHW)}
                for label_N, mask_NHW in labels
            ]
            given["labels"] = targets
        elif labels is not None:
            given["class_labels"] = [label_N for label_N, _ in labels]  # type: ignore[assignment]
            given["mask_labels"] = [mask_NHW.float() for _, mask_NHW in labels]  # type: ignore[assignment]
        with quiet():
            return self.network(**given)

    def _seen(self, image_CHW: Tensor) -> _Seen:
        """Resize, standardise and pad a photograph as the image processor says."""
        self._check_size(image_CHW)
        common: dict[str, Any] = {"input_data_format": "channels_first", "return_tensors": "pt"}
        plain = {"do_rescale": False, "do_normalize": False, "do_pad": False}
        try:
            with quiet():
                first = self.processor(images=[image_CHW], **plain, **common)
                resized_CHW = first["pixel_values"][0].to(torch.uint8)
                second = self.processor(images=[resized_CHW], do_resize=False, **common)
        except (ValueError, RuntimeError) as error:
            raise self._impossible(image_CHW, error) from error
        pixels_CHW = second["pixel_values"][0].float()
        mask_HW = second.get("pixel_mask")
        mask_HW = (
            pixels_CHW.new_ones(pixels_CHW.shape[1:]).long() if mask_HW is None else mask_HW[0]
        )
        height, width = resized_CHW.shape[1:]
        return _Seen(pixels_CHW, mask_HW.to(pixels_CHW.device), (height, width))

    def _impossible(self, image_CHW: Tensor, error: Exception) -> DatasetError:
        height, width = image_CHW.shape[1:]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        return DatasetError(
            f"{self.config.title} cannot read a photograph of {height} x {width} pixels ({reason})."
            " Use one of a usual size and shape."
        )

    def _check_size(self, image_CHW: Tensor) -> None:
        """Raise ``DatasetError`` for a photograph that would be resized to too many pixels."""
        size = dict(self.processor.size)
        shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
        height, width = image_CHW.shape[1:]
        if (
            shortest
            and not longest
            and height * width * (shortest / min(height, width)) ** 2 > (MOST_PIXELS)
        ):
            raise DatasetError(
                f"{height} x {width} pixels: this photograph does not fit into memory. Cut it, or"
                " pass --max-side 1333."
            )

    def _truth(self, photograph: Photograph, seen: _Seen) -> tuple[Tensor, Tensor]:
        """Return the labels (int64, N) and masks (bool, N x H x W) of a photograph's segments.

        Things are its objects; all pixels of a class of stuff are one segment.
        """
        objects, classes_HW = photograph.objects, photograph.classes_HW
        if objects is None or classes_HW is None:
            raise ValueError(f"{photograph.name} has no labels; open the dataset with them")
        stuff = [
            (class_id, classes_HW == class_id)
            for class_id in self.table.ids("stuff")
            if bool((classes_HW == class_id).any())
        ]
        classes = [*objects.class_N.tolist(), *(class_id for class_id, _ in stuff)]
        masks_NHW = torch.cat([objects.mask_NHW, *(mask_HW[None] for _, mask_HW in stuff)])
        masks_NHW = _resized(masks_NHW, seen.content_HW)
        masks_NHW = _padded(masks_NHW, *seen.pixels_CHW.shape[1:])
        filled_N = masks_NHW.flatten(1).any(1)
        labels = [self._label_of.get(class_id, -1) for class_id in classes]
        label_N = torch.tensor(labels, dtype=torch.int64, device=masks_NHW.device)
        kept_N = filled_N & (label_N >= 0)
        return label_N[kept_N], masks_NHW[kept_N]


def _resized(masks_NHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Return masks of another size; each pixel is that at its centre."""
    if not len(masks_NHW):
        return masks_NHW.new_zeros((0, *size_HW))
    return F.interpolate(masks_NHW[None].float(), size_HW, mode="nearest-exact")[0] > 0


def _padded(values: Tensor, height: int, width: int) -> Tensor:
    """Pad the last two axes with zeros, below and to the right."""
    rows, columns = values.shape[-2:]
    return F.pad(values, (0, width - columns, 0, height - rows))


def _boxes(mask_NHW: Tensor) -> Tensor:
    """Return centre and size of the boxes of masks as shares of the image: float32, N x 4."""
    sides = []
    for axis in (2, 1):  # columns, then rows
        line_NL = mask_NHW.any(3 - axis)
        count = line_NL.shape[1]
        first_N = line_NL.int().argmax(1)
        last_N = count - line_NL.flip(1).int().argmax(1)
        sides.append(((first_N + last_N) / 2 / count, (last_N - first_N) / count))
    (x_N, width_N), (y_N, height_N) = sides
    return torch.stack([x_N, y_N, width_N, height_N], dim=1)


def rows_of_classes(
    state: Mapping[str, Tensor],
    source: tuple[HubNetworkConfig, ClassTable],
    network: HubNetwork,
) -> tuple[dict[str, Tensor], int]:
    """Return entries of a network for the classes of another one, and how many classes are known.

    The classifier's rows of classes with the same name are taken; those of other classes are what
    ``network`` has. The row of "none" is taken.

    Args:
        state: The entries.
        source: Options and classes of the network that they are of.
        network: A network of the same family for other classes.
    """
    own, (config, table) = network.state_dict(), source
    old = _rows_by_name(config, table)
    new = _rows_by_name(network.config, network.table)
    pairs = [(row, old[name]) for name, row in new.items() if name in old]
    layer = f"{_PREFIX}{FAMILIES[config.family].classifier}"
    found = dict(state)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in state and name in own and state[name].shape[1:] == own[name].shape[1:]:
            rows = own[name].clone()
            rows[-1] = state[name][-1]
            for row, given in pairs:
                rows[row] = state[name][given]
            found[name] = rows
    # What else depends on the number of classes is computed, not learned.
    return {
        name: value
        for name, value in found.items()
        if name not in own or own[name].shape == value.shape
    }, len(pairs)


def _rows_by_name(config: HubNetworkConfig, table: ClassTable) -> dict[str, int]:
    names = [entry.name for entry in table.classes if entry.kind != "void"]
    places = config.labels or tuple(range(len(names)))
    return {names[place]: row for row, place in enumerate(places) if place >= 0}


def library_json(config: Any) -> str:  # noqa: ANN401
    """Return options of the library as JSON with sorted keys."""
    return json.dumps(config, sort_keys=True, allow_nan=False)
