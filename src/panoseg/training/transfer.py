"""Weights from elsewhere: find, import, take over and freeze them.

Finds the weights of one fold in a folder of ours or of a published program, writes published
weights in our format, and starts a network from the entries of other weights that fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.data import PhotographConfig
from panoseg.data.pastis import FOLDS
from panoseg.data.pastis_files import NORMALISATION_FILE
from panoseg.data.s2tsczcrop import train_normalisation
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, WeightsError
from panoseg.files import atomic, new_folder
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.hub import HubNetworkConfig
from panoseg.models.hub_networks import HubNetwork, rows_of_classes
from panoseg.models.model import WEIGHTS
from panoseg.models.network import Network, build_network
from panoseg.models.published import import_crop2seg, import_published, read_options
from panoseg.models.weights import CARD, Weights, load_card, load_weights, save_weights
from panoseg.training import OptimiserConfig, TrainConfig


def weights_of_fold(folder: Path, fold: int) -> Weights:
    """Return the weights of one fold in a folder.

    The folder is that of a run, or holds our weights of one or several folds, or published ones.
    """
    if is_published(folder):
        return published_weights(folder, fold, _own_statistics(folder, fold))
    if (folder / WEIGHTS / CARD).exists():
        return load_weights(folder / WEIGHTS)
    if any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        return weights_of_fold(folder / f"fold_{fold}", fold)
    return load_weights(folder)


def _own_statistics(folder: Path, fold: int) -> Normalisation | None:
    """Return the normalisation of a folder of published weights; None where it has none."""
    there = (folder / NORMALISATION_FILE).exists()
    return train_normalisation(folder, fold) if there else None


def only_weights(folder: Path, fold: int | None) -> tuple[Weights | None, str]:
    """Return the weights to use of a folder that has those of several folds, or published ones.

    Args:
        folder: A folder of weights.
        fold: The fold to take; None takes the first.

    Returns:
        The weights, None for a folder of ours with one network; and a note that says which fold was
        taken unasked, else empty.

    Raises:
        ConfigError: A fold is named, but the folder has one network.
    """
    folds = [number for number in FOLDS if (folder / f"fold_{number}").is_dir()]
    if is_published(folder):
        folds = list(_folds_with_weights(folder))
    elif not folds:
        if fold is not None:
            raise ConfigError(f"{folder.name} has weights of one network; leave out --fold.")
        return None, ""
    several = fold is None and len(folds) > 1
    note = f"The weights are of fold {folds[0]} of {len(folds)}; --fold chooses." if several else ""
    return weights_of_fold(folder, fold or (folds[0] if folds else 1)), note


def is_published(folder: Path) -> bool:
    """Return whether a folder was written by one of the published programs.

    Such a folder, or the one of its first fold, has a conf.json.
    """
    return any((place / "conf.json").exists() for place in (folder, folder / "Fold_1"))


def holds_one_fold(folder: Path) -> bool:
    """Return whether the folder of a published program holds the weights of one fold only.

    They lie next to their options, or in the only folder Fold_1.
    """
    here = (folder / "model.pth.tar").exists() or (folder / "Fold_1" / "conf.json").exists()
    return here and not (folder / "Fold_2").exists()


def published_folds(folder: Path) -> tuple[int, ...]:
    """Return the folds of an authors' folder: all five, or the only one that has weights.

    Their program makes the folders of all folds, also where it trains one.

    Raises:
        WeightsError: Several folds have weights, but not all.
    """
    found = _folds_with_weights(folder)
    if len(found) in (0, 1, len(FOLDS)):
        return found or tuple(FOLDS)
    raise WeightsError(
        f"{folder} has weights of {_fold_words(found)} alone; pass --fold {found[0]} or another of"
        " them."
    )


def _folds_with_weights(folder: Path) -> tuple[int, ...]:
    return tuple(
        number for number in FOLDS if (folder / f"Fold_{number}" / "model.pth.tar").exists()
    )


def _fold_words(folds: Sequence[int]) -> str:
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def published_weights(
    folder: Path, fold: int, normalisation: Normalisation | None = None
) -> Weights:
    """Return the weights of one fold in the folder of a published program.

    The program is utae-paps, or Crop2Seg, which has more options.
    """
    of_fold = folder / f"Fold_{fold}"
    place = of_fold if (of_fold / "conf.json").exists() else folder
    options = read_options(place / "conf.json")
    found = _folds_with_weights(folder)
    if found and fold not in found:
        raise WeightsError(
            f"{folder} has weights of {_fold_words(found)} alone, not of fold {fold}; pass --fold"
            f" {found[0]}."
        )
    if "conv_type" not in options:
        return import_published(folder, fold, normalisation)
    if normalisation is not None and options.get("add_ndvi"):
        normalisation = replace(normalisation, ndvi=True)
    classes = PASTIS if options.get("num_classes") == PASTIS.count else S2TSCZCROP
    return import_crop2seg(place, classes, normalisation, f"{classes.name}, by Crop2Seg")


def import_folds(
    folder: Path, out: Path, data: Path | None = None, fold: int | None = None
) -> list[Path]:
    """Write published weights as ``out``/fold_1 .. fold_5, or one fold as ``out`` itself.

    Where one fold alone has weights, it is taken. Nothing is written unless all can be read.
    Without NORM_S2_patch.json the normalisation stays unknown: the weights can be scored on their
    dataset but not used for maps.

    Args:
        folder: Folder of the published weights.
        out: Folder to write.
        data: Folder of NORM_S2_patch.json; None looks in ``folder``.
        fold: The only fold to import; None imports all.

    Returns:
        The folders written.
    """
    norms = data or (folder if (folder / NORMALISATION_FILE).exists() else None)

    def of_fold(number: int) -> Weights:
        return published_weights(
            folder, number, train_normalisation(norms, number) if norms else None
        )

    if fold or holds_one_fold(folder):
        weights = of_fold(fold or 1)
        save_weights(new_folder(out), weights)
        return [out]
    folds = published_folds(folder)
    if len(folds) == 1:
        save_weights(new_folder(out), of_fold(folds[0]))
        return [out]
    imported = {number: of_fold(number) for number in folds}
    new_folder(out)
    with atomic(out) as temporary:
        for number, weights in imported.items():
            save_weights(temporary / f"fold_{number}", weights)
    return [out / f"fold_{number}" for number in imported]


@dataclass(frozen=True)
class Transfer:
    """The entries that a network has taken from weights. Names are those of the network."""

    source: str
    """Place of the weights."""
    taken: tuple[str, ...]
    """Names of the entries that fitted."""
    not_taken: Mapping[str, str]
    """Reason for each entry that was not taken.

    Only one of both has it, it has another shape, or it belongs to a new classifier.
    """
    note: str = ""
    """What else to know, in words."""

    def text(self) -> str:
        """A line for the whole, and a line for each entry that was not taken."""
        lines = [
            f"start from {self.source}: {len(self.taken)} entries taken, {len(self.not_taken)} not"
        ]
        if self.note:
            lines[0] += f"; {self.note}"
        return "\n".join(
            [*lines, *(f"  {name}: {reason}" for name, reason in self.not_taken.items())]
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, every entry named."""
        return {"source": self.source, "taken": list(self.taken), "not_taken": dict(self.not_taken)}


