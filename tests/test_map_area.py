"""panoseg map --area: from an outline to parcels, with a real catalogue that may misbehave."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from catalogue_server import DAYS, LAND, NEEDS_RUSTAC, outline, scene, serve
from mapping_weights import tiny_weights
from panoseg.cli import main
from panoseg.files import remove_folder
from panoseg.models.weights import save_weights

pytestmark = [NEEDS_RUSTAC, pytest.mark.usefixtures("short_retries")]
MAP = (
    "--season 2019 --tile 32 --overlap 8 --views 1 --min-area-ha 0.03 --fetch.threads 4"
    " --fetch.margin-m 0"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    save_weights(folder, tiny_weights())
    return folder


def words(server, folder, weights, *more: object, box=LAND) -> list[str]:
    """The arguments of panoseg map --area."""
    area = outline(folder / "farm.geojson", box)
    command = (
        f"map --area {area} --catalog {server.url} --weights {weights} --out {folder / 'map'} {MAP}"
    )
    return [*command.split(), *map(str, more)]


@pytest.fixture(scope="module")
def mapped(server, weights, tmp_path_factory):
    """A map of all the land that the scenes cover."""
    folder = tmp_path_factory.mktemp("mapped")
    assert main(words(server, folder, weights)) == 0
    return folder / "map"


def test_an_outline_and_a_year_become_parcels(mapped):
    parcels = gpd.read_parquet(mapped / "parcels.parquet")
    assert len(parcels) > 3
    land = gpd.GeoSeries([LAND], crs=32631).to_crs(parcels.crs).iloc[0]
    assert parcels.geometry.within(land.buffer(0.1)).all()
    assert {"map.json", "report.html", "classes.tif", "scenes.json", "farm.zarr"} <= {
        path.name for path in mapped.iterdir()
    }
    record = json.loads((mapped / "map.json").read_text())
    assert record["dates"] == list(DAYS)
    assert record["harvest_year"] == 2019
    assert record["left_out_scenes"] == {}
    assert not (mapped / "unfinished").exists()


def test_it_is_the_map_of_its_cube(mapped, weights, tmp_path):
    options = [word for word in MAP.split() if word not in ("--season", "2019")][:-4]
    assert (
        main(
            [
                "map",
                str(mapped / "farm.zarr"),
                "--weights",
                str(weights),
                "--out",
                str(tmp_path / "map"),
                *options,
            ]
        )
        == 0
    )
    np.testing.assert_array_equal(segments(tmp_path / "map"), segments(mapped))


def segments(folder) -> np.ndarray:
    with rasterio.open(folder / "segments.tif") as source:
        return source.read(1)


def test_what_lies_outside_of_the_outline_has_no_parcel(server, weights, mapped, tmp_path):
    """The same cube, a smaller outline: parcels that straddle it are cut there."""
    west = shapely.box(574680, 5621800, 575000, 5622440)
    assert main([*words(server, tmp_path, weights, box=west)[:-1], "320", "--no-keep-cube"]) == 0
    assert not (tmp_path / "map" / "farm.zarr").exists()
    assert (tmp_path / "map" / "scenes.json").exists()
    with rasterio.open(tmp_path / "map" / "segments.tif") as source:
        segments_HW, left = source.read(1), source.transform.c
    border = round((575000 - left) / 10)
    assert segments_HW[:, :border].any()
    assert not segments_HW[:, border:].any()
    parcels = gpd.read_parquet(tmp_path / "map" / "parcels.parquet")
    assert parcels.total_bounds[2] <= 575000 + 1e-6
    assert len(parcels)


class Killed(BaseException):
    """Nothing cleans up after it but what a kill would leave to the system."""


def test_a_cube_that_is_not_kept_outlives_no_kill(server, weights, mapped, tmp_path, monkeypatch):
    """Killed before and while the finished map lets it go: used again, or swept."""
    command, out = words(server, tmp_path, weights, "--no-keep-cube"), tmp_path / "map"

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as moment:
        moment.setattr("panoseg.maps.mapping.finish", kill)
        with pytest.raises(Killed):
            main(command)
    assert (out / "unfinished" / "farm.zarr").is_dir()
    asked = len(server.requests)
    with monkeypatch.context() as moment:

        def half(folder):
            moment.setattr("panoseg.files.remove", kill)
            remove_folder(folder)

        moment.setattr("panoseg.maps.windows.remove_folder", half)
        with pytest.raises(Killed):
            main(command)
    assert len(server.requests) == asked
    assert len(list((out / "unfinished").glob(".farm.*.part.zarr"))) == 1
    assert main(command) == 0
    assert not [
        path
        for path in out.rglob("*")
        if path.suffix == ".zarr" or path.name.startswith((".", "unfinished"))
    ]
    np.testing.assert_array_equal(segments(out), segments(mapped))


def test_a_bad_server_still_gives_a_map_that_names_what_is_missing(stac, weights, tmp_path, capsys):
    days = (*DAYS, "2019-06-20")
    with serve(stac, tmp_path, days) as running:
        faults = running.faults
        faults.slow_s, faults.statuses, faults.dropped = 0.01, [429, 500], 2
        faults.missing, faults.truncated = (
            (f"{scene(days[0])}/B05.tif",),
            (f"{scene(days[3])}/B8A.tif",),
        )
        assert main(words(running, tmp_path, weights)) == 0
    said = capsys.readouterr()
    assert len(gpd.read_parquet(tmp_path / "map" / "parcels.parquet"))
    record = json.loads((tmp_path / "map" / "map.json").read_text())
    assert record["dates"] == [days[1], days[2]]
    assert set(record["left_out_scenes"]) == {scene(days[0]), scene(days[3])}
    report = (tmp_path / "map" / "report.html").read_text()
    for name in (scene(days[0]), scene(days[3])):
        assert f"left out: scene {name}" in said.err
        assert f"note: Scene {name} was left out: B" in said.out
        assert f"Scene {name} was left out" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--season", "2190"], "in the future"),
        (["--catalog", "http://127.0.0.1:9"], "does not answer"),
        (["--year", "2018"], "--season 2019 and --year 2018 name two years of harvest"),
        (["CUBE"], "Pass either CUBE or --area with --season, not both."),
        (["--area", "gone.geojson"], "does not exist"),
        (["--fetch.max-dates", "0"], "--max-dates is 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    server, weights, tmp_path, capsys, change, message
):
    assert main([*words(server, tmp_path, weights), *change]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert len([line for line in lines if line.startswith("panoseg map: ")]) == 1
    assert not (tmp_path / "map").exists()


def test_options_of_a_fetch_need_an_area(weights, tmp_path, capsys):
    for change in (["--season", "2019"], ["--fetch.threads", "2"], ["--no-keep-cube"]):
        assert (
            main(
                [
                    "map",
                    "cube.nc",
                    "--weights",
                    str(weights),
                    "--out",
                    str(tmp_path / "map"),
                    *change,
                ]
            )
            == 2
        )
        assert "need --area" in capsys.readouterr().err
    assert main(["map", "--out", str(tmp_path / "map"), "--season", "2019"]) == 2
    assert "Pass either CUBE or --area with --season, not both." in capsys.readouterr().err


def test_killed_at_random_moments_and_started_again(server, weights, mapped, tmp_path):
    """While it fetches, maps, or writes; the result is that of a run that nobody stopped."""
    chance, kills = random.Random(3), 0
    command = [sys.executable, "-m", "panoseg", *words(server, tmp_path, weights)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while (
            not (tmp_path / "map").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (tmp_path / "map" / "map.json").exists() and not (
            tmp_path / "map" / "unfinished"
        ).exists():
            break
    else:
        assert main(words(server, tmp_path, weights)) == 0
    assert kills
    np.testing.assert_array_equal(segments(tmp_path / "map"), segments(mapped))
    for name in ("scenes.json", "farm.zarr/zarr.json", "farm.zarr/B04/c/1/0/0"):
        assert (tmp_path / "map" / name).read_bytes() == (mapped / name).read_bytes(), name
    ours, whole = (
        gpd.read_parquet(folder / "parcels.parquet") for folder in (tmp_path / "map", mapped)
    )
    assert ours.drop(columns="geometry").equals(whole.drop(columns="geometry"))
    assert ours.geometry.geom_equals(whole.geometry).all()


def test_asked_days_are_fetched(server, weights, tmp_path):
    assert main(words(server, tmp_path, weights, "--from", DAYS[1], "--min-dates", 1)) == 0
    record = json.loads((tmp_path / "map" / "map.json").read_text())
    assert record["dates"] == list(DAYS[1:])
    assert not any("outside of the season" in note for note in record["notes"])
    assert record["options"]["read"] == {"first": DAYS[1]}
