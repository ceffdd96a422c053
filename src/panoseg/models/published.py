"""Import of published weights: the folders of utae-paps and of Crop2Seg become ours.

utae-paps: ``conf.json`` and ``Fold_1/model.pth.tar`` to ``Fold_5/model.pth.tar``, written by
train_semantic.py and train_panoptic.py of VSainteuf/utae-paps @ 987874e. Crop2Seg: written by
train.py of Many98/Crop2Seg @ aee7827. Files of weights are pickles: they are read with
``weights_only`` and never without, so that none can run code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, WeightsError
from panoseg.imagery.sentinel2 import PASTIS_BANDS, REFERENCE_DATE
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.parcels import BackboneConfig, PapsConfig
from panoseg.models.configs.season import (
    AttentionUnetConfig,
    ConvRnnConfig,
    Dates,
    FpnConfig,
    NaiveUnetConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)
from panoseg.models.weight_files import load_tensors
from panoseg.models.weights import Weights, WeightsCard, check_state
from panoseg.text_files import read_json

_FIXED_IN_ALL = {"pad_value": 0, "mono_date": None}
FIXED_OPTIONS = {
    **_FIXED_IN_ALL,
    "str_conv_k": 4,
    "str_conv_s": 2,
    "str_conv_p": 1,
    "padding_mode": "reflect",
}
"""Options of the published programs that have one value in all networks here."""


def import_published(
    folder: Path | str,
    fold: int,
    normalisation: Normalisation | None = None,
    classes: ClassTable = PASTIS,
) -> Weights:
    """Import the authors' weights of one fold.

    Args:
        folder: The authors' folder.
        fold: Number of the fold, from 1.
        normalisation: Of the bands, which the folder does not hold; published weights were trained
            on that of their own training folds. Without it the weights can be scored on a dataset,
            which holds it, but not used for maps.
        classes: What the scores mean.

    Raises:
        WeightsError: Something is missing or damaged, a pickle holds code, or the network is
            another one, whose differing entries the message lists.
    """
    folder = Path(folder)
    options = read_options(folder / "conf.json")
    path = folder / f"Fold_{fold}" / "model.pth.tar"
    if not path.exists() and not list(folder.glob("Fold_*")):
        path = folder / "model.pth.tar"
    state = read_checkpoint(path)
    try:
        config = model_config(
            options, len(normalisation.bands) if normalisation else len(PASTIS_BANDS), state
        )
    except (ConfigError, ValueError, TypeError, OverflowError) as error:
        raise wrong_options(folder / "conf.json", str(error)) from error
    check_state(state, config, path)
    # A tuned confidence threshold was stored in double precision.
    state = {
        name: value.float() if value.is_floating_point() else value for name, value in state.items()
    }
    card = WeightsCard(
        config,
        normalisation,
        classes,
        reference_date=reference_date(options),
        trained_on=f"PASTIS, fold {fold}",
        provenance={"imported_from": path.parent.name + "/" + path.name, "options": options},
    )
    return Weights(card, state)


def model_config(
    options: Mapping[str, Any], bands: int = 10, entries: Collection[str] = ()
) -> ModelConfig:
    """Return our configuration of the network that options of the published programs describe.

    Args:
        options: The options.
        entries: Names in the checkpoint. They distinguish a bidirectional U-ConvLSTM from the
            network that the released program builds under that name, which has one direction.
        bands: Number of bands.

    Raises:
        ValueError: A network or an option has no counterpart.
    """
    readers = {known: NETWORKS[known] for known in _PANOPTIC} if "backbone" in options else NETWORKS
    name = options.get("backbone", options.get("model", "utae"))
    if name not in readers:
        raise ValueError(f"the network is {name!r}, and only {', '.join(readers)} can be imported")
    check_fixed(options, FIXED_OPTIONS if name == "utae" else _FIXED_IN_ALL)
    network = readers[name](options, bands)
    if isinstance(network, UConvLstmConfig) and any(
        "convlstm_backward" in entry for entry in entries
    ):
        network = replace(network, directions=2)
    if "backbone" not in options:
        return network
    return PapsConfig(
        network,
        shape_size=int(options.get("shape_size", 16)),
        mask_convolution=bool(options.get("mask_conv", True)),
        min_confidence=float(options.get("min_confidence", 0.2)),
        min_remain=float(options.get("min_remain", 0.5)),
        mask_threshold=float(options.get("mask_threshold", 0.4)),
    )


def check_fixed(options: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` that lists the options which differ from their only supported value."""
    wrong = [
        f"{name} is {options[name]!r}, and only {only!r}"
        for name, only in fixed.items()
        if options.get(name, only) != only
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)} can be imported")


def reference_date(options: Mapping[str, Any]) -> str:
    """Return the date from which a published program counted days.

    It is the default of its command line where the options do not name it.
    """
    return str(options.get("ref_date", REFERENCE_DATE))


