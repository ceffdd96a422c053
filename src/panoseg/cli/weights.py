"""The commands for trained networks: weights, show."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cli import Verbs, run_verb
from panoseg.cli.output import Output
from panoseg.data.places import place_of
from panoseg.errors import ConfigError, PanosegError

if TYPE_CHECKING:
    from panoseg.models.weights_list import ListedWeights


def weights(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    run_verb(
        "weights",
        WEIGHTS_VERBS,
        arguments,
        "Weights by name: list, fetch, import and publish them. Files are read as plain numbers;"
        " code in them is never run.",
        "panoseg weights fetch pastis-utae-paps",
    )


def asking(question: str) -> bool:
    """Ask a person on the terminal; yes is the answer that an empty line gives.

    Raises:
        ConfigError: There is no terminal to ask on.
    """
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise ConfigError(
            f"{question} There is no terminal to answer on: pass --yes, or others with --weights."
        )
    print(f"{question} [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def list_weights(*, cache: Path | None = None, json: bool = False) -> None:
    """List the weights that have a name: task, classes, published score, licence, size.

    Scores are those of the authors; panoseg weights show NAME says where they are published.

    example: panoseg weights list

    Args:
        cache: Cache folder; by default PANOSEG_CACHE, or the user's cache folder.
        json: Print JSON instead of a table.
    """
    from panoseg.models.weights_list import listed_weights

    entries = list(listed_weights().values())
    if json:
        print(json_module.dumps([_facts(entry, cache) for entry in entries], indent=1))
        return
    from panoseg.metrics import render_table

    columns = ("name", "task", "classes", "trained on", "published", "licence", "size", "here")
    rows = [
        [
            entry.name,
            f"{entry.task}, {entry.reads}s",
            entry.classes,
            entry.trained_on.partition(":")[0],
            entry.score,
            entry.licence or "-",
            entry.size,
            "yes" if _facts(entry, cache)["folder"] else "no",
        ]
        for entry in entries
    ]
    print(render_table(columns, rows))


def _facts(entry: ListedWeights, cache: Path | None) -> dict[str, object]:
    """Return what is known of weights, JSON-ready."""
    from dataclasses import asdict

    from panoseg.models.weights_by_name import folder_of, origin_of
    from panoseg.models.weights_list import find_named

    named = find_named(entry.name)
    folder = None if named is None else folder_of(named, cache)
    return {
        **asdict(entry),
        "page": entry.page,
        "folder": None if folder is None else str(folder),
        "fetched": origin_of(folder),
    }


def show_weights(name: Annotated[str, tyro.conf.Positional], *, cache: Path | None = None) -> None:
    """Print what is known of weights: source, licence, scores, citation, and where they are.

    example: panoseg weights show pastis-utae-paps

    Args:
        name: A name of the list, zenodo:RECORD or hf:OWNER/NAME; or a folder of weights.
        cache: Cache folder; by default PANOSEG_CACHE, or the user's cache folder.
    """
    from panoseg.models.weights_by_name import folder_of, origin_of
    from panoseg.models.weights_list import find_named

    named = None if Path(name).is_dir() else find_named(name)
    folder = Path(name) if Path(name).is_dir() else None
    if named is not None:
        folder = folder_of(named, cache)
    facts: dict[str, object] = {"weights": name}
    if named is not None and (entry := named.entry) is not None:
        scores = ", ".join(f"{metric} {value:g}" for metric, value in entry.scores.items())
        facts |= {
            "network": f"{entry.title}; reads {entry.reads}s",
            "task": entry.task,
            "classes": entry.classes,
            "trained on": entry.trained_on,
            "scores": f"{scores} ({entry.score_source})" if scores else "-",
            "licence": f"{entry.licence or 'not stated here'} ({entry.licence_source})",
            "size": entry.size,
            "source": f"{entry.source} {entry.page}".strip(),
            "cite": entry.citation,
            "elsewhere": entry.expect,
        }
    elif named is None and folder is None:
        raise ConfigError(
            f"{name} is neither a folder nor a name of the list. See panoseg weights list."
        )
    elif folder is not None:
        facts |= _facts_of_card(folder)
    facts["folder"] = folder or f"not here; panoseg weights fetch {name}"
    origin = origin_of(folder) or {}
    for key in ("title", "revision", "doi", "licence", "fetched"):
        if key in origin:
            facts[f"{key} fetched" if key == "licence" else key] = origin[key]
    for file in origin.get("files", ()):
        facts[f"file {file.get('name')}"] = file.get("checksum")
    width = max(map(len, facts))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in facts.items() if value))


def _facts_of_card(folder: Path) -> dict[str, object]:
    """Return what a folder says of its weights: of a run, of weights, or of the hub."""
    from panoseg.models.hub_folders import is_hub_folder
    from panoseg.models.model import WEIGHTS
    from panoseg.models.weights import CARD, load_card

    found = folder / WEIGHTS if (folder / WEIGHTS / CARD).exists() else folder
    if not (found / CARD).exists() and not is_hub_folder(found):
        return {}  # of a published program, or of several folds
    card = load_card(found)
    table = card.classes
    things, stuff = len(table.ids("thing")), len(table.ids("stuff"))
    origin = card.provenance.get("imported_from", "")
    return {
        "network": f"{card.model.title}; reads {card.model.inputs}s",
        "task": card.model.answers,
        "classes": f"{things} things and {stuff} kinds of stuff of {table.name}",
        "trained on": card.trained_on or (f"as {origin} says" if origin else ""),
        "scores": ", ".join(f"{metric} {value}" for metric, value in card.scores.items()),
    }


def fetch_weights(
    names: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    sha256: str | None = None,
    cache: Path | None = None,
) -> None:
    """Fetch weights to the cache folder, once; checksums are checked, and a cut is continued.

    Prints the folder of each.

    example: panoseg weights fetch pastis-utae-paps coco-eomt-small

    example: panoseg weights fetch https://example.org/fields.zip --sha256 HEX

    Args:
        names: Names of the list, zenodo:RECORD, hf:OWNER/NAME[@REVISION], or an https address.
        sha256: Checksum of the file at an https address.
        cache: Cache folder; by default PANOSEG_CACHE, or the user's cache folder.
    """
    from panoseg.models.weights_by_name import locate
    from panoseg.models.weights_list import find_named

    if sha256 is not None:
        if len(names) != 1 or not names[0].startswith(("https:", "http:")):
            raise ConfigError("--sha256 is the checksum of one https address. Leave it out.")
        names = (f"{names[0].partition('#')[0]}#sha256={sha256}",)
    if not names:
        raise ConfigError("Name the weights to fetch. panoseg weights list shows the names.")
    failures: list[PanosegError] = []
    for name in names:
        try:
            if find_named(name) is None:
                raise ConfigError(f"{name} is no name of the list. See panoseg weights list.")
            print(locate(name, cache=cache), flush=True)
        except PanosegError as error:
            failures.append(error)
    for failure in failures[:-1]:
        print(failure, file=sys.stderr)
    if failures:
        raise failures[-1]


def publish_weights(
    run: Annotated[str, tyro.conf.Positional],
    *,
    to: Annotated[str, Output.HELD],
    licence: str,
    title: str | None = None,
) -> None:
    """Write the weights of a run for others, with card, licence, page and STAC item.

    model.safetensors and card.json are what panoseg reads; README.md is the page that the hub
    shows; item.json is a STAC item of the extension Machine Learning Model. To the hub it uploads
    as the user who has signed in with hf auth login.

    example: panoseg weights publish run --to hf:me/my-fields --licence CC-BY-4.0

    example: panoseg weights publish run --to FOLDER --licence MIT

    Args:
        run: Folder of a run, or folder or name of weights.
        to: A new folder, or hf:OWNER/NAME.
        licence: Licence of the weights, as SPDX names it: MIT, Apache-2.0, CC-BY-4.0.
        title: Title of the page; by default the name of the folder or repository.
    """
    from panoseg.training.publish import publish

    print(publish(run, to, licence, title))


def import_weights(
    folder: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional, Output.FOLDER],
    *,
    data: Path | None = None,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
) -> None:
    """Convert published weights to the format of panoseg.

    Writes OUT/fold_1 .. OUT/fold_5, or OUT itself for a single split or with --fold.

    example: panoseg weights import UTAE_PAPs weights --data PASTIS

    Args:
        folder: The published folder: conf.json and Fold_1 .. Fold_5 (utae-paps), or conf.json and
            model.pth.tar (Crop2Seg).
        out: Folder to write; must be new or empty.
        data: Folder with NORM_S2_patch.json, the normalisation that belongs to the weights; by
            default FOLDER. Without it the weights can be scored on their dataset, but not used for
            maps.
        fold: Import only this fold.
    """
    from panoseg.training.transfer import import_folds

    for path in import_folds(folder, out, data, fold):
        print(path)


WEIGHTS_VERBS: Verbs = {
    "list": (list_weights, "the weights that have a name, with scores, licences and sizes"),
    "show": (show_weights, "what is known of some weights, and where they are"),
    "fetch": (fetch_weights, "fetch weights to the cache folder"),
    "publish": (publish_weights, "write weights for others, to a folder or the hub"),
    "import": (import_weights, "conf.json and model.pth.tar become safetensors + json"),
}


def show(
    run: Annotated[str, tyro.conf.Positional],
    *,
    data: str,
    patch: str,
    out: Annotated[Path, Output.FILE],
    fold: Literal[1, 2, 3, 4, 5] | None = None,
    attention: bool = False,
    pixel: tuple[int, int] | None = None,
    parcel: int | None = None,
) -> None:
    """Draw image, truth and prediction of a patch side by side, or the attention over dates.

    The image is the true colour of a clear date near the middle of June. With --attention: the
    temporal attention of each head and their mean over the dates, at a pixel, in a parcel or in the
    whole patch, with the NDVI of the place; cloudy dates are marked.

    example: panoseg show run --data PASTIS --patch 10000 --out figure.png

    example: panoseg show run --data PASTIS --patch 10000 --attention --pixel 40 97 --out
    attention.png

    Args:
        run: Folder of a run, or folder or name of weights.
        data: Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards.
        patch: Identifier of the patch, of any fold.
        out: File to write: .png, .pdf, .svg or .jpg.
        fold: Weights to use where there are several. Published weights see the patch normalised by
            the mean over all folds.
        attention: Draw the attention over dates instead; the network must have temporal attention.
        pixel: With --attention: row and column of a pixel, counted from 0 at the upper left.
        parcel: With --attention: number of a parcel; --pixel prints the number of the parcel that
            the pixel is in.
    """
    from panoseg.models.weights_by_name import locate

    if attention:
        from panoseg.training.attention import show_attention

        result = show_attention(locate(run), Path(data), patch, out, fold, pixel, parcel)
    elif pixel is not None or parcel is not None:
        raise ConfigError("--pixel and --parcel need --attention; add it or leave them out.")
    else:
        from panoseg.training.evaluate import show

        result = show(locate(run), place_of(data), patch, out, fold)
    print(result.table())
