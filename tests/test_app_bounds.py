"""Bounds that keep one user's wishes from taking the server, or their own results, away."""

from __future__ import annotations

import ast
import json
import shutil
import sys
import threading
import time
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import httpx
import pyogrio
import pytest

import app_map
import panoseg
from cubes import make_cube
from panoseg.app import confined as confined_module
from panoseg.app import layers as season_module
from panoseg.app.client import Client
from panoseg.app.confined import Bounds, Slots, run_confined
from panoseg.app.corrections import TrainingOptions, change_crop, read_corrections, split_parcel
from panoseg.app.layers import check_season
from panoseg.app.limits import ConcurrencyLimit
from panoseg.app.official import differences, official_at
from panoseg.app.official_files import (
    MISSED,
    OTHER,
    SAME,
    UNKNOWN,
    Register,
    import_and_compare,
    import_register,
)
from panoseg.app.requests import CatalogueSource, MapRequest
from panoseg.app.result_map import open_result
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings, Limits
from panoseg.app.stages import JobContext, stages_of
from panoseg.app.users import Users, add_user
from panoseg.errors import (
    AppError,
    BusyError,
    ConflictError,
    LimitError,
    NotFoundError,
    NotSignedInError,
    PanosegError,
    ParcelsError,
)
from panoseg.platforms import limit_resources

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[3.0, 50.0], [3.01, 50.0], [3.01, 50.01], [3.0, 50.0]]],
}


def test_so_many_at_a_time_of_a_user_and_of_all():
    exports = ConcurrencyLimit("exports", per_user=1, total=2)
    with exports.slot("ada"):
        with pytest.raises(LimitError, match="1 exports in progress"), exports.slot("ada"):
            pass
        with (
            exports.slot("bob"),
            pytest.raises(BusyError, match="busy with exports of other users"),
            exports.slot("eve"),
        ):
            pass
        with exports.slot("eve"):
            pass
    with exports.slot("ada"):
        pass
    with pytest.raises(ValueError, match="x"), exports.slot("ada"):
        raise ValueError("x")
    with exports.slot("ada"):
        pass


def test_a_reader_waits_for_its_turn_and_not_for_ever():
    taken = Bounds("Reading the upload", 4, 1, Slots(0))
    with pytest.raises(BusyError, match="The server is busy"):
        run_confined(taken, max, 1, 2)
    short = Bounds("Reading the outline", 4, 1, Slots(1))
    with pytest.raises(AppError, match="Reading the outline failed, or took more than 1 s"):
        run_confined(short, time.sleep, 30)
    assert run_confined(Bounds("", 4, 30, short.slots), max, 1, 2) == 2, "the turn was given back"


def test_users_take_turns_so_that_one_delays_no_other():
    slots, order, hold = Slots(2), [], threading.Event()

    def work(user, name, wait=False):
        with slots.turn(user, 30):
            order.append(name)
            if wait:
                hold.wait(30)

    ada = [threading.Thread(target=work, args=("ada", f"ada {n}", True)) for n in range(8)]
    for thread in ada:
        thread.start()
    while not order:
        time.sleep(0.01)
    work("bob", "bob's square")  # though seven of ada's have waited longer
    assert [name[:3] for name in order] == ["ada", "bob"]
    with pytest.raises(BusyError), slots.turn("ada", 0.01):
        pass
    hold.set()
    for thread in ada:
        thread.join(30)
    assert len(order) == 9
    assert [slots._running.total(), slots._waiting] == [0, []]


