"""The stages of a job, each of which writes its result atomically and can be started again.

Files in the folder of a job:

    request.json            the request
    input/                  the job's own copies of uploads
    scenes.json             the scenes found in a catalogue
    cube.zarr or cube.nc    the season
    register.parquet        official parcels, if some were given or the season is simulated
    map/                    the output of ``panoseg map``
    refined/                the output of ``panoseg refine`` with the official parcels
    layers/                 a raster of each date, for the pages
    photo/                  the output of ``panoseg photo``, and image.jpg
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

from panoseg.app.job_folder import REQUEST
from panoseg.app.requests import (
    CatalogueSource,
    CubeSource,
    MapRequest,
    PhotoRequest,
    RegisterSource,
    SampleSource,
    parse_request,
)
from panoseg.app.settings import AppSettings
from panoseg.cube import ReadOptions
from panoseg.errors import AppError, ParcelsError
from panoseg.files import atomic, output_error, remove_unfinished, write_json, write_text
from panoseg.progress import listening

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from panoseg.app.official_files import Register
    from panoseg.simulation.options import SimulationOptions

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
COMPARISON = "refine"
"""Name of the stage that compares a map with official parcels."""
SAMPLE_SEEDS = 2_000_000
"""First seed of samples; those of training and of the demo are below it."""

ReportProgress = Callable[[float, str], None]
"""Called with the completed share of a stage, 0 to 1, and a status."""


@dataclass(frozen=True)
class JobContext:
    """What the stages of a job work with."""

    settings: AppSettings
    """Settings of the server."""
    folder: Path
    """Folder of the job."""
    request: MapRequest | PhotoRequest
    """The checked request."""
    write: Callable[[str], None]
    """Adds a line to the log of the job."""
    problems: list[str] = field(default_factory=list)
    """What could not be done although the job is done, a sentence each."""

    @property
    def map(self) -> MapRequest:
        """The request of a map."""
        assert isinstance(self.request, MapRequest)
        return self.request


@dataclass(frozen=True)
class Stage:
    """A stage of a job."""

    name: str
    """Identifier of the stage."""
    title: str
    """Name for display."""
    share: float
    """Expected share of the job's time, 0 to 1."""
    run: Callable[[JobContext], None]
    """Runs the stage."""
    done: Callable[[JobContext], bool]
    """Returns whether the result of the stage is there already."""


def stages_of(request: MapRequest | PhotoRequest) -> tuple[Stage, ...]:
    """Return the stages of a job in order; their shares add up to 1."""
    return MAP_STAGES if isinstance(request, MapRequest) else PHOTO_STAGES


def run_stages(job: JobContext, enter: Callable[[Stage, float], ReportProgress]) -> None:
    """Run the stages that are not done yet.

    Args:
        job: The job.
        enter: Called with each stage and the share of the job before it; returns the function to
            which the stage reports its progress.

    Raises:
        PanosegError: A stage failed.
    """
    before = 0.0
    remove_unfinished(job.folder)
    for stage in stages_of(job.request):
        report = enter(stage, before)
        if not stage.done(job):
            with _reporting(report, stage.title):
                stage.run(job)
        before += stage.share


@contextmanager
def _reporting(report: ReportProgress, title: str) -> Iterator[None]:
    def listener(description: str, done: int, total: int | None) -> None:
        share = done / total if total else 0.0
        count = f"{done} of {total}" if total else f"{done}"
        report(share, f"{title}: {description} {count}")

    report(0.0, title)
    with listening(listener):
        yield


