"""Options of the networks of the Hugging Face Hub, without torch and without their library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from panoseg.models.configs.base import NetworkConfig, expect, expect_one_of, expect_share
from panoseg.models.configs.photograph import IGNORED
from panoseg.text_files import json_of

try:
    from tyro.conf import Suppress
except ImportError:  # training needs no command line
    Suppress = None  # type: ignore[misc]

FamilyName = Literal["mask2former", "maskformer", "oneformer", "detr", "eomt", "eomt_dinov3"]


class Family(NamedTuple):
    """A kind of network in the transformers package."""

    title: str
    """As in its paper."""
    config: str
    """Class of its configuration."""
    network: str
    """Class of the network."""
    processor: str
    """Class of its image processor, where a checkpoint names none."""
    classifier: str
    """Module that scores the classes of queries."""


FAMILIES: dict[FamilyName, Family] = {
    "mask2former": Family(
        "Mask2Former",
        "Mask2FormerConfig",
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerImageProcessor",
        "class_predictor",
    ),
    "maskformer": Family(
        "MaskFormer",
        "MaskFormerConfig",
        "MaskFormerForInstanceSegmentation",
        "MaskFormerImageProcessor",
        "class_predictor",
    ),
    "oneformer": Family(
        "OneFormer",
        "OneFormerConfig",
        "OneFormerForUniversalSegmentation",
        "OneFormerImageProcessor",
        "model.transformer_module.decoder.class_embed",
    ),
    "detr": Family(
        "DETR",
        "DetrConfig",
        "DetrForSegmentation",
        "DetrImageProcessor",
        "detr.class_labels_classifier",
    ),
    "eomt": Family(
        "EoMT",
        "EomtConfig",
        "EomtForUniversalSegmentation",
        "EomtImageProcessor",
        "class_predictor",
    ),
    "eomt_dinov3": Family(
        "EoMT (DINOv3)",
        "EomtDinov3Config",
        "EomtDinov3ForUniversalSegmentation",
        "EomtImageProcessor",
        "class_predictor",
    ),
}
PROCESSORS = frozenset(family.processor for family in FAMILIES.values())
LARGEST_NUMBER = 100_000
"""The largest number in a configuration; the largest usual one is the size of a vocabulary."""
LONGEST_LIST = 4096
"""The longest list or table in a configuration."""
MOST_QUERIES = 2048
LARGEST_IMAGE = 4096
"""The longest side in pixels at which a network may ask for photographs."""


@dataclass(frozen=True)
class HubNetworkConfig(NetworkConfig):
    """A mask transformer of the transformers package: queries, each with a class and a mask.

    ``panoseg.models.hub_folders`` makes it from the files of a checkpoint.
    """

    name: ClassVar[str] = "hub_network"
    network: ClassVar[str] = "panoseg.models.hub_networks:HubNetwork"
    inputs = "photograph"
    answers = "panoptic"
    scorer = "coco_panoptic"
    bands: ClassVar[int] = 3
    """Red, green and blue."""
    resizes = True
    train_options = frozenset({"photographs"})
    large = True

    family: FamilyName = "mask2former"
    """Kind of the network."""
    things: int = 80
    """Classes of things; follows from the class table."""
    stuff: int = 53
    """Classes of stuff; follows from the class table."""
    labels: Annotated[tuple[int, ...], Suppress] = ()
    """Place of the class of each label among the classes of the table, -1 for none; empty where
    labels are the classes in their order.
    """
    architecture: Annotated[str, Suppress] = "{}"
    """The configuration of the library, JSON."""
    processor: Annotated[str, Suppress] = "{}"
    """The configuration of the library's image processor, JSON."""
    task_tokens: Annotated[tuple[int, ...], Suppress] = ()
    """Tokens of the task, which OneFormer reads."""
    min_side: int = 0
    """Resize the shorter side to this many pixels; 0 resizes as the image processor says."""
    max_side: int = 0
    """Maximum length of the longer side in pixels, with min_side; 0 is no limit."""
    score: float = 0.8
    """Score above which a query is drawn."""
    mask: float = 0.5
    """Minimum probability of a pixel that belongs to a mask."""
    overlap: float = 0.2
    """Leave out queries if others win more than this share of their mask."""

    def __post_init__(self) -> None:
        expect_one_of("family", self.family, get_args(FamilyName))
        expect(self.things >= 0 and self.stuff >= 0, "things and stuff must be numbers from 0.")
        expect(1 <= self.classes < IGNORED, f"classes must be from 1 to {IGNORED - 1}.")
        expect(len(self.labels) <= LONGEST_LIST, f"labels must be at most {LONGEST_LIST}.")
        expect(
            all(-1 <= place < self.classes for place in self.labels),
            f"labels must be from -1 to {self.classes - 1}, one for each class.",
        )
        expect(
            len(self.task_tokens) <= LONGEST_LIST and all(token >= 0 for token in self.task_tokens),
            f"task_tokens must be at most {LONGEST_LIST} numbers from 0.",
        )
        expect_share(self, "score", "mask", "overlap")
        for side in ("min_side", "max_side"):
            value = getattr(self, side)
            expect(0 <= value <= LARGEST_IMAGE, f"{side} must be from 0 to {LARGEST_IMAGE} pixels.")
        expect(
            not self.max_side or self.min_side <= self.max_side,
            f"min_side {self.min_side} must not exceed max_side {self.max_side}.",
        )
        architecture = read_options("architecture", self.architecture)
        read_options("processor", self.processor)
        fixed = self.family in ("eomt", "eomt_dinov3")
        expect(
            not (fixed and (self.min_side or self.max_side)),
            f"min_side and max_side do nothing with {self.title}, which reads photographs of one"
            " size. Leave them out.",
        )
        expect(
            0 <= architecture.get("num_queries", 0) <= MOST_QUERIES,
            f"num_queries must be at most {MOST_QUERIES}.",
        )

    @property
    def title(self) -> str:
        """The name of the network's paper."""
        return FAMILIES[self.family].title

    @property
    def classes(self) -> int:
        """Classes of things and stuff."""
        return self.things + self.stuff

    @property
    def label_count(self) -> int:
        """Labels that the network distinguishes, apart from none."""
        return len(self.labels) or self.classes

    def fitted(self, **facts: Any) -> Self:  # noqa: ANN401
        """Return the same network for other classes, whose labels are in their order."""
        numbers = {name: facts[name] for name in ("things", "stuff") if name in facts}
        if all(getattr(self, name) == number for name, number in numbers.items()):
            return self
        return replace(self, labels=(), **numbers)

    def adjusted(self, thresholds: Mapping[str, float]) -> Self:
        """Return the same options with other thresholds, as far as the network has them."""
        known = {
            name: thresholds[name] for name in ("score", "mask", "overlap") if name in thresholds
        }
        return replace(self, **known)  # type: ignore[arg-type]


def read_options(name: str, text: str) -> dict[str, Any]:
    """Return a table of JSON whose numbers and lists are of usual sizes.

    Raises:
        ConfigError: It is not such a table.
    """
    try:
        values = json_of(text)
    except ValueError as error:
        expect(False, f"{name} is not JSON ({error}).")
    expect(isinstance(values, dict), f"{name} must be a table.")
    _check_sizes(name, values)
    return values  # type: ignore[no-any-return]


def _check_sizes(name: str, value: Any) -> None:  # noqa: ANN401
    if isinstance(value, dict | list):
        expect(
            len(value) <= LONGEST_LIST,
            f"{name} has {len(value)} entries; at most {LONGEST_LIST} are allowed.",
        )
        entries = value.items() if isinstance(value, dict) else ((name, part) for part in value)
        for key, entry in entries:
            _check_sizes(str(key)[:60], entry)
    elif isinstance(value, int | float):
        expect(
            -LARGEST_NUMBER <= value <= LARGEST_NUMBER,
            f"{name} is {value}; at most {LARGEST_NUMBER} is allowed.",
        )
