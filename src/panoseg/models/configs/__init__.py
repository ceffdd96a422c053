"""Options of all networks, the list of networks, and how configurations go to JSON and back.

A network's options are a frozen dataclass, a ``NetworkConfig``. Nothing in this package imports
torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.models.configs.base import NetworkConfig
from panoseg.models.configs.hub import HubNetworkConfig
from panoseg.models.configs.parcels import CompositesConfig, FieldsConfig, PapsConfig
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig, PspNetConfig
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    NaiveUnetConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)

ModelConfig = (
    UtaeConfig
    | PapsConfig
    | WtaeConfig
    | TimeUnetConfig
    | NaiveUnetConfig
    | UNet3dConfig
    | UConvLstmConfig
    | FpnConfig
    | ConvRnnConfig
    | CompositesConfig
    | FieldsConfig
    | PanopticFpnConfig
    | PspNetConfig
    | MaskRcnnConfig
    | HubNetworkConfig
)
"""Every network: a new one is added here, and nowhere else."""

CONFIGS: dict[str, type[ModelConfig]] = {kind.name: kind for kind in get_args(ModelConfig)}
SEASON_CONFIGS = {name: kind for name, kind in CONFIGS.items() if kind.inputs == "season"}


def facts_of(table: ClassTable, bands: int, reference_date: str) -> dict[str, Any]:
    """Return what networks have to know of a dataset, for ``NetworkConfig.fitted``.

    Args:
        table: The classes.
        bands: Channels of an image.
        reference_date: YYYY-MM-DD, from which days are counted.
    """
    things, stuff = len(table.ids("thing")), len(table.ids("stuff"))
    facts = {"things": things, "stuff": stuff, "classes": table.count}
    return {**facts, "bands": bands, "reference_date": reference_date}


def fit_to_table(config: ModelConfig, table: ClassTable) -> ModelConfig:
    """Return the same network with the numbers of classes of a table."""
    facts = facts_of(table, 0, "")
    return config.fitted(**{name: facts[name] for name in ("things", "stuff", "classes")})


def check_tta(config: ModelConfig, tta: int) -> None:
    """Raise ``ConfigError`` unless a network supports a number of test-time augmentations."""
    most, title = config.max_tta, config.title
    if most == 1 and tta != 1:
        raise ConfigError(f"{title} does not support test-time augmentation: leave out --tta.")
    if not 1 <= tta <= most:
        raise ConfigError(f"--tta must be from 1 to {most} for {title}, not {tta}.")


def to_json(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a configuration as plain JSON values, a network's tagged with its name."""
    values = {entry.name: _plain(getattr(config, entry.name)) for entry in fields(config)}
    return {"model": config.name, **values} if isinstance(config, NetworkConfig) else values


def _plain(value: Any) -> Any:  # noqa: ANN401
    if is_dataclass(value):
        return to_json(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def config_from_json(values: Any) -> ModelConfig:  # noqa: ANN401
    """Read the options of a network from what ``to_json`` wrote.

    Raises:
        ConfigError: An unknown network, an unknown option, or a wrong value.
    """
    name = values.get("model") if isinstance(values, dict) else values
    if not isinstance(values, dict) or values.get("model") not in CONFIGS:
        raise ConfigError(
            f"There is no model {name!r}, only {', '.join(CONFIGS)}. Use a configuration that"
            " panoseg has written."
        )
    options = {key: value for key, value in values.items() if key != "model"}
    config: ModelConfig = from_json(CONFIGS[values["model"]], options, str(name))
    return config


def from_json(kind: type | Any, value: Any, name: str = "the configuration") -> Any:  # noqa: ANN401
    """Read what ``to_json`` wrote as an instance of the type ``kind``.

    An option that is left out has its default, so that files of older versions are still read.

    Raises:
        ConfigError: A wrong entry, which the message names.
    """
    choices = get_args(kind)
    if is_dataclass(kind):
        return _dataclass_from_json(kind, value, name)
    if get_origin(kind) is Literal:
        _expect(value in choices, name, value, f"one of {', '.join(map(repr, choices))}")
        return value
    if get_origin(kind) in (Union, types.UnionType):
        if isinstance(choices[0], type) and issubclass(choices[0], NetworkConfig):
            return config_from_json(value)
        optional = value is None and types.NoneType in choices
        return None if optional else from_json(choices[0], value, name)
    if get_origin(kind) is tuple:
        _expect(isinstance(value, list), name, value, "a list")
        inner = choices[:1] * len(value) if ... in choices else choices
        _expect(len(value) == len(inner), name, value, f"{len(inner)} values")
        pairs = zip(inner, value, strict=True)
        return tuple(from_json(entry_kind, entry, name) for entry_kind, entry in pairs)
    accepted = (int, float) if kind is float else (kind,)
    _expect(type(value) in accepted, name, value, f"a value of type {kind.__name__}")
    return kind(value)


def _dataclass_from_json(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    hints = get_type_hints(kind)
    entries = {entry.name: entry for entry in fields(kind)}
    needed = {
        key
        for key, entry in entries.items()
        if entry.default is MISSING and entry.default_factory is MISSING
    }
    _expect(isinstance(value, dict), name, value, f"a table of the options {', '.join(entries)}")
    unknown, missing = sorted(value.keys() - entries.keys()), sorted(needed - value.keys())
    if unknown or missing:
        wrong = f"has no options {unknown}" if unknown else f"lacks the options {missing}"
        raise ConfigError(f"{name} {wrong}; it has {', '.join(entries)}. Correct the file.")
    return kind(**{key: from_json(hints[key], entry, key) for key, entry in value.items()})


def _expect(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(
            f"{name} {value!r} is not {expected}. Correct the file, or use one that panoseg has"
            " written."
        )
