"""Names of weights, and the list of those that are known: where they are, how good they are.

The list is ``weights_list.json``. Scores are those that the authors publish, each with its source;
nothing is fetched here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import panoseg
from panoseg.errors import ConfigError
from panoseg.text_files import shortened

DEFAULT_FOR_PHOTOGRAPHS = "coco-eomt-small"
"""What photographs are segmented with where no weights are named."""
DEFAULT_FOR_SEASONS = "simulated-utae-paps"
"""What seasons are mapped with where no weights are named."""
FOR_FEWER_BANDS = "simulated-fields"
"""What a season is mapped with that lacks bands of the default, where no weights are named."""
PACKAGE_FOLDER = Path(panoseg.__file__).parent / "weights"
"""Folder of the weights that ship with the package, by name."""
PACKAGE_WEIGHTS = PACKAGE_FOLDER / DEFAULT_FOR_SEASONS
"""Folder of the default for seasons."""
_LIST = Path(__file__).with_name("weights_list.json")


_HUB = re.compile(r"hf:([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?")
_ZENODO = re.compile(r"zenodo:(\d{1,12})")


@dataclass(frozen=True)
class ListedWeights:
    """An entry of the list."""

    name: str
    """What --weights takes."""
    source: str
    """package, torchvision:NAME, zenodo:RECORD or hf:OWNER/NAME."""
    title: str
    """The network."""
    reads: Literal["season", "photograph"]
    """What it segments."""
    task: Literal["panoptic", "semantic", "instances", "backbone"]
    """What it answers."""
    classes: str
    """Its classes, in words."""
    trained_on: str
    """The data, in words."""
    scores: Mapping[str, float]
    """What the authors publish, by metric, in per cent."""
    score_source: str
    """Where the scores are published; empty where there are none."""
    licence: str | None
    """The licence; None where the source states it when it is fetched, or not at all."""
    licence_source: str
    """Who states the licence."""
    megabytes: int | None
    """About how much is fetched; None where it is not known before."""
    citation: str
    """What to cite."""
    folds: int = 0
    """Number of folds, where there are weights of several."""
    expect: str = ""
    """What to expect on other data than those of the training, a sentence or two."""
    alias: str = ""
    """A short name."""
    statistics: str = ""
    """Dataset whose means and deviations the images are normalised by, which the source lacks."""

    @property
    def score(self) -> str:
        """The main score, for a table."""
        return next((f"{name} {value:.1f}" for name, value in self.scores.items()), "-")

    @property
    def size(self) -> str:
        """The size, for a table."""
        return "-" if self.megabytes is None else f"{self.megabytes:,} MB"

    @property
    def page(self) -> str:
        """Address of the page for people; empty for weights of the package."""
        return page_of(self.source)


@dataclass(frozen=True)
class _Content:
    """What ``weights_list.json`` holds."""

    weights: Mapping[str, ListedWeights] = field(default_factory=dict)
    """Entries by name."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Statistics of bands by dataset."""


@cache
def _content() -> _Content:
    values = json.loads(_LIST.read_text(encoding="utf-8"))
    entries = [ListedWeights(**entry) for entry in values["weights"]]
    return _Content({entry.name: entry for entry in entries}, values["statistics"])


def listed_weights() -> Mapping[str, ListedWeights]:
    """Return the list, by name."""
    return _content().weights


def statistics_of_folds(dataset: str) -> dict[str, Any]:
    """Return the statistics of a dataset in the form of its NORM_S2_patch.json."""
    folds: dict[str, Any] = _content().statistics[dataset]["folds"]
    return folds


def page_of(source: str) -> str:
    """Return the address of the page of a source, for people.

    >>> page_of("hf:owner/name@main"), page_of("zenodo:5172301")
    ('https://huggingface.co/owner/name', 'https://zenodo.org/records/5172301')
    """
    kind, _, rest = source.partition(":")
    if kind == "zenodo":
        return f"https://zenodo.org/records/{rest}"
    if kind == "hf":
        return f"https://huggingface.co/{rest.partition('@')[0]}"
    if kind == "torchvision":
        return "https://docs.pytorch.org/vision/stable/models.html"
    return source if kind == "https" else ""


@dataclass(frozen=True)
class Named:
    """Weights that a user named."""

    source: str
    """zenodo:RECORD, hf:OWNER/NAME[@REVISION], https://.., torchvision:NAME or package."""
    folder_name: str
    """Name of their folder in the cache."""
    entry: ListedWeights | None
    """Their entry in the list; None where they are not in it."""

    @property
    def title(self) -> str:
        """What they are called in messages."""
        return self.entry.name if self.entry else self.source.partition("#")[0]


def find_named(text: str) -> Named | None:
    """Return the weights that a text names; None where it is the path of a folder.

    >>> find_named("zenodo:5172301").folder_name
    'pastis-utae-paps'
    >>> find_named("hf:me/fields@v1").folder_name
    'hf--me--fields@v1'

    Raises:
        ConfigError: The text begins like a name, but is none.
    """
    entries = listed_weights()
    if text in entries:
        return Named(entries[text].source, text, entries[text])
    for entry in entries.values():
        if text == entry.alias and text:
            return Named(entry.source, entry.name, entry)
        if entry.source == text and ":" in text:
            return Named(text, entry.name, entry)
    if hub := _HUB.fullmatch(text):
        if ".." in text or "--" in hub[1]:
            raise _no_name(text)
        revision = f"@{hub[2].replace('/', '-')}" if hub[2] else ""
        return Named(text, f"hf--{hub[1].replace('/', '--')}{revision}", None)
    if zenodo := _ZENODO.fullmatch(text):
        return Named(text, f"zenodo-{zenodo[1]}", None)
    if text.startswith(("https:", "http:")):
        text = re.sub(r"^(https?):/+", r"\1://", text)  # what becomes of it as a path
        from panoseg.models.fetching import https_file

        offer = https_file(text, None)
        stem = re.sub(r"[^\w.-]", "_", PurePosixPath(offer.files[0].name).stem)[:60]
        return Named(text, f"https--{stem}--{offer.files[0].checksum[7:19]}", None)
    if text.startswith(("hf:", "zenodo:")):
        raise _no_name(text)
    return None


def _no_name(text: str) -> ConfigError:
    return ConfigError(
        f"{shortened(text)!r} names no weights. Write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or"
        " zenodo:RECORD, with the number of the record."
    )
