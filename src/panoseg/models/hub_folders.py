"""Folders in the layout of the Hugging Face Hub: read, checked, and loaded once.

    config.json                 the network and its labels
    preprocessor_config.json    how photographs are read (or processor_config.json)
    model.safetensors           the numbers (or shards, with model.safetensors.index.json)
    tokenizer.json              OneFormer: the words of its task (or vocab.json and merges.txt)

Nothing is unpickled, no code of a folder is run, and nothing is fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panoseg.classes import ClassTable, table_of_labels
from panoseg.errors import ConfigError, WeightsError
from panoseg.models.configs.hub import FAMILIES, HubNetworkConfig
from panoseg.models.hub_networks import (
    HubNetwork,
    library,
    library_config,
    library_json,
    quiet,
)
from panoseg.models.network import allowed, counting_parameters
from panoseg.text_files import read_json

NUMBERS, OPTIONS = "model.safetensors", "config.json"
_INDEX = f"{NUMBERS}.index.json"
_CARD = "card.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_LARGEST = 4 * 1024**2
"""Bytes of a JSON file."""
_LARGEST_TOKENIZER = 64 * 1024**2
_TASK = "the task is panoptic"
"""What OneFormer is told."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LEFT_OUT = (
    "id2label",
    "label2id",
    "_name_or_path",
    "num_labels",
)
"""Entries of config.json that the class table and the name of the checkpoint replace."""
_SHOWN = 3
_COMPUTED = re.compile(
    r"\bcriterion\.|num_batches_tracked$|relative_position_index$|position_ids$"
    r"|\b(swin|encoder\.model)\.layernorm\.(weight|bias)$"
)
"""Entries that a checkpoint may lack: they follow from the options, or, as the last norm of a Swin
that gives the maps of its stages, are not used.
"""


@dataclass(frozen=True, eq=False)
class HubFolder:
    """A folder that has been read, without its numbers."""

    path: Path
    """The folder."""
    config: HubNetworkConfig
    """The network."""
    table: ClassTable
    """What its labels mean."""
    name: str
    """Name of the checkpoint, as the folder states it; else that of the folder."""


def is_hub_folder(path: Path | str) -> bool:
    """Return whether a folder is in the hub's layout: its config.json names a model_type."""
    path = Path(path)
    if not (path / OPTIONS).is_file() or (path / _CARD).exists():
        return False
    try:
        return isinstance(_read(path / OPTIONS).get("model_type"), str)
    except WeightsError:
        return False


def read_hub_folder(path: Path | str) -> HubFolder:
    """Read the options and labels of a folder.

    Raises:
        WeightsError: A file is missing or damaged, or the network is of another kind.
    """
    path = Path(path)
    values = _read(path / OPTIONS)
    family = values["model_type"]
    if family not in FAMILIES:
        raise WeightsError(
            f"{path / OPTIONS} is of a network {str(family)[:60]!r}, which segments no photographs"
            f" here. Use one of {', '.join(FAMILIES)}."
        )
    table, places = table_of_labels(_labels(path / OPTIONS, values))
    things, stuff = len(table.ids("thing")), len(table.ids("stuff"))
    in_order = places == tuple(range(things + stuff))
    kept = {name: value for name, value in values.items() if name not in _LEFT_OUT}
    try:
        config = HubNetworkConfig(
            family=family,
            things=things,
            stuff=stuff,
            labels=() if in_order else places,
            architecture=library_json(kept),
            processor=library_json(_processor(path)),
            task_tokens=_task_tokens(path, values) if family == "oneformer" else (),
        )
    except (ConfigError, ValueError) as error:
        raise _wrong(path / OPTIONS, str(error)) from error
    name = values.get("_name_or_path")
    return HubFolder(path, config, table, str(name)[:200] if name else path.resolve().name)


def load_hub_network(folder: HubFolder) -> HubNetwork:
    """Load the network of a folder with its numbers, which are mapped from disk, not copied.

    Raises:
        WeightsError: The numbers are missing, damaged, or of another network.
    """
    config = folder.config
    _check_parameters(folder)  # before the numbers are read
    state = _state(folder.path)
    module = library()
    kind = getattr(module, FAMILIES[config.family].network)
    try:
        options = library_config(config)
        with quiet():
            network, report = kind.from_pretrained(
                None,
                config=options,
                state_dict=state,
                output_loading_info=True,
                dtype="float32",
                ignore_mismatched_sizes=True,
            )
    except ConfigError as error:
        raise _wrong(folder.path / OPTIONS, str(error)) from error
    except Exception as error:  # options of others may fail anywhere in the library
        lines = (str(error).strip() or type(error).__name__).splitlines()
        raise _wrong(folder.path, lines[0][:200]) from error
    _check_report(folder, report)
    try:
        loaded = HubNetwork(config, network)
    except ConfigError as error:
        raise _wrong(folder.path / _PROCESSORS[0], str(error)) from error
    loaded.prepare(folder.table)
    return loaded.eval()


