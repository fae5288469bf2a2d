"""When something is wrong, one line says what, where and what to do, nothing is half-written, no secret is told."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from etl_assets.raw import assets as raw
from etl_assets_tests.flow import Flow, Run, execute
from etl_assets_tests.lake_layout import landed, star_files

PASSWORD = "hunter2-Zaphod"
ROLE = "etl_tests_reader"


@pytest.fixture(scope="module")
def reader(postgres_url: str, postgres_folder: Path) -> Iterator[Callable[[str], str]]:
    """`reader(url)` is the URL for a role that may only read, and must give its password."""
    rules = postgres_folder / "session" / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n{before}")
    execute(postgres_url, f"create role {ROLE} login password '{PASSWORD}'; select pg_reload_conf()")

    def url_for(url: str) -> str:
        execute(url, f"grant select on all tables in schema public to {ROLE}")
        return with_password(url, PASSWORD)

    yield url_for
    rules.write_text(before)
    execute(postgres_url, f"drop role {ROLE}; select pg_reload_conf()")


@pytest.fixture(scope="module")
def owner(module_database: Callable[..., str], template: Callable[..., str], reader: object) -> Iterator[str]:
    """The owner's URL of the database that the flow reads."""
    url = module_database(template("bicycles"))
    yield url
    execute(url, f"drop owned by {ROLE}")