def test_readers_run_where_the_system_bounds_no_resources(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    limit_resources(1, 1)


@pytest.mark.parametrize("module", ["fcntl", "resource"])
def test_modules_of_unix_are_imported_where_they_are_used(module):
    """The package can be imported on Windows, which has neither."""
    for path in Path(panoseg.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert module not in names, path


@pytest.mark.parametrize(
    "extra",
    [
        float("nan"),
        float("inf"),
        "\ud800",
        json.loads("[" * 60 + "]" * 60),
        json.loads("[" * 900 + "]" * 900),
        "x" * 2**20,
    ],
    ids=["nan", "infinite", "half a letter", "deep", "deeper", "long"],
)
def test_outlines_that_could_not_be_answered_again_are_refused(extra):
    with pytest.raises(ValueError, match="outline"):
        CatalogueSource(type="catalogue", year=2020, outline={**SQUARE, "extra": extra})
    CatalogueSource(type="catalogue", year=2020, outline={**SQUARE, "extra": "é"})


@pytest.mark.parametrize(
    "catalogue", ["http://a.example/v1\r\nX: 1", "http://a.example/\x00", "", "a b"]
)
def test_addresses_of_several_lines_are_refused(catalogue):
    with pytest.raises(ValueError, match="catalogue"):
        CatalogueSource(type="catalogue", year=2020, outline=SQUARE, catalogue=catalogue)


@pytest.fixture
def service(tmp_path):
    made = Service(
        AppSettings(
            tmp_path / "app", workers=0, limits=Limits(uploads=3, upload_mib=1, disk_gib=0.001)
        )
    )
    yield made
    made.close()


def test_uploads_that_arrive_together_keep_to_the_limits(service):
    """Each of them would fit alone."""
    text = json.dumps(SQUARE).encode()
    uploads = service.uploads
    with uploads.receiving("ada") as first, uploads.receiving("ada") as second:
        for arrival in (first, second):
            arrival.write(text + b" " * 600_000)
        uploads.keep("ada", "first", first)
        with pytest.raises(LimitError, match="no disk space left"):
            uploads.keep("ada", "second", second)
    assert [upload.name for upload in uploads.of("ada")] == ["first"]
    with (
        uploads.receiving("ada") as one,
        uploads.receiving("ada") as two,
        uploads.receiving("ada") as three,
    ):
        for arrival in (one, two, three):
            arrival.write(text)
        uploads.keep("ada", "one", one)
        uploads.keep("ada", "two", two)
        with pytest.raises(LimitError, match="3 uploads"):
            uploads.keep("ada", "three", three)
    assert len(list(service.settings.uploads_folder.iterdir())) == 3, "what was not kept is gone"


def test_few_uploads_of_a_user_arrive_at_a_time(service):
    with ExitStack() as four:
        for _ in range(4):
            four.enter_context(service.uploads.receiving("ada"))
        with pytest.raises(LimitError, match="4 uploads in progress"):
            service.save_upload("ada", "fifth", [b"{"])
        service.save_upload("bob", "his", [json.dumps(SQUARE).encode()])
    service.save_upload("ada", "later", [json.dumps(SQUARE).encode()])


# -- official parcels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return app_map.make_map(tmp_path_factory.mktemp("jobs") / "made")


def register_of(made, tmp_path, **columns):
    """The official parcels of the map with other columns."""
    table = gpd.read_parquet(made / "register.parquet")[["id", "geometry"]].assign(**columns)
    table.to_parquet(tmp_path / "register.parquet")
    (tmp_path / "codes.csv").write_text("code,class\n311,soft winter wheat\n0201,3\n60,meadow\n")
    return tmp_path / "register.parquet"


def declared_by(register, made, tmp_path):
    import_and_compare(
        register, made / "cube.zarr", made / "map", tmp_path / "taken.parquet", tmp_path / "refined"
    )
    found = pyogrio.read_dataframe(tmp_path / "refined" / "official.gpkg")
    return list(zip(found["declared"], found["difference"], strict=True))


def test_a_table_of_codes_says_what_is_declared(made, tmp_path):
    file = register_of(
        made, tmp_path, code=[311.0, 201.0, 999.0], other=["60", "x", "y"], ha=[5.0, 60.0, 7.0]
    )
    plain = declared_by(Register(file), made, tmp_path)
    assert plain == [(None, UNKNOWN), (None, UNKNOWN), (None, MISSED)]
    shutil.rmtree(tmp_path / "refined")
    named = declared_by(Register(file, tmp_path / "codes.csv"), made, tmp_path)
    assert named == [("soft winter wheat", SAME), ("corn", SAME), ("999.0", MISSED)]
    shutil.rmtree(tmp_path / "refined")
    chosen = declared_by(Register(file, tmp_path / "codes.csv", "other"), made, tmp_path)
    assert chosen == [("meadow", OTHER), ("x", UNKNOWN), ("y", MISSED)]
    for wrong, message in (
        ((tmp_path / "codes.csv", "none"), "have no column 'none'"),
        ((file,), "cannot be read"),
    ):
        with pytest.raises(ParcelsError, match=message):
            import_register(
                Register(file, *wrong), made / "cube.zarr", made / "map", tmp_path / "again.parquet"
            )
    (tmp_path / "codes.csv").write_text("code,class\n1,meadow\n")
    with pytest.raises(ParcelsError, match="No column"):
        import_register(
            Register(file, tmp_path / "codes.csv"),
            made / "cube.zarr",
            made / "map",
            tmp_path / "again.parquet",
        )


def test_the_stage_bounds_what_strangers_give_and_tells_the_rest(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "job")
    shutil.rmtree(folder / "refined")
    (folder / "input").mkdir()
    register_of(made, folder / "input", code=["311", "60", None])
    request = MapRequest(
        source={"type": "sample"}, register_of={"upload": "0" * 32, "codes": "1" * 32}
    )
    job = JobContext(AppSettings(tmp_path), folder, request, lambda text: None)
    [refine] = [stage for stage in stages_of(request) if stage.name == "refine"]
    assert not refine.done(job)
    refine.run(job)
    assert (job.problems, refine.done(job)) == ([], True)
    assert differences(open_result(folder)).counts == {SAME: 1, OTHER: 1, UNKNOWN: 0, MISSED: 1}
    monkeypatch.setattr(
        confined_module,
        "REGISTER",
        Bounds("Comparing with the official parcels", 8, 0, Slots(1)),
    )
    refine.run(job)
    assert "Comparing with the official parcels failed, or took more than 0 s" in job.problems[0]
    assert not refine.done(job)


# -- results that are there while something is made anew


@pytest.fixture
def finished(made, tmp_path):
    """A service with a finished map of ada's."""
    service = Service(AppSettings(tmp_path / "app", workers=0))
    job = service.submit("ada", {"kind": "map", "source": {"type": "sample", "size": 48}})
    claim = service.all_jobs.claim("w")
    service.all_jobs.finish(claim, 1, 1.0, "done")
    shutil.copytree(made, service.folder("ada", job.id), dirs_exist_ok=True)
    (tmp_path / "given.geojson").write_text(json.dumps(SQUARE))
    yield service, job.id
    service.close()


def test_a_result_stays_while_official_parcels_are_compared_anew(finished):
    service, id = finished
    token = service.share("ada", id)
    first, second = (
        service.save_upload("ada", "r", [json.dumps(SQUARE).encode() + b" " * spaces])
        for spaces in (0, 1)
    )
    before = {file.path for file in service.files("ada", id)}
    assert service.set_register("ada", id, {"upload": first.id}).state == "queued"
    given = service.folder("ada", id) / "input" / "register.geojson"
    with pytest.raises(ConflictError, match="queued"):
        service.set_register("ada", id, {"upload": second.id})
    assert given.stat().st_size == first.bytes, "what the job reads stays as it was"
    assert {file.path for file in service.shared_files(token)} == before
    assert service.share("ada", id) == token
    service.cancel("ada", id)
    assert service.shared(token).state == "cancelled"
    assert service.set_register("ada", id, {"upload": second.id}).state == "queued"
    assert given.stat().st_size == second.bytes


def test_official_parcels_that_are_just_replaced_are_not_there(finished):
    service, id = finished
    outlines = service.folder("ada", id) / "refined" / "official.gpkg"
    outlines.write_bytes(b"")
    for look in (differences, lambda result: official_at(result, 3.0, 50.0)):
        with pytest.raises(NotFoundError, match="replaced"):
            look(open_result(service.folder("ada", id)))


def test_a_limit_that_is_met_leaves_the_official_parcels_as_they_were(finished):
    service, id = finished
    upload = service.save_upload("ada", "r", [json.dumps(SQUARE).encode()])
    request = (service.folder("ada", id) / "request.json").read_bytes()
    service.settings = replace(service.settings, limits=Limits(jobs=1))
    service.submit("ada", {"kind": "map", "source": {"type": "sample"}})
    with pytest.raises(LimitError):
        service.set_register("ada", id, {"upload": upload.id})
    assert (service.folder("ada", id) / "request.json").read_bytes() == request
    assert not list((service.folder("ada", id) / "input").glob("register*"))


def test_a_job_that_never_was_done_has_no_result(finished):
    service, _ = finished
    other = service.submit("ada", {"kind": "map", "source": {"type": "sample"}})
    assert not service.has_result(other)
    assert service.files("ada", other.id) == []
    with pytest.raises(ConflictError):
        service.share("ada", other.id)


def test_two_exports_at_a_time_made_elsewhere(finished):
    service, id = finished
    change_crop(open_result(service.folder("ada", id)), "1", "sorghum")
    with (
        service._exports.slot("ada"),
        service._exports.slot("ada"),
        pytest.raises(LimitError, match="2 downloads that are being made in progress"),
    ):
        service.training_data("ada", id, TrainingOptions(size=16))
    left = service.folder("ada", id) / "corrections" / "training-left"
    left.mkdir()
    path = service.training_data("ada", id, TrainingOptions(size=16))
    assert zipfile.is_zipfile(path)
    assert not left.exists()
    with pytest.raises(NotFoundError):
        service.training_data("bob", id, TrainingOptions(size=16))


# -- lines and corrections


def test_lines_that_would_take_all_memory_are_refused(finished):
    service, id = finished
    result = open_result(service.folder("ada", id))
    longitude, latitude = app_map.place(result.folder, 12, 12)
    around = [
        (longitude + 0.3 * (-1) ** turn, latitude + 0.001 * turn) for turn in range(-200, 200)
    ]
    crossing = [
        (longitude - 1, latitude),
        (longitude + 1, latitude),
        (longitude, latitude + 1),
        (longitude, latitude - 1),
    ]
    for line in (around, crossing):
        with pytest.raises(ParcelsError, match="crosses itself or is too long"):
            split_parcel(result, "1", line)
    for line in (crossing[:1] * 2, [(longitude, latitude), (longitude, latitude + 1e-14)]):
        with pytest.raises(ParcelsError, match=r"different points|does not split"):
            split_parcel(result, "1", line)
    assert len(split_parcel(result, "1", crossing[:2]).parcels) == 2


def test_corrections_stop_before_they_are_too_large_to_read(finished, monkeypatch):
    service, id = finished
    result = open_result(service.folder("ada", id))
    change_crop(result, "1", "sorghum")
    size = (result.folder / "corrections" / "steps.json").stat().st_size
    monkeypatch.setattr("panoseg.app.corrections.MAX_STEPS_BYTES", size)
    with pytest.raises(ConflictError, match="at most"):
        change_crop(result, "2", "sorghum")
    assert len(read_corrections(result.folder).steps) == 1


# -- servers that are none


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            httpx.Response(301, headers={"location": "https://maps.example.org/api/jobs/1"}),
            "redirects to https://maps",
        ),
        (httpx.Response(200, text="<html>"), "does not seem to be a panoseg app"),
        (httpx.Response(404, text="<html>"), "answers 404"),
        (
            httpx.Response(422, json={"error": "It is wrong; correct it."}),
            "It is wrong; correct it.",
        ),
    ],
)
def test_a_client_tells_what_answers(answer, message):
    with Client("http://maps.example.org") as client:
        client._http = httpx.Client(
            base_url=client.server, transport=httpx.MockTransport(lambda request: answer)
        )
        with pytest.raises(AppError, match=message):
            client.job("1")


