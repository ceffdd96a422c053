"""The list of networks: what ``build_model`` builds, and how their options go to JSON and back.

A network's options are a frozen dataclass of ``panoseg.models.configs``. ``name`` tags it in JSON,
``title`` is the name in its paper, ``network`` says where the module is ("package.module:Class").
``bands`` and ``classes`` follow from the data; ``stride`` is the number that divides the sides of
images. A backbone has ``map_widths``, the channels of its maps, finest first.
"""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeGuard, get_args

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.models.configs.base import expect
from panoseg.models.configs.paps import PapsConfig
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

SeasonModelConfig = (
    UtaeConfig
    | PapsConfig
    | WtaeConfig
    | TimeUnetConfig
    | NaiveUnetConfig
    | UNet3dConfig
    | UConvLstmConfig
    | FpnConfig
    | ConvRnnConfig
)
"""Every network for satellite image time series: a new one is added here, and nowhere else."""

PhotographModelConfig = PanopticFpnConfig | PspNetConfig | MaskRcnnConfig
"""Every network for photographs; likewise."""

ModelConfig = SeasonModelConfig | PhotographModelConfig

SEASON_CONFIGS: dict[str, type[SeasonModelConfig]] = {
    kind.name: kind for kind in get_args(SeasonModelConfig)
}
PHOTOGRAPH_CONFIGS: dict[str, type[PhotographModelConfig]] = {
    kind.name: kind for kind in get_args(PhotographModelConfig)
}
CONFIGS: dict[str, type[ModelConfig]] = {kind.name: kind for kind in get_args(ModelConfig)}


def fit_to_data(config: ModelConfig, bands: int, classes: int, reference_date: str) -> ModelConfig:
    """The same network with what follows from the data.

    bands: channels of an image. classes: scores of a pixel. reference_date: YYYY-MM-DD, from which
    days are counted; networks that look at the day of the year have it as an option of the same
    name.
    """
    network = config.backbone if isinstance(config, PapsConfig) else config
    facts: dict[str, Any] = {"bands": bands, "classes": classes, "reference_date": reference_date}
    known = {entry.name for entry in fields(network)}
    fitted = replace(network, **{name: value for name, value in facts.items() if name in known})
    return replace(config, backbone=fitted) if isinstance(config, PapsConfig) else fitted  # type: ignore[arg-type]


def looks_at_photographs(config: ModelConfig) -> TypeGuard[PhotographModelConfig]:
    """Whether a network looks at photographs, and not at seasons: all else that differs between the
    two follows from it.
    """
    return isinstance(config, PhotographModelConfig)


def fit_to_classes(config: PhotographModelConfig, table: ClassTable) -> PhotographModelConfig:
    """The same network for photographs with the numbers of things and stuff of a class table."""
    counts: dict[str, Any] = {"things": len(table.ids("thing")), "stuff": len(table.ids("stuff"))}
    known = {entry.name for entry in fields(config)}
    return replace(config, **{name: count for name, count in counts.items() if name in known})


def reference_date_of(config: ModelConfig) -> str | None:
    """The date from which a network counts days, YYYY-MM-DD; None for one that does not look at
    dates.
    """
    date: str | None = getattr(
        config.backbone if isinstance(config, PapsConfig) else config, "reference_date", None
    )
    return date


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A JSON-ready dictionary, tagged with the name of the model; ``config_from_json`` reads it."""
    values = asdict(config)
    for entry in fields(config):
        if is_dataclass(getattr(config, entry.name)):
            values[entry.name] = config_to_json(getattr(config, entry.name))
    return {
        "model": config.name,
        **{
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        },
    }


def config_from_json(values: Any) -> ModelConfig:
    """Read what ``config_to_json`` wrote; raises ``ConfigError`` for an unknown model, an unknown
    option or a wrong value.
    """
    if not isinstance(values, dict) or values.get("model") not in CONFIGS:
        found = values.get("model") if isinstance(values, dict) else values
        raise ConfigError(
            f"model {found!r}",
            f"one of {', '.join(CONFIGS)}",
            "use a configuration that panoseg wrote",
        )
    kind = CONFIGS[values["model"]]
    defaults = {entry.name: getattr(kind(), entry.name) for entry in fields(kind)}
    unknown = sorted(values.keys() - defaults.keys() - {"model"})
    expect(
        not unknown, f"{values['model']} with options {unknown}", f"some of {', '.join(defaults)}"
    )
    return kind(
        **{key: _like(defaults[key], value, key) for key, value in values.items() if key != "model"}
    )


def _like(default: Any, value: Any, name: str) -> Any:
    """``value`` from JSON in the type of ``default``."""
    if is_dataclass(default):
        return config_from_json(value)
    if isinstance(default, tuple):
        expect(
            isinstance(value, list) and all(type(entry) is int for entry in value),
            f"{name} {value!r}",
            "a list of integers",
        )
        return tuple(value)
    accepted = (int, float) if type(default) is float else (type(default),)
    expect(type(value) in accepted, f"{name} {value!r}", f"a value like {default!r}")
    return value
