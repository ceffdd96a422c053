"""Frozen dataclasses of every model: what ``build_model`` builds. No torch in here, so that ``--help`` stays quick.

``bands`` and ``classes`` follow from the data and are filled in by whoever knows the data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from panoseg.errors import ConfigError

Aggregation = Literal["att_group", "att_mean", "mean"]
Norm = Literal["group", "batch", "instance"]
NORM_GROUPS = 4
"""Groups of channels that the group norm of the encoder standardises together."""


@dataclass(frozen=True)
class UtaeConfig:
    """U-TAE: a convolutional encoder shared over dates, attention over time at the coarsest size, a convolutional decoder."""

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last equals the encoder's last."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    aggregation: Aggregation = "att_group"
    """How a level's dates become one map: attention of its group of channels, mean attention, or the mean over dates."""
    encoder_norm: Norm = "group"
    """Normalisation in the encoder."""
    heads: int = 16
    """Attention heads; divides d_model and the encoder's last width."""
    d_model: int = 256
    """Width of the values that are averaged over dates."""
    key_width: int = 4
    """Width of keys and queries of one head."""
    padding_invariant: bool = False
    """Leave padded dates out of the attention's normalisation; False as in all published weights."""

    def __post_init__(self) -> None:
        for name, allowed in (("aggregation", Aggregation), ("encoder_norm", Norm)):
            value = getattr(self, name)
            _expect(value in get_args(allowed), f"{name} {value!r}", f"one of {', '.join(get_args(allowed))}")
        widths = (*self.encoder_widths, *self.decoder_widths, *self.head_widths)
        numbers = {name: getattr(self, name) for name in ("bands", "classes", "heads", "d_model", "key_width")}
        for name, value in (("widths", min(widths, default=1)), *numbers.items()):
            _expect(value >= 1, f"{name} {value}", "at least 1")
        _expect(
            len(self.encoder_widths) == len(self.decoder_widths) >= 2,
            f"{len(self.encoder_widths)} encoder widths and {len(self.decoder_widths)} decoder widths",
            "as many of one as of the other, at least two",
        )
        _expect(
            self.encoder_widths[-1] == self.decoder_widths[-1],
            f"encoder_widths end with {self.encoder_widths[-1]}, decoder_widths with {self.decoder_widths[-1]}",
            "the same last width",
        )
        _expect(
            self.encoder_norm != "group" or all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths {self.encoder_widths} with encoder_norm group",
            f"multiples of {NORM_GROUPS}",
        )
        _expect(
            self.d_model % self.heads == 0 and all(width % self.heads == 0 for width in self._grouped_widths()),
            f"heads {self.heads} with d_model {self.d_model} and encoder_widths {self.encoder_widths}",
            "heads that divide d_model and the widths they group",
        )

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths if self.aggregation == "att_group" else self.encoder_widths[-1:]

    @property
    def stride(self) -> int:
        """Pixels of the images that one pixel of the coarsest map stands for."""
        return 2 ** (len(self.encoder_widths) - 1)


@dataclass(frozen=True)
class PapsConfig:
    """PaPs: parcels as centre points with a size, a class and a shape, on the maps of a backbone."""

    backbone: UtaeConfig = field(default_factory=UtaeConfig)
    """The network that makes the maps; its ``classes`` are those of the parcels."""
    shape_size: int = 16
    """Side of the square in which the shape of a parcel is predicted."""
    mask_convolution: bool = True
    """Refine each mask by a small convolutional network."""
    min_confidence: float = 0.2
    """Centres below this confidence are left out of the result; training tunes it on the validation folds."""
    min_remain: float = 0.5
    """A parcel is kept where more than this part of its mask is still free."""
    mask_threshold: float = 0.4
    """A pixel belongs to a mask above this probability."""

    def __post_init__(self) -> None:
        _expect(self.shape_size >= 1, f"shape_size {self.shape_size}", "at least 1")
        for name in ("min_confidence", "min_remain", "mask_threshold"):
            value = getattr(self, name)
            _expect(0 <= value <= 1, f"{name} {value}", "a number from 0 to 1")


ModelConfig = UtaeConfig | PapsConfig

CONFIGS: dict[str, type[UtaeConfig] | type[PapsConfig]] = {"utae": UtaeConfig, "paps": PapsConfig}


def _expect(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise ConfigError(found, expected, "change the model's options")


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A JSON-ready dictionary, tagged with the name of the model; ``config_from_json`` reads it."""
    name = next(name for name, kind in CONFIGS.items() if type(config) is kind)
    values = asdict(config)
    for entry in fields(config):
        if is_dataclass(getattr(config, entry.name)):
            values[entry.name] = config_to_json(getattr(config, entry.name))
    return {"model": name, **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}}


def config_from_json(values: Any) -> ModelConfig:
    """Read what ``config_to_json`` wrote; raises ``ConfigError`` for an unknown model, an unknown option or a wrong value."""
    if not isinstance(values, dict) or values.get("model") not in CONFIGS:
        found = values.get("model") if isinstance(values, dict) else values
        raise ConfigError(f"model {found!r}", f"one of {', '.join(CONFIGS)}", "use a configuration that panoseg wrote")
    kind = CONFIGS[values["model"]]
    defaults = {entry.name: getattr(kind(), entry.name) for entry in fields(kind)}
    unknown = sorted(values.keys() - defaults.keys() - {"model"})
    _expect(not unknown, f"{values['model']} with options {unknown}", f"some of {', '.join(defaults)}")
    return kind(**{key: _like(defaults[key], value, key) for key, value in values.items() if key != "model"})


def _like(default: Any, value: Any, name: str) -> Any:
    """``value`` from JSON in the type of ``default``."""
    if is_dataclass(default):
        return config_from_json(value)
    if isinstance(default, tuple):
        _expect(
            isinstance(value, list) and all(type(entry) is int for entry in value), f"{name} {value!r}", "a list of integers"
        )
        return tuple(value)
    accepted = (int, float) if type(default) is float else (type(default),)
    _expect(type(value) in accepted, f"{name} {value!r}", f"a value like {default!r}")
    return value
