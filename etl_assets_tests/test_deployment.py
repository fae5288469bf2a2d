"""What deploy/ says fits what the package and Dagster accept. Without these, a wrong name is found in production.

No container engine and no cluster is needed: the compose file is validated against the compose specification, the
instance that Dagster's chart makes of the values against Dagster itself, and `-m slow` starts the commands.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.config_schema import process_workspace_config
from dagster_k8s import K8sRunLauncher

from etl_assets.deployments import resources
from etl_assets.errors import SettingsError
from etl_assets.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture
def services() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = loaded("compose.yaml")["services"]
    return found


def settings_named_in(text: str) -> set[str]:
    return set(re.findall(r"\bETL_[A-Z_]+\b", text))


def test_the_compose_file_follows_the_specification() -> None:
    command = [f"{BIN}/check-jsonschema", "--builtin-schema", "vendor.compose-spec", f"{DEPLOY}/compose.yaml"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.fault("F36")
def test_only_the_proxy_can_be_reached_and_from_this_machine_only(services: Mapping[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"proxy": ["${ETL_UI_BIND:-127.0.0.1:8080}:8080"]}
    assert "auth_basic_user_file /run/secrets/ui-users;" in (DEPLOY / "proxy.conf").read_text()
    # The proxy reaches the webserver and nothing else.
    beside = [name for name, service in services.items() if "front" in service["networks"]]
    assert beside == ["proxy", "webserver"]


def test_every_service_is_confined_watched_and_started_again(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert re.search(r":\d+\.\d+", service["image"]), f"{name} is not pinned"
        unprivileged = "unprivileged" in service["image"]
        assert unprivileged or service["user"] not in {"root", "0", "0:0"}, name


def test_the_source_and_its_secrets_are_the_code_server_s_alone(services: Mapping[str, Any]) -> None:
    knowing = [
        name
        for name, service in services.items()
        if "env_file" in service or settings_named_in(str(service.get("environment", "")))
    ]
    assert knowing == ["code"]


def test_every_command_is_one_that_the_image_has(services: Mapping[str, Any]) -> None:
    for name in ("webserver", "daemon", "code"):
        service = services[name]
        for command in (service["command"], service["healthcheck"]["test"][1:]):
            assert shutil.which(command[0], path=str(BIN)), f"{name}: {command[0]}"


def test_what_the_composition_is_made_of_is_there(services: Mapping[str, Any]) -> None:
    composition = loaded("compose.yaml")
    for config in composition["configs"].values():
        assert (DEPLOY / config["file"]).is_file(), config
    used = {entry["source"] for service in services.values() for entry in service.get("configs", [])}
    assert used == set(composition["configs"])
    volumes = {v.split(":")[0] for service in services.values() for v in service.get("volumes", [])}
    assert volumes == set(composition["volumes"])


def test_settings_have_the_names_by_which_they_are_read() -> None:
    known = settings_named_in((ROOT / "etl_assets/settings.py").read_text()) | {"ETL_UI_BIND"}
    for path in DEPLOY.iterdir():
        if path.name != "ui-users" and path.name != ".env":
            assert settings_named_in(path.read_text()) <= known, path


def test_production_names_everything_that_is_missing_and_the_example_has_it() -> None:
    with pytest.raises(SettingsError) as error:
        resources(Settings.read({"ETL_DEPLOYMENT": "production"}))
    missing = settings_named_in(str(error.value)) - {"ETL_DEPLOYMENT"}
    assert missing == {"ETL_SOURCE_URL", "ETL_LAKE_URL", "ETL_WAREHOUSE_URL"}
    lines = (DEPLOY / "example.env").read_text().splitlines()
    asked = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert asked == missing | {"DAGSTER_PG_PASSWORD"}


def test_dagster_accepts_the_workspace() -> None:
    assert process_workspace_config(loaded("workspace.yaml")).success


# What has no login, as the guides start it. (Those of the composition are in containers, and publish no port.)
_WITHOUT_LOGIN = re.compile(r"dagster api grpc|code-server start|dagster-webserver|dagster dev|dg dev|etl ui")


@pytest.mark.parametrize(
    "guide", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_what_has_no_login_is_started_on_this_machine_only(guide: Path) -> None:
    told = guide.read_text().splitlines()
    started = [line for line in told if _WITHOUT_LOGIN.search(line)]
    hosts = [host for line in started for host in re.findall(r"(?:-h|--host)[ =]*([\w.:\[\]]+)", line)]
    assert [host for host in hosts if host not in {"127.0.0.1", "localhost", "::1"}] == []
    served = [host for line in told for host in re.findall(r"grpc_server: \{host: ([^,]+),", line)]
    assert set(served) <= {"127.0.0.1"}
    if guide.name == "operations.md":
        assert len(hosts) >= 2
        assert served


# -- Kubernetes -------------------------------------------------------------------------------------------------------


def instance_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dagster.yaml that the chart makes of values, as far as they decide about it."""
    daemon, launcher = values["dagsterDaemon"], values["runLauncher"]["config"]["k8sRunLauncher"]
    queue = daemon["runCoordinator"]["config"]["customRunCoordinator"]
    monitoring, retries = daemon["runMonitoring"], daemon["runRetries"]
    return {
        "run_coordinator": queue,
        "run_launcher": {
            "dagster_home": values["global"]["dagsterHome"],
            "instance_config_map": "etl-dagster-instance",
            "postgres_password_secret": values["global"]["postgresqlSecretName"],
            "service_account_name": "etl",
            "image_pull_policy": launcher["imagePullPolicy"],
            "load_incluster_config": launcher["loadInclusterConfig"],
            "fail_pod_on_run_failure": launcher["failPodOnRunFailure"],
            "resources": launcher["resources"],
            "security_context": launcher["securityContext"],
            "run_k8s_config": {
                "pod_spec_config": launcher["runK8sConfig"]["podSpecConfig"],
                "job_spec_config": launcher["runK8sConfig"]["jobSpecConfig"],
            },
        },
        "instance": {
            "run_monitoring": {
                "enabled": monitoring["enabled"],
                "start_timeout_seconds": monitoring["startTimeoutSeconds"],
                "max_runtime_seconds": monitoring["maxRuntimeSeconds"],
                "poll_interval_seconds": monitoring["pollIntervalSeconds"],
                "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
            },
            "run_retries": {
                "enabled": retries["enabled"],
                "max_retries": retries["maxRetries"],
                "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
            },
            "retention": {
                name: {"purge_after_days": values["retention"][key]["purgeAfterDays"]}
                for name, key in {"schedule": "schedule", "sensor": "sensor", "auto_materialize": "autoMaterialize"}.items()
            },
            "telemetry": values["telemetry"],
            **values["additionalInstanceConfig"],
        },
    }  # fmt: skip