def _utae(options: Mapping[str, Any], bands: int) -> UtaeConfig:
    *hidden, scores = read_widths(options.get("out_conv", [32, 20]))
    return UtaeConfig(
        bands=bands,
        classes=scores,
        encoder_widths=read_widths(options.get("encoder_widths", [64, 64, 64, 128])),
        decoder_widths=read_widths(options.get("decoder_widths", [32, 32, 64, 128])),
        head_widths=tuple(hidden),
        aggregation=options.get("agg_mode", "att_group"),
        encoder_norm=options.get("encoder_norm", "group"),
        heads=int(options.get("n_head", 16)),
        d_model=int(options.get("d_model", 256)),
        key_width=int(options.get("d_k", 4)),
        reference_date=reference_date(options),
    )


def _classes(options: Mapping[str, Any]) -> int:
    return int(options.get("num_classes", 20))


NETWORKS: dict[str, Callable[[Mapping[str, Any], int], BackboneConfig]] = {
    "utae": _utae,
    "unet3d": lambda options, bands: UNet3dConfig(bands, _classes(options)),
    "fpn": lambda options, bands: FpnConfig(bands, _classes(options)),
    "convlstm": lambda options, bands: ConvRnnConfig(bands, _classes(options)),
    "convgru": lambda options, bands: ConvRnnConfig(bands, _classes(options), "gru", hidden=180),
    "uconvlstm": lambda options, bands: UConvLstmConfig(bands),
    "buconvlstm": lambda options, bands: UConvLstmConfig(bands, hidden=30),
}
"""Our configuration from the options and the number of bands, by what --model or --backbone says.
The published program ignores the options of architecture for all networks except U-TAE, and always
builds the last two with 20 classes.
"""
_PANOPTIC = ("utae", "uconvlstm")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the ``state_dict`` of a published checkpoint, without running code from the file.

    Raises:
        WeightsError: The file is missing, damaged, or holds something else.
    """
    advice = "Give the authors' folder of conf.json and Fold_1 .. Fold_5."
    content = load_tensors(path, advice)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WeightsError(f"{path} has no table of tensors named state_dict. {advice}")
    return _without_wrappers({str(name): value for name, value in state.items()})


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return entries without the prefixes that torch.compile and DataParallel put before them.

    >>> list(_without_wrappers({"module._orig_mod.encoder.weight": Tensor()}))
    ['encoder.weight']
    """
    names = {name: name.replace("_orig_mod.", "") for name in state}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: short.removeprefix("module.") for name, short in names.items()}
    return {names[name]: value for name, value in state.items()}