def take_over(
    model: Network, weights: Weights, source: str, swap_classifier: bool = False
) -> Transfer:
    """Load into ``model`` every entry of ``weights`` that fits by name and shape.

    The other entries keep their values. A network with a backbone takes the weights of a backbone,
    and the other way round.

    Args:
        model: The network.
        weights: The weights.
        source: Their place, for messages.
        swap_classifier: Leave out the modules whose shape follows from the number of classes.

    Raises:
        WeightsError: No entry fits, or a classifier of other classes would be taken.
    """
    config, classes, known = model.config, model.table, weights.card.classes
    given_config = weights.card.model
    if (
        isinstance(model, HubNetwork)
        and isinstance(given_config, HubNetworkConfig)
        and model.config.family == given_config.family
    ):
        return _take_over_queries(model, weights, given_config, source, swap_classifier)
    if not swap_classifier and not known.same_classes(classes):
        raise WeightsError(
            f"{source} scores the {len(known.classes)} classes of {known.name}, not the"
            f" {len(classes.classes)} classes of {classes.name}: add --swap-classifier to draw a"
            " new classifier."
        )
    own, given = model.state_dict(), _renamed(weights.state, weights.card.model, config)
    swapped = classifier_entries(config) if swap_classifier else frozenset()
    reasons = {
        name: _reason(name, own, given, swapped)
        for name in (*own, *(name for name in given if name not in own))
    }
    taken = tuple(name for name, reason in reasons.items() if not reason)
    if not taken:
        raise WeightsError(
            f"{source} holds weights of {weights.card.model.title}, of which no entry fits"
            f" {config.title}: start from weights of a network like it."
        )
    model.load_state_dict({**own, **{name: given[name] for name in taken}})
    return Transfer(source, taken, {name: reason for name, reason in reasons.items() if reason})