def test_dagster_accepts_the_instance_that_the_chart_makes() -> None:
    made = instance_of(loaded("helm-values.yaml"))
    result = validate_config(K8sRunLauncher.config_type(), made["run_launcher"])  # type: ignore[no-untyped-call]
    assert result.success, result.errors


@pytest.mark.fault("F4")
def test_runs_are_queued_watched_and_repeated_alike_everywhere(tmp_path: Path) -> None:
    made = instance_of(loaded("helm-values.yaml"))
    composed = loaded("dagster-postgres.yaml")
    here = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for section, value in made["instance"].items():
        assert value == composed[section] == here[section], section
    assert made["run_coordinator"] == composed["run_coordinator"] == here["run_coordinator"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(made["instance"]))
    config, _ = dagster_instance_config(str(tmp_path))
    assert set(made["instance"]) <= set(config)


def test_on_kubernetes_everything_runs_one_image_as_its_ordinary_user() -> None:
    values = loaded("helm-values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    parts = [values["dagsterWebserver"], values["dagsterDaemon"], deployment]
    assert {str(part["image"]) for part in parts} == {str(parts[0]["image"])}
    dockerfile = (ROOT / "Dockerfile").read_text()
    (uid,) = re.findall(r"useradd .*--uid (\d+)", dockerfile)
    pods = [part["podSecurityContext"] for part in parts]
    pods.append(
        values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"]["securityContext"]
    )
    assert {(pod["runAsNonRoot"], pod["runAsUser"]) for pod in pods} == {(True, int(uid))}
    assert values["global"]["dagsterHome"] == re.findall(r"ENV DAGSTER_HOME=(\S+)", dockerfile)[0]
    assert deployment["dagsterApiGrpcArgs"] == ["--module-name", "etl_assets.definitions"]
    assert deployment["env"]["ETL_DEPLOYMENT"] == "production"


# -- the commands, started --------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def started(
    command: list[str], health: list[str], environment: Mapping[str, str], folder: Path
) -> Iterator[None]:
    """Run a service while the block runs, which begins when it is healthy."""
    log = folder / f"{command[0]}.log"
    known = {**os.environ, **environment}
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=known,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + 180
            while subprocess.run(
                [str(BIN / health[0]), *health[1:]], env=known, capture_output=True, check=False
            ).returncode:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_the_services_of_the_composition_find_each_other(
    services: Mapping[str, Any], database: Callable[..., str], totesys: str, tmp_path: Path
) -> None:
    """All but the containers: the commands and the health checks as they are, with the hosts and ports of here."""
    storage = urlsplit(database())
    ports = {"4000": str(free_port()), "3000": str(free_port())}
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster-postgres.yaml").read_text())
    workspace = loaded("workspace.yaml")
    workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": int(ports["4000"])}
    (tmp_path / "workspace.yaml").write_text(yaml.safe_dump(workspace))
    known = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_PG_HOST": str(storage.hostname),
        "DAGSTER_PG_PORT": str(storage.port),
        "DAGSTER_PG_USER": str(storage.username),
        "DAGSTER_PG_PASSWORD": storage.password or "",
        "DAGSTER_PG_DB": storage.path.strip("/"),
    }
    assert set(known) - {"DAGSTER_HOME"} == set(services["daemon"]["environment"])
    data = tmp_path / "data"
    settings = {
        **services["code"]["environment"],
        **known,
        "ETL_SOURCE_URL": totesys,
        "ETL_LAKE_URL": str(data / "lake"),
        "ETL_WAREHOUSE_URL": f"duckdb:///{data / 'warehouse.duckdb'}",
        "ETL_DATA": str(data),
    }

    def here(command: list[str]) -> list[str]:
        replaced = {"0.0.0.0": "127.0.0.1", "/app/workspace.yaml": str(tmp_path / "workspace.yaml"), **ports}  # noqa: S104
        return [replaced.get(part, part.replace(":3000/", f":{ports['3000']}/")) for part in command]

    with ExitStack() as stack:
        for name in ("code", "webserver", "daemon"):
            service, environment = services[name], settings if name == "code" else known
            command, health = here(service["command"]), here(service["healthcheck"]["test"][1:])
            stack.enter_context(started(command, health, environment, tmp_path))
        # A run that is asked for at the webserver is queued, started by the daemon, and carried out by the code server.
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports['3000']}/graphql",
            data=b'{"query": "mutation { launchRun(executionParams: {selector: {repositoryLocationName: \\"etl_assets\\", '
            b'repositoryName: \\"__repository__\\", jobName: \\"raw\\"}, runConfigData: {}}) { __typename ... on '
            b'LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            launched = yaml.safe_load(answer.read())["data"]["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        with pytest.MonkeyPatch.context() as patch:
            for name, value in known.items():
                patch.setenv(name, value)
            with dg.DagsterInstance.get() as instance:
                until = time.monotonic() + 120
                while not (run := instance.get_run_by_id(launched["run"]["runId"])) or not run.is_finished:
                    assert time.monotonic() < until, (tmp_path / "dagster-daemon.log").read_text()
                    time.sleep(1)
                assert run.status == dg.DagsterRunStatus.SUCCESS
    assert (data / "lake/raw/batches/000001.json").is_file()
