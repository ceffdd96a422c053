"""The functions of the public interface: thin calls of what the commands call.

Each heavy package is imported by the function that needs it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import finalize

from panoseg.errors import ConfigError

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

    from panoseg.maps.mapping import MapResult
    from panoseg.models.model import Model
    from panoseg.models.weights import Weights
    from panoseg.training.evaluate import Evaluation
    from panoseg.training.run import RunResult

T = TypeVar("T")


def load(
    source: Path | str | None = None,
    *,
    device: str = "auto",
    tta: int = 1,
    fold: int | None = None,
) -> Model:
    """Load weights for prediction.

    Args:
        source: A folder of weights, the folder of a run, a name of ``panoseg weights list``,
            ``zenodo:RECORD``, ``hf:OWNER/NAME`` or an https address, which are fetched once; or
            None for the weights in the package.
        device: auto, cpu, cuda, cuda:1 or mps.
        tta: Number of test-time augmentations (flips and rotations), 1-8. Runtime grows linearly.
        fold: Which weights to take of published ones of several folds; None takes the first.

    Returns:
        A model whose ``predict`` segments one season or one photograph.

    Raises:
        WeightsError: The weights are missing or cannot be read.
        ConfigError: The device is not available, or the network has no test-time augmentation.
    """
    from panoseg.models.model import Model, find_weights
    from panoseg.training.transfer import only_weights

    found = find_weights(source)
    weights = only_weights(found, fold)[0] if isinstance(found, Path) else None
    return Model.load(weights or found, device=device, tta=tta)


def map(
    cube: Path | str | xr.Dataset,
    out: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    workers: int = 1,
    fold: int | None = None,
    **options: Any,  # noqa: ANN401
) -> MapResult:
    """Map a season: find the parcels and what grows on them.

    Args:
        cube: A NetCDF file, a Zarr store, a folder of GeoTIFFs, or a dataset with
            dimensions time, y and x and a variable for each band, reflectance x 10 000.
        out: Folder for the files of the map; an unfinished map in it is continued. None: a
            temporary folder that is deleted with the result.
        weights: A folder or a name of weights, as for ``load``.
        truth: File of true parcels to compare with.
        declared_only: The truth covers part of the land; score inside of it alone.
        workers: Number of processes.
        fold: Which weights to take of published ones of several folds; None takes the first.
        options: Fields of ``panoseg.maps.MapOptions``, such as ``year`` and ``tta``.

    Returns:
        The map: ``parcels`` (GeoDataFrame), ``segments``, ``classes``, ``report`` (path of the HTML
        page), ``out`` (folder) and ``comparison`` with the truth.

    Raises:
        PanosegError: The cube, the weights or an option is wrong, or ``out`` cannot be written.
    """
    from panoseg.maps import MapOptions, RunOptions
    from panoseg.maps.mapping import map_cube

    chosen = _options(MapOptions, options)
    folder = mkdtemp(prefix="panoseg-") if out is None else None
    try:
        with TemporaryDirectory(prefix="panoseg-") as scratch:
            result = map_cube(
                _on_disk(cube, Path(scratch)),
                weights,
                Path(folder) / "map" if folder else Path(out or ""),
                chosen,
                truth=truth,
                declared_only=declared_only,
                running=RunOptions(workers=workers),
                fold=fold,
            )
    except BaseException:
        if folder:
            rmtree(folder, ignore_errors=True)
        raise
    if folder:
        finalize(result, rmtree, folder, ignore_errors=True)
    return result


def _on_disk(cube: Path | str | xr.Dataset, scratch: Path) -> Path:
    """Return the path of a cube; a dataset in memory is written as Zarr."""
    if isinstance(cube, Path | str):
        return Path(cube)
    path = scratch / "cube.zarr"
    cube.to_zarr(path, consolidated=False)
    return path


def fetch(
    area: Path | str,
    season: int | None = None,
    out: Path | str | None = None,
    *,
    days: tuple[date, date] | None = None,
    catalog: str | None = None,
    collection: str | None = None,
    yes: bool = False,
    **options: Any,  # noqa: ANN401
) -> xr.Dataset:
    """Fetch a Sentinel-2 season from a catalogue.

    Args:
        area: File with an outline.
        season: Harvest year: 1 September of the year before to 31 October.
        out: Zarr store to write; an unfinished one is continued. None: the season is returned in
            memory.
        days: First and last day, in place of ``season``.
        catalog: earth-search, planetary-computer, copernicus, or the URL of a STAC API.
        collection: Collection of the catalogue, if not its usual one with Sentinel-2 L2A.
        yes: Fetch however large the season is.
        options: Fields of ``panoseg.cube.CubeOptions``, such as ``max_dates``.

    Returns:
        The cube, opened lazily where ``out`` is given.

    Raises:
        AreaError: The outline cannot be read.
        CatalogueError: The catalogue does not answer, or has no scene.
    """
    from panoseg.cube import DEFAULT_CATALOGUE, CubeOptions
    from panoseg.cube.fetch import CubeRequest, fetch_cube, scene_list_path
    from panoseg.imagery.area import read_area

    if (season is None) == (days is None):
        raise ConfigError("Pass either season or days.")
    first, last = days or read_area(area).season(season or 0)
    request = CubeRequest(
        Path(area), first, last, catalog or DEFAULT_CATALOGUE, collection, yes=yes
    )
    with TemporaryDirectory(prefix="panoseg-") as scratch:
        path = Path(scratch) / "season.zarr" if out is None else Path(out)
        fetch_cube(request, path, scene_list_path(path), _options(CubeOptions, options))
        cube = open_cube(path)
        return cube.load() if out is None else cube


def open_cube(path: Path | str, **options: Any) -> xr.Dataset:  # noqa: ANN401
    """Open a cube and check its conventions.

    Args:
        path: A NetCDF file, a Zarr store, or a folder of GeoTIFFs.
        options: What the file does not say: fields of ``panoseg.cube.ReadOptions``, such as
            ``bands="B08=NIR,B8A=BROADNIR"``, ``nodata=-9999``, ``scale=0.0001``,
            ``offset="-1000@2022-01-25"`` and ``crs="EPSG:32631"``.

    Returns:
        The cube with bands named B02 .. B12 and dates in ascending order, read lazily.

    Raises:
        CubeError: The file cannot be read, or is not a season.
    """
    from panoseg.cube import ReadOptions
    from panoseg.cube.check import check_cube
    from panoseg.cube.open import open_cube as open_lazily
    from panoseg.imagery.sentinel2 import PASTIS_BANDS

    return check_cube(open_lazily(path), PASTIS_BANDS, _options(ReadOptions, options))


def simulate(
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> tuple[xr.Dataset, gpd.GeoDataFrame]:
    """Simulate a Sentinel-2 season.

    Args:
        size: Height and width in pixels of 10 m; one number for a square.
        seed: Which landscape.
        options: Fields of ``panoseg.simulation.options.SimulationOptions``, such as ``region``.

    Returns:
        The cube, and its true parcels.
    """
    from panoseg.simulation.cube import simulate_cube
    from panoseg.simulation.options import SimulationOptions

    height, width = (size, size) if isinstance(size, int) else size
    return simulate_cube((height, width), seed, _options(SimulationOptions, options))


def train(
    experiment: str,
    data: Path | str,
    out: Path | str,
    *,
    fold: int = 1,
    **options: Any,  # noqa: ANN401
) -> RunResult:
    """Train a named experiment on one fold of a dataset; prints nothing.

    Args:
        experiment: Name of an experiment; ``panoseg experiments`` lists them. Any name with
            ``model``.
        data: Folder of a dataset in the layout of PASTIS, S2TSCzCrop or COCO, or URL of shards.
        out: Folder of the run; new or empty.
        fold: Which of the official splits.
        options: Fields of ``panoseg.training.TrainConfig``, such as ``epochs``. ``model``
            may be the folder of a network of the Hugging Face Hub, which is fine-tuned.

    Returns:
        The scores on the test set, the best validation scores, and where the weights are.

    Raises:
        PanosegError: The dataset or an option is wrong, or ``out`` cannot be written.
    """
    from panoseg.data.places import place_of
    from panoseg.training.experiments import experiment as find_experiment
    from panoseg.training.run import start

    if isinstance(options.get("model"), Path | str):
        from panoseg.training.transfer import fine_tuning

        config = fine_tuning(Path(options.pop("model")))
    else:
        config = find_experiment(experiment).config
    config = _replaced(config, options)
    return start(experiment, config, place_of(str(data)), fold, Path(out))


def test(
    weights: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    fold: int | None = None,
    every_patch: bool = False,
    tta: int = 1,
    **options: Any,  # noqa: ANN401
) -> Evaluation:
    """Score weights on a dataset; prints nothing.

    Args:
        weights: Folder of a run, of weights, or of the authors' published weights; or a name, as
            for ``load``.
        data: Folder of the dataset, or URL of shards.
        out: Folder for metrics.json, metrics.md and figures; new or empty.
        fold: Score this official split; None for that of the training.
        every_patch: Score on all patches, none of which were seen in training.
        tta: Number of test-time augmentations, 1-8.
        options: Fields of ``panoseg.training.TrainConfig`` that concern the machine:
            ``batch_size``, ``precision``, ``accelerator``, ``workers``.

    Returns:
        The scores of each fold, and their mean.

    Raises:
        PanosegError: The weights, the dataset or an option is wrong.
    """
    from panoseg.data.places import place_of
    from panoseg.models.weights_by_name import locate
    from panoseg.training import TrainConfig
    from panoseg.training.evaluate import score_folder

    return score_folder(
        locate(weights),
        place_of(str(data)),
        Path(out),
        _options(TrainConfig, options),
        fold=fold,
        every_patch=every_patch,
        tta=tta,
    )


# Training uses seeds from 0 up, far below this one: no network has seen the landscape.
_DEMO_SEED = 1_000_000


def run_demo(
    out: Path | str, size: int = 256, seed: int = 0, weights: Weights | Path | str | None = None
) -> MapResult:
    """Simulate a season, map it, and compare the map with the true parcels in the report.

    Args:
        out: A new or empty folder; gets ``season`` (cube.nc and parcels.gpkg, the truth) and
            ``map``.
        size: Side of the simulated square in pixels of 10 m.
        seed: Number of the landscape.
        weights: Weights, a folder or a name of weights; by default those in the package.

    Returns:
        The map and its comparison with the truth.

    Raises:
        PanosegError: The weights or the folder cannot be used; weights are checked first.
    """
    from panoseg.files import new_folder
    from panoseg.maps import MapOptions
    from panoseg.maps.mapping import map_cube
    from panoseg.models.model import find_weights
    from panoseg.models.weights import Weights, default_weights, load_weights
    from panoseg.simulation.cube import write_cube

    if weights is None:
        default_weights()
    elif not isinstance(weights, Weights):
        weights = load_weights(find_weights(weights))  # type: ignore[arg-type]
    out = new_folder(out)
    season = write_cube(out / "season", (size, size), _DEMO_SEED + seed)
    return map_cube(
        season / "cube.nc",
        weights,
        out / "map",
        MapOptions(year=2019, tta=2),
        truth=season / "parcels.gpkg",
    )


def _options(kind: type[T], values: dict[str, Any]) -> T:
    """Make an options object of keyword arguments."""
    return _replaced(kind(), values)


def _replaced(default: T, values: dict[str, Any]) -> T:
    """Return options with some values replaced.

    Raises:
        ConfigError: There is no option of such a name.
    """
    known = [entry.name for entry in fields(default)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"There is no option {name!r}. Options: {', '.join(known)}.")
    return replace(default, **values)  # type: ignore[type-var]