@pytest.fixture(scope="module")
def flow(owner: str, reader: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A flow that has run once and well; tests leave it as it was."""
    flow = Flow(reader(owner), tmp_path_factory.mktemp("failures"))
    run = flow.run()
    assert run.success, run.error_lines
    return flow


def with_password(url: str, password: str, **parts: str) -> str:
    split = urlsplit(url)
    where = parts.get("where", f"{split.hostname}:{split.port}")
    return urlunsplit(split._replace(netloc=f"{ROLE}:{password}@{where}", path=parts.get("path", split.path)))


def fails(flow: Flow, *selected: str) -> Run:
    """A run that must fail with one line for people, and leave lake and warehouse as they were."""
    held, files = flow.dump(), flow.files()
    manifests = flow.manifests()
    run = flow.run(*selected)
    assert not run.success
    assert run.error, f"no error of ours: {run.error_lines}"
    assert "\n" not in run.error
    assert flow.dump() == held
    assert flow.manifests() == manifests
    now = flow.files()
    assert {path: file for path, file in now.items() if path in files} == files
    assert [path for path in now if "unfinished" in path] == []
    assert [path for path in now if path.startswith("star/") and path not in files] == []
    return run


# -- the source ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "what", "advice"),
    [
        ("no-such-host.invalid:5432", "no-such-host.invalid", "check the host name"),
        ("127.0.0.1:1", "127.0.0.1:1", "check host and port"),
    ],
)
def test_an_unreachable_server_is_named(
    flow: Flow, where: str, what: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "_AGAIN", dg.RetryPolicy(max_retries=2))  # a refused connection is tried again
    run = fails(replace(flow, url=with_password(flow.url, PASSWORD, where=where)), "raw")
    assert what in run.error
    assert advice in run.error
    assert PASSWORD not in run.events


@pytest.mark.fault("F35")
def test_a_wrong_password_is_called_so_and_not_shown(flow: Flow) -> None:
    run = fails(replace(flow, url=with_password(flow.url, "wrong-Marvin")), "raw")
    assert "password authentication failed" in run.error
    assert ROLE in run.error
    assert "check the user and password in ETL_SOURCE_URL" in run.error
    assert "wrong-Marvin" not in run.events


@pytest.mark.parametrize(
    "password", ["hunter2@Zaphod", "hunter2%Zaphod", "hunter2/Zaphod", "hunter2:Zaphod#x"]
)
def test_a_password_that_was_not_encoded_for_a_url_is_not_shown(flow: Flow, password: str) -> None:
    run = fails(replace(flow, url=with_password(flow.url, password)), "raw")
    assert "ETL_SOURCE_URL" in run.error
    assert "hunter2" not in run.events
    assert "Zaphod" not in run.events


def test_a_missing_database_is_named(flow: Flow) -> None:
    run = fails(replace(flow, url=with_password(flow.url, PASSWORD, path="/no_such_database")), "raw")
    assert '"no_such_database" does not exist' in run.error
    assert "check the database name in ETL_SOURCE_URL" in run.error
    assert PASSWORD not in run.events


@pytest.mark.parametrize(
    ("fault", "remedy", "said"),
    [
        (
            "alter table bike rename to cycle",
            "alter table cycle rename to bike",
            ["bike", "not exist"],
        ),
        (
            "alter table bike rename model to make",
            "alter table bike rename make to model",
            ["bike", "model", "make"],
        ),
        (
            f"revoke select on bike from {ROLE}",
            f"grant select on bike to {ROLE}",
            ["bike", "grant SELECT"],
        ),
    ],
    ids=["table", "column", "right"],
)
def test_what_the_source_lacks_is_named(
    flow: Flow, owner: str, fault: str, remedy: str, said: list[str]
) -> None:
    execute(owner, fault)
    try:
        run = fails(flow)
    finally:
        execute(owner, remedy)
    assert [word for word in said if word not in run.error] == []
    assert PASSWORD not in run.events
    assert flow.run("raw/bike").success


# -- the lake --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F11")
def test_a_lake_that_cannot_be_written_is_named(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = fails(replace(flow, settings={"ETL_LAKE_URL": str(tmp_path / "file" / "lake")}))
    assert str(tmp_path / "file" / "lake") in run.error
    assert "ETL_LAKE_URL" in run.error
    assert PASSWORD not in run.events


@pytest.mark.parametrize("kind", ["landed file", "manifest"])
def test_a_damaged_file_of_the_lake_is_named(flow: Flow, kind: str) -> None:
    path = landed(flow.lake, "bike", 1) if kind == "landed file" else flow.lake / "raw/batches/000001.json"
    damaged = str(path.relative_to(flow.lake))
    whole = (flow.lake / damaged).read_bytes()
    (star,) = star_files(flow.lake, "dim_bike")
    kept = star.read_bytes()
    middle = len(whole) // 2
    # One byte; and dim_bike must be made again, so that the raw file is read at all.
    (flow.lake / damaged).write_bytes(whole[:middle] + b"\x00" + whole[middle + 1 :])
    star.unlink()
    try:
        if damaged.endswith(".json"):
            run = flow.run()
            assert not run.success
        else:
            run = fails(flow)
        assert damaged in run.error
        assert "backup" in run.error or "etl repair" in run.error
        assert "\n" not in run.error
    finally:
        (flow.lake / damaged).write_bytes(whole)
        star.write_bytes(kept)


def test_a_star_without_batches_says_what_to_do_first(flow: Flow, tmp_path: Path) -> None:
    run = replace(flow, data=tmp_path).run("star", "warehouse")
    assert not run.success
    assert "materialize the raw assets first" in run.error


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F35")
def test_the_password_is_nowhere_but_in_the_environment(
    flow: Flow, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fresh = replace(flow, data=tmp_path)
    good = fresh.run(keep_events=True)
    bad = replace(fresh, url=with_password(flow.url, PASSWORD, path="/no_such_database")).run("raw")
    assert good.success
    assert not bad.success
    output = "".join(capfd.readouterr()) + caplog.text
    assert "batch 000001" in output + good.events
    assert PASSWORD not in output
    assert PASSWORD not in good.events + bad.events
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ] == []


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning")
def test_the_ui_shows_where_the_url_comes_from_and_not_what_it_is(flow: Flow) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in flow.environment.items():
            patch.setenv(name, value)
        shown = dg.serialize_value(RepositorySnap.from_def(flow.definitions().get_repository_def()))
    assert "ETL_SOURCE_URL" in shown
    assert PASSWORD not in shown