def read_options_of(folder: Path) -> ReadOptions:
    """Return how the season of a job is read, by the request in the job's folder."""
    try:
        request = parse_request(json.loads((folder / REQUEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, AppError):
        return ReadOptions()
    return request.read if isinstance(request, MapRequest) else ReadOptions()


def cube_of(folder: Path) -> Path:
    """Return the path of the season of a job, also before it exists."""
    return folder / NETCDF if (folder / NETCDF).exists() else folder / CUBE


# -- the season


def _fetch(job: JobContext) -> None:
    source = job.map.source
    if isinstance(source, SampleSource):
        _simulate(job, source)
    elif isinstance(source, CubeSource):
        _unpack(job)
    else:
        _fetch_scenes(job, source)


def _simulate(job: JobContext, source: SampleSource) -> None:
    from panoseg.simulation.cube import simulate_cube

    size = (source.size, source.size)
    cube, parcels = simulate_cube(size, SAMPLE_SEEDS + source.seed, sample_options(source))
    # The season is renamed last: it marks the stage as done.
    with atomic(job.folder / CUBE) as store, atomic(job.folder / REGISTER) as path:
        parcels.to_parquet(path)
        cube.chunk({"time": 1, "y": 512, "x": 512}).to_zarr(
            store, mode="w", consolidated=False, zarr_format=3
        )
    job.write(
        f"simulated {cube.sizes['time']} dates of {source.size} x {source.size} pixels with"
        f" {len(parcels)} parcels"
    )


def sample_options(source: SampleSource) -> SimulationOptions:
    """Return the options by which the season of a sample is simulated."""
    from panoseg.simulation.options import SimulationOptions

    return SimulationOptions(harvest_year=source.year)


def _unpack(job: JobContext) -> None:
    from panoseg.app.archives import unpack_zarr
    from panoseg.app.confined import SEASON, run_confined
    from panoseg.app.layers import check_season

    [upload] = (job.folder / INPUT).glob("cube*")
    zipped = upload.suffix == ".zip"
    with atomic(job.folder / (CUBE if zipped else NETCDF)) as target:
        if zipped:
            unpack_zarr(upload, target)
        else:
            shutil.copyfile(upload, target)
        run_confined(SEASON, check_season, target, job.settings.limits.area_km2, job.map.read)
    job.write("unpacked the uploaded season")


def _fetch_scenes(job: JobContext, source: CatalogueSource) -> None:
    from panoseg.app.egress import AllowedUrls
    from panoseg.cube import CubeOptions
    from panoseg.cube.fetch import CubeRequest, fetch_cube
    from panoseg.imagery.area import read_area

    catalogue = source.catalogue or job.settings.catalog
    if "://" in catalogue:
        AllowedUrls(job.settings).check(catalogue)
    options = CubeOptions(min_clear=job.map.options.min_clear, max_dates=job.map.options.max_dates)
    outline = outline_of(job.folder)
    request = CubeRequest(outline, *source.season(read_area(outline)), catalogue, yes=True)
    report, area = fetch_cube(request, job.folder / CUBE, job.folder / SCENES, options)
    for line in report.lines():
        job.write(line)
    job.write(f"{area.km2:.1f} km2")


def outline_of(folder: Path) -> Path:
    """Return the job's copy of the outline."""
    [outline] = (folder / INPUT).glob("outline*")
    return outline


# -- the map


def _map(job: JobContext) -> None:
    from panoseg.imagery.area import read_area
    from panoseg.maps import RunOptions
    from panoseg.maps.mapping import map_cube

    source = job.map.source
    year = None if isinstance(source, CubeSource) else source.year
    options = job.map.options.map_options(year, job.map.read)
    weights = job.settings.weights_folder(job.map.weights)
    within: BaseGeometry | None = None
    if isinstance(source, CatalogueSource):
        within = read_area(outline_of(job.folder)).outline
    result = map_cube(
        cube_of(job.folder),
        weights,
        job.folder / MAP,
        options,
        within=within,
        running=RunOptions(dask=job.settings.dask),
    )
    for note in result.notes:
        job.write(note)
    count, area_ha = _write_areas(job.folder / MAP / "parcels.parquet", job.folder / MAP / AREAS)
    job.write(f"{count} parcels, {area_ha:.1f} ha")


def _write_areas(parcels: Path, path: Path) -> tuple[int, float]:
    """Write the table of areas by crop, largest first.

    Returns:
        The number of parcels and their area in hectares.
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


def _map_done(job: JobContext) -> bool:
    folder = job.folder / MAP
    return (folder / AREAS).is_file() and not (folder / "unfinished").exists()


# -- official parcels


def _refine(job: JobContext) -> None:
    """Compare with official parcels; if these cannot be used, the map is still finished."""
    try:
        _compare(job)
    except (ParcelsError, AppError) as error:
        _clear(job.folder / REFINED)
        job.problems.append(f"The official parcels could not be used: {error}")


def _compare(job: JobContext) -> None:
    from panoseg.app.confined import REGISTER as BOUNDS
    from panoseg.app.confined import run_confined
    from panoseg.app.official_files import compare_with_register, import_and_compare

    _clear(job.folder / REFINED)
    register, map_, refined = job.folder / REGISTER, job.folder / MAP, job.folder / REFINED
    if job.map.register_of is not None:
        register.unlink(missing_ok=True)
        given = _given_register(job, job.map.register_of)
        # A file can hold so many overlapping outlines that their comparison never ends.
        season, read = cube_of(job.folder), job.map.read
        used, left_out = run_confined(
            BOUNDS, import_and_compare, given, season, map_, register, refined, read
        )
    elif register.is_file():
        used, left_out = compare_with_register(register, map_, refined)
    else:
        return
    write_json(refined / "source.json", _register_json(job))
    job.write(f"{used} official parcels got a class; {left_out} lie outside the map")


def _given_register(job: JobContext, source: RegisterSource) -> Register:
    """Return the official parcels, downloaded if a URL was given, and the table of their codes."""
    from panoseg.app.egress import AllowedUrls
    from panoseg.app.official_files import Register
    from panoseg.app.upload_content import suffix_of

    folder = job.folder / INPUT
    found = list(folder.glob("register*"))
    if source.url is not None and not found:
        AllowedUrls(job.settings).download(
            source.url, folder / "fetched", job.settings.limits.upload_mib
        )
        found = [folder / f"register{suffix_of(folder / 'fetched')}"]
        (folder / "fetched").replace(found[0])
    return Register(found[0], next(folder.glob("codes*"), None), source.column)


def _register_json(job: JobContext) -> dict[str, Any] | None:
    return None if job.map.register_of is None else job.map.register_of.model_dump()


def _refine_done(job: JobContext) -> bool:
    if job.map.register_of is None and not (job.folder / REGISTER).is_file():
        return True
    try:
        return bool(
            json.loads((job.folder / REFINED / "source.json").read_text(encoding="utf-8"))
            == _register_json(job)
        )
    except (OSError, ValueError):
        return False


# -- for the pages


def _publish(job: JobContext) -> None:
    from panoseg.app.layers import write_layers

    made = json.loads((job.folder / MAP / "map.json").read_text(encoding="utf-8"))
    write_layers(cube_of(job.folder), frozenset(made["dates"]), job.folder / LAYERS, job.map.read)


def _segment(job: JobContext) -> None:
    from panoseg.data.photograph_files import decode_photograph, read_bytes
    from panoseg.photo import PhotoOptions
    from panoseg.photo.segment import Source, open_model, segment_photographs

    _clear(job.folder / PHOTO)
    [upload] = (job.folder / INPUT).glob("photo*")
    model = open_model(
        str(job.settings.photo_weights_folder(job.request.weights)), None, PhotoOptions()
    )
    source = Source(upload, "photograph")
    done = segment_photographs([source], model.predict, model.table, job.folder / PHOTO)
    with atomic(job.folder / PHOTO / "image.jpg") as path:
        decode_photograph(read_bytes(upload), job.request.name).save(
            path, format="JPEG", quality=92
        )
    job.write(f"segmented in {done.seconds:.1f} s")


def _clear(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise output_error(folder, error) from error


MAP_STAGES = (
    Stage("fetch", "Getting the season", 0.3, _fetch, lambda job: cube_of(job.folder).exists()),
    Stage("map", "Finding parcels", 0.55, _map, _map_done),
    Stage(COMPARISON, "Comparing with official parcels", 0.05, _refine, _refine_done),
    Stage(
        "publish",
        "Preparing image layers",
        0.1,
        _publish,
        lambda job: (job.folder / LAYERS / "layers.json").is_file(),
    ),
)
PHOTO_STAGES = (
    Stage(
        "photo",
        "Finding objects",
        1.0,
        _segment,
        lambda job: (job.folder / PHOTO / "image.jpg").is_file(),
    ),
)
