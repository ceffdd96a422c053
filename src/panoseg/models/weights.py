"""Weights and their card in a folder, and how such folders and those of the hub are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

import panoseg
from panoseg.classes import PASTIS, ClassTable
from panoseg.data import LONGEST_SIDE, PhotographConfig
from panoseg.data.layouts import Policy
from panoseg.data.samples import Normalisation
from panoseg.data.seasons import parse_reference_date
from panoseg.errors import ConfigError, OutputError, PanosegError, WeightsError
from panoseg.files import atomic, write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS, REFERENCE_DATE
from panoseg.models.configs import ModelConfig, config_from_json, fit_to_table, to_json
from panoseg.models.configs.base import Inputs
from panoseg.models.hub_folders import (
    HubFolder,
    is_hub_folder,
    load_hub_network,
    read_hub_folder,
)
from panoseg.models.network import Network, allowed, build_network, counting_parameters
from panoseg.models.weights_list import PACKAGE_WEIGHTS
from panoseg.text_files import read_json

NUMBERS, CARD = "model.safetensors", "card.json"
_SHOWN = 5
_LARGEST_CARD = 4 * 1024**2
"""Bytes; a card has a few thousand."""


@dataclass(frozen=True)
class WeightsCard:
    """What weights were made for and from."""

    model: ModelConfig
    """The network, with its numbers of bands and classes."""
    normalisation: Normalisation | None
    """Bands in the order of the images, and their means and deviations; None where imported weights
    came without, and for photographs, which networks standardise themselves.
    """
    classes: ClassTable = PASTIS
    """What the scores mean."""
    reference_date: str = REFERENCE_DATE
    """YYYY-MM-DD: the date from which days were counted in training; its month and day begin every
    season. Not of photographs.
    """
    trained_on: str = ""
    """The data, in words."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How they were made: the command, epochs, seed, where they were imported from."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, by name of the metric."""
    version: str = panoseg.__version__
    """The version of panoseg that wrote the card."""

    def __post_init__(self) -> None:
        network = self.model
        if network.inputs == "season":
            self._check_bands()
        _check_classes(network, self.classes)
        parse_reference_date(self.reference_date)
        counted_from = getattr(network, "reference_date", None)
        if counted_from not in (None, self.reference_date):
            raise WeightsError(
                f"The network counts days from {counted_from}, but the seasons of the card from"
                f" {self.reference_date}. Write the date of the training into both places."
            )
        _check_provenance(self.provenance)

    def _check_bands(self) -> None:
        network, known = self.model, self.normalisation
        channels = known.channels if known else network.bands
        if network.bands != channels or network.classes != self.classes.count:
            names = ", ".join(self.bands) + (", NDVI" if known and known.ndvi else "")
            raise WeightsError(
                f"The network has {network.bands} bands and {network.classes} classes, but there"
                f" are {channels} bands ({names}) and the {self.classes.count} classes of"
                f" {self.classes.name}: give the model's options, the normalisation and the class"
                " table that belong together."
            )

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands in the order of the images.

        They are PASTIS's where the normalisation is not known.
        """
        return self.normalisation.bands if self.normalisation else PASTIS_BANDS

    def known_normalisation(self) -> Normalisation:
        """Return the normalisation of seasons.

        Raises:
            WeightsError: The weights came without, or are of a network for photographs.
        """
        self.check_inputs("season")
        if self.normalisation is None:
            raise WeightsError(
                "These weights came without the means and deviations of their bands, which are part"
                " of the dataset. Import them again: panoseg weights import FOLDER OUT --data"
                " PASTIS."
            )
        return self.normalisation

    def input_normalisation(self) -> Normalisation | None:
        """Return ``known_normalisation`` for seasons, None for photographs."""
        return self.known_normalisation() if self.model.inputs == "season" else None

    def check_inputs(self, inputs: Inputs, name: str = "") -> None:
        """Raise ``WeightsError`` unless the network reads ``inputs``; name: of the weights."""
        if self.model.inputs != inputs:
            command = {"season": "panoseg map", "photograph": "panoseg photo"}[self.model.inputs]
            raise WeightsError(
                f"{name}{': ' * bool(name)}{self.model.title} reads {self.model.inputs}s, not"
                f" {inputs}s. Use {command}, or other weights."
            )

    @property
    def sides(self) -> PhotographConfig:
        """The sizes at which the network reads photographs: those of the training."""
        names = ("min_side", "max_side")
        return PhotographConfig(**{name: self.provenance.get(name, 0) for name in names})

    @property
    def season_start(self) -> tuple[int, int]:
        """Month and day that begin a season.

        Days of any year's images are counted from the last such date before harvest.
        """
        return int(self.reference_date[5:7]), int(self.reference_date[8:10])

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; ``from_json`` reads it."""
        season = (
            {"normalisation": self._bands_json(), "reference_date": self.reference_date}
            if self.model.inputs == "season"
            else {}
        )
        return {
            "panoseg": self.version,
            "model": to_json(self.model),
            **season,
            "classes": self.classes.to_json(),
            **{key: getattr(self, key) for key in ("trained_on", "provenance", "scores")},
        }

    def _bands_json(self) -> dict[str, Any] | None:
        known = self.normalisation
        if known is None:
            return None
        return {
            **{key: list(getattr(known, key)) for key in ("bands", "mean", "std")},
            "ndvi": known.ndvi,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WeightsCard:
        """Read what ``to_json`` wrote.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has another type.
            ValueError: An entry has a wrong value.
            PanosegError: An entry is refused.
        """
        model = config_from_json(values["model"])
        season = (
            {"normalisation": None, "reference_date": cls.reference_date}
            if model.inputs == "photograph"
            else values
        )
        return cls(
            model,
            _read_normalisation(season["normalisation"]),
            ClassTable.from_json(values["classes"]),
            str(season["reference_date"]),
            str(values["trained_on"]),
            dict(values["provenance"]),
            dict(values["scores"]),
            str(values["panoseg"]),
        )


def _read_normalisation(bands: Any) -> Normalisation | None:  # noqa: ANN401
    if bands is None:
        return None
    mean, std = (tuple(map(float, bands[key])) for key in ("mean", "std"))
    return Normalisation(mean, std, tuple(map(str, bands["bands"])), bool(bands.get("ndvi", False)))


def _check_classes(network: ModelConfig, classes: ClassTable) -> None:
    """Raise ``WeightsError`` unless a network has as many classes of each kind as its table."""
    fitted = fit_to_table(network, classes)
    if fitted != network:
        raise WeightsError(
            f"The network has {network.classes} classes, but {classes.name} has {fitted.classes}."
            " Give the options of the network and the table of classes that belong together."
        )


def _check_provenance(provenance: Mapping[str, Any]) -> None:
    """Raise ``WeightsError`` for entries of a provenance that are not as panoseg writes them.

    Only entries that are read again are checked.
    """
    side: tuple[Callable[[Any], bool], str] = (
        lambda value: type(value) is int and 0 <= value <= LONGEST_SIDE,
        f"a whole number from 0 to {LONGEST_SIDE}",
    )
    entries: dict[str, tuple[Callable[[Any], bool], str]] = {
        "fold": (lambda value: type(value) is int, "a whole number"),
        "single_date": (lambda value: value is None or isinstance(value, str), "text"),
        "normalisation": (
            lambda value: value in get_args(Policy),
            f"one of {', '.join(get_args(Policy))}",
        ),
        "min_side": side,
        "max_side": side,
    }
    for name, (known, expected) in entries.items():
        if name in provenance and not known(provenance[name]):
            raise WeightsError(
                f"{name} in the provenance must be {expected}, not {provenance[name]!r}: correct"
                " the card, or leave the entry out."
            )


@dataclass(frozen=True)
class Weights:
    """A network with its numbers, checked where it is made."""

    card: WeightsCard
    """What they were made for and from."""
    state: Mapping[str, Tensor]
    """Every entry of the network's ``state_dict``."""
    blank: list[Network] = field(default_factory=list, compare=False, repr=False)
    """The network that was built to check the shapes, until it is used: building takes a second."""

    def __post_init__(self) -> None:
        if not self.blank:
            found = {name: tuple(value.shape) for name, value in self.state.items()}
            self.blank.append(_checked_network(found, self.card, "the table of weights"))

    def __reduce__(self) -> tuple[Any, ...]:
        """The blank network does not travel to workers."""
        return Weights, (self.card, dict(self.state))

    def network(self, reference_date: date | None = None) -> Network:
        """Return the network, ready to predict, on the CPU.

        Args:
            reference_date: Day 0 of the seasons that it will see; None for that of the training.
        """
        network = self.blank.pop() if self.blank else _blank_network(self.card)
        if not _holds(network, self.state):
            network.load_state_dict(dict(self.state))
        if reference_date is not None:
            network.count_days_from(reference_date)
        return network.eval()


