"""Weights by name: one of the list, a record of Zenodo, a repository of the hub, an address.

``locate`` returns the folder in which weights are, and fetches them once where they are not:

    CACHE/weights/NAME/               the weights, whole and checked
    CACHE/weights/NAME/source.json    where they came from: files, checksums, licence
    CACHE/weights/.NAME.part/         what has come so far, continued by the next attempt
    CACHE/weights/.NAME.lock          held while a process fetches, so that others wait

CACHE is the user's cache folder, or PANOSEG_CACHE. Folders that people put there are taken as they
are. Nothing is unpickled beyond tensors.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from panoseg.errors import ConfigError, WeightsError, is_installed
from panoseg.files import atomic, output_error, remove, write_json
from panoseg.models.fetching import (
    Offer,
    UnreachableError,
    check_online,
    download,
    https_file,
    hub_files,
    is_damaged,
    wanted_of_hub,
    zenodo_files,
)
from panoseg.models.weight_files import find_root, is_archive, unpack
from panoseg.models.weights_list import (
    PACKAGE_FOLDER,
    Named,
    find_named,
    listed_weights,
    page_of,
    statistics_of_folds,
)
from panoseg.platforms import move
from panoseg.progress import counting, print_line
from panoseg.text_files import listed, read_json, shortened

CACHE_VARIABLE = "PANOSEG_CACHE"
SOURCE = "source.json"
NORMALISATION_FILE = "NORM_S2_patch.json"
_PICKLE, _NUMBERS = "pytorch_model.bin", "model.safetensors"
_MB = 10**6
_LOCK_TOLD_S = 2.0
_LARGEST_SOURCE = 4 * 1024**2
_SHOWN_FILES = 50

Ask = Callable[[str], bool]
"""Asks a person a question; False where the answer is no."""


def weights_cache(cache: Path | str | None = None) -> Path:
    """Return the folder of fetched weights.

    Args:
        cache: The cache folder; None for PANOSEG_CACHE, or else the user's.
    """
    chosen = cache or os.environ.get(CACHE_VARIABLE)
    if not chosen:
        from platformdirs import user_cache_path

        chosen = user_cache_path("panoseg", appauthor=False)
    return Path(chosen).expanduser().absolute() / "weights"


def folder_of(named: Named, cache: Path | str | None = None) -> Path | None:
    """Return where named weights are on this machine; None where they are not."""
    if named.source == "package":
        return PACKAGE_FOLDER / named.folder_name
    folder = weights_cache(cache) / named.folder_name
    return find_root(folder) if folder.is_dir() else None


def locate(
    weights: Path | str,
    *,
    ask: Ask | None = None,
    cache: Path | str | None = None,
) -> Path:
    """Return the local folder of weights, and fetch them where they are not on this machine.

    Args:
        weights: A folder or a run, which is returned as it is; a name of the list, zenodo:RECORD,
            hf:OWNER/NAME[@REVISION], or an https address with #sha256=.
        ask: Asked before anything is fetched; None fetches.
        cache: The cache folder; None for PANOSEG_CACHE, or else the user's.

    Raises:
        ConfigError: The name is none, or the answer was no.
        WeightsError: They cannot be fetched, or are damaged or hostile.
        OutputError: The cache folder cannot be written.
    """
    text = str(weights)
    if isinstance(weights, Path) and weights.is_absolute():
        return weights
    if not text.startswith(("hf:", "zenodo:", "https:", "http:")) and Path(text).exists():
        return Path(text)
    named = find_named(text)
    if named is None:
        if Path(text).suffix or os.sep in text or "/" in text:
            return Path(text)
        raise _unknown(text)
    here, place = folder_of(named, cache), weights_cache(cache)
    if here is not None and (
        named.source == "package" or (here / SOURCE).is_file() or not os.access(place, os.W_OK)
    ):
        return here  # also what somebody else has put into a cache that is shared for reading
    if named.entry is not None and named.entry.task == "backbone":
        raise ConfigError(
            f"{named.entry.name} is the backbone of a network, not a whole one. Train with it:"
            " panoseg train NAME --model.weights imagenet."
        )
    if here is None and ask is not None and not ask(_question(named, place)):
        raise ConfigError(f"{named.title} was not fetched. Name other weights with --weights.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(place, error) from error
    with _only_process(place / f".{named.folder_name}.lock", named.title):
        here = folder_of(named, cache)  # another process may have fetched them meanwhile
        if here is not None and (here / SOURCE).is_file():
            return here
        return _fetch(named, place)


def _unknown(text: str) -> WeightsError:
    from difflib import get_close_matches

    near = get_close_matches(text, listed_weights(), 3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return WeightsError(
        f"{shortened(text)} is neither a folder nor a name of the list.{hint} panoseg weights list"
        " shows the names."
    )


def _question(named: Named, place: Path) -> str:
    entry = named.entry
    facts = [entry.title, entry.size, entry.licence or ""] if entry else []
    about = ", ".join(fact for fact in facts if fact and fact != "-")
    words = f" ({about})" if about else ""
    return f"Fetch {named.title}{words} from {page_of(named.source)} to {place}?"


@contextmanager
def _only_process(path: Path, title: str) -> Iterator[None]:
    """Wait until no other process fetches the same weights."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=_LOCK_TOLD_S)
        except Timeout:
            print_line(f"another process fetches {title}; waiting for it", sys.stderr)
            lock.acquire()
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(named: Named, place: Path) -> Path:
    """Fetch weights, or take the files that a person has put into their folder."""
    folder, part = place / named.folder_name, place / f".{named.folder_name}.part"
    try:
        if folder.is_dir() and any(folder.iterdir()):
            return _adopt(named, folder)
        part.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        if named.source.startswith("torchvision:"):
            return _finish(named, part, folder, _torchvision(named, part))
        offer = _offer(named)
        _check_space(offer, part, place)
        files = part / "files"
        files.mkdir(exist_ok=True)
        with counting(f"MB of {named.title}", (offer.size or 0) // _MB) as progress:
            advance = _in_megabytes(progress)
            for file in offer.files:
                download(file, files, advance)
    except UnreachableError as error:
        kept = _copy_from_hub_cache(named, part / "files")
        if kept is not None:
            return _finish(named, part, folder, kept)
        with_what = _what_to_put(named)
        raise WeightsError(
            f"{named.title} is not on this machine, and cannot be fetched"
            f" ({str(error).rstrip('.')}). Connect to the Internet once, or put {with_what} into"
            f" {folder}."
        ) from error
    except OSError as error:
        raise output_error(folder, error) from error
    source = {
        **{key: value for key, value in offer.about.items() if value},
        "files": [
            {"name": file.name, "url": file.url, "bytes": file.size, "checksum": file.checksum}
            for file in offer.files[:_SHOWN_FILES]
        ],
    }
    return _finish(named, part, folder, source)


def _copy_from_hub_cache(named: Named, files: Path) -> dict[str, Any] | None:
    """Copy weights that other programs have fetched from the hub into its own cache.

    The names of the files there are their checksums.

    Args:
        named: The weights.
        files: Folder to copy them to.

    Returns:
        What to note of them; None where they are not there, whole.
    """
    kind, _, rest = named.source.partition(":")
    if kind != "hf" or not is_installed("hub"):
        return None
    from huggingface_hub import snapshot_download

    repository, _, revision = rest.partition("@")
    try:
        place = snapshot_download(repository, revision=revision or None, local_files_only=True)
        names = wanted_of_hub([path.name for path in Path(place).iterdir()])
        noted = []
        remove(files)
        files.mkdir(parents=True)
        for name in names:
            blob = (Path(place) / name).resolve()
            checksum = f"{'sha256' if len(blob.name) == 64 else 'git'}:{blob.name}"
            if is_damaged(checksum, blob):
                return None
            shutil.copyfile(blob, files / name)
            noted.append({"name": name, "checksum": checksum})
    except (OSError, ValueError, WeightsError):  # nothing is there
        return None
    about = {"revision": Path(place).name, "copied_from": "the cache of the hub", "files": noted}
    return about if names else None


def _what_to_put(named: Named) -> str:
    """Return which files make weights, and where a person finds them."""
    if named.source.startswith("https:"):
        return f"{unquote(urlsplit(named.source).path).rpartition('/')[2]} of that address"
    if named.source.startswith("hf:"):
        return f"config.json, preprocessor_config.json and {_NUMBERS} of {page_of(named.source)}"
    return f"the files of {page_of(named.source)}"


def _offer(named: Named) -> Offer:
    """Return what the source of weights has."""
    kind, _, rest = named.source.partition(":")
    if kind == "zenodo":
        check_online()
        return zenodo_files(rest)
    if kind == "hf":
        repository, _, revision = rest.partition("@")
        return hub_files(repository, revision or None)
    check_online()
    return https_file(named.source, None)


def _check_space(offer: Offer, part: Path, place: Path) -> None:
    """Refuse before anything is fetched where the disk is too small."""
    there = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    archives = sum(file.size or 0 for file in offer.files if is_archive(Path(file.name)))
    needed, free = (offer.size or 0) + archives - there, shutil.disk_usage(place).free
    if needed > free:
        raise WeightsError(
            f"{place} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed. Free some"
            f" space, or choose another folder with --cache or {CACHE_VARIABLE}."
        )


def _in_megabytes(progress: Callable[[int], None]) -> Callable[[int], None]:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        progress(done // _MB - before // _MB)

    return advance


def _torchvision(named: Named, part: Path) -> dict[str, Any]:
    """Write the weights that torchvision publishes in the format of panoseg."""
    from panoseg.models.initial_weights import published_mask_rcnn
    from panoseg.models.weights import save_weights

    shutil.rmtree(part / "files", ignore_errors=True)
    weights = published_mask_rcnn()
    save_weights(part / "files", weights)
    return {"title": weights.card.provenance["imported_from"]}


def _adopt(named: Named, folder: Path) -> Path:
    """Take the files that a person has put into the folder of weights: archives or the weights.

    They cannot be checked; their sha256 is noted.
    """
    noted = [
        {"name": path.name, "checksum": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    found = find_root(folder)
    if found is None:
        archives = [path for path in sorted(folder.iterdir()) if is_archive(path)]
        with atomic(folder / "unpacked") as content:
            content.mkdir()
            for path in archives:
                unpack(path, content)
        found = find_root(folder)
    if found is None:
        remove(folder / "unpacked")
        raise _no_weights(named, folder)
    _convert_pickle(found)
    _describe(named, found, {"put_there_by_hand": True, "files": noted})
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _no_weights(named: Named, folder: Path) -> WeightsError:
    names = listed(sorted(path.name for path in folder.iterdir()), 4)
    return WeightsError(
        f"{named.title} holds no weights that can be read ({names}): no card.json, conf.json or"
        " config.json. Unpack what is meant yourself, and pass its folder."
    )


def _finish(named: Named, part: Path, folder: Path, source: dict[str, Any]) -> Path:
    """Unpack, convert and describe what has come, and give it its name."""
    files, content = part / "files", part / "content"
    try:
        archives = [path for path in sorted(files.iterdir()) if is_archive(path)]
        root = files
        if archives:
            remove(content)
            content.mkdir()
            for path in archives:
                unpack(path, content)
            for path in files.iterdir():
                if path not in archives and not (content / path.name).exists():
                    shutil.copy2(path, content / path.name)
            root = content
        found = find_root(root)
        if found is None:
            raise _no_weights(named, root)
        _convert_pickle(found)
        _describe(named, found, source)
        move(found, folder)
        remove(part)
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


def _convert_pickle(folder: Path) -> None:
    """Write the tensors of a pickle of the hub as safetensors; nothing else of it is read."""
    pickle = folder / _PICKLE
    if not pickle.is_file() or (folder / _NUMBERS).exists():
        return
    from safetensors.torch import save_file
    from torch import Tensor

    from panoseg.models.weight_files import load_tensors

    state = load_tensors(pickle, "Name another repository, one with model.safetensors.")
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WeightsError(f"{pickle.name} is no table of tensors. Name another repository.")
    whole: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        place = value.untyped_storage().data_ptr()
        # Tensors that share their memory are written twice, as the format wants it.
        whole[str(name)] = value.clone() if place in taken else value.contiguous()
        taken.add(place)
    save_file(whole, folder / _NUMBERS, metadata={"format": "pt"})
    pickle.unlink()


def _describe(named: Named, folder: Path, source: dict[str, Any]) -> None:
    """Write source.json, and the statistics that published weights come without."""
    entry = named.entry
    if entry is not None and entry.statistics and not (folder / NORMALISATION_FILE).exists():
        write_json(folder / NORMALISATION_FILE, statistics_of_folds(entry.statistics))
    listed_facts = (
        {
            "licence": source.get("licence") or entry.licence,
            "trained_on": entry.trained_on,
            "citation": entry.citation,
        }
        if entry
        else {}
    )
    write_json(
        folder / SOURCE,
        {
            "name": named.title,
            "source": named.source,
            "page": page_of(named.source),
            **source,
            **listed_facts,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def origin_of(folder: Path | str | None) -> dict[str, Any] | None:
    """Return where fetched weights came from, what ``source.json`` says; None for other weights.

    Args:
        folder: The folder of the weights, or one inside of it, such as that of a fold.
    """
    if folder is None:
        return None
    place = Path(folder)
    for path in (place / SOURCE, place.parent / SOURCE):
        try:
            if path.exists():
                values = read_json(path, _LARGEST_SOURCE)
                return values if isinstance(values, dict) and "source" in values else None
        except (OSError, ValueError):
            return None
    return None


def expectation_of(origin: dict[str, Any] | None) -> str:
    """Return what to expect of listed weights on other data than those of their training."""
    entry = listed_weights().get(str((origin or {}).get("name")))
    return entry.expect if entry else ""
