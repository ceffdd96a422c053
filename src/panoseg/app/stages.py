"""What a job does: stages that write their results whole or not at all, so that any of them may be
begun again.

scenes.json            what a catalogue has named
cube.zarr, cube.nc     the season, in one of the two forms; register.parquet beside it where the sample brings its parcels
map/                   as ``panoseg map`` writes it
refined/               as ``panoseg refine`` writes it, where official parcels were given (register.parquet)
layers/                a raster of each date, for the pages
photo/                 as ``panoseg photo`` writes it, beside image.jpg
input/                 uploads that the job was given
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoseg.app.requests import (
    CatalogueSource,
    CubeSource,
    MapRequest,
    PhotoRequest,
    RegisterSource,
    SampleSource,
)
from panoseg.app.settings import AppSettings
from panoseg.errors import AppError, ParcelsError
from panoseg.files import atomic, output_error, remove_unfinished, write_json, write_text
from panoseg.progress import listening

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from panoseg.app.official_files import Register

SCENES = "scenes.json"
CUBE, NETCDF, MAP, LAYERS, REFINED, PHOTO, INPUT = (
    "cube.zarr",
    "cube.nc",
    "map",
    "layers",
    "refined",
    "photo",
    "input",
)
REGISTER = "register.parquet"
AREAS = "areas.csv"
SAMPLE_SEEDS = 2_000_000
"""Seeds of samples; those of training and of the demo stay below."""

Tell = Callable[[float, str], None]
"""Called with the share 0..1 of a stage that is done, and a sentence."""


@dataclass(frozen=True)
class Work:
    """A job in the hands of a worker.

    write: adds a line to its log. complaints: what could not be done although the job is, a
    sentence each.
    """

    settings: AppSettings
    folder: Path
    request: MapRequest | PhotoRequest
    write: Callable[[str], None]
    complaints: list[str] = field(default_factory=list)

    @property
    def map(self) -> MapRequest:
        """The request of a map."""
        assert isinstance(self.request, MapRequest)
        return self.request


@dataclass(frozen=True)
class Stage:
    """A step of a job. title: for people. share: of the time of a job. done: whether it need not
    run (again).
    """

    name: str
    title: str
    share: float
    run: Callable[[Work], None]
    done: Callable[[Work], bool]


def stages_of(request: MapRequest | PhotoRequest) -> tuple[Stage, ...]:
    """The stages of a job, in order; their shares add up to 1."""
    return MAP_STAGES if isinstance(request, MapRequest) else PHOTO_STAGES


def run_stages(work: Work, enter: Callable[[Stage, float], Tell]) -> None:
    """Run what is not done yet. enter: called with each stage and the share of the job before it;
    gives whom to tell how far it is. Raises ``PanosegError`` of all kinds.
    """
    before = 0.0
    remove_unfinished(work.folder)
    for stage in stages_of(work.request):
        tell = enter(stage, before)
        if not stage.done(work):
            with _telling(tell, stage.title):
                stage.run(work)
        before += stage.share


@contextmanager
def _telling(tell: Tell, title: str) -> Iterator[None]:
    def listener(description: str, done: int, total: int | None) -> None:
        share = done / total if total else 0.0
        count = f"{done} of {total}" if total else f"{done}"
        tell(share, f"{title}: {description} {count}")

    tell(0.0, title)
    with listening(listener):
        yield


def cube_of(folder: Path) -> Path:
    """Where the season of a job lies, or will."""
    return folder / NETCDF if (folder / NETCDF).exists() else folder / CUBE


# -- the season


def _fetch(work: Work) -> None:
    source = work.map.source
    if isinstance(source, SampleSource):
        _simulate(work, source)
    elif isinstance(source, CubeSource):
        _unpack(work)
    else:
        _fetch_scenes(work, source)


def _simulate(work: Work, source: SampleSource) -> None:
    from panoseg.simulation.cube import simulate_cube

    size = (source.size, source.size)
    cube, parcels = simulate_cube(size, SAMPLE_SEEDS + source.seed, sample_options(source))
    # The season gets its name last: it is what says that the stage is done.
    with atomic(work.folder / CUBE) as store, atomic(work.folder / REGISTER) as path:
        parcels.to_parquet(path)
        cube.chunk({"time": 1, "y": 512, "x": 512}).to_zarr(
            store, mode="w", consolidated=False, zarr_format=3
        )
    work.write(
        f"simulated {cube.sizes['time']} dates of {source.size} x {source.size} pixels with"
        f" {len(parcels)} parcels"
    )


def sample_options(source: SampleSource) -> Any:
    """How the season of a sample is simulated."""
    from panoseg.simulation.options import SimulationOptions

    return SimulationOptions(harvest_year=source.year)


def _unpack(work: Work) -> None:
    from panoseg.app.archives import unpack_zarr
    from panoseg.app.confined import SEASON, confined
    from panoseg.app.season_check import check_season

    [upload] = (work.folder / INPUT).glob("cube*")
    zipped = upload.suffix == ".zip"
    with atomic(work.folder / (CUBE if zipped else NETCDF)) as target:
        if zipped:
            unpack_zarr(upload, target)
        else:
            shutil.copyfile(upload, target)
        confined(check_season, target, work.settings.limits.area_km2, bounds=SEASON)
    work.write("unpacked the uploaded season")


def _fetch_scenes(work: Work, source: CatalogueSource) -> None:
    from panoseg.app.egress import AllowedUrls
    from panoseg.cube.fetch import Request, fetch_cube
    from panoseg.cube.options import CubeOptions

    catalogue = source.catalogue or work.settings.catalog
    if "://" in catalogue:
        AllowedUrls(work.settings).check(catalogue)
    options = CubeOptions(
        min_clear=work.map.options.min_clear, max_dates=work.map.options.max_dates
    )
    request = Request(outline_of(work.folder), *source.season, catalogue, yes=True)
    report, area = fetch_cube(request, work.folder / CUBE, work.folder / SCENES, options)
    for line in report.lines():
        work.write(line)
    work.write(f"{area.km2:.1f} km2")


def outline_of(folder: Path) -> Path:
    """The file with the outline that a job was given."""
    [outline] = (folder / INPUT).glob("outline*")
    return outline


# -- the map


def _map(work: Work) -> None:
    from panoseg.maps.mapping import map_cube
    from panoseg.maps.options import MapOptions, RunOptions

    options = MapOptions(year=_year(work), gpkg=True, pmtiles=True, **work.map.options.model_dump())
    weights = work.settings.weights_folder(work.map.weights)
    within = _outline(work) if isinstance(work.map.source, CatalogueSource) else None
    result = map_cube(
        cube_of(work.folder),
        weights,
        work.folder / MAP,
        options,
        within=within,
        running=RunOptions(dask=work.settings.dask),
    )
    for note in result.notes:
        work.write(note)
    count, area_ha = _write_areas(work.folder / MAP / "parcels.parquet", work.folder / MAP / AREAS)
    work.write(f"{count} parcels, {area_ha:.1f} ha")


def _year(work: Work) -> int | None:
    source = work.map.source
    return None if isinstance(source, CubeSource) else source.year


def _outline(work: Work) -> BaseGeometry:
    from panoseg.imagery.area import read_area

    return read_area(outline_of(work.folder)).outline


def _write_areas(parcels: Path, path: Path) -> tuple[int, float]:
    """Write the table of areas by crop, the largest first; returns how many parcels there are, and
    their area.
    """
    from pyarrow import dataset

    table = dataset.dataset(parcels).to_table(columns=["class", "area_ha"]).to_pandas()
    areas = (
        table.groupby("class")["area_ha"].agg(["size", "sum"]).sort_values("sum", ascending=False)
    )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("class", "parcels", "area_ha"))
    rows.writerows((name, int(row["size"]), f"{row['sum']:.4f}") for name, row in areas.iterrows())
    write_text(path, text.getvalue())
    return len(table), float(table["area_ha"].sum())


def _map_done(work: Work) -> bool:
    folder = work.folder / MAP
    return (folder / AREAS).is_file() and not (folder / "unfinished").exists()


# -- official parcels


def _refine(work: Work) -> None:
    """Official parcels of no use cost the comparison, not the map."""
    try:
        _compare(work)
    except (ParcelsError, AppError) as error:
        _clear(work.folder / REFINED)
        work.complaints.append(f"the official parcels could not be used: {error}")


def _compare(work: Work) -> None:
    from panoseg.app.confined import REGISTER as BOUNDS
    from panoseg.app.confined import confined
    from panoseg.app.official_files import compare_with_register, use_register

    _clear(work.folder / REFINED)
    register, map_, refined = work.folder / REGISTER, work.folder / MAP, work.folder / REFINED
    if work.map.register_of is not None:
        register.unlink(missing_ok=True)
        given = _given_register(work, work.map.register_of)
        # Outlines of strangers may lie on each other a million times over.
        used, left_out = confined(
            use_register, given, cube_of(work.folder), map_, register, refined, bounds=BOUNDS
        )
    elif register.is_file():
        used, left_out = compare_with_register(register, map_, refined)
    else:
        return
    write_json(refined / "source.json", _register(work))
    work.write(f"{used} official parcels got a class; {left_out} lie outside of the map")


def _given_register(work: Work, source: RegisterSource) -> Register:
    """The file of official parcels, fetched where a URL was given, and the table of their codes."""
    from panoseg.app.egress import AllowedUrls
    from panoseg.app.official_files import Register
    from panoseg.app.uploads import suffix_of

    folder = work.folder / INPUT
    found = list(folder.glob("register*"))
    if source.url is not None and not found:
        AllowedUrls(work.settings).download(
            source.url, folder / "fetched", work.settings.limits.upload_mib
        )
        found = [folder / f"register{suffix_of(folder / 'fetched')}"]
        (folder / "fetched").replace(found[0])
    return Register(found[0], next(folder.glob("codes*"), None), source.column)


def _register(work: Work) -> Any:
    return None if work.map.register_of is None else work.map.register_of.model_dump()


def _refine_done(work: Work) -> bool:
    if work.map.register_of is None and not (work.folder / REGISTER).is_file():
        return True
    try:
        return bool(
            json.loads((work.folder / REFINED / "source.json").read_text(encoding="utf-8"))
            == _register(work)
        )
    except (OSError, ValueError):
        return False


# -- for the pages


def _publish(work: Work) -> None:
    from panoseg.app.layers import write_layers

    made = json.loads((work.folder / MAP / "map.json").read_text(encoding="utf-8"))
    write_layers(cube_of(work.folder), frozenset(made["dates"]), work.folder / LAYERS)


def _segment(work: Work) -> None:
    from panoseg.data.photograph_files import decode_photograph, read_bytes
    from panoseg.photo.options import PhotoOptions
    from panoseg.photo.predict import Predictor
    from panoseg.photo.segment import Source, segment_photographs

    _clear(work.folder / PHOTO)
    [upload] = (work.folder / INPUT).glob("photo*")
    predictor = Predictor.open(
        str(work.settings.photo_weights_folder(work.request.weights)), None, PhotoOptions()
    )
    source = Source(upload, "photograph")
    done = segment_photographs([source], predictor, predictor.table, work.folder / PHOTO)
    with atomic(work.folder / PHOTO / "image.jpg") as path:
        decode_photograph(read_bytes(upload), work.request.name).save(
            path, format="JPEG", quality=92
        )
    work.write(f"segmented in {done.seconds:.1f} s")


def _clear(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise output_error(folder, error) from error


MAP_STAGES = (
    Stage("fetch", "Getting the season", 0.3, _fetch, lambda work: cube_of(work.folder).exists()),
    Stage("map", "Finding parcels", 0.55, _map, _map_done),
    Stage("refine", "Comparing with official parcels", 0.05, _refine, _refine_done),
    Stage(
        "publish",
        "Preparing pictures",
        0.1,
        _publish,
        lambda work: (work.folder / LAYERS / "layers.json").is_file(),
    ),
)
PHOTO_STAGES = (
    Stage(
        "photo",
        "Finding objects",
        1.0,
        _segment,
        lambda work: (work.folder / PHOTO / "image.jpg").is_file(),
    ),
)