def _holds(network: Network, state: Mapping[str, Tensor]) -> bool:
    """Return whether the entries are the network's own memory."""
    own = network.state_dict()
    return own.keys() == state.keys() and all(
        own[name].data_ptr() == value.data_ptr() for name, value in state.items()
    )


def _blank_network(card: WeightsCard, held: int | None = None) -> Network:
    """Return the network of a card; held: how many numbers the file of a large one has."""
    # Drawing initial weights must not move the random numbers of a training that saves its best
    # weights. (On the meta device nothing is drawn, but its first use imports for seconds.)
    with torch.random.fork_rng(devices=()):
        if held is None or not card.model.large:
            return build_network(card.model, card.classes)
        with counting_parameters(card.model, allowed(held)):
            return build_network(card.model, card.classes)


def check_state(state: Mapping[str, Tensor], config: ModelConfig, source: Path | str) -> None:
    """Raise ``WeightsError`` unless the entries are those of ``config``'s network.

    The message lists the entries which the network lacks, misses, or has in another shape.
    """
    with torch.random.fork_rng(devices=()):
        network = build_network(config)
    _check_shapes({name: tuple(value.shape) for name, value in state.items()}, network, source)
    _check_finite(state, source)


def _check_finite(state: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise ``WeightsError`` for entries with NaN or infinity, of which predictions are none."""
    wrong = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.float().isfinite().all()
    ]
    if wrong:
        raise WeightsError(
            f"{source} has values that are NaN or infinite in {len(wrong)} of {len(state)} entries"
            f" ({_listed(wrong)}), so it predicts nothing: its training has diverged. Use weights"
            " of an earlier epoch, or train again with a lower learning rate."
        )


def _checked_network(
    found: Mapping[str, tuple[int, ...]], card: WeightsCard, source: Path | str
) -> Network:
    held = sum(math.prod(shape) for shape in found.values())
    network = _blank_network(card, held)
    _check_shapes(found, network, source)
    return network


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], network: Network, source: Path | str
) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    kinds = (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        ("of another shape", wrong),
    )
    problems = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds if names]
    if problems:
        raise WeightsError(
            f"{source} does not fit the {len(expected)} entries of {type(network).__name__} with"
            f" its options: {', '.join(problems)}. Use weights of this network, or the options they"
            " were trained with."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )


def check_folder(folder: Path | str) -> None:
    """Raise ``OutputError`` for a folder that holds anything but weights, which are replaced."""
    folder = Path(folder)
    others = (
        [entry.name for entry in folder.iterdir() if entry.name not in (NUMBERS, CARD)]
        if folder.is_dir()
        else []
    )
    if others:
        raise OutputError(
            f"{folder} holds {_listed(sorted(others))}: choose a new folder, or one of weights."
        )


def save_weights(folder: Path | str, weights: Weights, half: bool = False) -> None:
    """Write a folder of weights, whole or not at all; weights that are there already are replaced.

    Args:
        folder: The folder.
        weights: The weights.
        half: Store in half precision, except numbers too large for it.

    Raises:
        OutputError: The folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    check_folder(folder)
    state = {
        name: (_halved(value) if half else value).detach().cpu().contiguous()
        for name, value in weights.state.items()
    }
    with atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / NUMBERS).write_bytes(save(state))
        write_json(temporary / CARD, weights.card.to_json())