# -- seasons of strangers


def test_a_season_is_read_to_its_end_before_a_job_reads_it(tmp_path, monkeypatch):
    good = tmp_path / "good.zarr"
    make_cube(16).to_zarr(good, zarr_format=2, consolidated=False)
    check_season(good, 1.0)
    with pytest.raises(LimitError, match="km2"):
        check_season(good, 0.01)
    monkeypatch.setattr(season_module, "MAX_DATES", 1)
    with pytest.raises(LimitError, match="dates"):
        check_season(good, 1.0)
    monkeypatch.undo()
    chunk = max(
        (path for path in (good / "B12").iterdir() if path.name[0].isdigit()),
        key=lambda path: path.name,
    )
    chunk.write_bytes(b"\x02\x01" + chunk.read_bytes()[2:40])
    with pytest.raises(PanosegError):
        check_season(good, 1.0)


def test_a_page_that_is_open_is_its_users_no_longer_than_the_token(tmp_path):
    from starlette.requests import Request

    from panoseg.app.pages.frame import Visit, visit_or_sign_in

    token, users = add_user(tmp_path / "users", "ada"), Users(tmp_path / "users")
    request = Request(
        {"type": "http", "method": "GET", "path": "/jobs", "headers": [], "query_string": b""}
    )
    seen = visit_or_sign_in(None, lambda request: users.user_of(token), request)
    assert isinstance(seen, Visit)
    assert seen.user == "ada"
    (tmp_path / "users").write_text("# nobody")
    with pytest.raises(NotSignedInError):
        _ = seen.user
    assert visit_or_sign_in(None, lambda request: users.user_of(token), request).status_code == 303
