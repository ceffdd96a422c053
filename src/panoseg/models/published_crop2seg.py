"""Folders of Crop2Seg become ours: ``conf.json`` and ``model.pth.tar``, as train.py of Many98/Crop2Seg @ aee7827 writes them.

Its command accepts options that some networks ignore; their folders load all the same, since the weights do not depend on them:
TimeUNet ignores the boundary head, MBConv and the aggregation, MBConv ignores squeeze and excitation, the naive U-Net ignores
widths and the number of classes, W-TAE ignores the day of the year alone where both encodings are asked for, and none looks at
``seg_model`` and ``temp_model``: a U-Net with L-TAE is the only combination there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, WeightsError
from panoseg.models.config import ModelConfig
from panoseg.models.configs.attention_unet import AttentionUnetConfig, Dates
from panoseg.models.configs.timeunet import TimeUnetConfig
from panoseg.models.configs.unet import NaiveUnetConfig
from panoseg.models.configs.utae import UtaeConfig
from panoseg.models.configs.wtae import WtaeConfig
from panoseg.models.published import (
    FIXED_OPTIONS,
    NETWORKS,
    check_fixed,
    read_checkpoint,
    read_options,
    read_widths,
    reference_date,
    wrong_options,
)
from panoseg.models.weights import Weights, WeightsCard, check_state

_NAIVE_CLASSES = 20


def import_crop2seg(
    folder: Path | str, classes: ClassTable, normalisation: Normalisation | None = None, trained_on: str = ""
) -> Weights:
    """The weights in a folder of Crop2Seg: one with conf.json and model.pth.tar, or a results folder with one in Fold_1.

    classes: what the scores mean, which the folder does not say. normalisation: the folder does not hold it; without it the
    weights can be scored on a dataset, which holds it, but not used for maps. trained_on: the data, in words. Raises
    ``WeightsError`` for what is missing or damaged, for pickles with code, and for other networks, whose differing entries it
    lists.
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
            f"{folder}: a network of {config.classes} classes",
            f"the {classes.count} classes of {classes.name}",
            "give the class table that it was trained with",
        )
    state = own_names(read_checkpoint(path), config)
    check_state(state, config, path)
    provenance = {"imported_from": f"{folder.name}/{path.name}", "options": options}
    return Weights(WeightsCard(config, normalisation, classes, reference_date(options), trained_on, provenance), state)


def crop2seg_config(options: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of the network that the options of Crop2Seg's train.py describe, by their names there.

    Raises ``ValueError`` for a network or an option that has no counterpart, ``ConfigError`` for values that do not fit.
    """
    check_fixed(options, FIXED_OPTIONS)
    network = options.get("model", "utae")
    if network == "utae":
        return _attention_unet(UtaeConfig, options, **_aggregating(options), **_by_table(options))
    if network == "wtae":
        return _attention_unet(WtaeConfig, options, **_aggregating(options))
    if network == "timeunet":
        return _attention_unet(TimeUnetConfig, options, squeeze=bool(options.get("add_squeeze")), **_by_table(options))
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
    raise ValueError(f"the network is {network!r}, and only wtae, timeunet, unet_naive, {', '.join(NETWORKS)} can be imported")


_Config = TypeVar("_Config", bound=AttentionUnetConfig)


def _attention_unet(kind: type[_Config], options: Mapping[str, Any], **others: Any) -> _Config:
    """Options of the three networks with attention; others: those that not all of them have."""
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
    return {"aggregation": options.get("agg_mode", "att_group"), "boundary": bool(boundary), **_blocks(options)}


def _blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    mbconv = bool(options.get("use_mbconv"))
    return {"mbconv": mbconv, "squeeze": bool(options.get("add_squeeze")) and not mbconv}


def _length(options: Mapping[str, Any]) -> int:
    if options.get("max_temp") is None:
        raise ValueError("max_temp is not given, and the naive U-Net needs the number of dates that it was trained with")
    return int(options["max_temp"])


def _by_table(options: Mapping[str, Any]) -> dict[str, Any]:
    both = options.get("use_abs_rel_enc") and options.get("use_doy")
    return {"relative_as_day_of_year": bool(both and not options.get("add_linear"))}


def own_names(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Entries of a checkpoint of Crop2Seg under the names that they have here; all others keep theirs.

    The attention's queries have an axis of one there, batch norm another place in its list, and the encoders of dates are named
    by their order, which the network's configuration turns into what they encode.
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