def _take_over_queries(
    model: HubNetwork,
    weights: Weights,
    config: HubNetworkConfig,
    source: str,
    swap_classifier: bool,
) -> Transfer:
    """Load weights of a network of the hub; classes of the same name keep their scores."""
    classifier = classifier_entries(model.config) if swap_classifier else frozenset()
    given = {name: value for name, value in weights.state.items() if name not in classifier}
    given, known = rows_of_classes(given, (config, weights.card.classes), model)
    own = model.state_dict()
    reasons = {
        name: _reason(name, own, given, classifier)
        for name in (*own, *(name for name in given if name not in own))
    }
    taken = tuple(name for name, reason in reasons.items() if not reason)
    model.load_state_dict({**own, **{name: given[name] for name in taken}})
    note = (
        "the classifier is drawn"
        if swap_classifier
        else f"{known} of {model.config.classes} classes have the scores of a class of their name"
    )
    others = {name: reason for name, reason in reasons.items() if reason}
    return Transfer(source, taken, others, note)


def fine_tuning(source: Path) -> TrainConfig:
    """Return the options of a training that starts from a network of the hub.

    Optimiser: Cheng et al. 2022, section 4.1, with a lower learning rate, since all of the network
    is trained already.

    Args:
        source: Folder in the hub's layout, or of weights or a run that started from one.

    Raises:
        ConfigError: The weights are of another network.
        WeightsError: They cannot be read.
    """
    folder = source / WEIGHTS if (source / WEIGHTS / CARD).exists() else source
    card = load_card(folder)
    if not card.model.large:
        raise ConfigError(
            f"--model {source} is {card.model.title}. Name a network of the Hugging Face Hub, or"
            " use an experiment with --start-from."
        )
    return TrainConfig(
        model=card.model,
        photographs=PhotographConfig(flip=True),
        optimiser=OptimiserConfig(
            learning_rate=5e-5,
            schedule="cosine",
            warm_up_steps=100,
            gradient_clip=0.01,
            weight_decay=0.05,
        ),
        initialisation="torch",
        start_from=str(folder.resolve()),
        epochs=12,
        batch_size=2,
    )


def _renamed(
    state: Mapping[str, Tensor], source: ModelConfig, target: ModelConfig
) -> dict[str, Tensor]:
    """The entries of ``source`` by the names that they have in ``target``."""
    old, new = source.backbone_prefix, target.backbone_prefix
    if old == new:
        return dict(state)
    return {new + name.removeprefix(old): value for name, value in state.items()}


def _reason(
    name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor], swapped: frozenset[str]
) -> str:
    """Why an entry is not taken; empty where it is."""
    if name not in own:
        return f"{_shape(given[name])} there, unknown here"
    if name in swapped:
        return "new classifier"
    if name not in given:
        return f"{_shape(own[name])} here, missing there"
    fits = own[name].shape == given[name].shape
    return "" if fits else f"{_shape(own[name])} here, {_shape(given[name])} there"


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "one number"


def classifier_entries(config: ModelConfig) -> frozenset[str]:
    """Return the names of the entries of the classifier.

    These belong to modules whose shape follows from the number of classes.
    """
    with torch.random.fork_rng(devices=()):
        one = build_network(config).state_dict()
        other = build_network(config.wider()).state_dict()
    owners = {_owner(name) for name, value in one.items() if value.shape != other[name].shape}
    return frozenset(name for name in one if _owner(name) in owners)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def check_parts(model: nn.Module, parts: Sequence[str]) -> None:
    """Check the names of the parts to freeze.

    Raises:
        ConfigError: ``model`` lacks a part (the message names those it has), or nothing would be
            left to train.
    """
    entries = list(model.state_dict())
    for part in parts:
        if not any(_inside(name, (part,)) for name in entries):
            choices = _nearest_parts(part, entries)
            raise ConfigError(
                f"The network has no part {part!r} to freeze: choose from {', '.join(choices)}."
            )
    if parts and all(_inside(name, parts) for name, _ in model.named_parameters()):
        raise ConfigError(
            f"--freeze {' '.join(parts)} leaves nothing to train: freeze fewer parts."
        )


def _nearest_parts(part: str, entries: Sequence[str]) -> list[str]:
    """The parts at the level where ``part`` goes wrong, in the order of the network."""
    right = part
    while right and not any(_inside(name, (right,)) for name in entries):
        right = _owner(right)
    start = f"{right}." if right else ""
    return list(
        dict.fromkeys(
            start + name.removeprefix(start).split(".")[0]
            for name in entries
            if name.startswith(start)
        )
    )


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze parts of ``model``: no gradient, and evaluation mode, so that batch norms stay fixed.

    ``model.train()`` undoes the evaluation mode; freeze again after it.
    """
    for name, parameter in model.named_parameters():
        if _inside(name, parts):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if _inside(name, parts):
            module.eval()


def _inside(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