def _read(path: Path, largest: int = _LARGEST) -> dict[str, Any]:
    try:
        values = read_json(path, largest)
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _wrong(path, f"is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise _wrong(path, "is not a table of options")
    return values


def _wrong(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: {what.rstrip('.')}. Expected a checkpoint of the Hugging Face Hub with {OPTIONS},"
        f" {_PROCESSORS[0]} and {NUMBERS}."
    )


def _labels(path: Path, values: Mapping[str, Any]) -> list[str]:
    """Return the name of each label."""
    named = values.get("id2label")
    count = values.get("num_labels")
    if named is None and type(count) is int and 0 < count <= 4096:
        return [f"LABEL_{number}" for number in range(count)]
    try:
        numbers = {int(number): str(name) for number, name in named.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError) as error:
        raise _wrong(path, "id2label is not a table of labels by number") from error
    if sorted(numbers) != list(range(len(numbers))) or not 0 < len(numbers) <= 4096:
        raise _wrong(path, "id2label does not name the labels 0, 1, 2 ... once each")
    names = (numbers[number] for number in range(len(numbers)))
    # Halves of surrogate pairs cannot be printed.
    return [name.encode("utf-8", "replace").decode() for name in names]


def _processor(path: Path) -> dict[str, Any]:
    for name in _PROCESSORS:
        if (path / name).is_file():
            values = _read(path / name)
            inner = values.get("image_processor", values)
            if not isinstance(inner, dict):
                raise _wrong(path / name, "image_processor is not a table of options")
            # OneFormer's lists the classes again, which nothing here reads.
            unread = ("auto_map", "metadata", "repo_path", "class_info_file", "tokenizer")
            return {key: value for key, value in inner.items() if key not in unread}
    raise _wrong(path / _PROCESSORS[0], "No such file")


def _task_tokens(path: Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens of OneFormer's task, padded to the length that it reads."""
    library()  # tokenizers come with it
    from tokenizers import Tokenizer, models, pre_tokenizers

    length = values.get("task_seq_len", 77)
    if type(length) is not int or not 8 <= length <= 1024:
        raise _wrong(path / OPTIONS, "task_seq_len is not a length from 8 to 1024")
    whole, vocabulary, merges = (
        path / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    try:
        for file in (whole, vocabulary, merges):
            if file.exists() and file.stat().st_size > _LARGEST_TOKENIZER:
                raise ValueError(f"{file.name} has {file.stat().st_size} bytes")
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            ids = tokenizer.encode(_TASK).ids
        else:
            words = models.BPE.from_file(
                str(vocabulary), str(merges), unk_token=_END, end_of_word_suffix="</w>"
            )
            tokenizer = Tokenizer(words)
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            start, end = (tokenizer.token_to_id(name) for name in (_START, _END))
            ids = [start or 0, *tokenizer.encode(_TASK).ids, end or 0]
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else "no tokenizer"
        raise _wrong(whole, f"OneFormer's tokenizer cannot be read ({reason})") from error
    return (tuple(ids) + (0,) * length)[:length]


def _files(path: Path) -> list[Path]:
    """Return the files of the numbers."""
    if (path / NUMBERS).is_file():
        return [path / NUMBERS]
    if not (path / _INDEX).is_file():
        others = sorted(
            entry.name
            for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
            for entry in path.glob(pattern)
        )
        found = f"; {', '.join(others[:_SHOWN])} could hold code and is not read" if others else ""
        raise _wrong(path / NUMBERS, f"No such file{found}")
    index = _read(path / _INDEX, _LARGEST_TOKENIZER).get("weight_map")
    names = sorted(set(index.values())) if isinstance(index, dict) else []
    if not names or not all(
        isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        for name in names
    ):
        raise _wrong(path / _INDEX, "does not name .safetensors files of this folder")
    return [path / name for name in names]


def _check_parameters(folder: HubFolder) -> None:
    """Raise ``WeightsError`` for options that ask for a larger network than the files hold.

    Options that are harmless one by one may multiply to a network that fills the memory.
    """
    module, total = library(), 0
    for path in _files(folder.path):
        for shape in _shapes(path).values():
            total += math.prod(shape)
    config = folder.config
    try:
        with torch.device("meta"), counting_parameters(config, allowed(total)):
            kind = getattr(module, FAMILIES[config.family].network)
            options = library_config(config)
            with quiet():
                kind(options)
    except ConfigError as error:
        raise _wrong(folder.path / OPTIONS, str(error)) from error
    except Exception as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        raise _wrong(folder.path / OPTIONS, lines[0][:200]) from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from error
    except (SafetensorError, ValueError) as error:
        raise _wrong(path, f"is not a whole safetensors file ({error})") from error


def _state(path: Path) -> dict[str, Tensor]:
    """Return the entries of all files, mapped from disk."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in _files(path):
        try:
            state |= load_file(file)
        except OSError as error:
            raise _wrong(file, error.strerror or str(error)) from error
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _wrong(file, f"is not a whole safetensors file ({error})") from error
    return state


def _check_report(folder: HubFolder, report: Any) -> None:  # noqa: ANN401
    """Raise ``WeightsError`` where entries of the network are missing or of other shapes."""

    def found(name: str) -> list[str]:
        value = report.get(name) if isinstance(report, dict) else getattr(report, name, None)
        return sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in value or ())

    missing, wrong = found("missing_keys"), found("mismatched_keys")
    missing = [name for name in missing if not _COMPUTED.search(name)]
    wrong = [name for name in wrong if "criterion." not in name]
    problems = [
        f"{len(names)} entries are {what} ({', '.join(names[:_SHOWN])})"
        for names, what in ((missing, "missing"), (wrong, "of another shape"))
        if names
    ]
    if problems:
        raise _wrong(folder.path / NUMBERS, " and ".join(problems))