def _halved(value: Tensor) -> Tensor:
    half = value.half() if value.is_floating_point() else value
    return half if torch.equal(half.isfinite(), value.isfinite()) else value


def load_weights(path: Path | str, thresholds: Mapping[str, float] | None = None) -> Weights:
    """Read a folder of weights, or its ``.safetensors`` file; half precision becomes float32.

    Args:
        path: The folder, or the file; or a folder in the layout of the Hugging Face Hub.
        thresholds: Other thresholds of prediction than those of the card, see
            ``NetworkConfig.adjusted``.

    Raises:
        WeightsError: Files are missing, damaged, or do not belong together.
    """
    from safetensors import SafetensorError, safe_open

    if is_hub_folder(path):
        return _hub_weights(path, thresholds or {})
    numbers = _numbers_path(path)
    card = load_card(path)
    card = replace(card, model=card.model.adjusted(thresholds or {}))
    try:
        with safe_open(numbers, framework="pt") as file:
            # Only the header, which states the size of everything else.
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            blank = _checked_network(shapes, card, numbers)
            # Mapped from disk, so that no second copy fills the memory.
            mapped = {name: file.get_tensor(name) for name in shapes}
        if card.model.large:
            whole = {name: _as_float(value) for name, value in mapped.items()}
            blank.load_state_dict(whole, assign=True)
        else:
            # Into memory that is aligned, on which the last bits of results depend.
            blank.load_state_dict(mapped)
        state = blank.state_dict()
    except OSError as error:
        raise _unreadable(numbers, error.strerror or str(error)) from error
    except ConfigError as error:
        reason = str(error).removesuffix(".")
        raise _unreadable(numbers.with_name(CARD), f"cannot be used: {reason}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(numbers, f"is not a whole safetensors file ({error})") from error
    _check_finite(state, numbers)
    return Weights(card, state, [blank])


def _as_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def load_card(path: Path | str) -> WeightsCard:
    """Read the card of a folder of weights, see ``load_weights``."""
    if is_hub_folder(path):
        return _hub_card(read_hub_folder(path))
    return _read_card(_numbers_path(path).with_name(CARD))


def _hub_card(folder: HubFolder) -> WeightsCard:
    return WeightsCard(folder.config, None, folder.table, provenance={"imported_from": folder.name})


def _hub_weights(path: Path | str, thresholds: Mapping[str, float]) -> Weights:
    folder = read_hub_folder(path)
    folder = replace(folder, config=folder.config.adjusted(thresholds))
    network = load_hub_network(folder)
    state = network.state_dict()
    _check_finite(state, path)
    return Weights(_hub_card(folder), state, [network])


def _numbers_path(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / NUMBERS


def _read_card(path: Path) -> WeightsCard:
    try:
        return WeightsCard.from_json(read_json(path, _LARGEST_CARD))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except KeyError as error:
        raise _unreadable(path, f"lacks {error}") from error
    except (
        PanosegError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        ArithmeticError,
    ) as error:
        reason = str(error).removesuffix(".")
        raise _unreadable(path, f"is not a card of weights ({reason})") from error


def _unreadable(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: {what}. Expected a folder with {NUMBERS} and {CARD}: train a model, or import one"
        " with panoseg weights import."
    )


def default_weights() -> Weights:
    """Return the weights of the package that seasons are mapped with."""
    return load_weights(PACKAGE_WEIGHTS)