def read_options(path: Path) -> dict[str, Any]:
    """Read a published ``conf.json``.

    Raises:
        WeightsError: It is missing or damaged.
    """
    try:
        options = read_json(path)
    except OSError as error:
        raise wrong_options(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise wrong_options(path, f"is not JSON ({error})") from error
    if not isinstance(options, dict):
        raise wrong_options(path, f"holds a {type(options).__name__}")
    return options


def wrong_options(path: Path, what: str) -> WeightsError:
    """The error of a ``conf.json`` that cannot be used, and why."""
    return WeightsError(
        f"{path}: {what.rstrip('.')}. Give the authors' folder, with the options of a published"
        " network."
    )


def read_widths(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Widths from a list, or from text such as "[64,64,64,128]"."""
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    return tuple(int(part) for part in parts)


_NAIVE_CLASSES = 20


def import_crop2seg(
    folder: Path | str,
    classes: ClassTable,
    normalisation: Normalisation | None = None,
    trained_on: str = "",
) -> Weights:
    """Import the weights in a folder of Crop2Seg.

    Args:
        folder: A folder with conf.json and model.pth.tar, or a results folder with one in Fold_1.
        classes: What the scores mean, which the folder does not say.
        normalisation: Of the bands, which the folder does not hold; without it the weights can be
            scored on a dataset, which holds it, but not used for maps.
        trained_on: The data, in words.

    Raises:
        WeightsError: Something is missing or damaged, a pickle holds code, or the network is
            another one, whose differing entries the message lists.
    """
    folder = Path(folder)
    if not (folder / "conf.json").exists() and (folder / "Fold_1" / "conf.json").exists():
        folder = folder / "Fold_1"
    options, path = read_options(folder / "conf.json"), folder / "model.pth.tar"
    try:
        config = crop2seg_config(options)
    except (ConfigError, ValueError, TypeError, OverflowError) as error:
        raise wrong_options(folder / "conf.json", str(error)) from error
    if config.classes != classes.count:
        raise WeightsError(
            f"The network in {folder} has {config.classes} classes, but {classes.name} has"
            f" {classes.count}: give the class table that it was trained with."
        )
    state = own_names(read_checkpoint(path), config)
    check_state(state, config, path)
    provenance = {"imported_from": f"{folder.name}/{path.name}", "options": options}
    return Weights(
        WeightsCard(
            config, normalisation, classes, reference_date(options), trained_on, provenance
        ),
        state,
    )


def crop2seg_config(options: Mapping[str, Any]) -> ModelConfig:
    """Return our configuration of the network that options of Crop2Seg's train.py describe.

    Args:
        options: The options by their names there.

    Raises:
        ValueError: A network or an option has no counterpart.
        ConfigError: Values do not fit.
    """
    check_fixed(options, FIXED_OPTIONS)
    network = options.get("model", "utae")
    if network == "utae":
        return _attention_unet(UtaeConfig, options, **_aggregating(options), **_by_table(options))
    if network == "wtae":
        return _attention_unet(WtaeConfig, options, **_aggregating(options))
    if network == "timeunet":
        return _attention_unet(
            TimeUnetConfig, options, squeeze=bool(options.get("add_squeeze")), **_by_table(options)
        )
    if network == "unet_naive":
        return NaiveUnetConfig(
            bands=int(options.get("input_dim", 10)),
            classes=_NAIVE_CLASSES,
            length=_length(options),
            convolution=options.get("conv_type", "2d"),
            **_blocks(options),
        )
    if network in NETWORKS:
        return NETWORKS[network](options, int(options.get("input_dim", 10)))
    raise ValueError(
        f"the network is {network!r}, and only wtae, timeunet, unet_naive, {', '.join(NETWORKS)}"
        " can be imported"
    )


_Config = TypeVar("_Config", bound=AttentionUnetConfig)


def _attention_unet(kind: type[_Config], options: Mapping[str, Any], **others: Any) -> _Config:  # noqa: ANN401
    """Return the options of the three networks with attention.

    Args:
        kind: The class of the options.
        options: The options of Crop2Seg.
        **others: Options that not all of the networks have.
    """
    *hidden, classes = read_widths(options.get("out_conv", [32, 15]))
    dates: Dates = "day_of_year" if options.get("use_doy") else "relative"
    return kind(
        bands=int(options.get("input_dim", 10)),
        classes=classes,
        encoder_widths=read_widths(options.get("encoder_widths", [64, 64, 64, 128])),
        decoder_widths=read_widths(options.get("decoder_widths", [32, 32, 64, 128])),
        head_widths=tuple(hidden),
        encoder_norm=options.get("encoder_norm", "group"),
        heads=int(options.get("n_head", 16)),
        d_model=int(options.get("d_model", 256)),
        key_width=int(options.get("d_k", 4)),
        convolution=options.get("conv_type", "2d"),
        queries=int(options.get("num_queries", 1)),
        dates="both" if options.get("use_abs_rel_enc") else dates,
        linear_dates=bool(options.get("add_linear")),
        reference_date=reference_date(options),
        **others,
    )


def _aggregating(options: Mapping[str, Any]) -> dict[str, Any]:
    boundary = options.get("add_boundary_loss", options.get("add_boundary"))
    return {
        "aggregation": options.get("agg_mode", "att_group"),
        "boundary": bool(boundary),
        **_blocks(options),
    }


def _blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    mbconv = bool(options.get("use_mbconv"))
    return {"mbconv": mbconv, "squeeze": bool(options.get("add_squeeze")) and not mbconv}


def _length(options: Mapping[str, Any]) -> int:
    if options.get("max_temp") is None:
        raise ValueError(
            "max_temp is not given, and the naive U-Net needs the number of dates that it was"
            " trained with"
        )
    return int(options["max_temp"])


def _by_table(options: Mapping[str, Any]) -> dict[str, Any]:
    both = options.get("use_abs_rel_enc") and options.get("use_doy")
    return {"relative_as_day_of_year": bool(both and not options.get("add_linear"))}


def own_names(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the entries of a checkpoint of Crop2Seg under the names that they have here.

    The attention's queries have an axis of one there, batch norm another place in its list, and the
    encoders of dates are named by their order, which the network's configuration turns into what
    they encode. All other entries keep their names.
    """
    first = "day_of_year" if getattr(config, "dates", None) == "day_of_year" else "relative"
    renamed = {
        "temporal_encoder.attention_head.": "temporal_encoder.attention_heads.",
        "temporal_encoder.mlp.2.": "temporal_encoder.mlp.1.",
        "temporal_encoder.positional_encoder.": f"temporal_encoder.date_encoder.{first}.",
        "temporal_encoder.positional_encoder_abs.": "temporal_encoder.date_encoder.day_of_year.",
    }
    own = {}
    for name, value in state.items():
        if name == "temporal_encoder.attention_head.Q" and value.dim() == 3 and value.shape[1] == 1:
            value = value[:, 0]
        for published, ours in renamed.items():
            name = name.replace(published, ours)
        own[name] = value.float() if value.is_floating_point() else value
    return own
